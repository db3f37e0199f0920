//! The `vmseal.*` lines: which key opens the disk, how the data is laid out, and a sum that catches damage.
//!
//! The sum only finds accidents; what an attacker could change is bound by the wrapped key's own header (`seal.rs`).

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The version of the vmseal lines this crate writes and the highest it opens.
pub const VERSION: u32 = 1;

/// The only data cipher: AES-256-XTS whose tweak is the number of the 512-byte sector (dm-crypt's name).
pub const CIPHER: &str = "aes-xts-plain64";

/// Wraps a disk may carry at once; a rotation needs two, escrow one more.
pub(crate) const MAX_WRAPS: usize = 16;
/// Longest value of one line, the limit of the envelope reader.
const MAX_VALUE: usize = 16 * 1024;

/// The vmseal lines of a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Disk id, the same 16 bytes as `ddb.uuid`.
    pub id: [u8; 16],
    /// Whether the extent is wholly ciphertext.
    pub state: SealState,
    /// Data unit in bytes, 512 or 4096.
    pub sector_size: u32,
    /// What an all-zero data unit means.
    pub holes: Holes,
    /// Number of the data key, one more with each deep recrypt.
    pub generation: u32,
    /// Compact JWE strings, `vmseal.dek.0` first; at least one. Any that opens will do.
    pub wraps: Vec<String>,
    /// Optional lines of later writers, key with its `vmseal.` prefix.
    pub(crate) other: Vec<(String, String)>,
}

/// `vmseal.state`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealState {
    /// Every sector is ciphertext under one key.
    Sealed,
    /// An in-place encryption is under way.
    Sealing,
    /// An in-place decryption is under way.
    Unsealing,
    /// An in-place change of the data key is under way.
    Resealing,
}

/// `vmseal.holes`: how never-written areas are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holes {
    /// Every sector is encrypted, zeros too. Stock tools (dm-crypt, LUKS, QEMU) can open the extent.
    Dense,
    /// Holes stay holes: a data unit whose ciphertext is all zero bytes is plaintext zeros. Shows which areas are used.
    Zero,
    /// Of a child: a 512-byte sector of zero bytes is its parent's. Such a file means nothing without the chain below it.
    Parent,
}

const STATES: [(SealState, &str); 4] = [
    (SealState::Sealed, "sealed"),
    (SealState::Sealing, "sealing"),
    (SealState::Unsealing, "unsealing"),
    (SealState::Resealing, "resealing"),
];

impl SealState {
    /// The word in the descriptor.
    pub fn as_str(self) -> &'static str {
        STATES.iter().find(|(state, _)| *state == self).map_or("", |(_, word)| word)
    }
}

impl Holes {
    /// The word in the descriptor and in the wrapped key's header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Zero => "zero",
            Self::Parent => "parent",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Dense, Self::Zero, Self::Parent].into_iter().find(|holes| holes.as_str() == word)
    }
}

impl Sealed {
    /// Whether a header key is one of ours.
    pub(super) fn is_seal_key(key: &str) -> bool {
        key.starts_with("vmseal.")
    }

