//! The frame around every piece of work on keys.

use std::hint::black_box;

use zeroize::Zeroize;

use crate::Error;

/// Above the deepest call chain of this crate (X25519 and portable AES schedules are a few KiB each).
const STACK_WORDS: usize = 48 * 1024 / 8;

/// Runs `work`, then wipes the stack it used: ciphers are built by value, so round keys and hash states pass through
/// frames that no `Drop` reaches.
///
/// A result is given out only while the keys are alive: `wiped()` is set before the first key byte is cleared, so
/// whatever was made with an already cleared key is refused here.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let result = run(work);
    wipe_dead_stack();
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

#[inline(never)]
fn wipe_dead_stack() {
    let mut area = [0u64; STACK_WORDS];
    area.zeroize();
    black_box(&area);
}
