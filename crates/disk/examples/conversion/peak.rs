//! The most memory a process needs for one conversion of a large sparse disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use vmseal_disk::{Control, Holes, SealSpec, describe_raw, encrypt_copy, encrypt_in_place};
use vmseal_secret::SecretKey;

use crate::Outcome;
use crate::stage::{DISK, VM};

/// Data at this distance, so that the disk has many runs and the whole of it is walked.
const EVERY: u64 = 1 << 30;
const RUN: usize = 64 << 10;

pub(crate) fn measure(parent: &Path, bytes: u64, way: &str) -> Outcome<Value> {
    let folder = TempDir::new_in(parent)?;
    let source = folder.path().join("source.raw");
    let file = File::create(&source)?;
    file.set_len(bytes)?;
    let data = vec![7; RUN];
    let mut at = 0;
    while at + (RUN as u64) <= bytes {
        file.write_all_at(&data, at)?;
        at += EVERY;
    }
    let kek = SecretKey::generate(32)?;
    let spec = SealSpec {
        kek: &kek,
        kek_id: "kek",
        provider_id: "provider",
        vm_id: VM,
        disk_id: DISK,
        generation: 1,
        sector_size: 512,
        holes: Some(Holes::Zero),
    };
    let control = Control::new();
    match way {
        "copy" => encrypt_copy(&source, &folder.path().join("copy.vmdk"), &spec, &control)?,
        "in-place" => encrypt_in_place(&describe_raw(&source, &DISK)?, &spec, &control)?,
        _ => return Err("the way is copy or in-place".into()),
    };
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(json!({ "way": way, "bytes": bytes, "peakBytes": kib * 1024 }))
}
