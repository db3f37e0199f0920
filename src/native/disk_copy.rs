//! Conversion of a disk to a copy, going on after whatever stopped it, and the end of its source.

use std::path::Path;

use napi::bindgen_prelude::{ClassInstance, Object};
use napi::{Env, Result};
use napi_derive::napi;
use serde_json::json;
use vmseal_disk::{DiscardSource, uuid};

use crate::background;
use crate::disk::{DiskBinding, Place, Seal, SealSpec, outcome};
use crate::disk_conversion::{Sides, keks_json};
use crate::fault::{guard, invalid_argument};
use crate::key::KeyHandle;
use crate::task::NativeTask;

/// Encrypts a raw image or plain flat disk into a new disk under a fresh DEK; the source is only read. A failure or cancel
/// after the start leaves the unfinished files for `resumeCopy`.
#[napi]
pub fn encrypt_disk(
    env: &Env,
    source: String,
    target: String,
    kek: &KeyHandle,
    spec: SealSpec,
) -> Result<NativeTask> {
    let seal = Seal::new(kek, spec)?;
    NativeTask::start(env, move |control| {
        let (source, target) = (Path::new(&source), Path::new(&target));
        guard(|| vmseal_disk::encrypt_copy(source, target, &seal.spec(), control)).map(outcome)
    })
}

/// Decrypts a disk into a new plain one, after every check of its wrap and descriptor; the source is only read.
#[napi]
pub fn decrypt_disk(
    env: &Env,
    source: String,
    target: String,
    kek: &KeyHandle,
    binding: DiskBinding,
) -> Result<NativeTask> {
    let (kek, place) = (kek.get()?, Place::new(&binding)?);
    NativeTask::start(env, move |control| {
        let (source, target) = (Path::new(&source), Path::new(&target));
        guard(|| vmseal_disk::decrypt_copy(source, target, &kek, &place.binding(), control)).map(outcome)
    })
}

/// Deep recrypt to a new disk: a fresh DEK under the KEK of `spec`; the source is only read.
#[napi]
pub fn recrypt_disk(
    env: &Env,
    source: String,
    target: String,
    kek: &KeyHandle,
    binding: DiskBinding,
    new_kek: &KeyHandle,
    spec: SealSpec,
) -> Result<NativeTask> {
    let (kek, place, seal) = (kek.get()?, Place::new(&binding)?, Seal::new(new_kek, spec)?);
    NativeTask::start(env, move |control| {
        let (source, target) = (Path::new(&source), Path::new(&target));
        guard(|| vmseal_disk::recrypt_copy(source, target, &kek, &place.binding(), &seal.spec(), control))
            .map(outcome)
    })
}

/// Goes on with an interrupted copy and ends it. Takes the KEKs of the sealed sides, in any order; the binding is of the
/// sealed target, or of the source where that alone is sealed.
#[napi]
pub fn resume_copy(
    env: &Env,
    target: String,
    #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
    binding: DiskBinding,
) -> Result<NativeTask> {
    let sides = Sides::new(&keks, &binding)?;
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::resume_copy(Path::new(&target), &sides.keks(), &sides.binding(), control))
            .map(outcome)
    })
}

/// An interrupted copy as JSON, read without a key and so a hint only: source, doneBytes, totalBytes, diskId, keys of the
/// target. Null when there is none.
#[napi]
pub fn copy_info(target: String) -> Result<Option<String>> {
    let info = guard(|| vmseal_disk::copy_job_info(Path::new(&target)))?;
    Ok(info.map(|info| {
        json!({
            "source": info.source.to_string_lossy(),
            "doneBytes": info.done_bytes,
            "totalBytes": info.total_bytes,
            "diskId": uuid::format(&info.disk_id),
            "keys": keks_json(&info.keks),
        })
        .to_string()
    }))
}

/// Reads source and copy from end to end and refuses (VMSEAL_DISK_STATE) unless they hold the same plaintext.
#[napi]
pub fn verify_copy(
    env: &Env,
    source: String,
    copy: String,
    #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
    binding: DiskBinding,
) -> Result<NativeTask> {
    let sides = Sides::new(&keks, &binding)?;
    NativeTask::start(env, move |control| {
        let (source, copy) = (Path::new(&source), Path::new(&copy));
        guard(|| vmseal_disk::verify_copy(source, copy, &sides.keks(), &sides.binding(), control))?;
        Ok("{}".to_owned())
    })
}

/// Removes the source of a finished copy after `verifyCopy`.
#[napi]
pub fn discard_source(
    env: &Env,
    source: String,
    copy: String,
    #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
    binding: DiskBinding,
    #[napi(ts_arg_type = "'unlink' | 'overwrite'")] how: String,
) -> Result<NativeTask> {
    let how = match how.as_str() {
        "unlink" => DiscardSource::Unlink,
        "overwrite" => DiscardSource::Overwrite,
        _ => return Err(invalid_argument("how must be unlink or overwrite")),
    };
    let sides = Sides::new(&keks, &binding)?;
    NativeTask::start(env, move |control| {
        let (source, copy) = (Path::new(&source), Path::new(&copy));
        guard(|| vmseal_disk::discard_source(source, copy, &sides.keks(), &sides.binding(), how, control))?;
        Ok("{}".to_owned())
    })
}

/// Overwrites a file with zeros and syncs it; the name stays. Refused when it has a second name.
#[napi(ts_return_type = "Promise<void>")]
pub fn overwrite_file(env: &Env, path: String) -> Result<Object<'_>> {
    background::promise(env, move || guard(|| vmseal_disk::overwrite_file(Path::new(&path))))
}

/// What an interrupted overwriting left of a source as JSON: files, bytes. Null when there is nothing, or the source is whole.
#[napi]
pub fn discard_info(source: String) -> Result<Option<String>> {
    let left = guard(|| vmseal_disk::unfinished_discard(Path::new(&source)))?;
    Ok(left.map(|left| {
        let files: Vec<_> = left.files.iter().map(|file| file.to_string_lossy()).collect();
        json!({ "files": files, "bytes": left.bytes }).to_string()
    }))
}

/// Overwrites the rest of a source whose overwriting was interrupted, and removes it. Nothing happens where there is none.
#[napi]
pub fn finish_discard(env: &Env, source: String) -> Result<NativeTask> {
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::finish_discard(Path::new(&source), control))?;
        Ok("{}".to_owned())
    })
}

/// Removes what an interrupted copy or creation left of a disk. False: there was nothing.
#[napi]
pub fn remove_unfinished_disk(descriptor: String) -> Result<bool> {
    guard(|| vmseal_disk::remove_unfinished(Path::new(&descriptor)))
}
