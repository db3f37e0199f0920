use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::peers::Found;
use crate::spread::Spread;

/// What to measure.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The file for the results.
    pub output: PathBuf,
    /// Interleaved rounds; calls above 1 MiB take part in every third, above 64 MiB in every fifth.
    pub rounds: usize,
    /// The least time of one measurement in a round, in milliseconds.
    pub span_ms: u64,
    /// Bytes per call, ascending; one sector per call is always measured.
    pub call_bytes: Vec<usize>,
    /// Whether to measure sectors.
    pub xts: bool,
    /// Whether to measure key wrap.
    pub key_wrap: bool,
}

/// The results of one run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub clock_ghz: Option<Spread>,
    pub limits: Vec<UnitLimit>,
    pub memory: Vec<MemoryRate>,
    pub implementations: Vec<Implementation>,
    pub absent: Vec<Absent>,
    pub sectors: Vec<SectorResult>,
    pub key_wrap: Vec<KeyWrapResult>,
}

/// AES-256 rounds that touch no memory, as bytes per second.
#[derive(Serialize)]
pub struct UnitLimit {
    pub width: String,
    pub threads: usize,
    pub gbps: Spread,
}

/// Memory traffic without a cipher, as payload per second.
#[derive(Serialize)]
pub struct MemoryRate {
    pub traffic: &'static str,
    pub bytes: usize,
    pub threads: usize,
    pub gbps: Spread,
}

/// Somebody who takes part.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Implementation {
    pub name: String,
    pub version: String,
    pub call_path: &'static str,
    pub peer: bool,
}

/// A peer that this machine does not have.
#[derive(Serialize)]
pub struct Absent {
    pub name: &'static str,
    pub reason: String,
}

/// One case of sectors for one implementation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SectorResult {
    pub implementation: String,
    pub sector_size: usize,
    pub call_bytes: usize,
    pub threads: usize,
    pub operation: &'static str,
    pub in_place: bool,
    pub gbps: Spread,
    /// Share of the AES-unit limit of the same round, the tweak's own block counted.
    pub share: Option<Spread>,
    /// That limit itself, in GB/s, of as many threads: less than the machine's best where others took CPU time.
    pub limit: Option<Spread>,
    /// Of vmseal's own choice of kernel, where the call is larger than the caches: memory traffic without a cipher through
    /// the same buffers in the same round, in GB/s.
    pub memory: Option<Spread>,
    /// How many times as fast vmseal's own choice of kernel was in the same round.
    pub ours: Option<Spread>,
}

/// One case of key wrap for one implementation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyWrapResult {
    pub implementation: String,
    pub operation: &'static str,
    pub batch: usize,
    pub ns_per_key: Spread,
    /// How many times as fast vmseal was in the same round.
    pub ours: Option<Spread>,
}

impl Report {
    pub fn new(found: &Found) -> Report {
        Report {
            clock_ghz: None,
            limits: Vec::new(),
            memory: Vec::new(),
            implementations: found.ciphers.iter().map(|one| one.implementation.clone()).collect(),
            absent: found
                .absent
                .iter()
                .map(|(name, reason)| Absent { name, reason: reason.clone() })
                .collect(),
            sectors: Vec::new(),
            key_wrap: Vec::new(),
        }
    }
}
