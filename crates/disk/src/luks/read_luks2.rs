//! Reading a LUKS2 header (LUKS2 on-disk format 1.1.3): the newer of two copies that is whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use base64ct::{Base64, Encoding as _};
use serde::Deserialize;
use serde_json::Value;

use super::KEY;
use super::hash::Hash;
use super::key_slot::{MATERIAL, STRIPES};
use super::volume::{Kdf, KeyDigest, KeySlot, MAGIC, Volume, check_cipher, printable, read as bytes_at};
use crate::error::{Error, Result};

const MAGIC_OF_COPY: &[u8; 6] = b"SKUL\xba\xbe";
const BINARY: usize = 4096;
/// Sizes of one copy that the format allows.
const SIZES: [u64; 9] =
    [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
const SUM: usize = 448;
/// More than the format has room for.
const MAX_SLOTS: usize = 32;

#[derive(Deserialize)]
struct Metadata {
    keyslots: BTreeMap<String, Value>,
    segments: BTreeMap<String, Segment>,
    digests: BTreeMap<String, Digest>,
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    requirements: Requirements,
}

#[derive(Deserialize, Default)]
struct Requirements {
    #[serde(default)]
    mandatory: Vec<String>,
}

#[derive(Deserialize)]
struct Segment {
    r#type: String,
    offset: String,
    size: String,
    #[serde(default)]
    iv_tweak: Option<String>,
    #[serde(default)]
    encryption: Option<String>,
    #[serde(default)]
    sector_size: Option<u32>,
    #[serde(default)]
    integrity: Option<Value>,
    #[serde(default)]
    flags: Vec<String>,
}

#[derive(Deserialize)]
struct Digest {
    r#type: String,
    keyslots: Vec<String>,
    segments: Vec<String>,
    hash: String,
    iterations: u32,
    salt: String,
    digest: String,
}

#[derive(Deserialize)]
struct Slot {
    key_size: u64,
    af: Splitter,
    area: Area,
    kdf: SlotKdf,
}

#[derive(Deserialize)]
struct Splitter {
    r#type: String,
    stripes: usize,
    hash: String,
}

#[derive(Deserialize)]
struct Area {
    r#type: String,
    offset: String,
    size: String,
    encryption: String,
    key_size: u64,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum SlotKdf {
    Pbkdf2 { hash: String, iterations: u32, salt: String },
    Argon2i { time: u32, memory: u32, cpus: u32, salt: String },
    Argon2id { time: u32, memory: u32, cpus: u32, salt: String },
}

pub(super) fn read(path: &Path, file: &File) -> Result<Volume> {
    let first = copy_at(path, file, 0, MAGIC)?;
    let seconds = match &first {
        Some((_, json, _)) => vec![(json.len() + BINARY) as u64],
        None => SIZES.to_vec(),
    };
    let mut newest = first;
    for offset in seconds {
        if let Some(found) = copy_at(path, file, offset, MAGIC_OF_COPY)?
            && newest.as_ref().is_none_or(|newest| newest.0 < found.0)
        {
            newest = Some(found);
        }
    }
    match newest {
        Some((_, json, len)) => volume(path, &json, len),
        None => Err(Error::luks_invalid(path, "it has no LUKS header that is whole")),
    }
}

/// Sequence number, JSON area and size of the copy at `offset`; `None` when there is none that is whole.
fn copy_at(path: &Path, file: &File, offset: u64, magic: &[u8; 6]) -> Result<Option<(u64, Vec<u8>, u64)>> {
    let read = |len| match bytes_at(path, file, offset, len) {
        Err(Error::LuksInvalid { .. }) => Ok(None),
        other => other.map(Some),
    };
    let Some(head) = read(BINARY)? else { return Ok(None) };
    let number = |at: usize| head[at..at + 8].iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    let (size, sequence) = (number(8), number(16));
    let name = head[72..104].split(|&byte| byte == 0).next().and_then(|name| std::str::from_utf8(name).ok());
    let Some(hash) = name.and_then(Hash::named) else { return Ok(None) };
    if !head.starts_with(magic) || head[6..8] != [0, 2] || !SIZES.contains(&size) || number(256) != offset {
        return Ok(None);
    }
    let Some(mut bytes) = read(size as usize)? else { return Ok(None) };
    let stored = bytes[SUM..SUM + 64].to_vec();
    bytes[SUM..SUM + 64].fill(0);
    let sum = hash.sum(&bytes);
    Ok(stored.starts_with(&sum).then(|| (sequence, bytes.split_off(BINARY), size)))
}

fn volume(path: &Path, json: &[u8], header: u64) -> Result<Volume> {
    let invalid = |reason: &str| Error::luks_invalid(path, reason);
    let unsupported = |reason: String| Error::luks_unsupported(path, reason);
    let text = json.split(|&byte| byte == 0).next().unwrap_or_default();
    let metadata: Metadata =
        serde_json::from_slice(text).map_err(|_| invalid("its metadata is not what LUKS2 says"))?;
    // First, as cryptsetup asks of every reader: what it does not know it must not touch.
    if let Some(requirement) = metadata.config.requirements.mandatory.first() {
        let requirement = printable(requirement);
        let hint = if requirement.contains("reencrypt") {
            "; finish the reencryption with cryptsetup first"
        } else {
            ""
        };
        return Err(unsupported(format!("it requires {requirement}{hint}")));
    }
    let is_reencryption = |slot: &Value| slot.get("type").and_then(Value::as_str) == Some("reencrypt");
    if metadata.keyslots.values().any(is_reencryption)
        || metadata.segments.values().any(|one| !one.flags.is_empty())
    {
        return Err(unsupported("it is in reencryption; finish that with cryptsetup first".to_owned()));
    }
    let mut segments = metadata.segments.iter();
    let (Some((name, segment)), None) = (segments.next(), segments.next()) else {
        return Err(unsupported("its data is in several segments".to_owned()));
    };
    if segment.r#type != "crypt" {
        return Err(unsupported(format!("its data is of the kind {}", printable(&segment.r#type))));
    }
    if segment.integrity.is_some() {
        return Err(unsupported("it carries integrity data between its sectors; copy it".to_owned()));
    }
    check_cipher(path, segment.encryption.as_deref().unwrap_or_default(), KEY as u64)?;
    if segment.iv_tweak.as_deref().unwrap_or("0") != "0" {
        return Err(unsupported(
            "its sectors are not counted from the start of its data (iv_tweak); copy it".to_owned(),
        ));
    }
    let sector_size = segment.sector_size.unwrap_or(512);
    if !matches!(sector_size, 512 | 4096) {
        return Err(unsupported(format!(
            "its sectors have {sector_size} bytes, and only 512 or 4096 can be taken"
        )));
    }
    let offset = decimal(&segment.offset).ok_or_else(|| invalid("the offset of its data is no number"))?;
    let len = match segment.size.as_str() {
        "dynamic" => None,
        size => Some(decimal(size).ok_or_else(|| invalid("the size of its data is no number"))?),
    };
    let mut slots = Vec::new();
    for (id, slot) in metadata.keyslots.iter().take(MAX_SLOTS) {
        let digest =
            metadata.digests.values().find(|one| one.keyslots.contains(id) && one.segments.contains(name));
        // A slot for a key of its own, of no segment.
        let Some(digest) = digest else { continue };
        let slot: Slot = serde_json::from_value(slot.clone())
            .map_err(|_| unsupported(format!("its key slot {} is of an unknown kind", printable(id))))?;
        slots.push(key_slot(path, &slot, digest, header)?);
    }
    Ok(Volume { version: 2, offset, len, sector_size, slots })
}

fn key_slot(path: &Path, slot: &Slot, digest: &Digest, header: u64) -> Result<KeySlot> {
    let invalid = |reason: &str| Error::luks_invalid(path, reason);
    let hash = |name: &str| {
        let unknown = || format!("its hash {} is not among sha1, sha256, sha512", printable(name));
        Hash::named(name).ok_or_else(|| Error::luks_unsupported(path, unknown()))
    };
    let bytes = |text: &str| {
        let decoded = (text.len() <= 128).then(|| Base64::decode_vec(text).ok()).flatten();
        decoded.ok_or_else(|| invalid("a salt or digest in it is no base64"))
    };
    check_cipher(path, &slot.area.encryption, slot.area.key_size)?;
    check_cipher(path, crate::descriptor::CIPHER, slot.key_size)?;
    if slot.area.r#type != "raw"
        || slot.af.r#type != "luks1"
        || slot.af.stripes != STRIPES
        || digest.r#type != "pbkdf2"
    {
        return Err(Error::luks_unsupported(path, "a key slot is stored in a way that is not known here"));
    }
    let kdf = match &slot.kdf {
        SlotKdf::Pbkdf2 { hash: name, iterations, salt } => {
            Kdf::Pbkdf2 { hash: hash(name)?, iterations: *iterations, salt: bytes(salt)? }
        }
        SlotKdf::Argon2i { time, memory, cpus, salt } => Kdf::Argon2 {
            algorithm: argon2::Algorithm::Argon2i,
            passes: *time,
            memory_kib: *memory,
            lanes: *cpus,
            salt: bytes(salt)?,
        },
        SlotKdf::Argon2id { time, memory, cpus, salt } => Kdf::Argon2 {
            algorithm: argon2::Algorithm::Argon2id,
            passes: *time,
            memory_kib: *memory,
            lanes: *cpus,
            salt: bytes(salt)?,
        },
    };
    let (offset, size) = (decimal(&slot.area.offset), decimal(&slot.area.size));
    let (Some(material), Some(size)) = (offset, size) else {
        return Err(invalid("the place of a key slot in it is no number"));
    };
    let digest = KeyDigest {
        hash: hash(&digest.hash)?,
        iterations: digest.iterations,
        salt: bytes(&digest.salt)?,
        digest: bytes(&digest.digest)?,
    };
    if size < MATERIAL as u64 || material < 2 * header || !kdf.is_possible() || !digest.is_possible() {
        return Err(invalid("a key slot in it has impossible numbers"));
    }
    Ok(KeySlot { kdf, hash: hash(&slot.af.hash)?, material, digest })
}

/// Numbers above 2^53 would not survive JSON and stand in it as text. What cannot be a place in a file is none.
fn decimal(text: &str) -> Option<u64> {
    let digits = (1..=19).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&number| i64::try_from(number).is_ok())
}
