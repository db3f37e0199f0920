//! What the speed of in-place work is measured against. Not for disks that matter: nothing here survives a crash, and it
//! is not part of the API.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::engine::workers;
use super::file_storage::FileStorage;
use super::standing::flat_extent;
use super::storage::{Name, read_exact, write_all};
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
    let next = AtomicU64::new(0);
    let work = || -> Result<()> {
        let mut buffer = Buffer::new(CHUNK);
        loop {
            let offset = next.fetch_add(CHUNK as u64, Ordering::Relaxed);
            if offset >= capacity {
                return Ok(());
            }
            let bytes = buffer.first((capacity - offset).min(CHUNK as u64) as usize);
            read_exact(&storage, Name::Flat, bytes, offset)?;
            if cipher {
                xts.encrypt(bytes, offset / 512)?;
            }
            write_all(&storage, Name::Flat, bytes, offset)?;
        }
    };
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let others: Vec<_> = (1..workers()).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(Error::Internal { reason: "a worker panicked".to_owned() });
        let mut results = vec![work()];
        results.extend(others.into_iter().map(|other| other.join().unwrap_or_else(panicked)));
        results
    });
    results.into_iter().collect()
}
