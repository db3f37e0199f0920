//! Taking the source of a finished copy away, after everything was read back.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use rustix::io::Errno;
use vmseal_secret::SecretKey;

use super::discard_record::{DiscardRecord, Doomed};
use super::discard_rest::{refuse_needed, total_len};
use super::{engine, open_sealed_with_any};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::convert::open_unsealed;
use crate::descriptor::{Descriptor, Holes, sync_directory};
use crate::error::{Error, Result};
use crate::in_place::file_storage::FileStorage;
use crate::lock::{Changes, DiskLock};
use crate::no_follow::open_to_write;
use crate::open::OpenDisk;
use crate::pipeline::{CHUNK, lock, panic_text};
use crate::seal::Binding;

/// How the source of a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardSource {
    /// The names go; the blocks keep their content until the file system reuses them.
    Unlink,
    /// All data is overwritten with zeros and synced before the names go. This reaches what the file system shows and no
    /// more: not the old blocks of a copy-on-write file system, not snapshots, reflinks or backups, not the spare blocks of
    /// an SSD. A journal or a log-structured medium may keep them too.
    Overwrite,
}

/// Refuses with [`Error::DiskState`] unless the disk at `copy` reads from end to end as `source` does, a plain disk or image
/// or a sealed disk. At least one of the two is sealed; `keks` open what is, `binding` is of the copy, or of the source
/// where that alone is sealed.
pub fn verify_copy(
    source: &Path,
    copy: &Path,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
    control: &Control,
) -> Result<()> {
    let (from, to) = open_both(source, copy, keks, binding, control)?;
    let _writers = (from.source.keep_writers_away()?, to.source.keep_writers_away()?);
    compare(&from, &to, copy, control)?;
    from.source.check_unchanged()?;
    to.source.check_unchanged()
}

fn open_both(
    source: &Path,
    copy: &Path,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
    control: &Control,
) -> Result<(OpenDisk, OpenDisk)> {
    control.check()?;
    let (to, from) = (open_either(copy, keks, binding, false)?, open_either(source, keks, binding, true)?);
    if from.cipher.is_none() && to.cipher.is_none() || from.source.stamps() == to.source.stamps() {
        let reason = "it is no copy of the source in another form: one of the two at least is to be sealed";
        return Err(Error::state(copy, reason));
    }
    Ok((from, to))
}

/// The source of a recrypt has an id of its own.
fn open_either(path: &Path, keks: &[&SecretKey], binding: &Binding<'_>, own_id: bool) -> Result<OpenDisk> {
    match open_unsealed(path) {
        Ok((source, descriptor)) => {
            let descriptor = descriptor.unwrap_or_else(|| Descriptor::new_flat("raw", 1, &[0; 16]));
            Ok(OpenDisk { descriptor, source, cipher: None })
        }
        Err(Error::DiskState { .. }) => {
            let own = if own_id { Descriptor::read(path)?.sealed.map(|sealed| sealed.id) } else { None };
            let disk_id = own.unwrap_or(binding.disk_id);
            open_sealed_with_any(path, keks, &Binding { disk_id, ..*binding })
        }
        Err(error) => Err(error),
    }
}

/// Removes `source` after [`verify_copy`] accepted the disk at `copy`, which is made durable first.
///
/// [`Error::DiskState`] when the two differ, [`Error::ExtentInvalid`] when the source's file has a second name; nothing is
/// removed then. A crash leaves the whole source, or files that nothing takes for a disk or image. Those that were to be
/// overwritten have a record, with which [`finish_discard`](crate::finish_discard) goes on;
/// [`remove_unfinished`](crate::remove_unfinished) takes away what has none.
pub fn discard_source(
    source: &Path,
    copy: &Path,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
    how: DiscardSource,
    control: &Control,
) -> Result<()> {
    let (from, to) = open_both(source, copy, keks, binding, control)?;
    let writers = (from.source.keep_writers_away()?, to.source.keep_writers_away()?);
    compare(&from, &to, copy, control)?;
    from.source.check_unchanged()?;
    let is_disk = Descriptor::read_alone(source).is_ok();
    let (names, of_copy) = (files_of(source, &from), files_of(copy, &to));
    // Its read locks would keep the change out.
    drop(writers);
    drop(from);
    // The copy may be in memory only, if somebody else made it.
    for path in of_copy {
        let synced = File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|error| Error::io("sync", &path, error))?;
    }
    sync_directory(copy)?;
    let files = names.into_iter().map(open_to_change).collect::<Result<Vec<(PathBuf, File)>>>()?;
    let bytes = total_len(&files)?;
    let record = if how == DiscardSource::Overwrite {
        let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
        refuse_needed(source, &paths)?;
        let doomed = files.iter().map(|(path, file)| Doomed::new(path, file)).collect::<Result<_>>()?;
        Some(DiscardRecord::new(doomed).text()?)
    } else {
        None
    };
    let lock =
        files.first().map(|(path, file)| DiskLock::take(source, path, file, Changes::Data)).transpose()?;
    let storages = files.into_iter().map(|(path, file)| storage_of(source, &path, file));
    let mut storages = storages.collect::<Result<Vec<_>>>()?;
    let mut names = FileStorage::names(source, "")?;
    if !storages.is_empty() {
        engine::promise(&mut names, record.as_deref())?;
        if is_disk {
            // From here on nobody takes it for a disk, however much of it is overwritten.
            engine::take_names(&mut names)?;
        }
    }
    if how == DiscardSource::Overwrite {
        // After the comparison the overwriting, from its own beginning.
        control.start(bytes);
    }
    for storage in &mut storages {
        engine::take_data(storage, how, control)?;
    }
    engine::end(&mut names)?;
    drop(lock);
    Ok(())
}

