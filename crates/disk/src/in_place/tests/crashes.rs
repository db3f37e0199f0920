//! Every power cut of a job in place, and every second one while the first is recovered from.

use std::thread::{self, ScopedJoinHandle};

use super::super::JobMode;
use super::super::model::Planted;
use super::super::model::explore::{ALL, Count, explore, tell, wander};
use super::super::model::world::{Shape, World};
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

/// Several disks of one mode, all crashes of each.
fn small_disks_lose_nothing(mode: JobMode) -> Count {
    let mut total = Count::default();
    for holes in [Holes::Dense, Holes::Zero] {
        for (units, zone_units) in [(1, 1), (3, 1), (5, 2), (4, 3)] {
            let shape = Shape { mode, holes, units, zone_units, seed: units as u64, ..SMALL };
            let count = explore(&World::new(shape), ALL, ALL);
            let count = count.unwrap_or_else(|error| panic!("{shape:?}: {error}"));
            println!("{shape:?}: {count:?}");
            total.add(count);
        }
    }
    tell(mode.as_str(), total);
    total
}

/// The number of histories is a promise: it may rise, and falls only where somebody says why.
#[test]
fn thirty_million_crashes_of_jobs_in_place_lose_nothing() {
    let counts = thread::scope(|scope| {
        MODES.map(|mode| scope.spawn(move || small_disks_lose_nothing(mode))).map(ScopedJoinHandle::join)
    });
    let counts = counts.map(|count| count.expect("nothing is lost").histories);
    assert!(counts.iter().all(|&histories| histories >= 11_000_000), "{counts:?}");
    assert!(counts.iter().sum::<u64>() >= 33_000_000, "{counts:?}");
}

#[test]
fn random_crashes_of_larger_disks_lose_nothing() {
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            for (units, zone_units, piece_units) in [(40, 7, 2), (64, 16, 5), (33, 1, 1)] {
                let seed = units as u64 * 31 + mode as u64;
                let shape = Shape { mode, holes, units, zone_units, piece_units, seed, ..SMALL };
                wander(&World::new(shape), 2000).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
            }
        }
    }
}

#[test]
fn random_crashes_of_larger_disks_find_what_is_planted() {
    for planted in [Planted::NoJournalBarrier, Planted::NoDiskBarrier, Planted::SlotFirst] {
        for mode in MODES {
            let shape = Shape { mode, planted, units: 40, zone_units: 7, piece_units: 2, ..SMALL };
            assert!(wander(&World::new(shape), 2000).is_err(), "{shape:?}");
        }
    }
}

/// The same explorer finds each way to get the order wrong.
fn is_found(planted: Planted) {
    for mode in MODES {
        let shape = Shape { mode, planted, ..SMALL };
        let found = explore(&World::new(shape), ALL, ALL);
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
    for mode in MODES {
        let found = explore(&World::new(Shape { mode, areas: 1, ..SMALL }), ALL, ALL);
        assert!(found.is_err(), "{mode:?}: {found:?}");
    }
}
