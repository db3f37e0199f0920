//! Headers with which other programs open a sealed disk's extent where it lies: cryptsetup and the kernel (LUKS2, LUKS1), QEMU
//! (LUKS1). They are views, made when they are wanted; the disk stays what it is.
//!
//! A header holds the data key under a one-time secret of 256 random bits, so both may stand in memory only: a tmpfs.
//!
//! And the other way round: a LUKS volume becomes a disk as it lies ([`import_luks`]).

mod adopt;
mod hash;
mod key_slot;
mod luks1;
mod luks2;
#[cfg(test)]
mod mutations;
mod read_luks1;
mod read_luks2;
mod unlock;
mod view;
mod volume;

pub use adopt::{LuksImport, import_luks};
pub use view::{View, ViewKind, view};

/// Data and key material are counted in these, whatever the data unit.
const SECTOR: usize = 512;
/// The data key, and the key that a slot's material is encrypted with.
const KEY: usize = 64;
/// The secret has 256 bits of its own: many iterations would protect nothing. cryptsetup refuses fewer.
const ITERATIONS: u32 = 1000;
