//! Conversion to a copy that a crash, a failure or a cancel only interrupts.
//!
//! A record `<target>.vmseal-copy` stands beside the unfinished flat file, made before the first byte. After every
//! stretch the flat file is synced and the record then says so, in one durable step; [`resume_copy`] goes on there. The
//! source is only read, so nothing of a disk is at stake; the record is authenticated under the disk's key all the same, for it
//! names the file that is read and the descriptor that is made.

mod discard;
mod record;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use self::record::{Record, record_path};
use crate::control::Control;
use crate::convert::{Outcome, holes_to_seal, open_unsealed};
use crate::descriptor::{Descriptor, Holes, copy_path, sync_directory};
use crate::error::{Error, Result};
use crate::in_place::MacKey;
use crate::lock::{Changes, DiskLock};
use crate::open::open_sealed;
use crate::pipeline::{CHUNK, Job, Transform};
use crate::seal::{self, Binding, SealSpec, tweak_step};
use crate::source::Source;
use crate::target::Target;
use crate::uuid;

pub use discard::{DiscardSource, discard_source};
pub use record::record_path as copy_job_path;

/// Bytes copied between two syncs: few for a large disk, some for a small one.
fn stretch(capacity: u64) -> u64 {
    (capacity / 16).next_multiple_of(CHUNK as u64).clamp(64 << 20, 1 << 30)
}

/// As [`encrypt_copy`](crate::encrypt_copy), but what interrupts it leaves the unfinished files for [`resume_copy`];
/// [`remove_unfinished`](crate::remove_unfinished) removes them.
pub fn encrypt_copy_resumable(
    source: &Path,
    target: &Path,
    spec: &SealSpec<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let path = absolute(source)?;
    let (source, descriptor) = open_unsealed(source)?;
    let _writers = source.keep_writers_away()?;
    let capacity = source.capacity();
    let holes = holes_to_seal(&source, source.path(), spec)?;
    let needed = if holes == Holes::Zero { source.allocated() } else { capacity };
    let (key, sealed) = seal::seal_key(spec, capacity, holes)?;
    let files = Target::create(target, capacity, needed)?;
    let descriptor = descriptor
        .unwrap_or_else(|| Descriptor::new_flat(files.flat_name(), capacity / 512, &spec.disk_id))
        .retargeted(files.flat_name(), &spec.disk_id, Some(sealed));
    start(
        files,
        Parts { path, source, descriptor, key, encrypts: true, holes, unit: spec.sector_size },
        control,
        begun,
    )
}

/// As [`decrypt_copy`](crate::decrypt_copy), but what interrupts it leaves the unfinished files for [`resume_copy`].
pub fn decrypt_copy_resumable(
    source: &Path,
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let path = absolute(source)?;
    let disk = open_sealed(source, kek, binding)?;
    let sealed =
        disk.descriptor.sealed.clone().ok_or_else(|| Error::state(source, "the disk is not sealed"))?;
    let _writers = disk.source.keep_writers_away()?;
    let key = seal::open_key(&sealed, disk.capacity(), kek, binding)?;
    let needed = if sealed.holes == Holes::Zero { disk.source.allocated() } else { disk.capacity() };
    let files = Target::create(target, disk.capacity(), needed)?;
    let descriptor = disk.descriptor.retargeted(files.flat_name(), &binding.disk_id, None);
    let (holes, unit) = (sealed.holes, sealed.sector_size);
    start(
        files,
        Parts { path, source: disk.source, descriptor, key, encrypts: false, holes, unit },
        control,
        begun,
    )
}

/// Goes on with the copy to `target` that was interrupted, and ends it. `kek` is the KEK of the sealed side.
///
/// [`Error::NotFound`] when there is no record, [`Error::JobInvalid`] when it or the unfinished file is damaged,
/// [`Error::JobAuthentication`] when it was not made by a holder of the disk's key, [`Error::ImageInvalid`] when the source
/// was changed since: then remove what is unfinished and start again.
pub fn resume_copy(
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let unproven = Record::read(target)?;
    let job = record_path(target);
    let descriptor = Descriptor::parse(unproven.descriptor().as_bytes())
        .map_err(|_| Error::job(&job, "the descriptor in it is damaged; start the copy again"))?;
    let capacity = descriptor.capacity_sectors() * 512;
    let path = PathBuf::from(unproven.source());
    let encrypts = descriptor.sealed.is_some();
    // The key is opened before anything else that the record says is believed.
    let (source, key, holes, unit) = if let Some(sealed) = &descriptor.sealed {
        let key = seal::open_key(sealed, capacity, kek, binding)?;
        unproven.verify(&MacKey::derive(&key, unproven.id(), &sealed.id)?, &job)?;
        (open_unsealed(&path)?.0, key, sealed.holes, sealed.sector_size)
    } else {
        let disk = open_sealed(&path, kek, binding)?;
        let sealed =
            disk.descriptor.sealed.as_ref().ok_or_else(|| Error::state(&path, "the disk is not sealed"))?;
        let key = seal::open_key(sealed, capacity, kek, binding)?;
        unproven.verify(&MacKey::derive(&key, unproven.id(), &binding.disk_id)?, &job)?;
        let (holes, unit) = (sealed.holes, sealed.sector_size);
        (disk.source, key, holes, unit)
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
        sync_directory(target)?;
        remove(&job)?;
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
    // Of a crash between the second copy and the descriptor.
    remove(&copy_path(target))?;
    let files = Target::reopen(target, capacity)?;
    run(files, Parts { path, source, descriptor, key, encrypts, holes, unit }, unproven, control, begun)
}

struct Parts {
    path: PathBuf,
    source: Source,
    /// The target's.
    descriptor: Descriptor,
    key: SecretKey,
    encrypts: bool,
    holes: Holes,
    unit: u32,
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
    let Parts { source, descriptor, key, encrypts, holes, unit, .. } = parts;
    let target = files.descriptor().to_owned();
    let _lock = DiskLock::take(&target, files.flat(), files.file(), Changes::Data)?;
    let disk = descriptor.disk_id().unwrap_or_default();
    let mac =
        MacKey::derive(&key, record.id(), descriptor.sealed.as_ref().map_or(&disk, |sealed| &sealed.id))?;
    let xts = Xts::new(&key, unit, tweak_step(unit))?;
    drop(key);
    let transform = if encrypts { Transform::Encrypt(&xts) } else { Transform::Decrypt(&xts, holes) };
    let capacity = source.capacity();
    control.start(capacity);
    control.set_done(record.frontier());
    record.write(&target, &mac)?;
    files.keep();
    while record.frontier() < capacity {
        let end = (record.frontier() + stretch(capacity)).min(capacity);
        let range = record.frontier()..end;
        Job {
            source: &source,
            target: files.file(),
            target_path: files.flat(),
            transform,
            skip_holes: holes == Holes::Zero,
            range,
            control,
        }
        .run()?;
        if end < capacity {
            files.file().sync_data().map_err(|error| Error::io("sync", files.flat(), error))?;
            record.advance(end);
            record.write(&target, &mac)?;
            control.check()?;
        } else {
            record.advance(end);
        }
    }
    let allocated_bytes = files.allocated()?;
    files.finish(&descriptor, control)?;
    remove(&record_path(&target))?;
    Ok(Outcome {
        bytes: capacity,
        allocated_bytes,
        seconds: begun.elapsed().as_secs_f64(),
        holes: Some(holes),
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| Error::io("resolve", path, error))
}

/// Removes a file durably; it may be gone already.
fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}
