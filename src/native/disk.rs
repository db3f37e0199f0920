//! Virtual disks: paths, ids and key handles go in, JSON and tasks come out; sectors stay native.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use napi::bindgen_prelude::{Buffer, Object};
use napi::{Env, Result};
use napi_derive::napi;
use serde_json::{Value, json};
use vmseal_disk::chain::ChainDisk;
use vmseal_disk::descriptor::{Descriptor, Sealed};
use vmseal_disk::{Binding, Holes, NewKek, OpenDisk, Outcome, uuid};
use vmseal_secret::SecretKey;
use vmseal_wrap::envelope;

use crate::background;
use crate::fault::{coded, guard, invalid_argument};
use crate::key::KeyHandle;
use crate::pki::hex;
use crate::task::NativeTask;

/// What the wrapped DEK of a disk is bound to.
#[napi(object)]
pub struct SealSpec {
    pub key_id: String,
    pub provider_id: String,
    /// UUID text.
    pub vm_id: String,
    /// UUID text.
    pub disk_id: String,
    pub generation: u32,
    /// 512 or 4096.
    pub sector_size: u32,
    /// Default: zero when the source has holes, else dense.
    #[napi(ts_type = "'dense' | 'zero'")]
    pub holes: Option<String>,
}

/// Where the caller says a disk belongs; a wrap made for another place is refused.
#[napi(object)]
pub struct DiskBinding {
    /// UUID text.
    pub vm_id: String,
    /// UUID text.
    pub disk_id: String,
}

/// Format, size and seal of an image, as JSON: format, capacityBytes (null: only qemu-img knows), allocatedBytes,
/// needsQemuImg, sealed (boolean).
#[napi]
pub fn inspect_image(path: String) -> Result<String> {
    let info = guard(|| vmseal_disk::inspect(Path::new(&path)))?;
    Ok(json!({
        "format": info.format.as_str(),
        "capacityBytes": info.capacity_bytes,
        "allocatedBytes": info.allocated_bytes,
        "needsQemuImg": info.needs_qemu_img,
        "sealed": info.sealed.is_some() || info.foreign.is_some(),
    })
    .to_string())
}

/// A descriptor as JSON, without keys: createType, capacityBytes, extents, uuid, sealed (with each wrap's ids), foreign.
#[napi]
pub fn read_descriptor(path: String) -> Result<String> {
    let descriptor = guard(|| Descriptor::read(Path::new(&path)))?;
    let sealed = descriptor.sealed.as_ref().map(sealed_json).transpose()?;
    let extents = descriptor.extents.iter();
    Ok(json!({
        "createType": descriptor.create_type,
        "capacityBytes": descriptor.capacity_sectors() * 512,
        "extents": extents.map(|one| json!({ "file": one.file, "sectors": one.sectors })).collect::<Vec<_>>(),
        "uuid": descriptor.disk_id().map(|id| uuid::format(&id)),
        "sealed": sealed,
        "foreign": descriptor.foreign.as_ref().map(|foreign| json!({
            "providerId": foreign.provider_id,
            "keyId": foreign.key_id,
        })),
    })
    .to_string())
}

/// A new empty plain disk.
#[napi]
pub fn create_plain_disk(
    env: &Env,
    target: String,
    capacity_bytes: f64,
    disk_id: String,
) -> Result<NativeTask> {
    let (capacity, disk_id) = (whole(capacity_bytes, "capacityBytes")?, parse_uuid(&disk_id)?);
    NativeTask::start(env, move |_| {
        guard(|| vmseal_disk::create_plain(Path::new(&target), capacity, &disk_id))?;
        Ok(json!({ "bytes": capacity }).to_string())
    })
}

/// A new empty encrypted disk.
#[napi]
pub fn create_sealed_disk(
    env: &Env,
    target: String,
    capacity_bytes: f64,
    kek: &KeyHandle,
    spec: SealSpec,
) -> Result<NativeTask> {
    let (capacity, seal) = (whole(capacity_bytes, "capacityBytes")?, Seal::new(kek, spec)?);
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::create_sealed(Path::new(&target), capacity, &seal.spec(), control)).map(outcome)
    })
}

