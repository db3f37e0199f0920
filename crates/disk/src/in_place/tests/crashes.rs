//! Every power cut, and every second one while the first is recovered from.
//!
//! A history is a choice of what reached the disk when the power went, and the same choice again inside the recovery. The
//! engine is deterministic, so histories that leave the same bytes have the same future, which is run once.

use std::collections::{HashMap, HashSet};

use super::super::JobMode;
use super::super::model::crash::{Choices, Random, any_image, fingerprint, images};
use super::super::model::world::{Shape, World};
use super::super::model::{Image, Planted};
use crate::descriptor::Holes;

pub(super) const MODES: [JobMode; 3] = [JobMode::Encrypt, JobMode::Decrypt, JobMode::Recrypt];

pub(super) const SMALL: Shape = Shape {
    mode: JobMode::Encrypt,
    holes: Holes::Dense,
    units: 5,
    zone_units: 2,
    piece_units: 1,
    seed: 1,
    planted: Planted::Nothing,
    areas: 2,
};

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    histories: u64,
    distinct: u64,
}

/// Explores one disk: the job with every crash, from each of those the recovery with every crash, from each of those a
/// recovery to the end. The first history that loses something is the error.
fn explore(shape: Shape, first: Choices, second: Choices) -> Result<Count, String> {
    let world = World::new(shape);
    let mut random = Random::new(shape.seed);
    let mut count = Count::default();
    let mut after_first: HashMap<u128, (Image, u64)> = HashMap::new();
    let mut disk = world.disk(&world.untouched(), true);
    world.go_on(&mut disk).map_err(|error| error.to_string())?;
    world.check_done(&disk)?;
    for moment in disk.moments() {
        images(&moment, first, &mut random, |image| {
            count.histories += 1;
            let entry = after_first.entry(fingerprint(image));
            entry.or_insert_with(|| (image.clone(), 0)).1 += 1;
        });
    }
    let mut proven = HashSet::new();
    let mut firsts: Vec<_> = after_first.into_values().collect();
    // A fixed order, so that a seed always gives the same run.
    firsts.sort_by_key(|(image, _)| fingerprint(image));
    for (image, times) in &firsts {
        world.check_at_rest(image)?;
        for repair_first in [false, true] {
            let mut disk = world.disk(image, true);
            if repair_first && !world.repair(&mut disk).map_err(|error| error.to_string())? {
                continue;
            }
            if !repair_first {
                world.go_on(&mut disk).map_err(|error| error.to_string())?;
                world.check_done(&disk)?;
            }
            for moment in disk.moments() {
                let mut failure = Ok(());
                images(&moment, second, &mut random, |image| {
                    count.histories += times;
                    if failure.is_ok() && proven.insert(fingerprint(image)) {
                        failure = prove(&world, image);
                    }
                });
                failure?;
            }
        }
    }
    count.distinct = proven.len() as u64;
    Ok(count)
}

/// That a disk at rest is sound and its job ends well.
pub(super) fn prove(world: &World, image: &Image) -> Result<(), String> {
    world.check_at_rest(image)?;
    let mut disk = world.disk(image, false);
    world.go_on(&mut disk).map_err(|error| error.to_string())?;
    world.check_done(&disk)
}

/// Several disks of one mode, all crashes of each.
fn small_disks_lose_nothing(mode: JobMode) {
    let all = Choices { pieces: 2, all_below: 20, samples: 0 };
    let mut total = Count::default();
    for holes in [Holes::Dense, Holes::Zero] {
        for (units, zone_units) in [(1, 1), (3, 1), (5, 2), (4, 3)] {
            let shape = Shape { mode, holes, units, zone_units, seed: units as u64, ..SMALL };
            let begun = std::time::Instant::now();
            let count = explore(shape, all, all).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
            println!("{shape:?}: {count:?} {:?}", begun.elapsed());
            total.histories += count.histories;
            total.distinct += count.distinct;
        }
    }
    println!("{mode:?}: {} crash histories, {} distinct disks recovered", total.histories, total.distinct);
    assert!(total.histories >= 4_000_000, "{total:?}");
}

#[test]
fn every_crash_of_an_encryption_loses_nothing() {
    small_disks_lose_nothing(JobMode::Encrypt);
}

#[test]
fn every_crash_of_a_decryption_loses_nothing() {
    small_disks_lose_nothing(JobMode::Decrypt);
}

#[test]
fn every_crash_of_a_deep_recrypt_loses_nothing() {
    small_disks_lose_nothing(JobMode::Recrypt);
}

/// Disks too large for all crashes: random ones, up to three in a row, each inside the recovery from the one before, with
/// writes torn into up to eight parts.
fn wander(shape: Shape, walks: usize) -> Result<(), String> {
    let world = World::new(shape);
    let mut random = Random::new(shape.seed);
    let mut whole = world.disk(&world.untouched(), true);
    world.go_on(&mut whole).map_err(|error| error.to_string())?;
    world.check_done(&whole)?;
    let first = whole.moments();
    for _ in 0..walks {
        let mut image = any_image(&first[random.below(first.len())], 8, &mut random);
        for _ in 0..random.below(3) {
            world.check_at_rest(&image)?;
            let mut disk = world.disk(&image, true);
            let repaired =
                random.below(4) == 0 && world.repair(&mut disk).map_err(|error| error.to_string())?;
            if !repaired {
                world.go_on(&mut disk).map_err(|error| error.to_string())?;
            }
            let moments = disk.moments();
            image = any_image(&moments[random.below(moments.len())], 8, &mut random);
        }
        prove(&world, &image)?;
    }
    Ok(())
}

#[test]
fn random_crashes_of_larger_disks_lose_nothing() {
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            for (units, zone_units, piece_units) in [(40, 7, 2), (64, 16, 5), (33, 1, 1)] {
                let seed = units as u64 * 31 + mode as u64;
                let shape = Shape { mode, holes, units, zone_units, piece_units, seed, ..SMALL };
                wander(shape, 2000).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
            }
        }
    }
}

#[test]
fn random_crashes_of_larger_disks_find_what_is_planted() {
    for planted in [Planted::NoJournalBarrier, Planted::NoDiskBarrier, Planted::SlotFirst] {
        for mode in MODES {
            let shape = Shape { mode, planted, units: 40, zone_units: 7, piece_units: 2, ..SMALL };
            assert!(wander(shape, 2000).is_err(), "{shape:?}");
        }
    }
}

/// The same explorer finds each way to get the order wrong.
fn is_found(planted: Planted) {
    let all = Choices { pieces: 2, all_below: 20, samples: 0 };
    for mode in MODES {
        let shape = Shape { mode, planted, ..SMALL };
        let found = explore(shape, all, all);
        assert!(found.is_err(), "{shape:?}: {found:?}");
    }
}

#[test]
fn a_planted_job_without_the_journal_barrier_is_found() {
    is_found(Planted::NoJournalBarrier);
}

#[test]
fn a_planted_job_without_the_disk_barrier_is_found() {
    is_found(Planted::NoDiskBarrier);
}

#[test]
fn a_planted_slot_that_runs_ahead_of_the_data_is_found() {
    is_found(Planted::SlotFirst);
}

#[test]
fn a_planted_single_journal_area_is_found() {
    let all = Choices { pieces: 2, all_below: 20, samples: 0 };
    for mode in MODES {
        let found = explore(Shape { mode, areas: 1, ..SMALL }, all, all);
        assert!(found.is_err(), "{mode:?}: {found:?}");
    }
}
