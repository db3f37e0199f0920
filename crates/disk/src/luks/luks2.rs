//! A detached LUKS2 header (LUKS2 on-disk format 1.1.3): two copies of 16 KiB and one key slot.

use base64ct::{Base64, Encoding as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use vmseal_secret::SecretKey;

use super::key_slot::{MATERIAL, SALT, STRIPES, digest, random, seal};
use super::{ITERATIONS, KEY};
use crate::descriptor::CIPHER;
use crate::error::{Error, Result};
use crate::uuid;

/// One copy: a binary header of 4096 bytes and its JSON.
const COPY: usize = 16 << 10;
const BINARY: usize = 4096;
const AREA: usize = MATERIAL.next_multiple_of(4096);
/// Bytes of the header.
pub(super) const LEN: usize = 2 * COPY + AREA;

/// `sector_size` is the data unit in bytes, `offset` where data begins in the extent's file; the tweak counts 512-byte sectors, as ours does.
pub(super) fn header(
    dek: &SecretKey,
    secret: &SecretKey,
    disk_id: &[u8; 16],
    sector_size: u32,
    offset: u64,
) -> Result<Vec<u8>> {
    let (slot_salt, digest_salt) = (random::<SALT>()?, random::<SALT>()?);
    let mut key_digest = [0; 32];
    digest(dek, &digest_salt, &mut key_digest);
    let base64 = |bytes: &[u8]| Base64::encode_string(bytes);
    let text = json!({
        "keyslots": { "0": {
            "type": "luks2",
            "key_size": KEY,
            "af": { "type": "luks1", "stripes": STRIPES, "hash": "sha256" },
            "area": {
                "type": "raw",
                "offset": (2 * COPY).to_string(),
                "size": AREA.to_string(),
                "encryption": CIPHER,
                "key_size": KEY,
            },
            "kdf": { "type": "pbkdf2", "hash": "sha256", "iterations": ITERATIONS, "salt": base64(&slot_salt) },
        } },
        "tokens": {},
        "segments": { "0": {
            "type": "crypt",
            "offset": offset.to_string(),
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": CIPHER,
            "sector_size": sector_size,
        } },
        "digests": { "0": {
            "type": "pbkdf2",
            "keyslots": ["0"],
            "segments": ["0"],
            "hash": "sha256",
            "iterations": ITERATIONS,
            "salt": base64(&digest_salt),
            "digest": base64(&key_digest),
        } },
        "config": { "json_size": (COPY - BINARY).to_string(), "keyslots_size": AREA.to_string() },
    })
    .to_string();
    if text.len() >= COPY - BINARY {
        return Err(Error::Internal { reason: "the LUKS2 metadata does not fit".to_owned() });
    }
    let mut header = vec![0; LEN];
    let id = uuid::format(disk_id);
    for (number, magic) in [b"LUKS\xba\xbe", b"SKUL\xba\xbe"].into_iter().enumerate() {
        let copy = &mut header[number * COPY..][..COPY];
        copy[BINARY..][..text.len()].copy_from_slice(text.as_bytes());
        write_binary(copy, magic, &id, number * COPY)?;
    }
    header[2 * COPY..][..MATERIAL].copy_from_slice(seal(dek, secret, &slot_salt)?.first(MATERIAL));
    Ok(header)
}

fn write_binary(copy: &mut [u8], magic: &[u8; 6], id: &str, offset: usize) -> Result<()> {
    let mut put = |at: usize, bytes: &[u8]| copy[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, magic);
    put(6, &2u16.to_be_bytes());
    put(8, &(COPY as u64).to_be_bytes());
    put(16, &1u64.to_be_bytes());
    put(72, b"sha256");
    put(104, &random::<64>()?);
    put(168, id.as_bytes());
    put(256, &(offset as u64).to_be_bytes());
    // Over the copy with this field zero, which it is until now.
    let sum = Sha256::digest(&*copy);
    copy[448..448 + sum.len()].copy_from_slice(&sum);
    Ok(())
}
