//! Every storage call failing, once or from then on, and what is left then: recovered from at once by a new process, or after
//! the power went as well.

use rustix::io::Errno;

use super::super::JobMode;
use super::super::model::explore::fail_every_call;
use super::super::model::world::{Shape, World};
use super::super::model::{Fault, Planted};
use super::crashes::{MODES, SMALL};
use crate::descriptor::Holes;

fn every_shape(fault: Fault, forever: bool) {
    let mut tried = 0;
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            let shape = Shape { mode, holes, ..SMALL };
            tried += fail_every_call(&World::new(shape), fault, forever)
                .unwrap_or_else(|error| panic!("{shape:?}: {error}"));
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
    let found = fail_every_call(&World::new(shape), Fault::Sync(Errno::IO), false);
    assert!(found.is_err(), "{found:?}");
}
