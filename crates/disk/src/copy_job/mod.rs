//! Conversion to a copy that a crash, a failure or a cancel only interrupts.
//!
//! A record `<target>.vmseal-copy` stands beside the unfinished flat file, made before the first byte. After every
//! stretch the flat file is synced and the record then says so, in one durable step; [`resume_copy`] goes on there. The
//! source is only read, so nothing of a disk is at stake; the record is authenticated under the disk's key all the same, for it
//! names the file that is read and the descriptor that is made.

#[cfg(test)]
mod crashes;
mod discard;
mod discard_record;
mod discard_rest;
mod engine;
#[cfg(test)]
mod mutations;
mod record;
mod record_text;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

pub(crate) use self::discard::open_to_change;
use self::engine::Copying;
use self::record::{Record, record_path};
use crate::control::Control;
use crate::convert::{Outcome, holes_to_seal, open_unsealed};
use crate::descriptor::{Descriptor, Holes};
use crate::error::{Error, Result};
use crate::in_place::file_storage::FileStorage;
use crate::in_place::{MacKey, open_with_any, texts};
use crate::lock::{Changes, DiskLock};
use crate::open::{OpenDisk, open_sealed};
use crate::pipeline::{CHUNK, Job};
use crate::seal::{self, Binding, KekName, SealSpec, kek_names, tweak_step};
use crate::source::Source;
use crate::target::{Target, flat_name};
use crate::transform::Transform;
use crate::uuid;

pub use discard::{DiscardSource, discard_source, overwrite_file, verify_copy};
pub use discard_record::discard_record_path;
pub use discard_rest::{UnfinishedDiscard, finish_discard, unfinished_discard};
pub use record::record_path as copy_job_path;

/// Bytes copied between two syncs: few for a large disk, some for a small one.
fn stretch(capacity: u64) -> u64 {
    (capacity / 16).next_multiple_of(CHUNK as u64).clamp(64 << 20, 1 << 30)
}

/// Seals a raw image or a plain flat VMDK into a new disk under a fresh data key. `target` is the new descriptor's path
/// (`….vmdk`); the flat file and the second copy of the vmseal lines stand beside it.
///
/// Errors before the first byte leave nothing. A failure, a cancel or a crash after that leaves the unfinished files for
/// [`resume_copy`]; [`remove_unfinished`](crate::remove_unfinished) removes them.
pub fn encrypt_copy(source: &Path, target: &Path, spec: &SealSpec<'_>, control: &Control) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let path = absolute(source)?;
    let (source, descriptor) = open_unsealed(source)?;
    let _writers = source.keep_writers_away()?;
    let capacity = source.capacity();
    let holes = holes_to_seal(&source, source.path(), spec)?;
    let (key, sealed) = seal::seal_key(spec, capacity, holes)?;
    let files = Target::create(target, capacity, needed(&source, holes))?;
    let descriptor = descriptor
        .unwrap_or_else(|| Descriptor::new_flat(files.flat_name(), capacity / 512, &spec.disk_id))
        .retargeted(files.flat_name(), &spec.disk_id, Some(sealed));
    let new = Some(DataKey { key, unit: spec.sector_size });
    start(files, Parts { path, source, descriptor, old: None, new, holes }, control, begun)
}

/// Unseals a disk into a new plain flat VMDK at `target`. Everything [`open_sealed`] verifies is verified before the target
/// is made; errors as for [`encrypt_copy`].
pub fn decrypt_copy(
    source: &Path,
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let path = absolute(source)?;
    let (disk, key, holes) = open_with_key(source, &[kek], binding)?;
    let _writers = disk.source.keep_writers_away()?;
    let files = Target::create(target, disk.capacity(), needed(&disk.source, holes))?;
    let descriptor = disk.descriptor.retargeted(files.flat_name(), &binding.disk_id, None);
    let source = disk.source;
    start(files, Parts { path, source, descriptor, old: Some(key), new: None, holes }, control, begun)
}