    /// Reads the lines in the order they stand in the file, checking grammar, completeness and the sum.
    pub(super) fn parse(lines: &[(String, String)]) -> Result<Self> {
        let mut map = BTreeMap::new();
        for (key, value) in lines {
            if value.len() > MAX_VALUE || !value.bytes().all(is_value_byte) || !key.bytes().all(is_value_byte)
            {
                return Err(damaged(key, "holds characters or a length that vmseal does not write"));
            }
            if map.insert(key.as_str(), value.as_str()).is_some() {
                return Err(damaged(key, "stands twice"));
            }
        }
        let mut take = |key: &str| map.remove(key).ok_or_else(|| damaged(key, "is missing"));
        let version =
            number(take("vmseal.version")?).ok_or_else(|| damaged("vmseal.version", "is not a number"))?;
        if version > VERSION {
            return Err(Error::unsupported(format!(
                "it was sealed by a newer vmseal (format {version}, this one knows {VERSION}): update vmseal"
            )));
        }
        if version == 0 {
            return Err(damaged("vmseal.version", "is 0"));
        }
        let id_text = take("vmseal.id")?;
        let id = crate::uuid::parse(id_text)
            .filter(|id| crate::uuid::format(id) == id_text)
            .ok_or_else(|| damaged("vmseal.id", "is not a lower-case uuid"))?;
        let state = take("vmseal.state")?;
        let cipher = take("vmseal.cipher")?;
        let sector_size = take("vmseal.sectorSize")?;
        let holes = take("vmseal.holes")?;
        let generation =
            number(take("vmseal.gen")?).ok_or_else(|| damaged("vmseal.gen", "is not a number"))?;
        let sum = take("vmseal.sum")?;
        let wraps = take_wraps(&mut map)?;
        let other = lines
            .iter()
            .filter(|(key, _)| map.contains_key(key.as_str()))
            .cloned()
            .collect::<Vec<(String, String)>>();

        let state = STATES.iter().find(|(_, word)| *word == state).map(|(state, _)| *state);
        let sealed = Self {
            id,
            state: state.ok_or_else(|| Error::unsupported("vmseal.state is unknown to this version"))?,
            sector_size: match sector_size {
                "512" => 512,
                "4096" => 4096,
                _ => {
                    return Err(Error::unsupported("vmseal.sectorSize is neither 512 nor 4096"));
                }
            },
            holes: Holes::parse(holes)
                .ok_or_else(|| Error::unsupported("vmseal.holes is neither dense nor zero nor parent"))?,
            generation,
            wraps,
            other,
        };
        if cipher != CIPHER {
            return Err(Error::unsupported(format!("vmseal.cipher is not {CIPHER}")));
        }
        // Another tool may have moved lines, and a later writer may put its own anywhere: the order of the file and the
        // canonical one both count. A value has one spelling, so writing the fields gives the file's lines.
        let in_file_order = lines.iter().filter(|(key, _)| key != "vmseal.sum");
        if sum != sum_of(in_file_order) && sum != sum_of(sealed.pairs().iter()) {
            return Err(damaged("vmseal.sum", "does not match the lines it covers"));
        }
        Ok(sealed)
    }

    /// All lines in canonical order, the sum last.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let mut pairs = self.pairs();
        let sum = sum_of(pairs.iter());
        pairs.push(("vmseal.sum".to_owned(), sum));
        pairs
    }

    fn pairs(&self) -> Vec<(String, String)> {
        let mut pairs: Vec<(String, String)> = [
            ("vmseal.version", VERSION.to_string()),
            ("vmseal.id", crate::uuid::format(&self.id)),
            ("vmseal.state", self.state.as_str().to_owned()),
            ("vmseal.cipher", CIPHER.to_owned()),
            ("vmseal.sectorSize", self.sector_size.to_string()),
            ("vmseal.holes", self.holes.as_str().to_owned()),
            ("vmseal.gen", self.generation.to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let wraps = self.wraps.iter().enumerate();
        pairs.extend(wraps.map(|(index, wrap)| (format!("vmseal.dek.{index}"), wrap.clone())));
        pairs.extend(self.other.iter().cloned());
        pairs
    }
}

/// `vmseal.dek.0`, `.1` and so on without a gap.
fn take_wraps(map: &mut BTreeMap<&str, &str>) -> Result<Vec<String>> {
    let mut wraps = Vec::new();
    while wraps.len() < MAX_WRAPS
        && let Some(wrap) = map.remove(format!("vmseal.dek.{}", wraps.len()).as_str())
    {
        wraps.push(wrap.to_owned());
    }
    if wraps.is_empty() {
        return Err(damaged("vmseal.dek.0", "is missing"));
    }
    match map.keys().find(|key| key.starts_with("vmseal.dek.")) {
        Some(key) => Err(damaged(key, "is out of sequence or too many")),
        None => Ok(wraps),
    }
}

/// SHA-256 over `key=value` LF of every line, values without their quotes.
fn sum_of<'a>(pairs: impl Iterator<Item = &'a (String, String)>) -> String {
    let mut hash = Sha256::new();
    for (key, value) in pairs {
        hash.update(key);
        hash.update(b"=");
        hash.update(value);
        hash.update(b"\n");
    }
    format!("sha256:{}", crate::uuid::hex(&hash.finalize()))
}

/// Decimal without sign or leading zero, so that a value has one spelling.
fn number(text: &str) -> Option<u32> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    canonical.then(|| text.parse().ok()).flatten()
}

fn is_value_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b" ._:/+=-".contains(&byte)
}

fn damaged(key: &str, what: &str) -> Error {
    let key: String = key.chars().take(64).collect();
    Error::descriptor(format!(
        "the line {key} {what}; restore the descriptor, or its vmseal lines from the copy that ends in .vmseal"
    ))
}
