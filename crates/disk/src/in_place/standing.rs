//! Where a disk stands between its states, told from descriptor and sidecar.

use std::path::Path;

use super::file_storage::FileStorage;
use super::plan::{Plan, TRANSITION};
use super::record::Slot;
use super::sidecar::{LAYOUT, read_plan, read_slot, read_zone};
use super::storage::Name;
use super::suite::Sha;
use super::{JobPhase, job_path};
use crate::descriptor::{Access, Descriptor, ExtentKind, NO_PARENT, SealState};
use crate::error::{Error, Result};

/// A job's files as they were read, nothing of them authenticated.
pub(super) struct Found {
    pub(super) slot: Slot,
    pub(super) mac: [u8; 32],
    pub(super) plan: Plan,
    /// The journal holds a whole zone for the slot.
    pub(super) zone_in_flight: bool,
}

impl Found {
    /// Looks at the sidecar of the disk at `descriptor` and checks that its parts belong together and to this disk.
    pub(super) fn read(storage: &FileStorage) -> Result<Self> {
        let (slot, mac) = read_slot::<_, Sha>(storage, LAYOUT)?;
        let plan = read_plan::<_, Sha>(storage, LAYOUT, &slot)?;
        let plan = Plan::parse(&plan, &slot.record)
            .ok_or_else(|| Error::job(&job_path_of(storage), "its plan does not fit its record"))?;
        let header = read_zone::<_, Sha>(storage, LAYOUT, &slot)?;
        let zone_in_flight = slot.frontier < slot.record.capacity && header.is_some();
        Ok(Self { slot, mac, plan, zone_in_flight })
    }

    /// How far the job is, given the descriptor that stands there.
    pub(super) fn phase(&self, descriptor: &Descriptor) -> JobPhase {
        let done = self.slot.frontier == self.slot.record.capacity;
        // A job killed between its first two slots has the elder only.
        let begun = self.slot.sequence > 1 || self.zone_in_flight;
        if is_in_transition(descriptor) {
            if begun { JobPhase::Converting } else { JobPhase::Prepared }
        } else if done {
            JobPhase::Finished
        } else if begun {
            JobPhase::Converting
        } else {
            JobPhase::Prepared
        }
    }
}

/// Opens the sidecar for looking; `None` when there is none.
pub(super) fn look(descriptor: &Path, flat_name: &str) -> Result<Option<FileStorage>> {
    let mut storage = FileStorage::names(descriptor, flat_name)?;
    match storage.open_to_look(Name::Sidecar) {
        Ok(()) => Ok(Some(storage)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", &job_path(descriptor), error)),
    }
}

/// Whether the descriptor itself says that the disk is between states.
pub(super) fn is_in_transition(descriptor: &Descriptor) -> bool {
    descriptor.create_type == TRANSITION
        || descriptor.sealed.as_ref().is_some_and(|sealed| sealed.state != SealState::Sealed)
}

/// For every function that would take the data for wholly plain or wholly sealed.
pub(crate) fn refuse_in_conversion(path: &Path, descriptor: &Descriptor) -> Result<()> {
    if is_in_transition(descriptor) {
        return Err(Error::InConversion { path: path.to_owned() });
    }
    // A descriptor that another tool wrote anew may have lost its state; the sidecar still knows. One that cannot be read
    // or belongs to another disk was never begun: it is complete before the descriptor first speaks of it.
    let Some(flat_name) = descriptor.extents.first().and_then(|extent| extent.file.as_deref()) else {
        return Ok(());
    };
    let Some(storage) = look(path, flat_name)? else {
        return Ok(());
    };
    match Found::read(&storage) {
        Ok(found)
            if found.phase(descriptor) == JobPhase::Converting
                && found.plan.during.extents == descriptor.extents =>
        {
            Err(Error::InConversion { path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

/// In place, the data is one writable file that belongs to this disk alone.
pub(crate) fn flat_extent(descriptor: &Descriptor) -> Result<&str> {
    if descriptor.parent_cid != NO_PARENT {
        return Err(Error::unsupported("it is a snapshot of another disk; consolidate the snapshots first"));
    }
    match descriptor.extents.as_slice() {
        [extent]
            if extent.offset == 0
                && extent.access == Access::ReadWrite
                && matches!(extent.kind, ExtentKind::Flat | ExtentKind::Vmfs) =>
        {
            extent.file.as_deref().ok_or_else(|| Error::descriptor("its extent names no file"))
        }
        _ => Err(Error::unsupported(
            "a disk is converted in place when it has one writable flat extent from the start of its file; convert to a copy",
        )),
    }
}

fn job_path_of(storage: &FileStorage) -> std::path::PathBuf {
    use super::storage::Storage as _;
    storage.path(Name::Sidecar).to_owned()
}
