//! The record of an unfinished copy: two lines of text, JSON and the HMAC over it in hex.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::record_text::read_record;
use crate::error::{Error, Result};
use crate::in_place::MacKey;
use crate::source::Stamp;

const VERSION: u32 = 1;
/// Two descriptors of the largest size would be more; no real one is.
const MAX_LEN: u64 = 4 << 20;
/// PATH_MAX of Linux.
const MAX_PATH: usize = 4096;
/// Apart from what else is signed with keys of this kind.
const TITLE: &str = "vmseal copy 1\n";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fields {
    v: u32,
    id: [u8; 16],
    /// Absolute path of what is read.
    source: String,
    stamps: Vec<Stamp>,
    /// What the target will be.
    descriptor: String,
    /// Bytes of the target that are written and durable.
    frontier: u64,
}

/// A record, authenticated or not.
#[derive(Debug)]
pub(super) struct Record {
    fields: Fields,
    json: String,
    mac: String,
}

/// Where the record of an unfinished copy stands: `web01.vmdk.vmseal-copy` beside the coming `web01.vmdk`.
pub fn record_path(target: &Path) -> PathBuf {
    let mut name = OsString::from(target.as_os_str());
    name.push(".vmseal-copy");
    PathBuf::from(name)
}

impl Record {
    pub(super) fn new(id: [u8; 16], source: String, stamps: Vec<Stamp>, descriptor: String) -> Self {
        let fields = Fields { v: VERSION, id, source, stamps, descriptor, frontier: 0 };
        Self { fields, json: String::new(), mac: String::new() }
    }

    pub(super) fn read(target: &Path) -> Result<Self> {
        let path = record_path(target);
        let damaged =
            || Error::job(&path, "it is damaged; remove what is unfinished and start the copy again");
        Self::parse(&read_record(&path, MAX_LEN, damaged)?).ok_or_else(damaged)
    }

    /// `None`: it is damaged.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (json, mac) = text.trim_end().split_once('\n')?;
        let fields: Fields = serde_json::from_str(json).ok()?;
        let is_path =
            fields.source.starts_with('/') && fields.source.len() < MAX_PATH && !fields.source.contains('\0');
        (fields.v == VERSION && is_path).then(|| Self { fields, json: json.to_owned(), mac: mac.to_owned() })
    }

    /// That a holder of the key wrote it.
    pub(super) fn verify(&self, key: &MacKey, path: &Path) -> Result<()> {
        let expected = hex(&key.sign(signed(&self.json).as_bytes())?);
        if bool::from(expected.as_bytes().ct_eq(self.mac.as_bytes())) {
            Ok(())
        } else {
            Err(Error::JobAuthentication { path: path.to_owned() })
        }
    }

    /// The text that stands in the file.
    pub(super) fn signed(&mut self, key: &MacKey) -> Result<String> {
        self.json = serde_json::to_string(&self.fields)
            .map_err(|error| Error::Internal { reason: error.to_string() })?;
        self.mac = hex(&key.sign(signed(&self.json).as_bytes())?);
        Ok(format!("{}\n{}\n", self.json, self.mac))
    }

    pub(super) fn advance(&mut self, frontier: u64) {
        self.fields.frontier = frontier;
    }

    pub(super) fn frontier(&self) -> u64 {
        self.fields.frontier
    }

    pub(super) fn id(&self) -> &[u8; 16] {
        &self.fields.id
    }

    pub(super) fn source(&self) -> &str {
        &self.fields.source
    }

    pub(super) fn stamps(&self) -> &[Stamp] {
        &self.fields.stamps
    }

    pub(super) fn descriptor(&self) -> &str {
        &self.fields.descriptor
    }
}

pub(super) fn signed(json: &str) -> String {
    format!("{TITLE}{json}")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
