//! The plan of a job: what the descriptor was, is meanwhile and will be. It stands in the sidecar, bound by every slot, so
//! the end of a job depends on nothing that was changed in between, and all wraps stand twice until it is done.

use serde::{Deserialize, Serialize};

use super::JobMode;
use super::lifecycle::Texts;
use super::record::{MAX_PLAN, Record};
use crate::descriptor::{Descriptor, SealState, Sealed};
use crate::error::{Error, Result};

const VERSION: u32 = 1;
/// Content id and kind that make other tools refuse the disk while it is between states.
pub(crate) const TRANSITION: &str = "vmsealTransition";

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) before: Descriptor,
    pub(super) during: Descriptor,
    pub(super) after: Descriptor,
}

#[derive(Serialize, Deserialize)]
struct Json {
    v: u32,
    before: String,
    during: String,
    after: String,
}

impl Plan {
    /// The plan to take `before` to `after`, of which at least one is sealed.
    pub(super) fn new(before: Descriptor, after: Descriptor) -> Result<Self> {
        let mut during = before.clone();
        TRANSITION.clone_into(&mut during.create_type);
        during.set_io_filter(true);
        let (state, mut lines) = match (&before.sealed, &after.sealed) {
            (None, Some(new)) => (SealState::Sealing, new.clone()),
            (Some(old), None) => (SealState::Unsealing, old.clone()),
            (Some(old), Some(new)) => {
                // Both stand until the end. The new generation keeps a descriptor from before the job out.
                let mut lines = new.clone();
                lines.wraps.extend(old.wraps.iter().cloned());
                (SealState::Resealing, lines)
            }
            (None, None) => return Err(Error::argument("neither side of the job is sealed")),
        };
        lines.state = state;
        during.sealed = Some(lines);
        Ok(Self { before, during, after })
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let texts = [&self.before, &self.during, &self.after].map(Descriptor::checked_text);
        let [before, during, after] = texts;
        let json = Json { v: VERSION, before: before?, during: during?, after: after? };
        let bytes =
            serde_json::to_vec(&json).map_err(|error| Error::Internal { reason: error.to_string() })?;
        if bytes.len() > MAX_PLAN as usize {
            return Err(Error::unsupported("it is too long to be converted in place; convert to a copy"));
        }
        Ok(bytes)
    }

    /// `None` when the bytes are no plan, or one that does not fit `record`.
    pub(super) fn parse(bytes: &[u8], record: &Record) -> Option<Self> {
        let json: Json = serde_json::from_slice(bytes).ok()?;
        let parse = |text: String| Descriptor::parse(text.as_bytes()).ok();
        let plan =
            Self { before: parse(json.before)?, during: parse(json.during)?, after: parse(json.after)? };
        let lines = plan.during.sealed.as_ref()?;
        let fits = json.v == VERSION
            && plan.mode() == Some(record.mode)
            && lines.id == record.disk
            && lines.sector_size == record.unit
            && lines.holes == record.holes
            && [&plan.before, &plan.during, &plan.after].iter().all(|descriptor| {
                descriptor.extents == plan.during.extents
                    && descriptor.extents.len() == 1
                    && descriptor.capacity_sectors().checked_mul(512) == Some(record.capacity)
            });
        fits.then_some(plan)
    }

    /// What the descriptors say the job does.
    pub(super) fn mode(&self) -> Option<JobMode> {
        let mode = mode_of(self.during.sealed.as_ref()?.state)?;
        let sides = (self.before.sealed.is_some(), self.after.sealed.is_some());
        let fits = match mode {
            JobMode::Encrypt => sides == (false, true),
            JobMode::Decrypt => sides == (true, false),
            JobMode::Recrypt => sides == (true, true),
        };
        fits.then_some(mode)
    }

    pub(super) fn old(&self) -> Option<&Sealed> {
        self.before.sealed.as_ref()
    }

    pub(super) fn new_lines(&self) -> Option<&Sealed> {
        self.after.sealed.as_ref()
    }
}

/// The job a descriptor in transition is in.
pub(super) fn mode_of(state: SealState) -> Option<JobMode> {
    match state {
        SealState::Sealing => Some(JobMode::Encrypt),
        SealState::Unsealing => Some(JobMode::Decrypt),
        SealState::Resealing => Some(JobMode::Recrypt),
        SealState::Sealed => None,
    }
}

/// Descriptor and second copy as they are written.
pub(crate) fn texts(descriptor: &Descriptor) -> Result<Texts> {
    let copy = descriptor.copy_text()?.map(String::into_bytes);
    Ok(Texts { descriptor: descriptor.checked_text()?.into_bytes(), copy })
}
