//! How keys travel and rest: every form in which vmseal lets a key leave locked memory, and the way back.
//!
//! * [`key_wrap`]: AES key wrap, RFC 3394 and RFC 5649.
//! * [`envelope`]: the wrapped data-encryption key of a disk or VM as a compact JWE, and text sealed under such a key.
//! * [`hpke`]: a key-encryption key sealed to the public key of one host.
//! * [`at_rest`]: a key-encryption key in the record of a KMS.
//! * [`passphrase`]: a key-encryption key from what a person remembers.
//! * [`stream`]: a VM home file as an authenticated stream.
//!
//! A key goes in as a [`vmseal_secret::SecretKey`] and comes out as one; no function returns or takes plain key bytes.
//!
//! Unsafe code (vector intrinsics) stands in `key_wrap/x86` only.
#![deny(unsafe_code)]

pub mod at_rest;
pub mod envelope;
pub mod hpke;
pub mod key_wrap;
pub mod passphrase;
pub mod stream;

mod check_value;
mod error;
mod gcm;
mod guard;

#[cfg(test)]
mod vectors;

pub use check_value::{key_check_value, key_digest};
pub use error::Error;
