use std::arch::asm;
use std::arch::x86_64::*;

use super::block::{Block, four_below, get_four, set_four};
use super::schedule::RoundKeys;
use super::steps::{first_number, number_after, semiblock_of, steps};

/// As [`super::aesni::run`] with four lanes in each of `VECTORS` 512-bit registers. Four vectors are the fewest that
/// keep the AES unit busy (one round a cycle, latency four); eight also hide the merge between two steps. The 15 round
/// keys and eight states fit the 32 registers.
#[inline(never)]
#[target_feature(enable = "aes,avx512f,vaes")]
pub(super) fn run<const ENCRYPT: bool, const VECTORS: usize>(
    keys: &RoundKeys,
    a: &mut [Block],
    r: &mut [Block],
) {
    let lanes = 4 * VECTORS;
    let semiblocks = r.len() / lanes;
    let mut round_keys = [_mm512_setzero_si512(); 15];
    for (wide, key) in round_keys.iter_mut().zip(keys) {
        *wide = _mm512_broadcast_i32x4(key.get());
    }
    let whitening = round_keys[0];
    let last = _mm512_xor_si512(round_keys[14], whitening);
    let first = number(first_number::<ENCRYPT>(semiblocks));
    let mut state = [_mm512_setzero_si512(); VECTORS];
    for (state, four) in state.iter_mut().zip(a.chunks_exact(4)) {
        *state = _mm512_xor_si512(_mm512_xor_si512(get_four(four), whitening), first);
    }
    for four in r.chunks_exact_mut(4) {
        set_four(four, _mm512_xor_si512(get_four(four), whitening));
    }
    for step in 0..steps(semiblocks) {
        let at = semiblock_of::<ENCRYPT>(step, semiblocks);
        let row = &mut r[at * lanes..][..lanes];
        for (state, four) in state.iter_mut().zip(row.chunks_exact(4)) {
            *state = four_below(four, *state);
        }
        for key in &round_keys[1..14] {
            for state in &mut state {
                *state = if ENCRYPT {
                    _mm512_aesenc_epi128(*state, *key)
                } else {
                    _mm512_aesdec_epi128(*state, *key)
                };
            }
            pin(&mut state);
        }
        let key = _mm512_xor_si512(last, number(number_after::<ENCRYPT>(step, semiblocks)));
        for (state, four) in state.iter_mut().zip(row.chunks_exact_mut(4)) {
            *state = if ENCRYPT {
                _mm512_aesenclast_epi128(*state, key)
            } else {
                _mm512_aesdeclast_epi128(*state, key)
            };
            set_four(four, *state);
        }
    }
    for (state, four) in state.into_iter().zip(a.chunks_exact_mut(4)) {
        set_four(four, _mm512_xor_si512(state, whitening));
    }
    for four in r.chunks_exact_mut(4) {
        set_four(four, _mm512_xor_si512(get_four(four), whitening));
    }
}

/// A step number as it is xored into every A: 64 bits, big-endian.
#[inline]
#[target_feature(enable = "avx512f")]
fn number(step: u64) -> __m512i {
    _mm512_maskz_set1_epi64(0b0101_0101, step.swap_bytes().cast_signed())
}

/// See `pin` of the AES-NI kernel.
#[inline]
#[target_feature(enable = "avx512f")]
fn pin<const VECTORS: usize>(state: &mut [__m512i; VECTORS]) {
    for state in state {
        let mut pinned = *state;
        // SAFETY: the block has no instruction.
        unsafe {
            asm!("/* {0} */", inout(zmm_reg) pinned, options(nomem, nostack, preserves_flags));
        }
        *state = pinned;
    }
}
