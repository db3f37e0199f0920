//! Disks of more than one file: base and children, open for reading and writing.

use std::path::Path;
use std::sync::Arc;

use napi::bindgen_prelude::{ClassInstance, Object, Uint8Array};
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_disk::chain::{self, ChainDisk, Link};
use vmseal_secret::SecretKey;

use crate::background;
use crate::disk::{
    DiskBinding, DiskHandle, MAX_READ, Opened, Place, Seal, SealSpec, outcome, parse_uuid, whole,
};
use crate::fault::{guard, invalid_argument};
use crate::key::KeyHandle;
use crate::task::NativeTask;

/// A file of a chain.
#[napi(object)]
pub struct ChainLink {
    pub descriptor: String,
    /// Of a sealed link: which of the KEKs that come along opens it.
    pub kek: Option<u32>,
    pub binding: Option<DiskBinding>,
}

#[napi]
impl DiskHandle {
    /// Opens a chain, base first, after every check of each link. A disk without children is a chain of one.
    #[napi(factory)]
    pub fn open_chain(
        links: Vec<ChainLink>,
        #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
        writable: bool,
    ) -> Result<Self> {
        let links = OwnedLink::all(&links, &keks)?;
        guard(|| ChainDisk::open(&links.iter().map(OwnedLink::link).collect::<Vec<_>>(), writable))
            .map(Opened::Chain)
            .map(Self::new)
    }

    /// Writes up to 16 MiB to the top of a chain.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn write<'env>(&self, env: &'env Env, offset: f64, data: Uint8Array) -> Result<Object<'env>> {
        let (disk, offset) = (self.chain()?, whole(offset, "offset")?);
        if data.len() > MAX_READ as usize {
            return Err(invalid_argument(format!("data must have at most {MAX_READ} bytes")));
        }
        let data = data.to_vec();
        background::promise(env, move || guard(|| chain_of(&disk)?.write_at(offset, &data)))
    }

    /// Makes what was written durable.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn flush<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let disk = self.chain()?;
        background::promise(env, move || guard(|| chain_of(&disk)?.flush()))
    }

    /// Puts a new child on top of the chain; from then on it is written to.
    #[napi]
    pub fn push_child(
        &self,
        link: ChainLink,
        #[napi(ts_arg_type = "KeyHandle[]")] keks: Vec<ClassInstance<KeyHandle>>,
    ) -> Result<()> {
        let disk = self.chain()?;
        let links = OwnedLink::all(&[link], &keks)?;
        guard(|| links.iter().try_for_each(|link| chain_of(&disk)?.push(&link.link())))
    }

    /// Takes back the last `pushChild`, when nothing was written since.
    #[napi]
    pub fn pop_child(&self) -> Result<()> {
        let disk = self.chain()?;
        guard(|| chain_of(&disk)?.pop())
    }

    /// Writes what a link holds (1 is the first above the base) into the one below. The disk stays in use meanwhile; what it holds
    /// is the same before, after, and whatever stops it.
    #[napi]
    pub fn merge(&self, env: &Env, link: u32) -> Result<NativeTask> {
        let disk = self.chain()?;
        NativeTask::start(env, move |control| {
            guard(|| {
                let chain = chain_of(&disk)?;
                chain.merge(link as usize, control)?;
                chain.sync_merge()
            })?;
            Ok("{}".to_owned())
        })
    }

    /// `keep`: the merged link leaves the chain. Otherwise everything stays as it was.
    #[napi]
    pub fn end_merge(&self, link: u32, keep: bool) -> Result<()> {
        let disk = self.chain()?;
        guard(|| chain_of(&disk)?.end_merge(link as usize, keep))
    }

    /// Copies what a guest would read into a new flat disk: sealed under a fresh DEK with `kek` and `spec`, else plain. Nothing may
    /// write to the chain meanwhile.
    #[napi]
    pub fn flatten(
        &self,
        env: &Env,
        target: String,
        disk_id: String,
        kek: Option<ClassInstance<KeyHandle>>,
        spec: Option<SealSpec>,
    ) -> Result<NativeTask> {
        let (disk, disk_id) = (self.chain()?, parse_uuid(&disk_id)?);
        let seal = match (kek, spec) {
            (Some(kek), Some(spec)) => Some(Seal::new(&kek, spec)?),
            (None, None) => None,
            _ => return Err(invalid_argument("kek and spec come together")),
        };
        NativeTask::start(env, move |control| {
            let target = Path::new(&target);
            let spec = seal.as_ref().map(Seal::spec);
            guard(|| chain::flatten(chain_of(&disk)?, target, &disk_id, spec.as_ref(), control)).map(outcome)
        })
    }

    fn chain(&self) -> Result<Arc<Opened>> {
        let disk = self.get()?;
        guard(|| chain_of(&disk).map(|_| ()))?;
        Ok(disk)
    }
}

