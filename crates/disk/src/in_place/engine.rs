//! The steps of a conversion, zone by zone, with two barriers each.
//!
//! Step *n*, with `from..to` the zone at the frontier of slot *n*:
//!
//! 1. journal area *n* mod 2 gets the zone's ciphertext (encrypt, recrypt: the new; decrypt: the old) and its header;
//! 2. **barrier** on the sidecar;
//! 3. the new form is written in place; **barrier** on the disk;
//! 4. slot *n* + 1 with the frontier `to` is written. Its barrier is that of 2 in the next step.
//!
//! That last barrier can be shared because there are two journal areas: area *n* is not touched before slot *n* + 1 is
//! durable, so whatever slot a crash leaves finds its own journal whole, or its zone untouched. While zone *n* is written
//! in place, zone *n* + 1 is read, ciphered and journalled.

use std::marker::PhantomData;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use subtle::ConstantTimeEq as _;

use super::record::Slot;
use super::sidecar::{LAYOUT, Layout, write_slot, write_zone};
use super::step::Step;
use super::storage::{Name, Storage, failed};
use super::suite::{Forms, Sum};
use super::zone::{Proof, Run, Zone};
use crate::control::Control;
use crate::descriptor::Holes;
use crate::error::{Error, Result};
use crate::pipeline::{lock, panic_text};

/// How a job is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) layout: Layout,
    /// Threads; 1 makes every call in one order, which the crash model needs.
    pub(crate) workers: usize,
    #[cfg(test)]
    pub(crate) planted: super::model::Planted,
}

impl Settings {
    /// For real disks.
    pub(crate) fn real() -> Self {
        Self {
            layout: LAYOUT,
            // One of them waits for the disk most of the time.
            workers: workers() + 1,
            #[cfg(test)]
            planted: super::model::Planted::Nothing,
        }
    }
}

/// Threads that keep the processors busy.
pub(crate) fn workers() -> usize {
    thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

pub(crate) struct Engine<'a, S, F, H> {
    storage: &'a S,
    forms: &'a F,
    settings: Settings,
    layout: Layout,
    control: &'a Control,
    sum: PhantomData<fn() -> H>,
}

impl<'a, S: Storage, F: Forms, H: Sum> Engine<'a, S, F, H> {
    pub(crate) fn new(storage: &'a S, forms: &'a F, settings: Settings, control: &'a Control) -> Self {
        Self { storage, forms, settings, layout: settings.layout, control, sum: PhantomData }
    }

    /// Converts from where `slot` stands, the newest valid one of the sidecar, to the end of the disk. Everything a crash
    /// or a failed call may have left is put right first. When this fails, calling it again on reopened files goes on.
    pub(crate) fn run(&self, mut slot: Slot) -> Result<()> {
        let capacity = slot.record.capacity;
        self.control.set_done(slot.frontier);
        let (mut now, mut next) = (Step::default(), Step::default());
        if slot.frontier < capacity {
            self.begin(&slot, &mut now)?;
        }
        while slot.frontier < capacity {
            let following = slot.next(now.zone.to);
            next.take(self.find_zone(&following)?, self.layout);
            #[cfg(test)]
            if self.settings.planted == super::model::Planted::SlotFirst {
                self.write_slot(&following)?;
                self.sync(Name::Sidecar)?;
            }
            self.storage.check_held()?;
            self.round(&now, Some((&next, &following)))?;
            self.write_slot(&following)?;
            if following.frontier < capacity {
                self.write_zone(&following, &next)?;
            }
            self.sync(Name::Sidecar)?;
            mem::swap(&mut now, &mut next);
            slot = following;
            self.control.set_done(slot.frontier);
            if slot.frontier < capacity {
                self.control.turn(now.zone.payload_len() as u64)?;
            }
        }
        Ok(())
    }

    /// Brings the first zone to the point after barrier 2. The slot and a journal that was read back are written once
    /// more: after a failed sync they may exist in memory only.
    fn begin(&self, slot: &Slot, step: &mut Step) -> Result<()> {
        if let Some(proof) = step.load::<S, H>(self.storage, self.layout, slot)? {
            self.authenticate(slot, &step.zone, &proof)?;
            #[cfg(test)]
            if self.settings.planted == super::model::Planted::TrustMemory {
                return step.ready(self.layout, self.forms);
            }
            step.store_again(self.storage, self.layout, slot)?;
            step.ready(self.layout, self.forms)?;
        } else {
            step.take(self.find_zone(slot)?, self.layout);
            self.round(&Step::default(), Some((step, slot)))?;
        }
        self.write_slot(slot)?;
        self.write_zone(slot, step)?;
        self.sync(Name::Sidecar)
    }

