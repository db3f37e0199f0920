//! Starting a job, and running it to its end.

use std::path::Path;
use std::time::Instant;

use vmseal_secret::SecretKey;

use super::engine::Settings;
use super::file_storage::FileStorage;
use super::lifecycle::{finish, start};
use super::plan::{Plan, texts};
use super::record::{Record, Slot};
use super::sidecar::LAYOUT;
use super::standing::{flat_extent, is_in_transition, refuse_in_conversion};
use super::storage::{Name, Storage as _};
use super::suite::{DiskForms, Forms as _, Sha, Sum as _};
use crate::control::Control;
use crate::convert::{Outcome, holes_to_seal};
use crate::descriptor::{Descriptor, Holes, Sealed};
use crate::error::{Error, Result};
use crate::lock::Changes;
use crate::open::{check_sealed, refuse_foreign, refuse_sealed};
use crate::seal::{self, Binding, SealSpec};
use crate::source::Source;
use crate::target::check_free_space;
use crate::uuid;

/// Bytes converted between two barriers, measured: smaller zones wait more often, larger ones leave the caches.
pub(super) const ZONE: u32 = 16 << 20;

/// The KEK a deep recrypt wraps the new data key with.
#[derive(Debug, Clone, Copy)]
pub struct NewKek<'a> {
    /// The KEK, 32 bytes. It may be the one the disk is under now.
    pub kek: &'a SecretKey,
    /// Its id as its key provider names it.
    pub kek_id: &'a str,
    /// The key provider's id.
    pub provider_id: &'a str,
}

/// Seals a plain disk of one flat extent under a fresh data key, in place. With [`Holes::Dense`] every hole is given room
/// first; `spec.holes` as for copies. `spec.disk_id` becomes the disk's id.
///
/// Errors before the job begins leave the disk as it was. An error after that, a cancel too, leaves it in conversion:
/// [`resume`](crate::resume) goes on.
pub fn encrypt_in_place(descriptor: &Path, spec: &SealSpec<'_>, control: &Control) -> Result<Outcome> {
    let start = Start::lock(descriptor, control)?;
    refuse_sealed(descriptor, &start.before)?;
    let capacity = start.source.capacity();
    let holes = holes_to_seal(&start.source, descriptor, spec)?;
    let (key, sealed) = seal::seal_key(spec, capacity, holes)?;
    let mut after = start.before.clone();
    after.set_ddb("ddb.uuid", &uuid::format_ddb(&spec.disk_id));
    after.set_io_filter(true);
    after.sealed = Some(sealed);
    start.run(after, None, Some(&key), control)
}

/// Unseals a disk in place. Everything [`open_sealed`](crate::open_sealed) verifies is verified first; errors as for
/// [`encrypt_in_place`].
pub fn decrypt_in_place(
    descriptor: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let start = Start::lock(descriptor, control)?;
    let key = start.open(kek, binding)?;
    let mut after = start.before.clone();
    after.set_io_filter(false);
    after.sealed = None;
    start.run(after, Some(&key), None, control)
}

/// Changes the data key and the KEK of a sealed disk in place: deep recrypt. The generation rises by one and the old wraps
/// are gone afterwards. Errors as for [`encrypt_in_place`].
pub fn recrypt_in_place(
    descriptor: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    new: &NewKek<'_>,
    control: &Control,
) -> Result<Outcome> {
    let start = Start::lock(descriptor, control)?;
    let old_key = start.open(kek, binding)?;
    let old = start.sealed()?;
    let generation = old.generation.checked_add(1);
    let spec = SealSpec {
        kek: new.kek,
        kek_id: new.kek_id,
        provider_id: new.provider_id,
        vm_id: binding.vm_id,
        disk_id: binding.disk_id,
        generation: generation.ok_or_else(|| Error::unsupported("its generation is the last there is"))?,
        sector_size: old.sector_size,
        holes: Some(old.holes),
    };
    let capacity = start.source.capacity();
    seal::check_spec(&spec, capacity)?;
    let (new_key, mut sealed) = seal::seal_key(&spec, capacity, old.holes)?;
    sealed.other.clone_from(&old.other);
    let mut after = start.before.clone();
    after.sealed = Some(sealed);
    start.run(after, Some(&old_key), Some(&new_key), control)
}