/// Copies an image of any format into a new plain flat disk; the image is only read.
#[napi]
pub fn import_disk(env: &Env, source: String, target: String, disk_id: String) -> Result<NativeTask> {
    let disk_id = parse_uuid(&disk_id)?;
    NativeTask::start(env, move |control| {
        guard(|| vmseal_disk::import(Path::new(&source), Path::new(&target), &disk_id, control)).map(outcome)
    })
}

/// Shallow recrypt: the wrap of `new_kek` takes the place of all others; the data stays and the disk may be open. False: it
/// was so already. After an interrupted call `kek` is whichever of the two KEKs is at hand.
#[napi(ts_return_type = "Promise<boolean>")]
pub fn rewrap_disk<'env>(
    env: &'env Env,
    descriptor: String,
    kek: &KeyHandle,
    binding: DiskBinding,
    new_kek: &KeyHandle,
    key_id: String,
    provider_id: String,
) -> Result<Object<'env>> {
    let (kek, place, new_kek) = (kek.get()?, Place::new(&binding)?, new_kek.get()?);
    background::promise(env, move || {
        let new = NewKek { kek: &new_kek, kek_id: &key_id, provider_id: &provider_id };
        guard(|| vmseal_disk::shallow_recrypt(Path::new(&descriptor), &kek, &place.binding(), &new))
    })
}

/// Removes every file of a disk.
#[napi]
pub fn remove_disk(descriptor: String) -> Result<()> {
    guard(|| vmseal_disk::remove(Path::new(&descriptor)))
}

/// A disk open for reading what a guest would read.
#[napi]
pub struct DiskHandle {
    disk: Mutex<Option<Arc<Opened>>>,
}

/// One file, or a chain of them that can be written to.
pub(crate) enum Opened {
    One(OpenDisk),
    Chain(ChainDisk),
}

impl Opened {
    fn capacity(&self) -> u64 {
        match self {
            Self::One(disk) => disk.capacity(),
            Self::Chain(disk) => disk.capacity(),
        }
    }
}

#[napi]
impl DiskHandle {
    #[napi(factory)]
    pub fn open_plain(descriptor: String) -> Result<Self> {
        guard(|| vmseal_disk::open_plain(Path::new(&descriptor))).map(Opened::One).map(Self::new)
    }

    /// Opens an encrypted disk after every check of its wrap, descriptor and extent.
    #[napi(factory)]
    pub fn open_sealed(descriptor: String, kek: &KeyHandle, binding: DiskBinding) -> Result<Self> {
        let (kek, place) = (kek.get()?, Place::new(&binding)?);
        guard(|| vmseal_disk::open_sealed(Path::new(&descriptor), &kek, &place.binding()))
            .map(Opened::One)
            .map(Self::new)
    }

    #[napi(getter)]
    pub fn capacity_bytes(&self) -> Result<f64> {
        Ok(self.get()?.capacity() as f64)
    }