    /// Writes `now` in place while `next` is prepared, and the barrier on the disk.
    ///
    /// One thread places and then waits for the disk, the others make the journal: a file system lets one thread at a time
    /// write to a file, so two that place would wait for each other.
    fn round(&self, now: &Step, next: Option<(&Step, &Slot)>) -> Result<()> {
        let places = now.count(self.layout);
        let placing = usize::from(places > 0);
        let journals = next.map_or(0, |(step, _)| step.shares(self.layout));
        let shared =
            Shared { next: AtomicUsize::new(0), stop: AtomicBool::new(false), failure: Mutex::new(None) };
        let workers = self.settings.workers.min(placing + journals);
        let work = || -> Result<()> {
            while !shared.stop.load(Ordering::Relaxed) {
                let index = shared.next.fetch_add(1, Ordering::Relaxed);
                if index < placing {
                    for piece in 0..places {
                        now.apply(self.storage, self.layout, piece)?;
                    }
                    if workers > 1 {
                        self.sync(Name::Flat)?;
                    }
                } else if let Some((step, slot)) = next.filter(|_| index < placing + journals) {
                    step.prepare::<S, F, H>(self.storage, self.layout, self.forms, slot, index - placing)?;
                } else {
                    break;
                }
            }
            Ok(())
        };
        let guarded = || {
            let outcome = catch_unwind(AssertUnwindSafe(work))
                .unwrap_or_else(|panic| Err(Error::Internal { reason: panic_text(panic.as_ref()) }));
            if let Err(error) = outcome {
                shared.stop.store(true, Ordering::Relaxed);
                lock(&shared.failure).get_or_insert(error);
            }
        };
        if workers > 1 {
            thread::scope(|scope| {
                for _ in 1..workers {
                    let worker = thread::Builder::new().name("vmseal-disk".to_owned());
                    // A system out of threads still gets the job done by those that exist.
                    if worker.spawn_scoped(scope, guarded).is_err() {
                        break;
                    }
                }
                guarded();
            });
        } else {
            guarded();
        }
        if let Some(error) = lock(&shared.failure).take() {
            return Err(error);
        }
        // A crash may choose from all that was written in this round, so one thread waits at its end.
        if places > 0 && workers <= 1 { self.sync(Name::Flat) } else { Ok(()) }
    }

    /// The next zone after the frontier: as much data as fits, holes left out where they are kept.
    fn find_zone(&self, slot: &Slot) -> Result<Zone> {
        let (record, from) = (&slot.record, slot.frontier);
        let capacity = record.capacity;
        let mut zone = Zone { from, to: from, runs: Vec::new() };
        if record.holes == Holes::Dense {
            let len = u64::from(record.zone).min(capacity - from);
            zone.to = from + len;
            if len > 0 {
                zone.runs.push(Run { offset: from, len: len as u32 });
            }
            return Ok(zone);
        }
        let mut room = u64::from(record.zone);
        while room > 0 && zone.to < capacity && zone.runs.len() < Zone::max_runs(self.layout.header) {
            let data = self.storage.next_data(Name::Flat, zone.to);
            let Some((start, end)) = data.map_err(failed(self.storage, "find data in", Name::Flat))? else {
                zone.to = capacity;
                break;
            };
            let start = (start - start % self.layout.hole_grain).max(zone.to);
            if start >= capacity {
                zone.to = capacity;
                break;
            }
            let end = end.next_multiple_of(self.layout.hole_grain).min(capacity);
            // A whole number of units: so are zone, grain, frontier and capacity.
            let len = end.saturating_sub(start).min(room);
            zone.runs.push(Run { offset: start, len: len as u32 });
            zone.to = start + len;
            room -= len;
        }
        Ok(zone)
    }

    fn write_slot(&self, slot: &Slot) -> Result<()> {
        write_slot::<S, F, H>(self.storage, self.layout, self.forms, slot)
    }

    fn write_zone(&self, slot: &Slot, step: &Step) -> Result<()> {
        let payload_sum = step.sum::<H>(self.layout);
        let mac = self.forms.mac(&step.zone.authenticated(slot, self.layout.header, &payload_sum))?;
        write_zone::<S, H>(self.storage, self.layout, slot, &step.zone, &Proof { payload_sum, mac })
    }

    /// A journal that is whole and was not made by a holder of the key is a forgery: a crash leaves none.
    fn authenticate(&self, slot: &Slot, zone: &Zone, proof: &Proof) -> Result<()> {
        let mac = self.forms.mac(&zone.authenticated(slot, self.layout.header, &proof.payload_sum))?;
        if bool::from(mac.ct_eq(&proof.mac)) {
            Ok(())
        } else {
            Err(Error::JobAuthentication { path: self.storage.path(Name::Sidecar).to_owned() })
        }
    }

    fn sync(&self, name: Name) -> Result<()> {
        #[cfg(test)]
        if self.settings.planted.skips(name) {
            return Ok(());
        }
        self.storage.sync(name).map_err(failed(self.storage, "sync", name))
    }
}

struct Shared {
    /// Next piece of work: first the placing of this zone, then shares of the journal of the next.
    next: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<Error>>,
}
