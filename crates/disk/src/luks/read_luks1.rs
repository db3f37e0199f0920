//! Reading a LUKS1 header (LUKS on-disk format 1.2.3). Numbers are big-endian.

use std::fs::File;
use std::path::Path;

use super::hash::Hash;
use super::key_slot::STRIPES;
use super::volume::{Kdf, KeyDigest, KeySlot, Volume, check_cipher, printable, read as bytes_at};
use super::{SECTOR, luks1};
use crate::error::{Error, Result};

const HEADER: usize = 592;
const DIGEST: usize = 20;

fn read_header(path: &Path, bytes: &[u8]) -> Result<Volume> {
    let invalid = |reason| Error::luks_invalid(path, reason);
    let number = |at: usize| {
        let bytes: Option<[u8; 4]> = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| invalid("it is cut off"))
    };
    let word = |at: usize| {
        let field = bytes.get(at..at + 32).unwrap_or_default();
        let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).map_err(|_| invalid("a name in it is no text"))
    };
    let field = |at: usize, len: usize| {
        bytes.get(at..at + len).map(<[u8]>::to_vec).ok_or_else(|| invalid("it is cut off"))
    };
    let (cipher, hash) = (format!("{}-{}", word(8)?, word(40)?), word(72)?);
    check_cipher(path, &cipher, u64::from(number(108)?))?;
    let hash = Hash::named(hash).ok_or_else(|| {
        Error::luks_unsupported(
            path,
            format!("its hash {} is not among sha1, sha256, sha512", printable(hash)),
        )
    })?;
    let digest = || -> Result<KeyDigest> {
        Ok(KeyDigest { hash, iterations: number(164)?, salt: field(132, 32)?, digest: field(112, DIGEST)? })
    };
    let mut slots = Vec::new();
    for at in (0..luks1::SLOTS).map(|slot| 208 + 48 * slot) {
        match number(at)? {
            luks1::SLOT_FREE => continue,
            luks1::SLOT_IN_USE => {}
            _ => return Err(invalid("a key slot in it is neither in use nor free")),
        }
        let slot = KeySlot {
            kdf: Kdf::Pbkdf2 { hash, iterations: number(at + 4)?, salt: field(at + 8, 32)? },
            hash,
            material: u64::from(number(at + 40)?) * SECTOR as u64,
            digest: digest()?,
        };
        if number(at + 44)? as usize != STRIPES || !slot.kdf.is_possible() || !slot.digest.is_possible() {
            return Err(invalid("a key slot in it has impossible numbers"));
        }
        slots.push(slot);
    }
    let offset = u64::from(number(104)?) * SECTOR as u64;
    Ok(Volume { version: 1, offset, len: None, sector_size: SECTOR as u32, slots })
}

pub(super) fn read(path: &Path, file: &File) -> Result<Volume> {
    read_header(path, &bytes_at(path, file, 0, HEADER)?)
}
