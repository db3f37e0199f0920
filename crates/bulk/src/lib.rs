//! What moving a whole disk needs and safe code does not offer: two SHA-256 side by side, and write-back that begins before
//! somebody waits for it.
//!
//! Unsafe code stands in `x86` (vector intrinsics) and `write_back` (one system call).
#![deny(unsafe_code)]

mod sha256;
mod write_back;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use sha256::sha256_two;
pub use write_back::begin_write_back;