/// The files that hold the data of the disk or image at `path`.
fn files_of(path: &Path, disk: &OpenDisk) -> Vec<PathBuf> {
    if Descriptor::read_alone(path).is_err() {
        return vec![path.to_owned()];
    }
    let names = disk.descriptor.extents.iter().filter_map(|extent| extent.file.as_ref());
    names.map(|name| path.with_file_name(name)).collect()
}

pub(super) fn storage_of(disk: &Path, extent: &Path, file: File) -> Result<FileStorage> {
    FileStorage::with_flat(disk, extent.file_name().unwrap_or_default(), file)
}

/// Overwrites a file that no disk needs any more with zeros and syncs it; the name stays. [`Error::ExtentInvalid`] when it
/// has a second name, whose owner would see it. The limits are those of [`DiscardSource::Overwrite`].
pub fn overwrite_file(path: &Path) -> Result<()> {
    let (path, file) = open_to_change(path.to_owned())?;
    engine::overwrite(&storage_of(&path, &path, file)?, &Control::new())
}

/// Reads both disks on all cores. What is a hole in both reads as zeros in both and is left out.
fn compare(from: &OpenDisk, to: &OpenDisk, copy: &Path, control: &Control) -> Result<()> {
    if from.capacity() != to.capacity() {
        return Err(differs(copy));
    }
    control.start(from.capacity());
    let comparison =
        Comparison { from, to, copy, control, position: Mutex::new(0), failure: Mutex::new(None) };
    let workers = thread::available_parallelism().map_or(2, usize::from).clamp(1, MAX_READERS);
    thread::scope(|scope| {
        for _ in 1..workers {
            let worker = thread::Builder::new().name("vmseal-verify".to_owned());
            // A system out of threads still gets it done by those that exist.
            if worker.spawn_scoped(scope, || comparison.work()).is_err() {
                break;
            }
        }
        comparison.work();
    });
    let failure = lock(&comparison.failure).take();
    failure.map_or(Ok(()), Err)
}

/// Two buffers of a chunk each.
const MAX_READERS: usize = 16;

struct Comparison<'a> {
    from: &'a OpenDisk,
    to: &'a OpenDisk,
    copy: &'a Path,
    control: &'a Control,
    /// How far chunks have been handed out.
    position: Mutex<u64>,
    failure: Mutex<Option<Error>>,
}

impl Comparison<'_> {
    fn work(&self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.read_chunks()))
            .unwrap_or_else(|panic| Err(Error::Internal { reason: panic_text(panic.as_ref()) }));
        if let Err(error) = outcome {
            lock(&self.failure).get_or_insert(error);
        }
    }

    fn read_chunks(&self) -> Result<()> {
        let (mut one, mut two) = (Buffer::new(CHUNK), Buffer::new(CHUNK));
        while lock(&self.failure).is_none() {
            let Some((offset, len)) = self.next_chunk()? else { break };
            self.control.turn(len as u64)?;
            let (one, two) = (one.first(len), two.first(len));
            self.from.read_at(offset, one)?;
            self.to.read_at(offset, two)?;
            if one != two {
                return Err(differs(self.copy));
            }
            self.control.advance(len as u64);
        }
        Ok(())
    }

    fn next_chunk(&self) -> Result<Option<(u64, usize)>> {
        let capacity = self.from.capacity();
        let mut position = lock(&self.position);
        let start = match (next_data(self.from, *position)?, next_data(self.to, *position)?) {
            (None, None) => capacity,
            (one, two) => one.unwrap_or(capacity).min(two.unwrap_or(capacity)),
        };
        if start >= capacity {
            self.control.advance(capacity - *position);
            *position = capacity;
            return Ok(None);
        }
        // The position is always at a chunk's start.
        let offset = start - start % CHUNK as u64;
        let len = (capacity - offset).min(CHUNK as u64);
        self.control.advance(offset - *position);
        *position = offset + len;
        // At most CHUNK, which is a usize.
        Ok(Some((offset, len as usize)))
    }
}

/// Where the next byte is that may read as something else than zero; `None`: nowhere.
fn next_data(disk: &OpenDisk, from: u64) -> Result<Option<u64>> {
    match &disk.cipher {
        Some(cipher) if cipher.holes == Holes::Dense => Ok((from < disk.capacity()).then_some(from)),
        _ => Ok(disk.source.next_data(from)?.map(|(start, _)| start)),
    }
}

fn differs(copy: &Path) -> Error {
    Error::state(copy, "it does not hold what the source holds; the source was kept")
}

/// A file that is to be changed or removed, and has no second name, whose owner would see it.
pub(crate) fn open_to_change(path: PathBuf) -> Result<(PathBuf, File)> {
    let no_file = |path: &Path| Error::extent(path, "it is not a regular file and is left alone");
    let file =
        open_to_write(&path).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => no_file(&path),
            _ => Error::io("open", &path, error),
        })?;
    let metadata = file.metadata().map_err(|error| Error::io("examine", &path, error))?;
    if !metadata.is_file() {
        return Err(no_file(&path));
    }
    if metadata.nlink() > 1 {
        return Err(Error::extent(&path, "it has more than one name (hard links) and is left alone"));
    }
    Ok((path, file))
}
