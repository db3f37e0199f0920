//! A copy of a whole chain in one flat disk of its own.

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use super::disk::{ChainDisk, Walk, read_bytes};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::convert::{Outcome, finish};
use crate::descriptor::Holes;
use crate::error::{Error, Result};
use crate::pipeline::{CHUNK, lock};
use crate::seal::{self, SealSpec};
use crate::target::Target;
use crate::transform::refuse_when_wiped;

/// Copies what the guest would read of `chain` into the new disk `target`, sealed under a fresh data key with `spec`, else plain.
/// `disk_id` is that of `spec` when there is one. Nothing may write to the chain meanwhile. No plaintext leaves memory when the
/// target is sealed. The target is whole and durable when the call returns, and gone when it fails or is cancelled.
pub fn flatten(
    chain: &ChainDisk,
    target: &Path,
    disk_id: &[u8; 16],
    spec: Option<&SealSpec<'_>>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let capacity = chain.capacity();
    let layers = chain.stack();
    let Some(base) = layers.first() else {
        return Err(Error::argument("a chain has one link at least"));
    };
    let (mut data, mut offset, mut walk) = (0, 0, Walk::default());
    while offset < capacity {
        let (len, is_data) = walk.step(&layers, offset, capacity)?;
        data += if is_data { len as u64 } else { 0 };
        offset += len as u64;
    }
    let sealed = match spec {
        None => None,
        Some(spec) => {
            seal::check_spec(spec, capacity)?;
            let sparse = if data < capacity { Holes::Zero } else { Holes::Dense };
            let holes = spec.holes.unwrap_or(sparse);
            Some((seal::seal(spec, capacity, holes)?, holes))
        }
    };
    let dense = matches!(sealed, Some((_, Holes::Dense)));
    control.start(capacity);
    let files = Target::create(target, capacity, if dense { capacity } else { data })?;

    let shared = Mutex::new((0, Walk::default()));
    let failure = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let work = || -> Result<()> {
        let mut buffer = Buffer::new(CHUNK);
        while !stop.load(Ordering::Relaxed) {
            control.check()?;
            let (offset, len, is_data) = {
                let (position, walk) = &mut *lock(&shared);
                if *position >= capacity {
                    return Ok(());
                }
                let (len, is_data) = walk.step(&layers, *position, capacity)?;
                let at = *position;
                *position += len as u64;
                (at, len, is_data)
            };
            if is_data || dense {
                control.turn(len as u64)?;
                let chunk = buffer.first(len);
                read_bytes(&layers, offset, chunk)?;
                if let Some(((xts, _), _)) = &sealed {
                    xts.encrypt(chunk, offset / u64::from(xts.sector_size()))?;
                    refuse_when_wiped()?;
                }
                let written = files.file().write_all_at(chunk, offset);
                written.map_err(|error| Error::io("write", files.flat(), error))?;
            }
            control.advance(len as u64);
        }
        Ok(())
    };
    let worker = || {
        if let Err(error) = work() {
            stop.store(true, Ordering::Relaxed);
            lock(&failure).get_or_insert(error);
        }
    };
    thread::scope(|scope| {
        for _ in 1..thread::available_parallelism().map_or(2, usize::from).clamp(2, 32) {
            let thread = thread::Builder::new().name("vmseal-disk".to_owned());
            if thread.spawn_scoped(scope, worker).is_err() {
                break;
            }
        }
        worker();
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let holes = sealed.as_ref().map(|(_, holes)| *holes);
    let lines = sealed.map(|((_, lines), _)| lines);
    let descriptor = base.descriptor().clone().retargeted(files.flat_name(), disk_id, lines);
    finish(files, &descriptor, holes, control, begun)
}