/// Makes an empty child of a disk: sealed under a DEK of its own with `kek` and `spec`, else the plain child of a plain disk.
/// `hint` is the parent's path as seen from the child's folder.
#[napi]
pub fn create_child_disk(
    env: &Env,
    target: String,
    parent: String,
    hint: String,
    disk_id: String,
    kek: Option<ClassInstance<KeyHandle>>,
    spec: Option<SealSpec>,
) -> Result<NativeTask> {
    let disk_id = parse_uuid(&disk_id)?;
    let seal = match (kek, spec) {
        (Some(kek), Some(spec)) => Some(Seal::new(&kek, spec)?),
        (None, None) => None,
        _ => return Err(invalid_argument("kek and spec come together")),
    };
    NativeTask::start(env, move |_| {
        let spec = seal.as_ref().map(Seal::spec);
        let (target, parent) = (Path::new(&target), Path::new(&parent));
        guard(|| chain::create_child(target, parent, &hint, &disk_id, spec.as_ref()))?;
        Ok("{}".to_owned())
    })
}

/// Tells people and tools another parent of a child; who owns the chain knows it anyway.
#[napi]
pub fn set_parent_hint(descriptor: String, hint: String) -> Result<()> {
    guard(|| chain::set_parent(Path::new(&descriptor), &hint))
}

/// Whether `kek` opens the wrap of a disk or child: every check of its lines and wrap, without its chain.
#[napi]
pub fn check_link(descriptor: String, kek: &KeyHandle, binding: DiskBinding) -> Result<()> {
    let (kek, place) = (kek.get()?, Place::new(&binding)?);
    guard(|| {
        chain::check_link(&Link { descriptor: Path::new(&descriptor), key: Some((&kek, place.binding())) })
    })
}

fn chain_of(disk: &Opened) -> vmseal_disk::Result<&ChainDisk> {
    match disk {
        Opened::Chain(chain) => Ok(chain),
        Opened::One(_) => Err(vmseal_disk::Error::InvalidArgument {
            reason: "the disk was opened for reading alone; open it as a chain".to_owned(),
        }),
    }
}

/// An owned [`Link`].
struct OwnedLink {
    descriptor: String,
    key: Option<(Arc<SecretKey>, Place)>,
}

impl OwnedLink {
    fn all(links: &[ChainLink], keks: &[ClassInstance<KeyHandle>]) -> Result<Vec<Self>> {
        let one = |link: &ChainLink| {
            let key = match (link.kek, &link.binding) {
                (Some(index), Some(binding)) => {
                    let kek =
                        keks.get(index as usize).ok_or_else(|| invalid_argument("there is no such KEK"))?;
                    Some((kek.get()?, Place::new(binding)?))
                }
                (None, None) => None,
                _ => return Err(invalid_argument("kek and binding come together")),
            };
            Ok(Self { descriptor: link.descriptor.clone(), key })
        };
        links.iter().map(one).collect()
    }

    fn link(&self) -> Link<'_> {
        Link {
            descriptor: Path::new(&self.descriptor),
            key: self.key.as_ref().map(|(kek, place)| (&**kek, place.binding())),
        }
    }
}
