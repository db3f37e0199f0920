//! Ciphertext that moves as it lies: copies of files, their sums, and descriptors for copies of disks.

use std::path::Path;

use napi::{Env, Result};
use napi_derive::napi;
use serde_json::json;

use crate::disk::{DiskBinding, Place, Seal, SealSpec};
use crate::fault::guard;
use crate::key::KeyHandle;
use crate::pki::hex;
use crate::task::NativeTask;

/// Copies a file byte for byte into a new one, holes as holes, makes it durable and compares both; JSON with bytes.
#[napi]
pub fn copy_file(env: &Env, source: String, target: String) -> Result<NativeTask> {
    NativeTask::start(env, move |control| {
        let (source, target) = (Path::new(&source), Path::new(&target));
        let bytes = guard(|| vmseal_disk::copy_verbatim(source, target, control))?;
        Ok(json!({ "bytes": bytes }).to_string())
    })
}

/// SHA-256 of a file, as `sha256sum` tells it; JSON with sha256 (hex) and bytes.
#[napi]
pub fn sum_file(env: &Env, path: String) -> Result<NativeTask> {
    NativeTask::start(env, move |control| {
        let (sha256, bytes) = guard(|| vmseal_disk::sum_file(Path::new(&path), control))?;
        Ok(json!({ "sha256": hex(&sha256), "bytes": bytes }).to_string())
    })
}

/// Makes the new descriptor `target` for a copy of an encrypted disk's extent that lies beside it: the same DEK, wrapped with `newKek`
/// and bound to what `spec` says. The source is only read.
#[napi]
pub fn reseal_copy(
    env: &Env,
    source: String,
    target: String,
    kek: &KeyHandle,
    binding: DiskBinding,
    new_kek: &KeyHandle,
    spec: SealSpec,
) -> Result<NativeTask> {
    let (kek, place, seal) = (kek.get()?, Place::new(&binding)?, Seal::new(new_kek, spec)?);
    NativeTask::start(env, move |_| {
        let (source, target) = (Path::new(&source), Path::new(&target));
        guard(|| vmseal_disk::reseal_copy(source, target, &kek, &place.binding(), &seal.spec()))?;
        Ok("{}".to_owned())
    })
}
