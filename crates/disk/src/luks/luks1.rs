//! A LUKS1 header (LUKS on-disk format 1.2.3): 2 MiB, one slot in use. Numbers are big-endian.

use vmseal_secret::SecretKey;

use super::key_slot::{MATERIAL, SALT, STRIPES, digest, random, seal};
use super::{ITERATIONS, KEY, SECTOR};
use crate::error::Result;
use crate::uuid;

/// Bytes of the header, and where data begins.
pub(super) const LEN: usize = 2 << 20;
pub(super) const SLOTS: usize = 8;
pub(super) const SLOT_IN_USE: u32 = 0x00ac_71f3;
pub(super) const SLOT_FREE: u32 = 0x0000_dead;
/// Sectors between the key materials of two slots.
const SLOT_SECTORS: usize = (MATERIAL.div_ceil(SECTOR)).next_multiple_of(8);

/// `data` is where the extent begins, in bytes: after the header, or 0 for one that stands in another file.
pub(super) fn header(
    dek: &SecretKey,
    secret: &SecretKey,
    disk_id: &[u8; 16],
    data: usize,
) -> Result<Vec<u8>> {
    let mut header = vec![0; LEN];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"LUKS\xba\xbe\0\x01");
    put(8, b"aes");
    put(40, b"xts-plain64");
    put(72, b"sha256");
    put(104, &((data / SECTOR) as u32).to_be_bytes());
    put(108, &(KEY as u32).to_be_bytes());
    let salt = random::<SALT>()?;
    let mut key_digest = [0; 20];
    digest(dek, &salt, &mut key_digest);
    put(112, &key_digest);
    put(132, &salt);
    put(164, &ITERATIONS.to_be_bytes());
    put(168, uuid::format(disk_id).as_bytes());
    let slot_salt = random::<SALT>()?;
    for slot in 0..SLOTS {
        let at = 208 + 48 * slot;
        let material = 8 + slot * SLOT_SECTORS;
        put(at + 40, &(material as u32).to_be_bytes());
        put(at + 44, &(STRIPES as u32).to_be_bytes());
        if slot > 0 {
            put(at, &SLOT_FREE.to_be_bytes());
            continue;
        }
        put(at, &SLOT_IN_USE.to_be_bytes());
        put(at + 4, &ITERATIONS.to_be_bytes());
        put(at + 8, &slot_salt);
        put(material * SECTOR, seal(dek, secret, &slot_salt)?.first(MATERIAL));
    }
    Ok(header)
}
