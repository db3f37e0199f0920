//! Wiping everything at once: at exit, and on request.

use std::sync::atomic::{AtomicBool, Ordering, fence};

use crate::arena;
use crate::error::Error;

static WIPED: AtomicBool = AtomicBool::new(false);
static FORKED: AtomicBool = AtomicBool::new(false);

/// Wipes every secret of the process now, and for good: from here on every new secret is refused with
/// [`Error::ShuttingDown`]. Runs by itself at `exit`; safe to call again and from any thread; never blocks.
///
/// Secrets that still exist stay valid objects that read as zeros; dropping them is harmless. See the crate
/// documentation for what a thread that is ciphering at the same moment has to check.
pub fn wipe_all() {
    // In a forked child the key pages do not exist.
    if forked() {
        return;
    }
    WIPED.store(true, Ordering::SeqCst);
    // The flag is visible before the first zero is: a reader that met a zeroed key byte cannot miss the flag.
    fence(Ordering::SeqCst);
    arena::wipe_regions();
    fence(Ordering::SeqCst);
}

/// Whether [`wipe_all`] has begun. Check it *after* ciphering and *before* the result leaves: when it says `false`,
/// the result was made with the true key.
#[inline]
pub fn wiped() -> bool {
    // Keeps the caller's reads of the key before the read of the flag, on every processor: whoever read a zero of
    // `wipe_all` has its flag, too. No more than that is needed, and a full fence takes longer than a small sector.
    fence(Ordering::Acquire);
    WIPED.load(Ordering::Relaxed)
}

/// [`wiped`] for who has just *written* a secret: either `wipe_all` passes its place after the writing, or this is true.
pub(crate) fn wiped_after_writing() -> bool {
    // Keeps the writes before the read of the flag, which only a full fence does.
    fence(Ordering::SeqCst);
    WIPED.load(Ordering::SeqCst)
}

/// Whether this process is a fork (without exec) of the one the secrets belong to.
pub(crate) fn forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Has the arena wiped at exit and its absence noted in forked children. Called with the arena locked.
pub(crate) fn register() -> Result<(), Error> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return Ok(());
    }
    // SAFETY: `in_child` stores to an atomic and nothing else, which a forked child may do.
    let errno = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    if errno != 0 {
        return Err(Error::Unavailable { operation: "pthread_atfork", errno });
    }
    // SAFETY: `at_exit` takes nothing, never unwinds, and touches only statics and regions that are never unmapped.
    if unsafe { libc::atexit(at_exit) } != 0 {
        return Err(Error::Unavailable { operation: "atexit", errno: libc::ENOMEM });
    }
    DONE.store(true, Ordering::Relaxed);
    Ok(())
}

extern "C" fn at_exit() {
    wipe_all();
}

extern "C" fn in_child() {
    FORKED.store(true, Ordering::Relaxed);
}
