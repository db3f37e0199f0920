//! The file `<descriptor>.vmseal-job`: two slots, the plan, two journal areas.
//!
//! ```text
//! 0           slot A (even sequences)          4096   slot B (odd sequences)
//! 8192        plan: UTF-8 JSON, plan length as the slots say, zeros up to a multiple of 4096
//! then twice  journal area: header (4096), payload (one zone)
//! ```

use super::record::{Record, Slot};
use super::storage::{Name, Storage, failed, read_exact, write_all};
use super::suite::{Forms, Sum};
use super::zone::{Proof, Zone};
use crate::error::{Error, Result};

/// Sizes of the parts. Real sidecars have [`LAYOUT`]; the crash model has smaller ones, to be done with all crashes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) slot: usize,
    pub(crate) header: usize,
    /// Bytes of payload that are hashed, read and written together.
    pub(crate) piece: usize,
    /// Journal areas; the merged barrier needs two, and a test shows it.
    pub(crate) areas: u64,
    /// Holes are cut at this boundary, a multiple of every data unit.
    pub(crate) hole_grain: u64,
}

pub(crate) const LAYOUT: Layout =
    Layout { slot: 4096, header: 4096, piece: 1 << 20, areas: 2, hole_grain: 4096 };

impl Layout {
    /// Where the journal area of a sequence begins.
    pub(crate) fn area(&self, record: &Record, sequence: u64) -> u64 {
        let plan = u64::from(record.plan_len).next_multiple_of(self.slot as u64);
        let area = self.header as u64 + u64::from(record.zone);
        2 * self.slot as u64 + plan + sequence % self.areas * area
    }

    /// Where piece `index` of its payload begins.
    pub(crate) fn payload(&self, slot: &Slot, index: usize) -> u64 {
        self.area(&slot.record, slot.sequence) + (self.header + index * self.piece) as u64
    }

    /// Length of the whole file.
    pub(crate) fn file_len(&self, record: &Record) -> u64 {
        self.area(record, self.areas - 1) + self.header as u64 + u64::from(record.zone)
    }
}

/// The valid slot with the higher sequence and its unverified HMAC. [`Error::JobInvalid`] when neither is valid or the
/// file is shorter than the slot says: then nothing can be known and nothing is guessed.
pub(crate) fn read_slot<S: Storage, H: Sum>(storage: &S, layout: Layout) -> Result<(Slot, [u8; 32])> {
    let len = storage.len(Name::Sidecar).map_err(failed(storage, "examine", Name::Sidecar))?;
    let mut newest: Option<(Slot, [u8; 32])> = None;
    for index in 0..2 {
        let at = index * layout.slot as u64;
        if len < at + layout.slot as u64 {
            continue;
        }
        let mut bytes = vec![0; layout.slot];
        read_exact(storage, Name::Sidecar, &mut bytes, at)?;
        if let Some(found) = Slot::decode::<H>(&bytes, index)
            && newest.as_ref().is_none_or(|newest| newest.0.sequence < found.0.sequence)
        {
            newest = Some(found);
        }
    }
    let invalid = |reason| Error::job(storage.path(Name::Sidecar), reason);
    let (slot, mac) = newest.ok_or_else(|| invalid("neither of its two records is whole"))?;
    if len < layout.file_len(&slot.record) {
        return Err(invalid("it is shorter than its record says"));
    }
    Ok((slot, mac))
}

/// That the zone of `slot`, for which the journal holds nothing whole, is untouched. The elder slot is overwritten only after
/// the journal of the newer was durable, so without the elder the journal is damaged and the zone in an unknown form.
pub(crate) fn check_elder<S: Storage, H: Sum>(storage: &S, layout: Layout, slot: &Slot) -> Result<()> {
    let index = (slot.sequence + 1) % 2;
    let mut bytes = vec![0; layout.slot];
    read_exact(storage, Name::Sidecar, &mut bytes, index * layout.slot as u64)?;
    match Slot::decode::<H>(&bytes, index) {
        Some((elder, _)) if elder.precedes(slot) => Ok(()),
        _ => Err(Error::job(
            storage.path(Name::Sidecar),
            "one of its records and its journal are damaged; restore it from a copy made after the job was stopped",
        )),
    }
}

/// The plan, which the slot commits to.
pub(crate) fn read_plan<S: Storage, H: Sum>(storage: &S, layout: Layout, slot: &Slot) -> Result<Vec<u8>> {
    // Not longer than MAX_PLAN, and the file is long enough: `read_slot` has looked.
    let mut plan = vec![0; slot.record.plan_len as usize];
    read_exact(storage, Name::Sidecar, &mut plan, 2 * layout.slot as u64)?;
    if H::sum(&plan) != slot.record.plan_sum {
        return Err(Error::job(storage.path(Name::Sidecar), "its plan is damaged"));
    }
    Ok(plan)
}

/// Writes a slot over the older one.
pub(crate) fn write_slot<S: Storage, F: Forms, H: Sum>(
    storage: &S,
    layout: Layout,
    forms: &F,
    slot: &Slot,
) -> Result<()> {
    let mac = forms.mac(&slot.authenticated(layout.slot))?;
    let bytes = slot.encode::<H>(layout.slot, &mac);
    write_all(storage, Name::Sidecar, &bytes, slot.sequence % 2 * layout.slot as u64)
}

/// The zone the journal holds for `slot`, nothing of it authenticated.
pub(crate) fn read_zone<S: Storage, H: Sum>(
    storage: &S,
    layout: Layout,
    slot: &Slot,
) -> Result<Option<(Zone, Proof)>> {
    let mut bytes = vec![0; layout.header];
    read_exact(storage, Name::Sidecar, &mut bytes, layout.area(&slot.record, slot.sequence))?;
    Ok(Zone::decode::<H>(&bytes, slot))
}

pub(crate) fn write_zone<S: Storage, H: Sum>(
    storage: &S,
    layout: Layout,
    slot: &Slot,
    zone: &Zone,
    proof: &Proof,
) -> Result<()> {
    let bytes = zone.encode::<H>(slot, layout.header, proof);
    write_all(storage, Name::Sidecar, &bytes, layout.area(&slot.record, slot.sequence))
}
