/// The steps of RFC 3394 over that many semiblocks.
pub(super) fn steps(semiblocks: usize) -> usize {
    6 * semiblocks
}

/// The step numbers `t` that are xored into A before and after step `step` (from 0). Wrapping xors after each step
/// (RFC 3394 section 2.2.1), unwrapping before it (2.2.2), which is after the step before.
#[inline]
pub(super) fn to_fold<const ENCRYPT: bool>(step: usize, semiblocks: usize) -> (u64, u64) {
    let step = step as u64;
    if ENCRYPT {
        (if step == 0 { 0 } else { step }, step + 1)
    } else {
        let left = 6 * semiblocks as u64 - step;
        (left, left - 1)
    }
}