/// Deep recrypt to a copy: the same plaintext under a fresh data key and, with it, a fresh wrap of `spec.kek` alone. `kek` and
/// `binding` are of the source; `spec.holes` of `None` keeps its hole rule. Everything [`open_sealed`] verifies is verified
/// before the target is made; no plaintext leaves memory. Errors as for [`encrypt_copy`].
pub fn recrypt_copy(
    source: &Path,
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    spec: &SealSpec<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let path = absolute(source)?;
    let (disk, old, holes) = open_with_key(source, &[kek], binding)?;
    let _writers = disk.source.keep_writers_away()?;
    let capacity = disk.capacity();
    seal::check_spec(spec, capacity)?;
    if spec.holes.is_some_and(|wanted| wanted != holes) {
        return Err(Error::argument("a recrypt keeps the hole rule of the disk"));
    }
    let (key, mut sealed) = seal::seal_key(spec, capacity, holes)?;
    if let Some(before) = &disk.descriptor.sealed {
        sealed.other.clone_from(&before.other);
    }
    let files = Target::create(target, capacity, needed(&disk.source, holes))?;
    let descriptor = disk.descriptor.retargeted(files.flat_name(), &spec.disk_id, Some(sealed));
    let new = Some(DataKey { key, unit: spec.sector_size });
    let source = disk.source;
    start(files, Parts { path, source, descriptor, old: Some(old), new, holes }, control, begun)
}

/// Goes on with the copy to `target` that was interrupted, and ends it. `keks` open the sealed sides, in any order;
/// `binding` is of the sealed target, or of the source where that alone is sealed.
///
/// [`Error::NotFound`] when there is no record, [`Error::JobInvalid`] when it or the unfinished file is damaged,
/// [`Error::JobAuthentication`] when it was not made by a holder of the disk's key, [`Error::ImageInvalid`] when the source
/// was changed since: then remove what is unfinished and start again.
pub fn resume_copy(
    target: &Path,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let (unproven, descriptor) = read_unproven(target)?;
    let job = record_path(target);
    let capacity = descriptor.capacity_sectors() * 512;
    let path = PathBuf::from(unproven.source());
    // The key is opened before anything else that the record says is believed.
    let (source, old, new, holes) = if let Some(sealed) = &descriptor.sealed {
        let key = open_with_any(sealed, capacity, keks, binding)?;
        unproven.verify(&MacKey::derive(&key, unproven.id(), &sealed.id)?, &job)?;
        let (source, old) = open_either(&path, keks, binding)?;
        (source, old, Some(DataKey { key, unit: sealed.sector_size }), sealed.holes)
    } else {
        let (disk, old, holes) = open_with_key(&path, keks, binding)?;
        unproven.verify(&MacKey::derive(&old.key, unproven.id(), &binding.disk_id)?, &job)?;
        (disk.source, Some(old), None, holes)
    };
    let _writers = source.keep_writers_away()?;
    if source.stamps() != unproven.stamps() || source.capacity() != capacity {
        let reason = "it was changed since the copy was begun; remove the unfinished copy and start again";
        return Err(Error::image(&path, reason));
    }
    if fs::symlink_metadata(target).is_ok() {
        // Whole but for the record; a descriptor there that is not ours is somebody else's disk.
        if Descriptor::read(target)? != descriptor {
            return Err(Error::AlreadyExists { path: target.to_owned() });
        }
        let files = Target::reopen(target, capacity)?;
        let _lock = DiskLock::take(target, files.flat(), files.file(), Changes::Lines)?;
        engine::tidy(&mut storage_of(&files)?, &texts(&descriptor)?)?;
        let seconds = begun.elapsed().as_secs_f64();
        control.start(capacity);
        control.set_done(capacity);
        return Ok(Outcome {
            bytes: capacity,
            allocated_bytes: source.allocated(),
            seconds,
            holes: Some(holes),
        });
    }
    let files = if unproven.frontier() == 0 {
        begin_anew(target, capacity, needed(&source, holes))?
    } else {
        Target::reopen(target, capacity)?
    };
    run(files, Parts { path, source, descriptor, old, new, holes }, unproven, control, begun)
}

