//! Beginning and end of a job, and repair without a key.

use std::io::{self, ErrorKind};

use super::engine::{Engine, Settings};
use super::record::{Record, Slot};
use super::sidecar::{Layout, read_slot, write_slot, write_zone};
use super::step::Step;
use super::storage::{Name, Storage, failed, write_all};
use super::suite::{Forms, Sum};
use crate::control::Control;
use crate::descriptor::Holes;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// A descriptor and its second copy, which a plain disk has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) descriptor: Vec<u8>,
    pub(crate) copy: Option<Vec<u8>>,
}

/// Begins a job: the sidecar with its first slot and all room the job will need, durable before the descriptor is put into
/// transition. `begun` tells from the descriptor that stands there whether it is; until it is, a failure takes the sidecar
/// back and no byte of the disk has changed.
pub(crate) fn start<S: Storage, F: Forms, H: Sum>(
    storage: &mut S,
    layout: Layout,
    forms: &F,
    (record, plan): (&Record, &[u8]),
    (before, during): (&Texts, &Texts),
    begun: impl Fn(&S) -> bool,
) -> Result<Slot> {
    if storage.open(Name::Sidecar).is_ok() {
        // Of a job that never began or that ended: the descriptor speaks of none. But the name of that descriptor may be
        // in memory only, after a failed sync; the sidecar must not go before it stays.
        publish(storage, before)?;
    }
    remove(storage, Name::Sidecar)?;
    let slot = make_sidecar::<S, F, H>(storage, layout, forms, record, plan)?;
    if let Err(error) = publish(storage, during) {
        if !begun(storage) {
            // The first error is the one that matters.
            let _ = remove(storage, Name::Sidecar);
        }
        return Err(error);
    }
    Ok(slot)
}

/// Converts from where `slot` stands and ends the job: the final descriptor first, then the sidecar goes.
pub(crate) fn finish<S: Storage, F: Forms, H: Sum>(
    storage: &mut S,
    forms: &F,
    settings: Settings,
    slot: Slot,
    after: &Texts,
    control: &Control,
) -> Result<()> {
    Engine::<S, F, H>::new(storage, forms, settings, control).run(slot)?;
    publish(storage, after)?;
    remove(storage, Name::Sidecar)
}

fn make_sidecar<S: Storage, F: Forms, H: Sum>(
    storage: &mut S,
    layout: Layout,
    forms: &F,
    record: &Record,
    plan: &[u8],
) -> Result<Slot> {
    storage.create(Name::Sidecar).map_err(failed(storage, "create", Name::Sidecar))?;
    let made = fill_sidecar::<S, F, H>(storage, layout, forms, record, plan);
    if made.is_err() {
        // The first error is the one that matters.
        let _ = storage.unlink(Name::Sidecar);
        let _ = storage.sync_folder();
    }
    made
}

fn fill_sidecar<S: Storage, F: Forms, H: Sum>(
    storage: &mut S,
    layout: Layout,
    forms: &F,
    record: &Record,
    plan: &[u8],
) -> Result<Slot> {
    let sidecar = Name::Sidecar;
    storage.reserve(sidecar, 0, layout.file_len(record)).map_err(failed(
        storage,
        "reserve room for",
        sidecar,
    ))?;
    reserve_disk(storage, layout, record)?;
    write_all(storage, sidecar, plan, 2 * layout.slot as u64)?;
    let [elder, slot] = Slot::first(record.clone());
    write_slot::<S, F, H>(storage, layout, forms, &elder)?;
    write_slot::<S, F, H>(storage, layout, forms, &slot)?;
    storage.sync(sidecar).map_err(failed(storage, "sync", sidecar))?;
    storage.sync(Name::Flat).map_err(failed(storage, "sync", Name::Flat))?;
    storage.sync_folder().map_err(failed(storage, "sync the folder of", sidecar))?;
    Ok(slot)
}

/// Room for all that will be written in place: every hole that is filled, and where holes are kept the part of a hole that
/// shares a grain with data.
fn reserve_disk<S: Storage>(storage: &S, layout: Layout, record: &Record) -> Result<()> {
    let reserve = |from: u64, to: u64| -> Result<()> {
        let reserved = storage.reserve(Name::Flat, from, to - from);
        reserved.map_err(failed(storage, "reserve room for", Name::Flat))
    };
    if record.holes == Holes::Dense {
        return reserve(0, record.capacity);
    }
    let mut position = 0;
    while position < record.capacity {
        let data =
            storage.next_data(Name::Flat, position).map_err(failed(storage, "find data in", Name::Flat))?;
        let Some((start, end)) = data else { break };
        let (from, to) =
            (start - start % layout.hole_grain, end.next_multiple_of(layout.hole_grain).min(record.capacity));
        if (from, to) != (start, end) && from < to {
            reserve(from, to)?;
        }
        position = to.max(end);
    }
    Ok(())
}

