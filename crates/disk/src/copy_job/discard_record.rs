//! The record of a source that is being overwritten: one line of JSON beside it, which says so after a crash.
//!
//! It is written when the copy is proven and durable, before the source's descriptor goes, and goes last. It has no key: the source is
//! then no disk any more, and who can write into a folder can take away what is in it in any case. So what it says is
//! believed only about files that such a person could take away as well: those of this folder, by name, that no
//! descriptor names and that have no second name.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record_text::read_record;
use crate::descriptor::check_file_name;
use crate::error::{Error, Result};

const VERSION: u32 = 1;
/// As many files as a disk may have, with the longest names.
const MAX_LEN: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiscardRecord {
    v: u32,
    /// Files that are overwritten with zeros before their names go.
    overwritten: Vec<Doomed>,
}

/// A file by name, and what tells that it is still the same. Not its time, which overwriting changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Doomed {
    pub(super) name: String,
    file: u64,
    len: u64,
}

/// Where the record stands: `web01.vmdk.vmseal-discard` beside what was `web01.vmdk`.
pub fn discard_record_path(source: &Path) -> PathBuf {
    let mut name = OsString::from(source.as_os_str());
    name.push(".vmseal-discard");
    PathBuf::from(name)
}

impl Doomed {
    pub(super) fn new(path: &Path, file: &File) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Error::argument("the name of the source's file is not UTF-8"))?;
        check_file_name(name).map_err(Error::argument)?;
        Ok(Self { name: name.to_owned(), file: metadata.ino(), len: metadata.len() })
    }
}

impl DiscardRecord {
    pub(super) fn new(overwritten: Vec<Doomed>) -> Self {
        Self { v: VERSION, overwritten }
    }

    /// `None`: there is none.
    pub(super) fn read(source: &Path) -> Result<Option<Self>> {
        let path = discard_record_path(source);
        let damaged = || {
            let reason = "it is damaged, and nothing was overwritten; remove it and, by hand, what is left of the source";
            Error::job(&path, reason)
        };
        match read_record(&path, MAX_LEN, damaged) {
            Ok(text) => Self::parse(&text).ok_or_else(damaged).map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `None`: it is damaged, or names something that is no file of this folder.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let record: Self = serde_json::from_str(text.strip_suffix('\n')?).ok()?;
        let names: Vec<&str> = record.overwritten.iter().map(|doomed| doomed.name.as_str()).collect();
        let plain = names.iter().all(|name| check_file_name(name).is_ok());
        let once = names.iter().enumerate().all(|(at, name)| !names[..at].contains(name));
        (record.v == VERSION && !names.is_empty() && plain && once).then_some(record)
    }

    /// What stands in the file.
    pub(super) fn text(&self) -> Result<String> {
        let json =
            serde_json::to_string(self).map_err(|error| Error::Internal { reason: error.to_string() })?;
        Ok(format!("{json}\n"))
    }

    pub(super) fn files(&self) -> &[Doomed] {
        &self.overwritten
    }

    /// Whether the source is an image, which has no descriptor: its one file is named as it is.
    pub(super) fn is_of_image(&self, source: &Path) -> bool {
        matches!(self.overwritten.as_slice(), [only] if source.file_name() == Some(only.name.as_ref()))
    }
}
