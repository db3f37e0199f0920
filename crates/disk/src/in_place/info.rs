//! What a job's files tell, with and without keys. Nothing here writes.

use std::path::Path;

use subtle::ConstantTimeEq as _;
use vmseal_secret::SecretKey;

use super::sidecar::LAYOUT;
use super::standing::{Found, flat_extent, is_in_transition, look};
use super::suite::{DiskForms, Forms as _};
use super::{JobMode, job_path};
use crate::descriptor::{Descriptor, Holes, Sealed};
use crate::error::{Error, Result};
use crate::seal::{self, Binding, KekName, kek_names};

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPhase {
    /// No byte of the disk has changed yet.
    Prepared,
    /// The disk is in two forms.
    Converting,
    /// The disk is whole in its new form; only the sidecar is left to remove.
    Finished,
}

impl JobPhase {
    /// `prepared`, `converting` or `finished`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Converting => "converting",
            Self::Finished => "finished",
        }
    }
}

/// A job beside a disk. Read without a key: a hint what is needed to go on, proven by [`verify_job`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    /// Random id of the job.
    pub id: [u8; 16],
    /// What it does.
    pub mode: JobMode,
    /// How far it is.
    pub phase: JobPhase,
    /// Bytes from the start of the disk that are in their new form.
    pub done_bytes: u64,
    /// Size of the disk in bytes.
    pub total_bytes: u64,
    /// Whether a crash may have left a zone half written, which `repair` and `resume` put right.
    pub zone_in_flight: bool,
    /// The disk's id.
    pub disk_id: [u8; 16],
    /// Data unit in bytes.
    pub sector_size: u32,
    /// How holes are kept.
    pub holes: Holes,
    /// Generation of the data key that goes; `None` for an encryption.
    pub old_generation: Option<u32>,
    /// KEKs of the data key that goes; any one opens it.
    pub old_keks: Vec<KekName>,
    /// Generation of the data key that comes; `None` for a decryption.
    pub new_generation: Option<u32>,
    /// KEKs of the data key that comes; any one opens it.
    pub new_keks: Vec<KekName>,
}

/// The job of the disk at `descriptor`, `None` when there is none. [`Error::JobInvalid`] when the descriptor says that one is
/// under way and its sidecar is missing or damaged.
pub fn job_info(descriptor: &Path) -> Result<Option<JobInfo>> {
    let standing = Descriptor::read(descriptor)?;
    Ok(find(descriptor, &standing)?.map(|found| describe(&found, &standing)))
}

/// As [`job_info`], after the record was authenticated under the disk's key; [`Error::DiskState`] when there is no job.
pub fn verify_job(descriptor: &Path, keks: &[&SecretKey], binding: &Binding<'_>) -> Result<JobInfo> {
    let standing = Descriptor::read(descriptor)?;
    let found = find(descriptor, &standing)?
        .ok_or_else(|| Error::state(descriptor, "no conversion of it is under way"))?;
    authenticate(descriptor, &found, keks, binding)?;
    Ok(describe(&found, &standing))
}

/// Opens the keys of the job and verifies its record with them.
pub(super) fn authenticate(
    path: &Path,
    found: &Found,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
) -> Result<DiskForms> {
    let record = &found.slot.record;
    let open = |sealed: Option<&Sealed>| -> Result<Option<SecretKey>> {
        sealed.map(|sealed| open_with_any(sealed, record.capacity, keks, binding)).transpose()
    };
    let (old, new) = (open(found.plan.old())?, open(found.plan.new_lines())?);
    let job = job_path(path);
    let forms =
        DiskForms::new(old.as_ref(), new.as_ref(), record.unit, record.holes, &record.job, &record.disk)?
            .ok_or_else(|| Error::job(&job, "it names no key"))?;
    let mac = forms.mac(&found.slot.authenticated(LAYOUT.slot))?;
    if forms.mode() == record.mode && bool::from(mac.ct_eq(&found.mac)) {
        Ok(forms)
    } else {
        Err(Error::JobAuthentication { path: job })
    }
}

/// The data key of `sealed`, opened with whichever of `keks` fits.
pub(crate) fn open_with_any(
    sealed: &Sealed,
    capacity: u64,
    keks: &[&SecretKey],
    binding: &Binding<'_>,
) -> Result<SecretKey> {
    let mut failure = None;
    for kek in keks {
        match seal::open_key(sealed, capacity, kek, binding) {
            Ok(key) => return Ok(key),
            // Another KEK may fit; a wrap that opened and belongs elsewhere says more than one that stayed shut.
            Err(error @ Error::Wrap(vmseal_wrap::Error::EnvelopeAuthentication)) => {
                failure.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::argument("no KEK was given")))
}

fn find(descriptor: &Path, standing: &Descriptor) -> Result<Option<Found>> {
    let in_transition = is_in_transition(standing);
    let flat_name = match flat_extent(standing) {
        Ok(name) => name,
        // Such a disk is not converted in place.
        Err(_) if !in_transition => return Ok(None),
        Err(error) => return Err(error),
    };
    match look(descriptor, flat_name)? {
        Some(storage) => match Found::read(&storage) {
            Ok(found) => Ok(Some(found)),
            // Of a job that never began.
            Err(Error::JobInvalid { .. }) if !in_transition => Ok(None),
            Err(error) => Err(error),
        },
        None if in_transition => Err(Error::job(
            &job_path(descriptor),
            "it is missing; put it back beside the descriptor, the disk cannot be converted on without it",
        )),
        None => Ok(None),
    }
}

fn describe(found: &Found, standing: &Descriptor) -> JobInfo {
    let record = &found.slot.record;
    let names = |sealed: Option<&Sealed>| sealed.map(kek_names).unwrap_or_default();
    JobInfo {
        id: record.job,
        mode: record.mode,
        phase: found.phase(standing),
        done_bytes: found.slot.frontier,
        total_bytes: record.capacity,
        zone_in_flight: found.zone_in_flight,
        disk_id: record.disk,
        sector_size: record.unit,
        holes: record.holes,
        old_generation: found.plan.old().map(|sealed| sealed.generation),
        old_keks: names(found.plan.old()),
        new_generation: found.plan.new_lines().map(|sealed| sealed.generation),
        new_keks: names(found.plan.new_lines()),
    }
}