/// The copy to `target` that was interrupted, read without a key and so a hint only; `None` when there is none.
pub fn copy_job_info(target: &Path) -> Result<Option<CopyJobInfo>> {
    let (record, descriptor) = match read_unproven(target) {
        Ok(read) => read,
        Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let disk_id = descriptor.sealed.as_ref().map(|sealed| sealed.id).or_else(|| descriptor.disk_id());
    Ok(Some(CopyJobInfo {
        source: PathBuf::from(record.source()),
        done_bytes: record.frontier(),
        total_bytes: descriptor.capacity_sectors() * 512,
        disk_id: disk_id.unwrap_or_default(),
        keks: descriptor.sealed.as_ref().map(kek_names).unwrap_or_default(),
    }))
}

/// The record of the copy to `target` and the descriptor in it, which fit each other and the target; whether they are
/// authentic only the key tells. One of a copy to another name may be: it is of the same source.
fn read_unproven(target: &Path) -> Result<(Record, Descriptor)> {
    let record = Record::read(target)?;
    let job = record_path(target);
    let descriptor = Descriptor::parse(record.descriptor().as_bytes())
        .map_err(|_| Error::job(&job, "the descriptor in it is damaged; start the copy again"))?;
    let flat = flat_name(target)?;
    if !matches!(descriptor.extents.as_slice(), [only] if only.file.as_ref() == Some(&flat)) {
        return Err(Error::job(&job, "it is of a copy to another disk; put back the one that stood here"));
    }
    if record.frontier() > descriptor.capacity_sectors() * 512 {
        return Err(Error::job(&job, "it tells of more than the disk has; start the copy again"));
    }
    Ok((record, descriptor))
}

/// An interrupted copy, as its record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyJobInfo {
    /// Absolute path of what is read.
    pub source: PathBuf,
    /// Bytes of the target that are written and durable.
    pub done_bytes: u64,
    /// Size of the disk in bytes.
    pub total_bytes: u64,
    /// The target's id.
    pub disk_id: [u8; 16],
    /// KEKs of the target, any one of which opens it; empty for a decryption.
    pub keks: Vec<KekName>,
}

struct DataKey {
    key: SecretKey,
    /// Data unit in bytes.
    unit: u32,
}

impl DataKey {
    fn cipher(&self) -> Result<Xts> {
        Ok(Xts::new(&self.key, self.unit, tweak_step(self.unit))?)
    }
}

fn open_with_key(
    path: &Path,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
) -> Result<(OpenDisk, DataKey, Holes)> {
    let disk = open_sealed_with_any(path, keks, binding)?;
    let sealed = disk.descriptor.sealed.as_ref();
    let sealed = sealed.ok_or_else(|| Error::state(path, "the disk is not sealed"))?;
    let key = open_with_any(sealed, disk.capacity(), keks, binding)?;
    let (unit, holes) = (sealed.sector_size, sealed.holes);
    Ok((disk, DataKey { key, unit }, holes))
}

