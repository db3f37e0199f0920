//! The arena: slots of 64-byte units in chunks of key memory.
//!
//! Chunks are mapped on demand and never unmapped, so a stale address can read zeros but never fault, and
//! [`wipe_regions`] can walk them without a lock. The mutex covers taking and returning slots only.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::chunk::Chunk;
use crate::error::Error;
use crate::exit;
use crate::pages::{self, Refusal, Region};
use crate::status;
use crate::wipe::wipe_raw;

/// Granularity and alignment of slots in bytes: a cache line, so two secrets never share one.
pub(crate) const UNIT: usize = 64;

/// Bytes of a chunk when the lock limit leaves room for it.
const CHUNK: usize = 64 * 1024;

/// The longest slot in bytes: fits any full chunk.
pub(crate) const MAX_SLOT: usize = CHUNK / 2;

/// A zeroed piece of key memory, exclusively owned; wiped and returned at drop.
pub(crate) struct Slot {
    start: NonNull<u8>,
    units: usize,
    chunk: usize,
}

// SAFETY: a slot is the only owner of its bytes; the address is good on every thread.
unsafe impl Send for Slot {}
// SAFETY: through `&Slot` the bytes can only be read.
unsafe impl Sync for Slot {}

impl Slot {
    /// Takes a zeroed slot of at least `len` bytes, 1 to [`MAX_SLOT`].
    pub(crate) fn take(len: usize) -> Result<Slot, Error> {
        debug_assert!((1..=MAX_SLOT).contains(&len));
        check_alive()?;
        lock().take(len.div_ceil(UNIT))
    }

