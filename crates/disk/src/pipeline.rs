//! The copy engine: worker threads that each read the next chunk, cipher it in place and write it.
//!
//! A chunk passes through one thread from end to end, so reading, ciphering and writing of different chunks overlap on
//! all cores without hand-over, and a chunk stays in that core's cache. Memory is one buffer per worker, whatever the
//! size of the disk.

use std::any::Any;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::FallocateFlags;
use vmseal_bulk::begin_write_back;

use crate::buffer::Buffer;
use crate::control::Control;
use crate::direct::Direct;
use crate::error::{Error, Result};
use crate::source::{Reader, Source};
use crate::transform::Transform;

/// Bytes per step: a chunk fits the second-level cache and is large enough for the kernel's copy to dominate the call.
pub(crate) const CHUNK: usize = 1 << 20;
/// More workers than this only queue at the file system; it also bounds the buffers to 32 MiB.
const MAX_WORKERS: usize = 32;
/// Workers when the page cache is left out: they wait for the disk, which wants several transfers at a time.
const DIRECT_WORKERS: usize = 8;
/// Holes are cut at this boundary, a multiple of every data unit.
const HOLE_GRAIN: u64 = 4096;

/// One copy of a disk or a part of it into `target`, which must be as long as the source and read as zeros.
pub(crate) struct Job<'a> {
    pub(crate) source: &'a Source,
    pub(crate) target: &'a File,
    pub(crate) target_path: &'a Path,
    pub(crate) transform: Transform<'a>,
    /// Leave the source's holes out instead of reading zeros from them.
    pub(crate) skip_holes: bool,
    /// The part that is copied, from a multiple of [`CHUNK`] on.
    pub(crate) range: Range<u64>,
    pub(crate) control: &'a Control,
}

/// Through which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the page cache.
    Cached,
    /// Through the page cache, and every chunk begins to go to the disk at once: a sync will follow and shall be short.
    Behind,
    /// Past it, as far as the file systems allow.
    Direct,
}

