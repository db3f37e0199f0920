//! What a LUKS header says of its volume, whichever version it is. Nothing here is authenticated: a header is as hostile as
//! the file it stands in, so every number is bounded before it is used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::hash::Hash;
use super::{read_luks1, read_luks2};
use crate::error::{Error, Result};

/// A volume as its header describes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) version: u16,
    /// Where data begins in the data file, in bytes.
    pub(super) offset: u64,
    /// Data bytes; `None`: to the end of the file.
    pub(super) len: Option<u64>,
    pub(super) sector_size: u32,
    pub(super) slots: Vec<KeySlot>,
}

/// A slot that a passphrase may open.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeySlot {
    pub(super) kdf: Kdf,
    /// Of the splitter.
    pub(super) hash: Hash,
    /// Where the key material begins in the header's file, in bytes.
    pub(super) material: u64,
    pub(super) digest: KeyDigest,
}

/// How the slot's key comes from the passphrase.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kdf {
    Pbkdf2 { hash: Hash, iterations: u32, salt: Vec<u8> },
    Argon2 { algorithm: argon2::Algorithm, passes: u32, memory_kib: u32, lanes: u32, salt: Vec<u8> },
}

/// By what the right volume key is known: PBKDF2 of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyDigest {
    pub(super) hash: Hash,
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) digest: Vec<u8>,
}

pub(super) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// Of a header that the old `cryptsetup-reencrypt` is at work on.
const MAGIC_IN_REENCRYPTION: &[u8; 6] = b"LUKS\xde\xad";
/// Longest salt or digest.
const MAX_BYTES: usize = 64;

impl Volume {
    /// Reads the header at the start of `file`, which is `path`.
    pub(super) fn read(path: &Path, file: &File) -> Result<Self> {
        let head = read(path, file, 0, 8)?;
        if head.starts_with(MAGIC_IN_REENCRYPTION) {
            return Err(Error::luks_unsupported(
                path,
                "it is in reencryption; finish that with cryptsetup first",
            ));
        }
        match &head[..] {
            [magic @ .., 0, 1] if magic == MAGIC => read_luks1::read(path, file),
            // The second copy may be whole where the first is not.
            _ => read_luks2::read(path, file),
        }
    }
}

impl KeyDigest {
    pub(super) fn is_possible(&self) -> bool {
        (1..=MAX_BYTES).contains(&self.salt.len())
            && (16..=MAX_BYTES).contains(&self.digest.len())
            && self.iterations > 0
    }
}

impl Kdf {
    pub(super) fn is_possible(&self) -> bool {
        match self {
            Self::Pbkdf2 { iterations, salt, .. } => *iterations > 0 && (1..=MAX_BYTES).contains(&salt.len()),
            Self::Argon2 { passes, memory_kib, lanes, salt, .. } => {
                *passes > 0
                    && (1..=MAX_LANES).contains(lanes)
                    && *memory_kib >= 8 * lanes
                    && (8..=MAX_BYTES).contains(&salt.len())
            }
        }
    }
}

/// More than any cryptsetup writes (4).
const MAX_LANES: u32 = 64;

/// The only cipher of ours: AES-256 in XTS mode, tweaks counted in 512-byte sectors.
pub(super) fn check_cipher(path: &Path, cipher: &str, key_size: u64) -> Result<()> {
    if cipher == crate::descriptor::CIPHER && key_size == super::KEY as u64 {
        return Ok(());
    }
    let bits = key_size.saturating_mul(8);
    let reason = format!(
        "its data is under {} with {bits} bits of key, and only aes-xts-plain64 with 512 (AES-256) can be taken as it lies; copy it: open it with cryptsetup and encrypt the mapped device",
        printable(cipher)
    );
    Err(Error::luks_unsupported(path, reason))
}

/// `len` bytes at `offset`; a file that ends before is no whole header.
pub(super) fn read(path: &Path, file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::luks_invalid(path, "the file ends inside it"),
        _ => Error::io("read", path, error),
    })?;
    Ok(bytes)
}

/// Words of a header, fit for a message.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(40).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}
