//! Overwriting the stack below a frame, so that key bytes spilled there by callees do not stay.

use std::hint::black_box;

const FRAME: usize = 8 * 1024;
const FRAMES: usize = 8;

/// Runs `f` in a frame of its own, then overwrites 64 KiB of the stack that `f` used.
///
/// Registers are not touched: they are reused by the calls that follow.
pub(crate) fn scrubbed<R>(f: impl FnOnce() -> R) -> R {
    scrubbed_unless(f, |_| false)
}

/// [`scrubbed`], unless the result says that there is nothing to overwrite.
#[inline(never)]
pub(crate) fn scrubbed_unless<R>(f: impl FnOnce() -> R, is_clean: impl FnOnce(&R) -> bool) -> R {
    let result = apart(f);
    if !is_clean(&result) {
        overwrite(FRAMES);
    }
    result
}

#[inline(never)]
fn apart<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[inline(never)]
fn overwrite(frames: usize) {
    let mut frame = [0u8; FRAME];
    black_box(&mut frame);
    if frames > 1 {
        overwrite(frames - 1);
    }
    // Keeps this frame alive across the call, so that the frames are really stacked.
    black_box(&frame);
}
