//! Going on after whatever stopped a job.

use std::path::Path;
use std::time::Instant;

use vmseal_secret::SecretKey;

use super::file_storage::FileStorage;
use super::info::{JobPhase, authenticate};
use super::job::complete;
use super::lifecycle::{publish, remove, repair_zone};
use super::plan::texts;
use super::sidecar::LAYOUT;
use super::standing::{Found, flat_extent, is_in_transition};
use super::storage::{Name, Storage as _};
use super::suite::Sha;
use super::{JobMode, job_path};
use crate::control::Control;
use crate::convert::Outcome;
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::lock::Changes;
use crate::seal::Binding;

/// What [`repair`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// What the job does.
    pub mode: JobMode,
    /// Bytes of ciphertext written from the journal; 0 when no zone was in flight.
    pub rewritten_bytes: u64,
    /// Bytes from the start of the disk that are in their new form.
    pub done_bytes: u64,
    /// Size of the disk in bytes.
    pub total_bytes: u64,
}

/// Goes on with the job of the disk at `descriptor` and ends it. `keks` are all KEKs that [`job_info`](crate::job_info)
/// names, in any order; for a recrypt that goes from one key provider to another leave `binding.provider_id` out.
///
/// Nothing is written before the record has been authenticated under the disk's key: [`Error::JobAuthentication`].
/// [`Error::JobInvalid`] when the sidecar is missing, damaged or of another disk, [`Error::DiskState`] when there is nothing
/// to go on with. Fails and can be called again like the job itself.
pub fn resume(
    descriptor: &Path,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let (mut storage, standing) = hold(descriptor)?;
    if !is_in_transition(&standing) {
        return end_without_transition(descriptor, storage, &standing, begun);
    }
    open_sidecar(descriptor, &mut storage)?;
    let found = Found::read(&storage)?;
    check_belongs(descriptor, &found, &standing)?;
    let forms = authenticate(descriptor, &found, keks, binding)?;
    control.start(found.slot.record.capacity);
    // Once more: a failed sync may have left the descriptor's new name in memory only.
    publish(&mut storage, &texts(&found.plan.during)?)?;
    complete(storage, found.slot, &found.plan, &forms, control, begun)
}

/// Puts the zone in flight of the disk at `descriptor` into one whole form. Needs no key and writes ciphertext only, so it
/// works while the KMS is down; the job stays and [`resume`] goes on with it. Doing it again does the same.
pub fn repair(descriptor: &Path) -> Result<Repair> {
    let (mut storage, standing) = hold(descriptor)?;
    if !is_in_transition(&standing) {
        return Err(Error::state(descriptor, "no conversion of it is under way; there is nothing to repair"));
    }
    open_sidecar(descriptor, &mut storage)?;
    let found = Found::read(&storage)?;
    check_belongs(descriptor, &found, &standing)?;
    let repaired = repair_zone::<_, Sha>(&storage, LAYOUT)?;
    Ok(Repair {
        mode: repaired.slot.record.mode,
        rewritten_bytes: repaired.rewritten,
        done_bytes: repaired.slot.frontier,
        total_bytes: repaired.slot.record.capacity,
    })
}

/// The disk held for a job, and its descriptor.
fn hold(path: &Path) -> Result<(FileStorage, Descriptor)> {
    let seen = Descriptor::read(path)?;
    let storage = FileStorage::lock(path, flat_extent(&seen)?, seen.capacity_sectors() * 512, Changes::Data)?;
    let standing = Descriptor::read(path)?;
    if standing.extents != seen.extents {
        return Err(Error::state(path, "the disk was changed meanwhile; start again"));
    }
    Ok((storage, standing))
}

fn open_sidecar(descriptor: &Path, storage: &mut FileStorage) -> Result<()> {
    storage.open(Name::Sidecar).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::job(
            &job_path(descriptor),
            "it is missing; put it back beside the descriptor, the disk cannot be converted on without it",
        ),
        _ => Error::io("open", &job_path(descriptor), error),
    })
}

/// The record and the descriptor must tell of the same job.
fn check_belongs(path: &Path, found: &Found, standing: &Descriptor) -> Result<()> {
    let same_lines = match (&standing.sealed, &found.plan.during.sealed) {
        (Some(now), Some(planned)) => now.id == planned.id && now.state == planned.state,
        // The lines were lost and only createType is left: the plan has them.
        (None, _) => true,
        (Some(_), None) => false,
    };
    if same_lines && found.plan.during.extents == standing.extents {
        Ok(())
    } else {
        Err(Error::job(&job_path(path), "it belongs to another disk or another job"))
    }
}

/// The descriptor speaks of no job. A sidecar beside it is of a job that ended, which is told as such, or of one that
/// never began.
fn end_without_transition(
    path: &Path,
    mut storage: FileStorage,
    standing: &Descriptor,
    begun: Instant,
) -> Result<Outcome> {
    let nothing = || Error::state(path, "no conversion of it is under way; there is nothing to resume");
    match storage.open(Name::Sidecar) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(nothing()),
        Err(error) => return Err(Error::io("open", &job_path(path), error)),
    }
    let found = match Found::read(&storage) {
        Ok(found) => Some(found),
        // Not whole: the job never got as far as its descriptor.
        Err(Error::JobInvalid { .. }) => None,
        Err(error) => return Err(error),
    };
    match found.map(|found| (found.phase(standing), found)) {
        Some((JobPhase::Converting, found)) if found.plan.during.extents == standing.extents => {
            Err(Error::job(
                &job_path(path),
                "its descriptor was replaced while a conversion was under way; restore the descriptor with the state of the job",
            ))
        }
        Some((JobPhase::Finished, found)) if found.plan.after == *standing => {
            // Once more: a failed sync may have left the descriptor's new name in memory only.
            publish(&mut storage, &texts(standing)?)?;
            remove(&mut storage, Name::Sidecar)?;
            let record = &found.slot.record;
            Ok(Outcome {
                bytes: record.capacity,
                allocated_bytes: storage.allocated()?,
                seconds: begun.elapsed().as_secs_f64(),
                holes: Some(record.holes),
            })
        }
        _ => {
            remove(&mut storage, Name::Sidecar)?;
            Err(nothing())
        }
    }
}
