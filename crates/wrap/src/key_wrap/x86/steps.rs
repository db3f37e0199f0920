/// The steps of RFC 3394 over that many semiblocks.
pub(super) fn steps(semiblocks: usize) -> usize {
    6 * semiblocks
}

/// What is xored into A before the first step: unwrapping begins with the last step number (RFC 3394 section 2.2.2).
pub(super) fn first_number<const ENCRYPT: bool>(semiblocks: usize) -> u64 {
    if ENCRYPT { 0 } else { steps(semiblocks) as u64 }
}

/// What is xored into A after step `step` (from 0). Wrapping adds its number after each step (RFC 3394 section 2.2.1);
/// unwrapping takes the number of the next step away before that one, which comes to the same.
#[inline]
pub(super) fn number_after<const ENCRYPT: bool>(step: usize, semiblocks: usize) -> u64 {
    if ENCRYPT { step as u64 + 1 } else { (steps(semiblocks) - step - 1) as u64 }
}

/// The semiblock that step `step` works on.
#[inline]
pub(super) fn semiblock_of<const ENCRYPT: bool>(step: usize, semiblocks: usize) -> usize {
    let at = step % semiblocks;
    if ENCRYPT { at } else { semiblocks - 1 - at }
}