/// A disk held for a new job, checked and unchanged.
struct Start<'a> {
    path: &'a Path,
    before: Descriptor,
    source: Source,
    storage: FileStorage,
    begun: Instant,
}

impl<'a> Start<'a> {
    fn lock(path: &'a Path, control: &Control) -> Result<Self> {
        let begun = Instant::now();
        control.check()?;
        let seen = Descriptor::read(path)?;
        let storage =
            FileStorage::lock(path, flat_extent(&seen)?, seen.capacity_sectors() * 512, Changes::Data)?;
        // Another job may have ended between reading and locking.
        let before = Descriptor::read(path)?;
        refuse_in_conversion(path, &before)?;
        refuse_foreign(path, &before)?;
        if before.extents != seen.extents {
            return Err(Error::state(path, "the disk was changed meanwhile; start again"));
        }
        if storage.links()? > 1 {
            let reason = "it has more than one name (hard links), and whoever uses the other would see it change; convert to a copy";
            return Err(Error::extent(storage.path(Name::Flat), reason));
        }
        let source = Source::of_descriptor(path, &before)?;
        Ok(Self { path, before, source, storage, begun })
    }

    fn sealed(&self) -> Result<&Sealed> {
        self.before.sealed.as_ref().ok_or_else(|| Error::state(self.path, "the disk is not sealed"))
    }

    fn open(&self, kek: &SecretKey, binding: &Binding<'_>) -> Result<SecretKey> {
        let sealed = self.sealed()?;
        check_sealed(self.path, &self.before, sealed)?;
        seal::open_key(sealed, self.source.capacity(), kek, binding)
    }

    /// Makes the sidecar, puts the descriptor into transition and converts. Until the descriptor is in transition a
    /// failure takes everything back.
    fn run(
        self,
        after: Descriptor,
        old: Option<&SecretKey>,
        new: Option<&SecretKey>,
        control: &Control,
    ) -> Result<Outcome> {
        let Self { path, before, source, mut storage, begun } = self;
        let plan = Plan::new(before, after)?;
        let lines = plan.during.sealed.as_ref();
        let lines =
            lines.ok_or_else(|| Error::Internal { reason: "a plan without vmseal lines".to_owned() })?;
        let (unit, holes, disk) = (lines.sector_size, lines.holes, lines.id);
        let bytes = plan.to_bytes()?;
        let job = uuid::random()?;
        let forms = DiskForms::new(old, new, unit, holes, &job, &disk)?
            .ok_or_else(|| Error::argument("a job needs a key"))?;
        let capacity = source.capacity();
        let record = Record {
            mode: forms.mode(),
            holes,
            unit,
            job,
            disk,
            capacity,
            zone: zone_for(capacity, unit),
            plan_len: bytes.len() as u32,
            plan_sum: Sha::sum(&bytes),
        };
        let filled = if holes == Holes::Dense { capacity - source.allocated() } else { 0 };
        check_free_space(storage.path(Name::Sidecar), filled + LAYOUT.file_len(&record))?;
        control.check()?;
        // What cannot be read may be in transition.
        let speaks = |_: &FileStorage| Descriptor::read(path).map_or(true, |now| is_in_transition(&now));
        let (before, during) = (texts(&plan.before)?, texts(&plan.during)?);
        let descriptors = (&before, &during);
        let slot = start::<_, _, Sha>(&mut storage, LAYOUT, &forms, (&record, &bytes), descriptors, speaks)?;
        control.start(capacity);
        complete(storage, slot, &plan, &forms, control, begun)
    }
}

/// Converts from where `slot` stands and ends the job.
pub(super) fn complete(
    mut storage: FileStorage,
    slot: Slot,
    plan: &Plan,
    forms: &DiskForms,
    control: &Control,
    begun: Instant,
) -> Result<Outcome> {
    let Record { capacity, holes, .. } = slot.record;
    finish::<_, _, Sha>(&mut storage, forms, Settings::real(), slot, &texts(&plan.after)?, control)?;
    let allocated_bytes = storage.allocated()?;
    Ok(Outcome {
        bytes: capacity,
        allocated_bytes,
        seconds: begun.elapsed().as_secs_f64(),
        holes: Some(holes),
    })
}

/// No larger than the disk needs.
fn zone_for(capacity: u64, unit: u32) -> u32 {
    u64::from(ZONE).min(capacity.next_multiple_of(u64::from(unit))) as u32
}
