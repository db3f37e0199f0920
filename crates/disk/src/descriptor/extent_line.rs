//! One extent line: `RW 16384 FLAT "web01-flat.vmdk" 0`.

use std::fmt::Write as _;

use crate::error::{Error, Result};

/// A run of the virtual disk and the file that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Access the guest may have.
    pub access: Access,
    /// Length in 512-byte sectors, at least 1.
    pub sectors: u64,
    /// How the file stores the sectors.
    pub kind: ExtentKind,
    /// A plain base name in the descriptor's own folder; `None` for [`ExtentKind::Zero`].
    pub file: Option<String>,
    /// Where the extent begins in the file, in 512-byte sectors.
    pub offset: u64,
    /// What stands after the offset (partition id, device id), kept as it is.
    pub(crate) rest: String,
}

/// First word of an extent line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `RW`
    ReadWrite,
    /// `RDONLY`
    ReadOnly,
    /// `NOACCESS`
    NoAccess,
}

/// Third word of an extent line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentKind {
    /// `FLAT`: the sectors as they are, in a hosted format.
    Flat,
    /// `VMFS`: the same, as ESXi names it.
    Vmfs,
    /// `ZERO`: no file, reads as zeros.
    Zero,
    /// `SPARSE`
    Sparse,
    /// `VMFSSPARSE`
    VmfsSparse,
    /// `SESPARSE`
    SeSparse,
    /// `VMFSRDM`
    VmfsRdm,
    /// `VMFSRAW`
    VmfsRaw,
}

const ACCESS: [(Access, &str); 3] =
    [(Access::ReadWrite, "RW"), (Access::ReadOnly, "RDONLY"), (Access::NoAccess, "NOACCESS")];

const KINDS: [(ExtentKind, &str); 8] = [
    (ExtentKind::Flat, "FLAT"),
    (ExtentKind::Vmfs, "VMFS"),
    (ExtentKind::Zero, "ZERO"),
    (ExtentKind::Sparse, "SPARSE"),
    (ExtentKind::VmfsSparse, "VMFSSPARSE"),
    (ExtentKind::SeSparse, "SESPARSE"),
    (ExtentKind::VmfsRdm, "VMFSRDM"),
    (ExtentKind::VmfsRaw, "VMFSRAW"),
];

/// Byte sizes stay within `i64`, the range of file offsets.
const MAX_SECTORS: u64 = (i64::MAX as u64) / 512;

impl Extent {
    /// A writable flat extent that fills `file` from its beginning.
    pub fn flat(file: &str, sectors: u64) -> Self {
        Self {
            access: Access::ReadWrite,
            sectors,
            kind: ExtentKind::Flat,
            file: Some(file.to_owned()),
            offset: 0,
            rest: String::new(),
        }
    }

    /// Whether `line` begins like an extent line.
    pub(super) fn is_extent_line(line: &str) -> bool {
        ACCESS
            .iter()
            .any(|(_, word)| line.strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', '\t'])))
    }

    pub(super) fn parse(line: &str) -> Result<Self> {
        let invalid = |what: &str| Error::descriptor(format!("extent line: {what}"));
        let (word, line) = next_word(line);
        let access = lookup(&ACCESS, word).ok_or_else(|| invalid("unknown access word"))?;
        let (word, line) = next_word(line);
        let sectors = number(word).ok_or_else(|| invalid("the sector count is not a number in range"))?;
        if sectors == 0 {
            return Err(invalid("the extent is empty"));
        }
        let (word, line) = next_word(line);
        let kind = lookup(&KINDS, word).ok_or_else(|| Error::unsupported("an extent of an unknown type"))?;
        let mut extent = Self { access, sectors, kind, file: None, offset: 0, rest: String::new() };
        if line.is_empty() {
            return if kind == ExtentKind::Zero {
                Ok(extent)
            } else {
                Err(invalid("the file name is missing"))
            };
        }
        let quoted = line.strip_prefix('"').ok_or_else(|| invalid("the file name is not in quotes"))?;
        let (file, line) =
            quoted.split_once('"').ok_or_else(|| invalid("the file name has no closing quote"))?;
        check_file_name(file).map_err(|reason| Error::descriptor(format!("extent line: {reason}")))?;
        extent.file = Some(file.to_owned());
        if !line.is_empty() && !line.starts_with([' ', '\t']) {
            return Err(invalid("text follows the file name without a space"));
        }
        let (word, rest) = next_word(line.trim_start_matches([' ', '\t']));
        if !word.is_empty() {
            extent.offset = number(word).ok_or_else(|| invalid("the offset is not a number in range"))?;
            rest.clone_into(&mut extent.rest);
        }
        if extent.sectors.checked_add(extent.offset).is_none_or(|end| end > MAX_SECTORS) {
            return Err(invalid("offset and length are out of range"));
        }
        Ok(extent)
    }

    pub(super) fn to_line(&self) -> String {
        let mut line = format!("{} {} {}", name(&ACCESS, self.access), self.sectors, name(&KINDS, self.kind));
        if let Some(file) = &self.file {
            // Writing to a String cannot fail.
            let _ = write!(line, " \"{file}\" {}", self.offset);
            if !self.rest.is_empty() {
                let _ = write!(line, " {}", self.rest);
            }
        }
        line
    }
}

/// Refuses everything but a plain file name: a descriptor must never lead out of its own folder.
pub(crate) fn check_file_name(name: &str) -> Result<(), String> {
    let reason = if name.is_empty() || name == "." || name == ".." {
        "is not a file name"
    } else if name.contains('/') {
        "leads out of the descriptor's folder; only plain file names beside the descriptor are allowed"
    } else if name.len() > 255 {
        "is longer than 255 bytes"
    } else if name.contains('"') || name.chars().any(char::is_control) {
        "holds a quote or a control character"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(64).collect();
    Err(format!("the file name {shown:?} {reason}"))
}

fn next_word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start_matches([' ', '\t']))
}

fn number(word: &str) -> Option<u64> {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| word.parse().ok()).flatten().filter(|&value| value <= MAX_SECTORS)
}

fn lookup<T: Copy>(table: &[(T, &str)], word: &str) -> Option<T> {
    table.iter().find(|(_, name)| *name == word).map(|(value, _)| *value)
}

fn name<T: PartialEq>(table: &[(T, &'static str)], value: T) -> &'static str {
    table.iter().find(|(candidate, _)| *candidate == value).map_or("", |(_, name)| name)
}