/// Puts descriptor and second copy in place, each in one durable step. Without a copy the old one goes first, so that no
/// crash leaves vmseal lines beside a plain disk.
pub(crate) fn publish<S: Storage>(storage: &mut S, texts: &Texts) -> Result<()> {
    match &texts.copy {
        Some(copy) => {
            replace(storage, Name::Descriptor, &texts.descriptor)?;
            replace(storage, Name::Copy, copy)
        }
        None => {
            remove(storage, Name::Copy)?;
            replace(storage, Name::Descriptor, &texts.descriptor)
        }
    }
}

/// Puts descriptor and second copy of a new disk in place, each in one durable step: [`Error::AlreadyExists`] when a name is
/// taken. The descriptor makes the disk exist, so it comes last and takes the copy back when its name cannot be had. After a
/// failed sync both stay: which of two removals a power cut spares nobody knows.
pub(crate) fn publish_new<S: Storage>(storage: &mut S, texts: &Texts) -> Result<()> {
    if let Some(copy) = &texts.copy {
        put(storage, Name::Copy, copy, S::rename_new)?;
        storage.sync_folder().map_err(failed(storage, "sync the folder of", Name::Copy))?;
    }
    put(storage, Name::Descriptor, &texts.descriptor, S::rename_new).inspect_err(|_| {
        if texts.copy.is_some() {
            // The first error is the one that matters.
            let _ = storage.unlink(Name::Copy);
        }
    })?;
    storage.sync_folder().map_err(failed(storage, "sync the folder of", Name::Descriptor))
}

/// Removes a file durably; it may be gone already.
pub(crate) fn remove<S: Storage>(storage: &mut S, name: Name) -> Result<()> {
    match storage.unlink(name) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(storage, "remove", name)(error)),
    }
    storage.sync_folder().map_err(failed(storage, "sync the folder of", name))
}

/// Replaces a small file in one durable step.
pub(crate) fn replace<S: Storage>(storage: &mut S, name: Name, bytes: &[u8]) -> Result<()> {
    put(storage, name, bytes, S::rename)?;
    storage.sync_folder().map_err(failed(storage, "sync the folder of", name))
}

/// Writes a temporary file and gives it the name by `rename`; the folder is not synced.
fn put<S: Storage>(
    storage: &mut S,
    name: Name,
    bytes: &[u8],
    rename: impl FnOnce(&mut S, Name, Name) -> io::Result<()>,
) -> Result<()> {
    let temporary = Name::Temporary;
    // Left by a crash; the name is this job's alone.
    match storage.unlink(temporary) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(storage, "remove", temporary)(error)),
    }
    storage.create(temporary).map_err(failed(storage, "create", temporary))?;
    let written = write_all(storage, temporary, bytes, 0)
        .and_then(|()| storage.sync(temporary).map_err(failed(storage, "sync", temporary)));
    if let Err(error) = written.and_then(|()| {
        let renamed = rename(storage, temporary, name);
        renamed.map_err(failed(storage, "replace", name))
    }) {
        let _ = storage.unlink(temporary);
        return Err(error);
    }
    Ok(())
}

/// What [`repair_zone`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repaired {
    pub(crate) slot: Slot,
    pub(crate) rewritten: u64,
}

/// Puts the zone in flight into one whole form, without a key: the journal holds ciphertext whatever the job does, so only
/// ciphertext is written. The record stays as it is; doing this again does the same.
pub(crate) fn repair_zone<S: Storage, H: Sum>(storage: &S, layout: Layout) -> Result<Repaired> {
    let (slot, mac) = read_slot::<S, H>(storage, layout)?;
    let mut step = Step::default();
    if slot.frontier == slot.record.capacity {
        return Ok(Repaired { slot, rewritten: 0 });
    }
    let Some(proof) = step.load::<S, H>(storage, layout, &slot)? else {
        return Ok(Repaired { slot, rewritten: 0 });
    };
    // Slot and journal must be durable before the disk is touched, also when a failed sync left them in memory only.
    let bytes = slot.encode::<H>(layout.slot, &mac);
    write_all(storage, Name::Sidecar, &bytes, slot.sequence % 2 * layout.slot as u64)?;
    step.store_again(storage, layout, &slot)?;
    write_zone::<S, H>(storage, layout, &slot, &step.zone, &proof)?;
    storage.sync(Name::Sidecar).map_err(failed(storage, "sync", Name::Sidecar))?;
    for index in 0..step.count(layout) {
        step.apply(storage, layout, index)?;
    }
    storage.sync(Name::Flat).map_err(failed(storage, "sync", Name::Flat))?;
    Ok(Repaired { slot, rewritten: step.zone.payload_len() as u64 })
}
