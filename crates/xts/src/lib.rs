//! AES-256-XTS (IEEE Std 1619, NIST SP 800-38E) over runs of disk sectors.
//!
//! [`Xts`] holds one expanded key in locked memory and encrypts or decrypts any number of whole sectors per call.
//! The layout is dm-crypt's `aes-xts-plain64`: the tweak of a sector is its 64-bit number, little-endian, padded with
//! zeroes to 16 bytes. [`data_unit`] does single data units of any length and tweak, for test vectors and interchange.
//!
//! One kernel per CPU level does the work, chosen at run time: see [`Kernel`].

pub mod data_unit;
mod engine;
mod error;
mod kernel;
mod key;
mod portable;
mod residue;
mod run;
#[cfg(target_arch = "x86_64")]
mod x86;
mod xts;

pub use error::Error;
pub use kernel::{KERNEL_VARIABLE, Kernel};
pub use xts::{SECTOR_SIZES, Xts};
