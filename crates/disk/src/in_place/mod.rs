//! Encrypting, decrypting and deep recrypting a disk where it lies, through any crash.
//!
//! # Promises
//!
//! * Killed, cut from power or failed at any moment, a job goes on with [`resume`] and ends as if it had never stopped.
//!   Nothing larger than 512 bytes is taken to be atomic, and nothing is taken to be durable before a sync returned.
//! * [`repair`] needs no key and writes ciphertext only: the journal holds the new ciphertext of an encryption or recrypt and
//!   the old ciphertext of a decryption.
//! * [`resume`] writes nothing before the record's HMAC has been verified under the disk's own key: nobody makes it decrypt
//!   a disk by forging a record (CVE-2021-4122).
//! * Room for the journal and for every hole that will be filled is reserved before the first byte changes.
//! * Between its states a disk says so in its descriptor, and every other function of this crate refuses it with
//!   [`Error::InConversion`].
//!
//! What in-place work cannot promise: a file system that writes elsewhere (copy-on-write, snapshots, SSD) keeps the old
//! blocks until it reuses them.

mod engine;
pub(crate) mod file_storage;
mod info;
mod job;
pub(crate) mod lifecycle;
mod mac;
#[doc(hidden)]
pub mod measurement;
#[cfg(test)]
pub(crate) mod model;
mod plan;
mod record;
mod recovery;
mod sidecar;
mod standing;
mod step;
pub(crate) mod storage;
mod suite;
#[cfg(test)]
mod tests;
mod zone;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub(crate) use info::open_with_any;
pub use info::{JobInfo, JobPhase, job_info, verify_job};
pub use job::{NewKek, decrypt_in_place, encrypt_in_place, recrypt_in_place};
pub(crate) use mac::{MacKey, above_wiped_stack};
pub(crate) use plan::texts;
pub use recovery::{Repair, repair, resume};
pub(crate) use standing::{flat_extent, refuse_in_conversion};

#[cfg(doc)]
use crate::Error;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum JobMode {
    /// Plain to sealed.
    Encrypt = 1,
    /// Sealed to plain.
    Decrypt = 2,
    /// From one data key to another: deep recrypt.
    Recrypt = 3,
}

impl JobMode {
    /// `encrypt`, `decrypt` or `recrypt`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
            Self::Recrypt => "recrypt",
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Encrypt, Self::Decrypt, Self::Recrypt].into_iter().find(|mode| *mode as u8 == byte)
    }
}

/// Where the record and journal of a job on the disk `descriptor` stand: `web01.vmdk.vmseal-job` beside `web01.vmdk`.
pub fn job_path(descriptor: &Path) -> PathBuf {
    let mut name = OsString::from(descriptor.as_os_str());
    name.push(".vmseal-job");
    PathBuf::from(name)
}
