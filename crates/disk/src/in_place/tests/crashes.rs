//! Every power cut, and every second one while the first is recovered from.
//!
//! A history is a choice of what reached the disk when the power went, and the same choice again inside the recovery. The
//! engine is deterministic, so histories that leave the same bytes have the same future, which is run once.

use std::collections::{HashMap, HashSet};

use super::super::JobMode;
use super::super::model::crash::{Choices, Random, fingerprint, images};
use super::super::model::world::{Shape, World};
use super::super::model::{Image, Planted};
use crate::descriptor::Holes;

const MODES: [JobMode; 3] = [JobMode::Encrypt, JobMode::Decrypt, JobMode::Recrypt];

const SMALL: Shape = Shape {
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
fn prove(world: &World, image: &Image) -> Result<(), String> {
    world.check_at_rest(image)?;
    let mut disk = world.disk(image, false);
    world.go_on(&mut disk).map_err(|error| error.to_string())?;
    world.check_done(&disk)
}

#[test]
fn every_crash_of_small_disks_loses_nothing() {
    let all = Choices { pieces: 2, all_below: 20, samples: 0 };
    let mut total = Count::default();
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            for (units, zone_units) in [(1, 1), (3, 1), (5, 2), (7, 3)] {
                let shape = Shape { mode, holes, units, zone_units, seed: units as u64, ..SMALL };
                let begun = std::time::Instant::now();
                let count = explore(shape, all, all).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
                println!("{shape:?}: {count:?} {:?}", begun.elapsed());
                total.histories += count.histories;
                total.distinct += count.distinct;
            }
        }
    }
    println!("{} crash histories, {} distinct disks recovered", total.histories, total.distinct);
    assert!(total.histories >= 10_000_000, "{total:?}");
}