    /// [`take`](Slot::take) `count` times under one lock: all of them or none.
    pub(crate) fn take_many(len: usize, count: usize) -> Result<Vec<Slot>, Error> {
        debug_assert!((1..=MAX_SLOT).contains(&len));
        check_alive()?;
        let units = len.div_ceil(UNIT);
        let mut slots = Vec::with_capacity(count);
        let mut arena = lock();
        let taken = (|| {
            while slots.len() < count {
                // Room for many is found as fast as room for one; near the lock limit there may only be that.
                let many = (count - slots.len()).min(MAX_SLOT / UNIT / units);
                match arena.take(many * units) {
                    Ok(run) => arena.cut(run, units, &mut slots),
                    Err(_) if many > 1 => slots.push(arena.take(units)?),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })();
        // Before the slots of a failure are dropped, which takes the lock.
        drop(arena);
        taken.map(|()| slots)
    }

    /// Wipes and returns `slots` under one lock, which the iterator must not ask for.
    pub(crate) fn give_back_many(slots: impl Iterator<Item = Slot>) {
        let mut slots = slots.map(ManuallyDrop::new).peekable();
        if exit::forked() || slots.peek().is_none() {
            return;
        }
        let mut arena = lock();
        while let Some(first) = slots.next() {
            let (mut units, mut count) = (first.units, 1);
            // Slots that were taken together stand one behind the other.
            while let Some(next) = slots.next_if(|next| {
                next.chunk == first.chunk
                    && next.start.addr().get() == first.start.addr().get() + units * UNIT
            }) {
                units += next.units;
                count += 1;
            }
            // SAFETY: the slots own these bytes until they are returned below, and nobody drops them any more.
            unsafe { wipe_raw(first.start.as_ptr(), units * UNIT) };
            arena.allocations -= count;
            arena.units_used -= units;
            arena.chunks[first.chunk].release(first.start, units);
        }
    }

    /// The first byte, aligned to [`UNIT`].
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

fn check_alive() -> Result<(), Error> {
    if exit::forked() {
        return Err(Error::Forked);
    }
    if exit::wiped() {
        return Err(Error::ShuttingDown);
    }
    Ok(())
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A forked child has no key pages, and may have inherited a locked mutex.
        if exit::forked() {
            return;
        }
        // SAFETY: the slot owns these bytes until it is returned below.
        unsafe { wipe_raw(self.start.as_ptr(), self.units * UNIT) };
        let mut arena = lock();
        arena.allocations -= 1;
        arena.units_used -= self.units;
        arena.chunks[self.chunk].release(self.start, self.units);
    }
}

/// Occupancy of the arena.
pub(crate) struct Usage {
    pub(crate) allocations: usize,
    pub(crate) bytes_used: usize,
    pub(crate) bytes_reserved: usize,
}

pub(crate) fn usage() -> Usage {
    if exit::forked() {
        return Usage { allocations: 0, bytes_used: 0, bytes_reserved: 0 };
    }
    let arena = lock();
    Usage {
        allocations: arena.allocations,
        bytes_used: arena.units_used * UNIT,
        bytes_reserved: arena.chunks.iter().map(|chunk| chunk.region().len).sum(),
    }
}

/// Overwrites every chunk with zeros, taken slots included, without waiting for anybody.
pub(crate) fn wipe_regions() {
    let mut next = REGIONS.load(Ordering::Acquire);
    // SAFETY: nodes are leaked when they are published, so they live for the rest of the process.
    while let Some(node) = unsafe { next.as_ref() } {
        // SAFETY: regions are never unmapped. Readers of a secret at this moment see key bytes or zeros; they find out
        // with `wiped` before they use the result (crate documentation).
        unsafe { wipe_raw(node.region.start.as_ptr(), node.region.len) };
        next = node.next;
    }
}

struct Arena {
    chunks: Vec<Chunk>,
    allocations: usize,
    units_used: usize,
}

static ARENA: Mutex<Arena> = Mutex::new(Arena { chunks: Vec::new(), allocations: 0, units_used: 0 });

// Nothing in this module leaves the arena half changed, so a poisoned lock is as good as any.
fn lock() -> MutexGuard<'static, Arena> {
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Node {
    region: Region,
    next: *mut Node,
}

static REGIONS: AtomicPtr<Node> = AtomicPtr::new(std::ptr::null_mut());

// Called with the arena locked: there is one writer.
fn publish(region: Region) {
    let node = Box::new(Node { region, next: REGIONS.load(Ordering::Relaxed) });
    REGIONS.store(Box::into_raw(node), Ordering::Release);
}

impl Arena {
    fn take(&mut self, units: usize) -> Result<Slot, Error> {
        let found =
            self.chunks.iter_mut().enumerate().find_map(|(index, chunk)| Some((index, chunk.take(units)?)));
        let (chunk, start) = match found {
            Some(found) => found,
            None => {
                exit::register()?;
                let mut chunk = Chunk::new(grow(units * UNIT)?);
                let start = chunk.take(units).expect("a new chunk holds the slot it was made for");
                publish(chunk.region());
                self.chunks.push(chunk);
                (self.chunks.len() - 1, start)
            }
        };
        self.allocations += 1;
        self.units_used += units;
        Ok(Slot { start, units, chunk })
    }

    /// Cuts a slot into slots of `units`, which divides its own.
    fn cut(&mut self, run: Slot, units: usize, slots: &mut Vec<Slot>) {
        let run = ManuallyDrop::new(run);
        let count = run.units / units;
        self.allocations += count - 1;
        let chunk = run.chunk;
        slots.extend((0..count).map(|part| {
            // SAFETY: every part lies within the run, which is given up here.
            let start = unsafe { run.start.add(part * units * UNIT) };
            Slot { start, units, chunk }
        }));
    }
}

// Near the lock limit a smaller chunk may still fit.
fn grow(need: usize) -> Result<Region, Error> {
    let backing = pages::backing()?;
    let page = pages::page_size();
    let least = need.next_multiple_of(page);
    let mut len = CHUNK.next_multiple_of(page);
    loop {
        let refusal = match pages::map(backing, len) {
            Ok(region) => return Ok(region),
            Err(refusal) => refusal,
        };
        match lock_limit(refusal, len) {
            None => {
                return Err(Error::Unavailable { operation: refusal.operation, errno: refusal.errno });
            }
            Some(_) if len > least => len = (len / 2).next_multiple_of(page).max(least),
            Some(error) => return Err(error),
        }
    }
}

// Whether the lock limit is the cause. EAGAIN from mmap and EPERM from mlock say so; ENOMEM has other causes as well, so
// there the count decides, and an unreadable count is taken for the limit.
fn lock_limit(refusal: Refusal, len: usize) -> Option<Error> {
    if !refusal.may_be_lock_limit {
        return None;
    }
    let limit = status::lock_limit()?;
    let (requested, used) = (len as u64, status::locked_bytes());
    let beyond = used.is_none_or(|used| used.saturating_add(requested) > limit);
    let certain = matches!(refusal.errno, libc::EAGAIN | libc::EPERM);
    (certain || (refusal.errno == libc::ENOMEM && beyond)).then_some(Error::LockLimit {
        requested,
        used: used.unwrap_or(0),
        limit,
    })
}
