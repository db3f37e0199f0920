//! Every storage call failing, once or from then on, and what is left then: recovered from at once by a new process, or after
//! the power went as well.

use rustix::io::Errno;

use super::super::JobMode;
use super::super::model::crash::{Choices, Random, images};
use super::super::model::world::{Shape, World};
use super::super::model::{Fault, FaultPlan, ModelDisk, Planted};
use super::crashes::{MODES, SMALL, prove};
use crate::descriptor::Holes;

const CHOICES: Choices = Choices { pieces: 2, all_below: 4, samples: 4 };

/// Fails call after call of one job until the job has no more calls; the number of failures tried.
fn fail_every_call(shape: Shape, fault: Fault, forever: bool) -> Result<u64, String> {
    let world = World::new(shape);
    let mut random = Random::new(shape.seed);
    for at in 0.. {
        let mut disk = world.disk(&world.untouched(), true);
        disk.fail(Some(FaultPlan { fault, at, forever }));
        let outcome = world.go_on(&mut disk);
        if disk.calls() <= at {
            return outcome.map(|()| at).map_err(|error| error.to_string());
        }
        disk.fail(None);
        let told = |error: String| format!("call {at} {fault:?} forever {forever}: {error}");
        match outcome {
            Ok(()) => world.check_done(&disk).map_err(told)?,
            Err(error) if error.code() == code_of(fault) => {}
            Err(error) => return Err(told(format!("the failure is told as {}", error.code()))),
        }
        recover(&world, disk, &mut random).map_err(told)?;
    }
    unreachable!("a job has an end")
}

/// The code of the error that a user sees.
fn code_of(fault: Fault) -> &'static str {
    match fault {
        Fault::Error(Errno::NOSPC) | Fault::Sync(Errno::NOSPC) => "VMSEAL_NO_SPACE",
        _ => "VMSEAL_IO",
    }
}

/// The power goes right after the failure; or a new process goes on, and the power goes in the middle of that.
fn recover(world: &World, mut disk: ModelDisk, random: &mut Random) -> Result<(), String> {
    power_cuts(world, &mut disk, random)?;
    disk.reopen(true);
    world.go_on(&mut disk).map_err(|error| format!("going on: {error}"))?;
    world.check_done(&disk)?;
    power_cuts(world, &mut disk, random)
}

fn power_cuts(world: &World, disk: &mut ModelDisk, random: &mut Random) -> Result<(), String> {
    let mut failure = Ok(());
    for moment in disk.moments() {
        images(&moment, CHOICES, random, |image| {
            if failure.is_ok() {
                failure = prove(world, image);
            }
        });
    }
    failure
}

fn every_shape(fault: Fault, forever: bool) {
    let mut tried = 0;
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            let shape = Shape { mode, holes, ..SMALL };
            tried +=
                fail_every_call(shape, fault, forever).unwrap_or_else(|error| panic!("{shape:?}: {error}"));
        }
    }
    // Some sixty calls a job, a dozen of them syncs.
    assert!(tried > 60, "{tried}");
}

#[test]
fn any_call_that_fails_once_loses_nothing() {
    for errno in [Errno::IO, Errno::NOSPC] {
        every_shape(Fault::Error(errno), false);
    }
}

#[test]
fn any_call_from_which_on_all_fail_loses_nothing() {
    for errno in [Errno::IO, Errno::NOSPC, Errno::INTR] {
        every_shape(Fault::Error(errno), true);
    }
}

#[test]
fn a_failed_sync_is_never_trusted() {
    for errno in [Errno::IO, Errno::NOSPC] {
        every_shape(Fault::Sync(errno), false);
        every_shape(Fault::Sync(errno), true);
    }
}

#[test]
fn interrupted_and_short_calls_go_on() {
    for fault in [Fault::Error(Errno::INTR), Fault::Short] {
        every_shape(fault, false);
    }
    every_shape(Fault::Short, true);
}

#[test]
fn planted_trust_in_memory_after_a_failed_sync_is_found() {
    let shape = Shape { planted: Planted::TrustMemory, mode: JobMode::Encrypt, ..SMALL };
    let found = fail_every_call(shape, Fault::Sync(Errno::IO), false);
    assert!(found.is_err(), "{found:?}");
}