fn open_sealed_with_any(path: &Path, keks: &[&SecretKey], binding: &Binding<'_>) -> Result<OpenDisk> {
    let mut failure = None;
    for kek in keks {
        match open_sealed(path, kek, binding) {
            Ok(disk) => return Ok(disk),
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    Err(failure.unwrap_or_else(|| Error::argument("no KEK was given")))
}

/// A source in either form, with its data key when it is sealed. A sealed one is of the same virtual machine as the copy
/// and has an id of its own.
fn open_either(path: &Path, keks: &[&SecretKey], binding: &Binding<'_>) -> Result<(Source, Option<DataKey>)> {
    match open_unsealed(path) {
        Ok((source, _)) => Ok((source, None)),
        Err(Error::DiskState { .. }) => {
            let disk_id = Descriptor::read(path)?.sealed.map_or(binding.disk_id, |sealed| sealed.id);
            let (disk, key, _) = open_with_key(path, keks, &Binding { disk_id, ..*binding })?;
            Ok((disk.source, Some(key)))
        }
        Err(error) => Err(error),
    }
}

/// Room that the copy of `source` takes.
fn needed(source: &Source, holes: Holes) -> u64 {
    if holes == Holes::Zero { source.allocated() } else { source.capacity() }
}

struct Parts {
    path: PathBuf,
    source: Source,
    /// The target's.
    descriptor: Descriptor,
    /// The source's; `None`: it is plain.
    old: Option<DataKey>,
    /// The target's; `None`: it will be plain.
    new: Option<DataKey>,
    holes: Holes,
}

fn start(files: Target, parts: Parts, control: &Control, begun: Instant) -> Result<Outcome> {
    let text = parts.descriptor.checked_text()?;
    let source = parts.path.to_str().ok_or_else(|| Error::argument("the source's path is not UTF-8"))?;
    let record = Record::new(uuid::random()?, source.to_owned(), parts.source.stamps(), text);
    run(files, parts, record, control, begun)
}

fn run(
    mut files: Target,
    parts: Parts,
    mut record: Record,
    control: &Control,
    begun: Instant,
) -> Result<Outcome> {
    let Parts { source, descriptor, old, new, holes, .. } = parts;
    let _lock = DiskLock::take(files.descriptor(), files.flat(), files.file(), Changes::Data)?;
    let disk = descriptor.disk_id().unwrap_or_default();
    let keyless = || Error::Internal { reason: "a copy without a key".to_owned() };
    let key = &new.as_ref().or(old.as_ref()).ok_or_else(keyless)?.key;
    let mac =
        MacKey::derive(key, record.id(), descriptor.sealed.as_ref().map_or(&disk, |sealed| &sealed.id))?;
    let old = old.map(|key| key.cipher()).transpose()?;
    let new = new.map(|key| key.cipher()).transpose()?;
    let transform = match (&old, &new) {
        (Some(old), Some(new)) => Transform::Recrypt { old, new, holes },
        (Some(old), None) => Transform::Decrypt(old, holes),
        (None, Some(new)) => Transform::Encrypt(new),
        (None, None) => return Err(keyless()),
    };
    let capacity = source.capacity();
    control.start(capacity);
    control.set_done(record.frontier());
    let (mut storage, texts) = (storage_of(&files)?, texts(&descriptor)?);
    let copying = Copying { key: &mac, texts: &texts, capacity, control };
    if record.frontier() == 0 {
        copying.begin(&mut storage, &mut record)?;
    } else {
        engine::clear(&mut storage)?;
    }
    files.keep();
    let stretch_end = |from: u64| -> Result<u64> {
        // A hole is passed without a sync.
        let data = match source.next_data(from)? {
            Some((start, _)) if holes == Holes::Zero => (start - start % CHUNK as u64).max(from),
            None if holes == Holes::Zero => capacity,
            _ => from,
        };
        Ok(data.saturating_add(stretch(capacity)).min(capacity))
    };
    copying.run(&mut storage, &mut record, stretch_end, |_, range| {
        Job {
            source: &source,
            target: files.file(),
            target_path: files.flat(),
            transform,
            skip_holes: holes == Holes::Zero,
            range,
            control,
        }
        .run()
    })?;
    Ok(Outcome {
        bytes: capacity,
        allocated_bytes: files.allocated()?,
        seconds: begun.elapsed().as_secs_f64(),
        holes: Some(holes),
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| Error::io("resolve", path, error))
}

fn storage_of(files: &Target) -> Result<FileStorage> {
    let flat = files.file().try_clone().map_err(|error| Error::io("open", files.flat(), error))?;
    FileStorage::with_flat(files.descriptor(), files.flat_name(), flat)
}

/// The files of a copy that was interrupted before anything of it was durable, made again.
fn begin_anew(target: &Path, capacity: u64, needed: u64) -> Result<Target> {
    let name = flat_name(target)?;
    match open_to_change(target.with_file_name(&name)) {
        Ok((path, file)) => {
            // Whoever began it may be at work.
            let _lock = DiskLock::take(target, &path, &file, Changes::Data)?;
            engine::clear_all(&mut FileStorage::with_flat(target, &name, file)?)?;
        }
        Err(Error::NotFound { .. }) => engine::clear_all(&mut FileStorage::names(target, &name)?)?,
        Err(error) => return Err(error),
    }
    Target::create(target, capacity, needed)
}
