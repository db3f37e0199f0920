//! From bytes to [`Descriptor`] and back.

use super::{Descriptor, Extent, ForeignSeal, MAX_LEN, NO_PARENT, Sealed, TailLine};
use crate::error::{Error, Result};

const FIRST_LINE: &str = "# Disk DescriptorFile";
const EXTENT_TITLE: &str = "# Extent description";
const DDB_TITLE: &str = "# The Disk Data Base";
const DDB_MARK: &str = "#DDB";

impl Descriptor {
    /// Parses a descriptor of at most [`MAX_LEN`] bytes. The vmseal lines, when present, must be complete and match
    /// their sum.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = text_lines(bytes)?;
        if lines.next() != Some(FIRST_LINE) {
            return Err(Error::descriptor(format!("its first line is not {FIRST_LINE:?}")));
        }
        let mut known = Known::default();
        let mut seal_lines = Vec::new();
        let mut foreign: Option<ForeignSeal> = None;
        let (mut extents, mut header, mut tail) = (Vec::new(), Vec::new(), Vec::new());
        let mut capacity: u64 = 0;
        for line in lines {
            if [FIRST_LINE, EXTENT_TITLE, DDB_TITLE, DDB_MARK].contains(&line) {
                continue;
            }
            if Extent::is_extent_line(line) {
                let extent = Extent::parse(line)?;
                capacity = capacity
                    .checked_add(extent.sectors)
                    .filter(|&sectors| sectors <= i64::MAX as u64 / 512)
                    .ok_or_else(|| Error::descriptor("the extents together are too large"))?;
                extents.push(extent);
                continue;
            }
            match pair(line) {
                Some((key, value)) if Sealed::is_seal_key(key) => {
                    let value = value.ok_or_else(|| {
                        Error::descriptor(format!("the quotes of {} are broken", clip(key)))
                    })?;
                    seal_lines.push((key.to_owned(), value.to_owned()));
                    continue;
                }
                Some((key, value)) if Known::has(key) => {
                    known.set(key, value)?;
                    continue;
                }
                Some((key, Some(value))) if key.starts_with("ddb.") => {
                    tail.push(TailLine::Ddb { key: key.to_owned(), value: value.to_owned() });
                    continue;
                }
                Some((key, value)) if ForeignSeal::is_key_line(key) => {
                    foreign.get_or_insert_default().note(key, value.unwrap_or_default());
                }
                _ => {}
            }
            if extents.is_empty() && tail.is_empty() {
                header.push(line.to_owned());
            } else {
                tail.push(TailLine::Text(line.to_owned()));
            }
        }
        let sealed = if seal_lines.is_empty() { None } else { Some(Sealed::parse(&seal_lines)?) };
        Ok(Self {
            version: known.version.ok_or_else(|| Error::descriptor("the version line is missing"))?,
            encoding: known.encoding,
            cid: known.cid.ok_or_else(|| Error::descriptor("the CID line is missing"))?,
            parent_cid: known.parent_cid.unwrap_or(NO_PARENT),
            create_type: known
                .create_type
                .ok_or_else(|| Error::descriptor("the createType line is missing"))?,
            sealed,
            foreign,
            extents,
            header,
            tail,
        })
    }

    /// The text in the order all tools accept. [`Descriptor::write_atomic`] checks that it reads back as this value.
    pub fn to_text(&self) -> String {
        let mut lines = vec![FIRST_LINE.to_owned(), format!("version={}", self.version)];
        lines.extend(self.encoding.iter().map(|encoding| format!("encoding=\"{encoding}\"")));
        lines.push(format!("CID={:08x}", self.cid));
        lines.push(format!("parentCID={:08x}", self.parent_cid));
        lines.push(format!("createType=\"{}\"", self.create_type));
        lines.extend(self.sealed.iter().flat_map(seal_text));
        lines.extend(self.header.iter().cloned());
        lines.push(format!("\n{EXTENT_TITLE}"));
        lines.extend(self.extents.iter().map(Extent::to_line));
        lines.push(format!("\n{DDB_TITLE}\n{DDB_MARK}"));
        lines.extend(self.tail.iter().map(|line| match line {
            TailLine::Ddb { key, value } => format!("{key} = \"{value}\""),
            TailLine::Text(text) => text.clone(),
        }));
        lines.push(String::new());
        lines.join("\n")
    }
}

/// The vmseal lines as they stand in the descriptor and in its second copy.
pub(super) fn seal_text(sealed: &Sealed) -> Vec<String> {
    sealed.lines().into_iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect()
}

/// The lines that are not blank, trimmed, after the checks every descriptor-like text passes first.
pub(super) fn text_lines(bytes: &[u8]) -> Result<impl Iterator<Item = &str>> {
    if bytes.len() > MAX_LEN {
        return Err(Error::descriptor(format!("it is longer than {MAX_LEN} bytes")));
    }
    let padding = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
    let bytes = &bytes[..bytes.len() - padding];
    if bytes.contains(&0) {
        return Err(Error::descriptor("it holds NUL bytes in its middle"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Error::unsupported("its text is not UTF-8"))?;
    Ok(text.lines().map(trim).filter(|line| !line.is_empty()))
}

/// `key = value` with the value's quotes taken off; the value is `None` when its quotes do not match up.
pub(super) fn pair(line: &str) -> Option<(&str, Option<&str>)> {
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let value = trim(value);
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"'),
        None => Some(value),
    };
    Some((trim(key), inner.filter(|inner| !inner.contains('"'))))
}

/// The header lines with a field of their own.
#[derive(Default)]
struct Known {
    version: Option<u32>,
    encoding: Option<String>,
    cid: Option<u32>,
    parent_cid: Option<u32>,
    create_type: Option<String>,
}

impl Known {
    fn has(key: &str) -> bool {
        matches!(key, "version" | "encoding" | "CID" | "parentCID" | "createType")
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        let broken = || Error::descriptor(format!("the value of {key} is not valid"));
        let value = value.ok_or_else(broken)?;
        let word = |value: &str| -> Result<String> {
            let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte));
            // QEMU takes the first "CID" of the text for the CID line.
            if value.is_empty() || value.len() > 64 || !plain || value.contains("CID") {
                return Err(broken());
            }
            Ok(value.to_owned())
        };
        let hex = |value: &str| -> Result<u32> {
            let digits = (1..=8).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_hexdigit());
            if digits { u32::from_str_radix(value, 16).map_err(|_| broken()) } else { Err(broken()) }
        };
        let twice = match key {
            "version" => {
                let version = match value {
                    "1" => 1,
                    "2" => 2,
                    "3" => 3,
                    _ => return Err(Error::unsupported("its version is not 1, 2 or 3")),
                };
                self.version.replace(version).is_some()
            }
            "encoding" => self.encoding.replace(word(value)?).is_some(),
            "CID" => self.cid.replace(hex(value)?).is_some(),
            "parentCID" => self.parent_cid.replace(hex(value)?).is_some(),
            _ => self.create_type.replace(word(value)?).is_some(),
        };
        if twice { Err(Error::descriptor(format!("the line {key} stands twice"))) } else { Ok(()) }
    }
}

/// Only what editors and CRLF files leave behind: other control characters are damage and must not vanish.
fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r'])
}

fn clip(key: &str) -> String {
    key.chars().take(64).collect()
}
