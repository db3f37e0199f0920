//! Every power cut of a job, every second one while the first is recovered from, and every failing call.
//!
//! A history is a choice of what reached the disk when the power went, and the same choice again inside the recovery. Jobs
//! are deterministic, so histories that leave the same bytes have the same future, which is run once.

use std::collections::{HashMap, HashSet};
use std::io::{Write as _, stderr};

use rustix::io::Errno;

use super::crash::{Choices, Random, any_image, fingerprint, images};
use super::{Fault, FaultPlan, Image, ModelDisk, Moment};
use crate::error::Result;

/// All subsets of what was not durable, each write torn in two.
pub(crate) const ALL: Choices = Choices { pieces: 2, all_below: 20, samples: 0 };

/// A job on a model disk, and what must hold for it.
pub(crate) trait Explored {
    fn seed(&self) -> u64;
    /// The disk before the job.
    fn untouched(&self) -> Image;
    /// A model disk with this content, as a process that begins finds it; every write to it is looked at.
    fn disk(&self, image: &Image, record: bool) -> ModelDisk;
    /// What a user does: start the job or go on with it, whatever the disk asks for.
    fn go_on(&self, disk: &mut ModelDisk) -> Result<()>;
    /// What may be done without a key; `false`: nothing.
    fn repair(&self, _: &mut ModelDisk) -> Result<bool> {
        Ok(false)
    }
    /// What holds for every disk at rest, whatever happened.
    fn check_at_rest(&self, image: &Image) -> Result<(), String>;
    /// What holds at every moment, whatever a power cut then leaves.
    fn check_moment(&self, _: &Moment) -> Result<(), String> {
        Ok(())
    }
    /// What holds when a job has ended.
    fn check_done(&self, disk: &ModelDisk) -> Result<(), String>;
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) histories: u64,
    /// Disks that were recovered.
    pub(crate) distinct: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.histories += other.histories;
        self.distinct += other.distinct;
    }
}

/// Says it past the harness, which keeps what a test that passes prints: `npm test` adds these lines up.
pub(crate) fn tell(what: &str, count: Count) {
    let Count { histories, distinct } = count;
    let line = format!("crash histories of {what}: {histories}, {distinct} distinct disks recovered\n");
    stderr().write_all(line.as_bytes()).expect("the error stream");
}

/// The job with every crash, from each of those the recovery with every crash, from each of those a recovery to the end.
/// The first history that loses something is the error.
pub(crate) fn explore(world: &impl Explored, first: Choices, second: Choices) -> Result<Count, String> {
    let mut random = Random::new(world.seed());
    let mut count = Count::default();
    let mut after_first: HashMap<u128, (Image, u64)> = HashMap::new();
    for moment in whole(world)?.moments() {
        world.check_moment(&moment)?;
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
                world.check_moment(&moment)?;
                let mut failure = Ok(());
                images(&moment, second, &mut random, |image| {
                    count.histories += times;
                    if failure.is_ok() && proven.insert(fingerprint(image)) {
                        failure = prove(world, image);
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
pub(crate) fn prove(world: &impl Explored, image: &Image) -> Result<(), String> {
    world.check_at_rest(image)?;
    let mut disk = world.disk(image, false);
    world.go_on(&mut disk).map_err(|error| error.to_string())?;
    world.check_done(&disk)
}

/// Disks too large for all crashes: random ones, up to three in a row, each inside the recovery from the one before, with
/// writes torn into up to eight parts.
pub(crate) fn wander(world: &impl Explored, walks: usize) -> Result<(), String> {
    let mut random = Random::new(world.seed());
    let first = whole(world)?.moments();
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
            moments.iter().try_for_each(|moment| world.check_moment(moment))?;
            image = any_image(&moments[random.below(moments.len())], 8, &mut random);
        }
        prove(world, &image)?;
    }
    Ok(())
}

/// The job from its start to its end, nothing happening to it.
fn whole(world: &impl Explored) -> Result<ModelDisk, String> {
    let mut disk = world.disk(&world.untouched(), true);
    world.go_on(&mut disk).map_err(|error| error.to_string())?;
    world.check_done(&disk)?;
    Ok(disk)
}

const AFTER_FAILURE: Choices = Choices { pieces: 2, all_below: 4, samples: 4 };

/// Fails call after call of one job until the job has no more calls; the number of failures tried. What each leaves is
/// recovered from at once by a new process, or after the power went as well.
pub(crate) fn fail_every_call(world: &impl Explored, fault: Fault, forever: bool) -> Result<u64, String> {
    let mut random = Random::new(world.seed());
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
        recover(world, disk, &mut random).map_err(told)?;
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
fn recover(world: &impl Explored, mut disk: ModelDisk, random: &mut Random) -> Result<(), String> {
    power_cuts(world, &mut disk, random)?;
    disk.reopen(true);
    world.go_on(&mut disk).map_err(|error| format!("going on: {error}"))?;
    world.check_done(&disk)?;
    power_cuts(world, &mut disk, random)
}

fn power_cuts(world: &impl Explored, disk: &mut ModelDisk, random: &mut Random) -> Result<(), String> {
    let mut failure = Ok(());
    for moment in disk.moments() {
        world.check_moment(&moment)?;
        images(&moment, AFTER_FAILURE, random, |image| {
            if failure.is_ok() {
                failure = prove(world, image);
            }
        });
    }
    failure
}
