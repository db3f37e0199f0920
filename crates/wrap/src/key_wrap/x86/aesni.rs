use std::arch::asm;
use std::arch::x86_64::*;

use super::block::Block;
use super::schedule::RoundKeys;
use super::steps::{first_number, number_after, semiblock_of, steps};

/// Passes `LANES` independent keys through RFC 3394, in place. One lane runs at the latency of the AES unit, eight at
/// its throughput (two rounds a cycle, latency four).
///
/// The chain of a step is one merge and 14 rounds and nothing else: the whitening by round key 0 of the next step and
/// the step number are folded into the last round key of this one, so the state is always
/// `(A ^ t ^ key 0 low | R ^ key 0 high)`.
#[inline(never)]
#[target_feature(enable = "aes,avx")]
pub(super) fn run<const ENCRYPT: bool, const LANES: usize>(
    keys: &RoundKeys,
    a: &mut [Block; LANES],
    r: &mut [Block],
) {
    let whitening = keys[0].get();
    let last = _mm_xor_si128(keys[14].get(), whitening);
    let semiblocks = r.len() / LANES;
    let first = number(first_number::<ENCRYPT>(semiblocks));
    let mut state = [_mm_setzero_si128(); LANES];
    for (state, a) in state.iter_mut().zip(a.iter()) {
        *state = _mm_xor_si128(_mm_xor_si128(a.get(), whitening), first);
    }
    for block in r.iter_mut() {
        block.set(_mm_xor_si128(block.get(), whitening));
    }
    for step in 0..steps(semiblocks) {
        let at = semiblock_of::<ENCRYPT>(step, semiblocks);
        let row = &mut r[at * LANES..][..LANES];
        for (state, block) in state.iter_mut().zip(row.iter()) {
            *state = block.below(*state);
        }
        for key in &keys[1..14] {
            let key = key.get();
            for state in &mut state {
                *state = if ENCRYPT { _mm_aesenc_si128(*state, key) } else { _mm_aesdec_si128(*state, key) };
            }
            pin(&mut state);
        }
        let key = _mm_xor_si128(last, number(number_after::<ENCRYPT>(step, semiblocks)));
        for (state, block) in state.iter_mut().zip(row) {
            *state =
                if ENCRYPT { _mm_aesenclast_si128(*state, key) } else { _mm_aesdeclast_si128(*state, key) };
            block.set(*state);
        }
    }
    for (state, a) in state.into_iter().zip(a) {
        a.set(_mm_xor_si128(state, whitening));
    }
    for block in r {
        block.set(_mm_xor_si128(block.get(), whitening));
    }
}

/// A step number as it is xored into A: 64 bits, big-endian.
#[inline]
#[target_feature(enable = "avx")]
fn number(step: u64) -> __m128i {
    _mm_cvtsi64_si128(step.swap_bytes().cast_signed())
}

/// Assembly blocks that do nothing, which the compiler cannot know: they keep the rounds of the lanes interleaved as
/// written, where LLVM's scheduler would group them by lane.
#[inline]
#[target_feature(enable = "avx")]
fn pin<const LANES: usize>(state: &mut [__m128i; LANES]) {
    if LANES > 1 {
        for state in state {
            let mut pinned = *state;
            // SAFETY: the block has no instruction.
            unsafe {
                asm!("/* {0} */", inout(xmm_reg) pinned, options(nomem, nostack, preserves_flags));
            }
            *state = pinned;
        }
    }
}
