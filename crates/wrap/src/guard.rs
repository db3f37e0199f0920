//! The frame around every piece of work on keys.

use std::hint::black_box;

use crate::Error;

/// Above the deepest call chain of this crate (X25519 and portable AES schedules are a few KiB each).
const STACK: usize = 48 * 1024;

/// Above the frame of a key wrap kernel, which spills a few round keys.
#[cfg(target_arch = "x86_64")]
pub(crate) const SHALLOW_STACK: usize = 2 * 1024;

/// Runs `work`, then wipes the stack it used: ciphers are built by value, so round keys and hash states pass through
/// frames that no `Drop` reaches.
///
/// A result is given out only while the keys are alive: `wiped()` is set before the first key byte is cleared, so
/// whatever was made with an already cleared key is refused here.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    guarded_above::<T, STACK>(work)
}

/// [`guarded`] for work that wipes its schedules, its registers and the stack below it itself: what is left are the
/// temporaries of its own frame. Wiping much more would take longer than the work.
#[cfg(target_arch = "x86_64")]
pub(crate) fn guarded_shallow<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    guarded_above::<T, SHALLOW_STACK>(work)
}

fn guarded_above<T, const STACK: usize>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let result = run(work);
    wipe_dead_stack::<STACK>();
    if vmseal_secret::wiped() {
        return Err(vmseal_secret::Error::ShuttingDown.into());
    }
    result
}

/// Fills a public value (nonce, salt) with random bytes of the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| Error::Random)?;
    Ok(bytes)
}

// Not inlined: its frame must begin where the frame of `wipe_dead_stack` begins.
#[inline(never)]
fn run<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    work()
}

/// Wipes `STACK` bytes below the caller's frame. What is to be wiped must have been left by functions that were not
/// inlined into the caller.
#[inline(never)]
pub(crate) fn wipe_dead_stack<const STACK: usize>() {
    // Seen by `black_box`, so the compiler writes the zeros, and in one go.
    let mut area = [0u8; STACK];
    black_box(&mut area);
}