impl Job<'_> {
    /// Runs to the end and joins all workers; the first error wins. Counts progress by the length of the range.
    pub(crate) fn run(&self) -> Result<()> {
        let direct = crowds_out_the_cache(self.source.capacity()) && self.source.is_cold(&self.range);
        self.run_through(if direct { Way::Direct } else { Way::Behind })
    }

    /// As [`Job::run`], in the way the caller wants.
    pub(crate) fn run_through(&self, way: Way) -> Result<()> {
        let chunks = (self.range.end - self.range.start).div_ceil(CHUNK as u64);
        let least = if way == Way::Direct { DIRECT_WORKERS } else { 2 };
        let cores = thread::available_parallelism().map_or(2, usize::from).clamp(least, MAX_WORKERS);
        let workers = cores.min(usize::try_from(chunks).unwrap_or(cores)).max(1);
        let (source, target) = match way {
            Way::Direct => (self.source.direct(), Direct::of(self.target)),
            Way::Cached | Way::Behind => (self.source.cached(), None),
        };
        if way != Way::Direct {
            self.source.advise_sequential();
        }
        if way != Way::Cached && !self.skip_holes {
            self.reserve();
        }
        let shared = Shared {
            source,
            target,
            behind: way == Way::Behind,
            walk: Mutex::new(Walk { position: self.range.start, data_end: 0 }),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        thread::scope(|scope| {
            for _ in 1..workers {
                let worker = thread::Builder::new().name("vmseal-disk".to_owned());
                // A system out of threads still gets the job done by those that exist.
                if worker.spawn_scoped(scope, || self.worker(&shared)).is_err() {
                    break;
                }
            }
            self.worker(&shared);
        });
        match lock(&shared.failure).take() {
            Some(error) => Err(error),
            None => self.source.check_unchanged(),
        }
    }

    /// Room for everything that will be written: direct writes into a hole would wait for each other, and others would have
    /// to find their room one by one while they go to the disk. Only speed depends on it, so what a file system answers does
    /// not matter.
    fn reserve(&self) {
        let len = self.range.end - self.range.start;
        let _ = rustix::fs::fallocate(self.target, FallocateFlags::empty(), self.range.start, len);
    }

    fn worker(&self, shared: &Shared<'_>) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(shared)))
            .unwrap_or_else(|panic| Err(Error::Internal { reason: panic_text(panic.as_ref()) }));
        if let Err(error) = outcome {
            shared.stop.store(true, Ordering::Relaxed);
            lock(&shared.failure).get_or_insert(error);
        }
    }

    fn work(&self, shared: &Shared<'_>) -> Result<()> {
        let mut buffer = Buffer::new(CHUNK);
        while !shared.stop.load(Ordering::Relaxed) {
            self.control.check()?;
            let Some((offset, len)) = self.next_chunk(&mut lock(&shared.walk))? else {
                return Ok(());
            };
            self.control.turn(len as u64)?;
            let chunk = buffer.first(len);
            shared.source.read_at(offset, chunk)?;
            if self.transform.apply(chunk, offset)? {
                self.write(shared.target.as_ref(), chunk, offset)?;
                if shared.behind {
                    begin_write_back(self.target, offset, len as u64);
                }
            }
            self.control.advance(len as u64);
        }
        Ok(())
    }

    fn write(&self, direct: Option<&Direct>, mut bytes: &[u8], mut offset: u64) -> Result<()> {
        while let Some(written) = direct.and_then(|direct| direct.write_at(bytes, offset)) {
            match written {
                Ok(0) => return Err(Error::io("write", self.target_path, io::ErrorKind::WriteZero)),
                Ok(count) if count == bytes.len() => return Ok(()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("write", self.target_path, error)),
            }
        }
        self.target.write_all_at(bytes, offset).map_err(|error| Error::io("write", self.target_path, error))
    }

    /// Offset and length of the next chunk; skipped holes count as done.
    fn next_chunk(&self, walk: &mut Walk) -> Result<Option<(u64, usize)>> {
        let capacity = self.range.end;
        if walk.position >= capacity {
            return Ok(None);
        }
        if self.skip_holes && walk.position >= walk.data_end {
            let data = self.source.next_data(walk.position)?;
            let Some((start, end)) = data.filter(|&(start, _)| start - start % HOLE_GRAIN < capacity) else {
                self.control.advance(capacity - walk.position);
                walk.position = capacity;
                return Ok(None);
            };
            let start = (start - start % HOLE_GRAIN).max(walk.position);
            self.control.advance(start - walk.position);
            walk.position = start;
            walk.data_end = end.next_multiple_of(HOLE_GRAIN).min(capacity);
        } else if !self.skip_holes {
            walk.data_end = capacity;
        }
        let offset = walk.position;
        let boundary = (offset / CHUNK as u64 + 1) * CHUNK as u64;
        walk.position = boundary.min(walk.data_end);
        // At most CHUNK, which is a usize.
        Ok(Some((offset, (walk.position - offset) as usize)))
    }
}

/// Whether a disk of that many bytes would take half of the page cache or more from the rest of the host. Below that the
/// cache is the faster way also for a cold disk: see docs/conversion-performance.md.
fn crowds_out_the_cache(capacity: u64) -> bool {
    let system = rustix::system::sysinfo();
    capacity >= system.totalram.saturating_mul(u64::from(system.mem_unit)) / 2
}

struct Shared<'a> {
    source: Reader<'a>,
    target: Option<Direct>,
    /// Whether what is written begins to go to the disk at once.
    behind: bool,
    walk: Mutex<Walk>,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// How far chunks have been handed out.
struct Walk {
    position: u64,
    /// End of the run of data `position` lies in.
    data_end: u64,
}

