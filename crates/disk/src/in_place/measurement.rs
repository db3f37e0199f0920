//! What the speed of in-place work is measured against. Not for disks that matter: nothing here survives a crash, and it
//! is not part of the API.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rustix::fs::{FallocateFlags, fallocate};
use vmseal_bulk::begin_write_back;
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::engine::workers;
use super::file_storage::FileStorage;
use super::job::ZONE;
use super::standing::flat_extent;
use super::storage::{Name, Storage as _, failed, read_exact, write_all};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::lock::Changes;
use crate::pipeline::{CHUNK, Job, Way};
use crate::source::Source;
use crate::transform::Transform;

/// The copy pipeline into a file that is there already and is as long as the source, with the cipher on (under a key that
/// is thrown away) or off, past the page cache or through it. Ends without a sync.
pub fn copy_over(source: &Path, target: &Path, cipher: bool, direct: bool) -> Result<()> {
    let source = Source::raw(source)?;
    let file =
        OpenOptions::new().write(true).open(target).map_err(|error| Error::io("open", target, error))?;
    let control = Control::new();
    let xts = Xts::new(&SecretKey::generate(64)?, 512, 1)?;
    let job = Job {
        source: &source,
        target: &file,
        target_path: target,
        transform: if cipher { Transform::Encrypt(&xts) } else { Transform::Copy },
        skip_holes: false,
        range: 0..source.capacity(),
        control: &control,
    };
    job.run_through(if direct { Way::Direct } else { Way::Cached })
}

/// Encrypts the data of a plain disk in place under a key that is thrown away, without journal, record or barriers;
/// `cipher` off only reads and writes. The data is lost.
pub fn destroy_without_journal(descriptor: &Path, cipher: bool) -> Result<()> {
    let plain = Descriptor::read(descriptor)?;
    let capacity = plain.capacity_sectors() * 512;
    let storage = FileStorage::lock(descriptor, flat_extent(&plain)?, capacity, Changes::Data)?;
    let xts = Xts::new(&SecretKey::generate(64)?, 512, 1)?;
    on_all_cores(capacity, |offset, bytes| {
        read_exact(&storage, Name::Flat, bytes, offset)?;
        if cipher {
            xts.encrypt(bytes, offset / 512)?;
        }
        write_all(&storage, Name::Flat, bytes, offset)
    })
}

/// The writes and barriers of a conversion in place and nothing else: nothing is read, encrypted or hashed. What the disk
/// takes, and so a limit of every journal that holds all data once. The data is lost.
pub fn destroy_with_barriers(descriptor: &Path) -> Result<()> {
    let plain = Descriptor::read(descriptor)?;
    let capacity = plain.capacity_sectors() * 512;
    let mut storage = FileStorage::lock(descriptor, flat_extent(&plain)?, capacity, Changes::Data)?;
    storage.create(Name::Sidecar).map_err(failed(&storage, "make", Name::Sidecar))?;
    let zone = u64::from(ZONE);
    let room = 2 * zone + CHUNK as u64;
    storage.reserve(Name::Sidecar, 0, room).map_err(failed(&storage, "reserve room for", Name::Sidecar))?;
    let mut noise = noise()?;
    let bytes = &*noise.first(CHUNK);
    let sync = |name| storage.sync(name).map_err(failed(&storage, "sync", name));
    let put = |name, from: u64, len: u64| {
        (0..len).step_by(CHUNK).try_for_each(|at| {
            write_all(&storage, name, &bytes[..(len - at).min(CHUNK as u64) as usize], from + at)
        })
    };
    for from in (0..capacity).step_by(ZONE as usize) {
        let len = zone.min(capacity - from);
        thread::scope(|scope| -> Result<()> {
            let places = scope.spawn(|| put(Name::Flat, from, len).and_then(|()| sync(Name::Flat)));
            put(Name::Sidecar, from / zone % 2 * zone, len)?;
            places.join().unwrap_or_else(|_| Err(panicked()))
        })?;
        // The slot.
        write_all(&storage, Name::Sidecar, &bytes[..4096], 2 * zone)?;
        sync(Name::Sidecar)?;
    }
    storage.unlink(Name::Sidecar).map_err(failed(&storage, "remove", Name::Sidecar))
}

/// The writes of a copy to a new file at `target` and nothing else: nothing is read or encrypted. With `durable` room is
/// reserved, and everything synced in the end, as a copy does. What new pages and the disk take.
pub fn write_new(target: &Path, len: u64, durable: bool) -> Result<()> {
    let file = File::create_new(target).map_err(|error| Error::io("make", target, error))?;
    file.set_len(len).map_err(|error| Error::io("extend", target, error))?;
    if durable {
        // A file system that cannot reserve grows the file as it is written.
        let _ = fallocate(&file, FallocateFlags::empty(), 0, len);
    }
    stream(&file, target, len, durable)
}

/// Writes `len` bytes over a file that is there, as fast as the disk takes them: in one stream, with a single sync. A limit
/// of everything that ends with so many bytes on the disk, in whatever order it writes them. The data is lost.
pub fn write_over(target: &Path, len: u64) -> Result<()> {
    let file =
        OpenOptions::new().write(true).open(target).map_err(|error| Error::io("open", target, error))?;
    stream(&file, target, len, true)
}

fn stream(file: &File, path: &Path, len: u64, durable: bool) -> Result<()> {
    let mut noise = noise()?;
    let noise = &*noise.first(CHUNK);
    on_all_cores(len, |offset, chunk| {
        let bytes = &noise[..chunk.len()];
        file.write_all_at(bytes, offset).map_err(|error| Error::io("write", path, error))?;
        if durable {
            begin_write_back(file, offset, bytes.len() as u64);
        }
        Ok(())
    })?;
    if durable { file.sync_all().map_err(|error| Error::io("sync", path, error)) } else { Ok(()) }
}

/// A chunk that nothing below stores in less, as ciphertext is.
fn noise() -> Result<Buffer> {
    let mut buffer = Buffer::new(CHUNK);
    Xts::new(&SecretKey::generate(64)?, 512, 1)?.encrypt(buffer.first(CHUNK), 0)?;
    Ok(buffer)
}

/// Has `work` done for each chunk of `len` bytes: its offset, and a buffer of its length.
fn on_all_cores(len: u64, work: impl Fn(u64, &mut [u8]) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicU64::new(0);
    let work = || -> Result<()> {
        let mut buffer = Buffer::new(CHUNK);
        loop {
            let offset = next.fetch_add(CHUNK as u64, Ordering::Relaxed);
            if offset >= len {
                return Ok(());
            }
            work(offset, buffer.first((len - offset).min(CHUNK as u64) as usize))?;
        }
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let others: Vec<_> = (1..workers()).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        results.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err(panicked()))));
        results
    });
    results.into_iter().collect()
}

fn panicked() -> Error {
    Error::Internal { reason: "a worker panicked".to_owned() }
}