    /// Reads up to 16 MiB of plaintext.
    #[napi(ts_return_type = "Promise<Buffer>")]
    pub fn read<'env>(&self, env: &'env Env, offset: f64, length: u32) -> Result<Object<'env>> {
        let (disk, offset) = (self.get()?, whole(offset, "offset")?);
        if length > MAX_READ {
            return Err(invalid_argument(format!("length must be at most {MAX_READ}")));
        }
        background::promise(env, move || {
            let mut bytes = vec![0; length as usize];
            guard(|| match &*disk {
                Opened::One(disk) => disk.read_at(offset, &mut bytes),
                Opened::Chain(disk) => disk.read_at(offset, &mut bytes),
            })?;
            Ok(Buffer::from(bytes))
        })
    }

    /// SHA-256 of the plaintext; the outcome is JSON with sha256 (hex) and bytes.
    #[napi]
    pub fn digest(&self, env: &Env) -> Result<NativeTask> {
        let disk = self.get()?;
        NativeTask::start(env, move |control| {
            let digest = guard(|| match &*disk {
                Opened::One(disk) => disk.digest(control),
                Opened::Chain(disk) => disk.digest(control),
            })?;
            Ok(json!({ "sha256": hex(&digest), "bytes": disk.capacity() }).to_string())
        })
    }

    /// Closes the disk and wipes its DEK now, or when the operation that is using it ends. Idempotent.
    #[napi]
    pub fn close(&self) {
        drop(self.disk.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

pub(crate) const MAX_READ: u32 = 16 << 20;

impl DiskHandle {
    pub(crate) fn new(disk: Opened) -> Self {
        Self { disk: Mutex::new(Some(Arc::new(disk))) }
    }

    pub(crate) fn get(&self) -> Result<Arc<Opened>> {
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
        disk.clone().ok_or_else(|| coded("VMSEAL_KEY_DISPOSED", "the disk was closed"))
    }
}

/// An owned [`vmseal_disk::SealSpec`].
pub(crate) struct Seal {
    kek: Arc<SecretKey>,
    key_id: String,
    provider_id: String,
    vm_id: [u8; 16],
    disk_id: [u8; 16],
    generation: u32,
    sector_size: u32,
    holes: Option<Holes>,
}

impl Seal {
    pub(crate) fn new(kek: &KeyHandle, spec: SealSpec) -> Result<Self> {
        let holes = match spec.holes.as_deref() {
            None => None,
            Some("dense") => Some(Holes::Dense),
            Some("zero") => Some(Holes::Zero),
            Some(_) => return Err(invalid_argument("holes must be dense or zero")),
        };
        Ok(Self {
            kek: kek.get()?,
            key_id: spec.key_id,
            provider_id: spec.provider_id,
            vm_id: parse_uuid(&spec.vm_id)?,
            disk_id: parse_uuid(&spec.disk_id)?,
            generation: spec.generation,
            sector_size: spec.sector_size,
            holes,
        })
    }

    pub(crate) fn spec(&self) -> vmseal_disk::SealSpec<'_> {
        vmseal_disk::SealSpec {
            kek: &self.kek,
            kek_id: &self.key_id,
            provider_id: &self.provider_id,
            vm_id: self.vm_id,
            disk_id: self.disk_id,
            generation: self.generation,
            sector_size: self.sector_size,
            holes: self.holes,
        }
    }
}

/// An owned [`Binding`].
pub(crate) struct Place {
    vm_id: [u8; 16],
    disk_id: [u8; 16],
}

impl Place {
    pub(crate) fn new(binding: &DiskBinding) -> Result<Self> {
        Ok(Self { vm_id: parse_uuid(&binding.vm_id)?, disk_id: parse_uuid(&binding.disk_id)? })
    }

    pub(crate) fn binding(&self) -> Binding<'_> {
        Binding { vm_id: self.vm_id, disk_id: self.disk_id, provider_id: None }
    }
}

fn sealed_json(sealed: &Sealed) -> Result<Value> {
    let wraps = sealed.wraps.iter().map(|wrap| {
        let header = guard(|| envelope::inspect(wrap))?;
        let header: Value = serde_json::from_str(&header).map_err(|error| {
            coded("VMSEAL_ENVELOPE_INVALID", format!("the header of a wrap is no JSON: {error}"))
        })?;
        let bound = &header["vmseal"];
        Ok(json!({
            "keyId": header["kid"],
            "providerId": bound["prov"],
            "vmId": bound["vm"],
            "diskId": bound["id"],
            "jwe": wrap,
        }))
    });
    Ok(json!({
        "id": uuid::format(&sealed.id),
        "state": sealed.state.as_str(),
        "cipher": vmseal_disk::descriptor::CIPHER,
        "sectorSize": sealed.sector_size,
        "holes": sealed.holes.as_str(),
        "generation": sealed.generation,
        "wraps": wraps.collect::<Result<Vec<_>>>()?,
    }))
}

pub(crate) fn outcome(outcome: Outcome) -> String {
    json!({
        "bytes": outcome.bytes,
        "allocatedBytes": outcome.allocated_bytes,
        "seconds": outcome.seconds,
        "holes": outcome.holes.map(Holes::as_str),
    })
    .to_string()
}

pub(crate) fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    uuid::parse(text).ok_or_else(|| invalid_argument(format!("{text:?} is not a UUID")))
}

pub(crate) fn whole(number: f64, name: &str) -> Result<u64> {
    const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
    if number >= 0.0 && number.fract() == 0.0 && number <= MAX_SAFE_INTEGER {
        Ok(number as u64)
    } else {
        Err(invalid_argument(format!("{name} must be a non-negative whole number")))
    }
}