/// A panicking worker leaves both guarded values whole: each is set in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Progress;
    use std::fs;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};
    use tempfile::TempDir;
    use vmseal_xts::Xts;

    fn failure(folder: &TempDir, source: &Source, transform: Transform<'_>) -> (Error, Progress) {
        let target_path = folder.path().join("target");
        let target = File::create(&target_path).expect("a target");
        failure_into(source, transform, &target, &target_path)
    }

    fn failure_into(
        source: &Source,
        transform: Transform<'_>,
        target: &File,
        target_path: &Path,
    ) -> (Error, Progress) {
        let control = Control::new();
        let range = 0..source.capacity();
        let job = Job { source, target, target_path, transform, skip_holes: false, range, control: &control };
        (job.run().expect_err("a failure"), control.progress())
    }

    fn image(folder: &TempDir) -> (PathBuf, Source) {
        let path = folder.path().join("source");
        fs::write(&path, vec![1; 4 * CHUNK]).expect("an image");
        let source = Source::raw(&path).expect("a source");
        (path, source)
    }

    fn writer(path: &Path) -> File {
        File::options().write(true).open(path).expect("the image")
    }

    #[test]
    fn a_panicking_worker_becomes_an_error() {
        let folder = TempDir::new().expect("a folder");
        let (_, source) = image(&folder);
        let (error, progress) = failure(&folder, &source, Transform::Panic);
        assert_eq!(error.code(), "VMSEAL_INTERNAL");
        assert!(error.to_string().contains("a fault at"), "{error}");
        assert_eq!(progress.done_bytes, 0);
    }

    #[test]
    fn a_source_that_shrinks_or_grows_is_noticed() {
        let folder = TempDir::new().expect("a folder");
        for len in [0, 512, 4 * CHUNK as u64 - 1, 4 * CHUNK as u64 + 1] {
            let (path, source) = image(&folder);
            writer(&path).set_len(len).expect("another length");
            let (error, _) = failure(&folder, &source, Transform::Copy);
            assert_eq!(error.code(), "VMSEAL_IMAGE_INVALID", "length {len}: {error}");
        }
    }

    #[test]
    fn every_way_gives_what_the_cached_one_gives() {
        let folder = TempDir::new().expect("a folder");
        let (path, target_path) = (folder.path().join("source"), folder.path().join("target"));
        // Ends between pages; holes, one of them at the end of a chunk; a file system that refuses is tested by itself.
        for (len, holes) in [(3 * CHUNK + 512, false), (3 * CHUNK + 512, true), (4096, false), (512, true)] {
            let file = File::create(&path).expect("an image");
            file.set_len(len as u64).expect("its length");
            let data: Vec<u8> = (0..len.min(CHUNK + 8192)).map(|at| (at * 7 / 3 + 1) as u8).collect();
            file.write_all_at(&data, 0).expect("its data");
            let end = len as u64 - 512;
            file.write_all_at(&[9; 512], end).expect("its end");
            file.sync_all().expect("holes to be settled");
            let source = Source::raw(&path).expect("a source");
            let xts =
                Xts::new(&vmseal_secret::SecretKey::generate(64).expect("a key"), 512, 1).expect("a cipher");
            let run = |way| {
                let target = File::create(&target_path).expect("a target");
                target.set_len(len as u64).expect("its length");
                let control = Control::new();
                let job = Job {
                    source: &source,
                    target: &target,
                    target_path: &target_path,
                    transform: Transform::Encrypt(&xts),
                    skip_holes: holes,
                    range: 0..source.capacity(),
                    control: &control,
                };
                job.run_through(way).expect("a copy");
                assert_eq!(control.progress().done_bytes, len as u64);
                fs::read(&target_path).expect("the copy")
            };
            let cached = run(Way::Cached);
            for way in [Way::Direct, Way::Behind] {
                assert!(run(way) == cached, "{len} bytes, {way:?}, holes left out: {holes}");
            }
        }
    }

    #[test]
    fn a_source_that_is_written_meanwhile_is_noticed() {
        let folder = TempDir::new().expect("a folder");
        let (path, source) = image(&folder);
        // Set apart from the image's own time, whatever the clock's grain.
        writer(&path).set_modified(SystemTime::now() + Duration::from_secs(1)).expect("a later time");
        let (error, _) = failure(&folder, &source, Transform::Copy);
        assert_eq!(error.code(), "VMSEAL_IMAGE_INVALID");
    }

    #[test]
    fn a_target_that_cannot_be_written_ends_the_job() {
        let folder = TempDir::new().expect("a folder");
        let (path, source) = image(&folder);
        let read_only = File::open(&path).expect("a file");
        let (error, _) = failure_into(&source, Transform::Copy, &read_only, &path);
        assert_eq!(error.code(), "VMSEAL_IO");
    }
}
