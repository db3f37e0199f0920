//! The engine with the real cipher, hash and HMAC, over all kinds of sizes, units, zones and holes, interrupted anywhere.

use proptest::prelude::*;
use rustix::io::Errno;
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::super::JobMode;
use super::super::engine::Settings;
use super::super::lifecycle::{Texts, finish, repair_zone, start};
use super::super::model::crash::Random;
use super::super::model::{Fault, FaultPlan, Image, ModelDisk, Planted};
use super::super::record::Record;
use super::super::sidecar::{Layout, read_slot};
use super::super::storage::{NAMES, Name, Storage as _, failed};
use super::super::suite::{DiskForms, Forms as _, Sha, Sum as _};
use super::crashes::MODES;
use crate::buffer::is_zero;
use crate::control::Control;
use crate::descriptor::Holes;
use crate::seal::tweak_step;

#[derive(Debug, Clone)]
struct Case {
    mode: JobMode,
    holes: Holes,
    unit: usize,
    units: usize,
    zone_units: usize,
    piece_units: usize,
    workers: usize,
    /// Calls after which each run but the last is stopped.
    stops: Vec<u64>,
    repair: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (0..3usize, any::<bool>(), any::<bool>(), 1..40usize, 1..9usize, 1..4usize);
    (shape, 1..3usize, prop::collection::vec(0..120u64, 0..4), any::<bool>(), any::<u64>()).prop_map(
        |((mode, zero, large, units, zone_units, piece_units), workers, stops, repair, seed)| Case {
            mode: MODES[mode],
            holes: if zero { Holes::Zero } else { Holes::Dense },
            unit: if large { 4096 } else { 512 },
            units,
            zone_units,
            piece_units,
            workers,
            stops,
            repair,
            seed,
        },
    )
}

/// What a copy gives: every unit by itself, from one form to the other.
fn copied(case: &Case, plain: &[u8], key: Option<&SecretKey>) -> Vec<u8> {
    let mut bytes = plain.to_vec();
    let Some(key) = key else { return bytes };
    let xts = Xts::new(key, case.unit as u32, tweak_step(case.unit as u32)).expect("a cipher");
    for (unit, index) in bytes.chunks_mut(case.unit).zip(0..) {
        if case.holes == Holes::Dense || !is_zero(unit) {
            xts.encrypt(unit, index).expect("a unit");
        }
    }
    bytes
}

fn plaintext(case: &Case) -> Vec<u8> {
    let mut random = Random::new(case.seed);
    let mut plain: Vec<u8> = (0..case.units * case.unit).map(|_| random.next() as u8).collect();
    for unit in plain.chunks_mut(case.unit) {
        if random.below(3) == 0 {
            unit.fill(0);
        }
    }
    plain
}

/// Runs the job of `case` through all its stops; the disk's data at the end.
fn convert(case: &Case, data: &[u8], keys: [Option<&SecretKey>; 2]) -> Vec<u8> {
    let text = |name: &str| Texts { descriptor: name.as_bytes().to_vec(), copy: None };
    let (before, during, after) = (text("before"), text("during"), text("after"));
    let plan = b"the plan";
    let record = Record {
        mode: case.mode,
        holes: case.holes,
        unit: case.unit as u32,
        job: [7; 16],
        disk: [8; 16],
        capacity: data.len() as u64,
        zone: (case.zone_units * case.unit) as u32,
        plan_len: plan.len() as u32,
        plan_sum: Sha::sum(plan),
    };
    let layout = Layout {
        slot: 4096,
        header: 4096,
        piece: case.piece_units * case.unit,
        areas: 2,
        hole_grain: case.unit as u64,
    };
    let settings = Settings { layout, workers: case.workers, planted: Planted::Nothing };
    let [old, new] = keys;
    let forms = DiskForms::new(old, new, record.unit, case.holes, &record.job, &record.disk);
    let forms = forms.expect("keys").expect("a key");
    assert_eq!(forms.mode(), case.mode);
    let mut files = [const { None }; NAMES];
    files[Name::Descriptor as usize] = Some(before.descriptor.clone());
    files[Name::Flat as usize] = Some(data.to_vec());
    let mut disk = ModelDisk::new(&Image { files }, None, false);
    let go_on = |disk: &mut ModelDisk| {
        let standing = disk.content(Name::Descriptor);
        let slot = if standing.as_ref() == Some(&before.descriptor) {
            let begun = |disk: &ModelDisk| disk.content(Name::Descriptor) != Some(before.descriptor.clone());
            start::<_, _, Sha>(disk, layout, &forms, (&record, plan), (&before, &during), begun)?
        } else if standing.as_ref() == Some(&during.descriptor) {
            disk.open(Name::Sidecar).map_err(failed(disk, "open", Name::Sidecar))?;
            let (slot, mac) = read_slot::<_, Sha>(disk, layout)?;
            assert_eq!(forms.mac(&slot.authenticated(layout.slot))?, mac);
            slot
        } else {
            return Ok(());
        };
        finish::<_, _, Sha>(disk, &forms, settings, slot, &after, &Control::new())
    };
    for &at in &case.stops {
        disk.reopen(false);
        disk.fail(Some(FaultPlan { fault: Fault::Error(Errno::IO), at, forever: true }));
        let _ = go_on(&mut disk);
        disk.fail(None);
        disk.reopen(false);
        if case.repair && disk.content(Name::Descriptor) == Some(during.descriptor.clone()) {
            disk.open(Name::Sidecar).expect("a job in transition has its sidecar");
            repair_zone::<_, Sha>(&disk, layout).expect("repair");
        }
    }
    disk.reopen(false);
    go_on(&mut disk).expect("the last run ends the job");
    assert_eq!(disk.content(Name::Descriptor), Some(after.descriptor));
    disk.content(Name::Flat).expect("the data")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// B8: in place = copy, interrupted and resumed = uninterrupted; D2: deep recrypt changes every unit and no plaintext.
    #[test]
    fn in_place_gives_what_a_copy_gives(case in cases()) {
        let (one, two) = (SecretKey::generate(64).expect("a key"), SecretKey::generate(64).expect("a key"));
        let (old, new) = match case.mode {
            JobMode::Encrypt => (None, Some(&two)),
            JobMode::Decrypt => (Some(&one), None),
            JobMode::Recrypt => (Some(&one), Some(&two)),
        };
        let plain = plaintext(&case);
        let (from, to) = (copied(&case, &plain, old), copied(&case, &plain, new));
        prop_assert!(convert(&case, &from, [old, new]) == to);
        for (before, after) in from.chunks(case.unit).zip(to.chunks(case.unit)) {
            let kept = case.holes == Holes::Zero && is_zero(before);
            prop_assert_eq!(before == after, kept);
        }
    }
}
