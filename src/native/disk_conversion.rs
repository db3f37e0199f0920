//! Conversion of a disk where it lies, and going on after whatever stopped it.

use std::path::Path;
use std::sync::Arc;

use napi::bindgen_prelude::{ClassInstance, Object};
use napi::{Env, Result};
use napi_derive::napi;
use serde_json::{Value, json};
use vmseal_disk::{Binding, JobInfo, KekName, NewKek, uuid};
use vmseal_secret::SecretKey;

use crate::background;
use crate::disk::{DiskBinding, Place, Seal, SealSpec, outcome, parse_uuid};
use crate::fault::guard;
use crate::key::KeyHandle;
use crate::pki::hex;
use crate::task::NativeTask;

/// The KEK that a new DEK is wrapped with.
#[napi(object)]
pub struct NewKeyId {
    pub key_id: String,
    pub provider_id: String,
}

/// Gives a raw image a descriptor beside it that names it as its extent, so that it can be converted in place; returns the
/// descriptor's path. One that is there and says so already is kept.
#[napi]
pub fn describe_raw_image(path: String, disk_id: String) -> Result<String> {
    let disk_id = parse_uuid(&disk_id)?;
    guard(|| vmseal_disk::describe_raw(Path::new(&path), &disk_id))
        .map(|descriptor| descriptor.to_string_lossy().into_owned())
}

/// Encrypts a plain flat disk in place under a fresh DEK. A failure or cancel after the start leaves it in conversion.
#[napi]
pub fn encrypt_disk_in_place(
    env: &Env,
    descriptor: String,
    kek: &KeyHandle,
    spec: SealSpec,
) -> Result<NativeTask> {
    let seal = Seal::new(kek, spec)?;
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::encrypt_in_place(Path::new(&descriptor), &seal.spec(), control)).map(outcome)
    })
}

/// Decrypts a disk in place.
#[napi]
pub fn decrypt_disk_in_place(
    env: &Env,
    descriptor: String,
    kek: &KeyHandle,
    binding: DiskBinding,
) -> Result<NativeTask> {
    let (kek, place) = (kek.get()?, Place::new(&binding)?);
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::decrypt_in_place(Path::new(&descriptor), &kek, &place.binding(), control))
            .map(outcome)
    })
}

/// Deep recrypt in place: a new DEK under a new KEK. The generation rises by one.
#[napi]
pub fn recrypt_disk_in_place(
    env: &Env,
    descriptor: String,
    kek: &KeyHandle,
    binding: DiskBinding,
    new_kek: &KeyHandle,
    new_key: NewKeyId,
) -> Result<NativeTask> {
    let (kek, place, new_kek) = (kek.get()?, Place::new(&binding)?, new_kek.get()?);
    NativeTask::start(env, move |control| {
        let new = NewKek { kek: &new_kek, kek_id: &new_key.key_id, provider_id: &new_key.provider_id };
        let descriptor = Path::new(&descriptor);
        guard(|| vmseal_disk::recrypt_in_place(descriptor, &kek, &place.binding(), &new, control))
            .map(outcome)
    })
}

/// Goes on with the conversion of a disk and ends it. Takes every KEK that `conversionInfo` names, in any order.
#[napi]
pub fn resume_conversion(
    env: &Env,
    descriptor: String,
    #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
    binding: DiskBinding,
) -> Result<NativeTask> {
    let sides = Sides::new(&keks, &binding)?;
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::resume(Path::new(&descriptor), &sides.keks(), &sides.binding(), control))
            .map(outcome)
    })
}

/// Puts the zone in flight of a disk into one whole form, without a key; JSON with mode, rewrittenBytes, doneBytes,
/// totalBytes.
#[napi(ts_return_type = "Promise<string>")]
pub fn repair_conversion(env: &Env, descriptor: String) -> Result<Object<'_>> {
    background::promise(env, move || {
        let repair = guard(|| vmseal_disk::repair(Path::new(&descriptor)))?;
        Ok(json!({
            "mode": repair.mode.as_str(),
            "rewrittenBytes": repair.rewritten_bytes,
            "doneBytes": repair.done_bytes,
            "totalBytes": repair.total_bytes,
        })
        .to_string())
    })
}

/// The conversion of a disk as JSON, read without a key and so a hint only; null when there is none.
#[napi]
pub fn conversion_info(descriptor: String) -> Result<Option<String>> {
    let info = guard(|| vmseal_disk::job_info(Path::new(&descriptor)))?;
    Ok(info.as_ref().map(job_json).map(|json| json.to_string()))
}

/// As `conversionInfo`, once the record has been authenticated under the disk's key.
#[napi(ts_return_type = "Promise<string>")]
pub fn verify_conversion<'env>(
    env: &'env Env,
    descriptor: String,
    #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
    binding: DiskBinding,
) -> Result<Object<'env>> {
    let sides = Sides::new(&keks, &binding)?;
    background::promise(env, move || {
        let info =
            guard(|| vmseal_disk::verify_job(Path::new(&descriptor), &sides.keks(), &sides.binding()))?;
        Ok(job_json(&info).to_string())
    })
}

/// What opens the sides of a job, each of which may be under a KEK of its own.
pub(crate) struct Sides {
    keks: Vec<Arc<SecretKey>>,
    place: Place,
}

impl Sides {
    pub(crate) fn new(keks: &[ClassInstance<KeyHandle>], binding: &DiskBinding) -> Result<Self> {
        let keks = keks.iter().map(|handle| handle.get()).collect::<Result<_>>()?;
        Ok(Self { keks, place: Place::new(binding)? })
    }

    pub(crate) fn keks(&self) -> Vec<&SecretKey> {
        self.keks.iter().map(|kek| &**kek).collect()
    }

    pub(crate) fn binding(&self) -> Binding<'_> {
        self.place.binding()
    }
}

fn job_json(info: &JobInfo) -> Value {
    json!({
        "id": hex(&info.id),
        "mode": info.mode.as_str(),
        "phase": info.phase.as_str(),
        "doneBytes": info.done_bytes,
        "totalBytes": info.total_bytes,
        "zoneInFlight": info.zone_in_flight,
        "diskId": uuid::format(&info.disk_id),
        "sectorSize": info.sector_size,
        "holes": info.holes.as_str(),
        "old": info.old_generation.map(|generation| form_json(generation, &info.old_keks)),
        "new": info.new_generation.map(|generation| form_json(generation, &info.new_keks)),
    })
}

fn form_json(generation: u32, keks: &[KekName]) -> Value {
    json!({
        "generation": generation,
        "keys": keks_json(keks),
    })
}

pub(crate) fn keks_json(keks: &[KekName]) -> Value {
    let names = keks.iter().map(|kek| json!({ "keyId": kek.key_id, "providerId": kek.provider_id }));
    Value::Array(names.collect())
}
