use std::arch::asm;
use std::arch::x86_64::*;

use super::rounds::{for_each_inner_round, keep_in_memory, pin};
use super::schedule::{RoundKeys, Schedule};
use super::stripes::STRIPE;
use super::vaes512::{LANES, LOW_HALVES, XOR3, four_numbers, last_round, round};
use crate::run::{Direction, Run};

/// Whether a run is short: up to four sectors (their tweaks fit one register) and 4 KiB.
///
/// Such a run is too short to hide the start of the integer tweak chain and the wiping of its scratch memory, so here
/// the tweaks are made in vector registers and never stored.
pub(super) fn is_short(run: &Run<'_>) -> bool {
    (1..=4).contains(&run.sectors) && run.length() <= 4096
}

/// Ciphers a short run.
///
/// # Safety
/// The CPU supports VAES-512; [`is_short`] said so.
#[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
pub(super) unsafe fn cipher_short_run(schedule: &Schedule, direction: Direction, run: &Run<'_>) {
    let tweaks = encrypt_tweaks(&schedule.tweak, run.first_tweak, run.tweak_step);
    // SAFETY: promised by the caller.
    unsafe {
        match direction {
            Direction::Encrypt => cipher::<true>(&schedule.encrypt, tweaks, run),
            Direction::Decrypt => cipher::<false>(&schedule.decrypt, tweaks, run),
        }
    }
}

/// The encrypted tweaks of four sectors.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64) -> __m512i {
    let mut block = _mm512_xor_si512(four_numbers(first, step), keys[0].x4());
    for key in &keys[1..14] {
        block = _mm512_aesenc_epi128(block, key.x4());
    }
    _mm512_aesenclast_epi128(block, keys[14].x4())
}

#[inline]
#[target_feature(enable = "avx512f,vaes,vpclmulqdq")]
unsafe fn cipher<const ENCRYPT: bool>(keys: &RoundKeys, sector_tweaks: __m512i, run: &Run<'_>) {
    let (mut source, mut destination) = (run.source, run.destination);
    let stripes = run.sector_size / STRIPE;
    for sector in 0..run.sectors {
        let mut tweaks = stripe_tweaks(sector_tweaks, sector);
        // SAFETY: all stripes lie within both buffers.
        unsafe {
            for _ in 1..stripes {
                tweaks = cipher_stripe::<ENCRYPT, true>(keys, source, destination, &tweaks);
                source = source.wrapping_add(STRIPE);
                destination = destination.wrapping_add(STRIPE);
            }
            cipher_stripe::<ENCRYPT, false>(keys, source, destination, &tweaks);
        }
        source = source.wrapping_add(STRIPE);
        destination = destination.wrapping_add(STRIPE);
    }
}

/// The 32 tweaks of the first stripe of a sector: its encrypted tweak times the powers 0 to 31.
#[inline]
#[target_feature(enable = "avx512f,vpclmulqdq")]
fn stripe_tweaks(sector_tweaks: __m512i, sector: usize) -> [__m512i; LANES] {
    let halves = _mm512_set_epi64(1, 0, 1, 0, 1, 0, 1, 0);
    let index = _mm512_add_epi64(halves, _mm512_set1_epi64((2 * sector as u64).cast_signed()));
    let tweak = _mm512_permutexvar_epi64(index, sector_tweaks);
    let mut tweaks = [tweak; LANES];
    let mut powers = _mm512_set_epi64(3, 3, 2, 2, 1, 1, 0, 0);
    for tweak in &mut tweaks {
        let shifted = _mm512_sllv_epi64(*tweak, powers);
        let fallen = _mm512_srlv_epi64(*tweak, _mm512_sub_epi64(_mm512_set1_epi64(64), powers));
        // What falls out of the low half goes into the high one.
        let moved = _mm512_unpacklo_epi64(_mm512_setzero_si512(), fallen);
        // What falls out of the high half comes back times x^7 + x^2 + x + 1. A carry-less multiplication takes AES
        // slots, but nothing uses them yet, and it is quicker than shifts.
        let reduced = _mm512_clmulepi64_epi128::<0x01>(fallen, _mm512_set1_epi64(0x87));
        *tweak = _mm512_ternarylogic_epi64::<XOR3>(shifted, moved, reduced);
        powers = _mm512_add_epi64(powers, _mm512_set1_epi64(4));
    }
    tweaks
}

/// Ciphers a stripe and, if there is a `NEXT` one in the sector, gives its tweaks.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn cipher_stripe<const ENCRYPT: bool, const NEXT: bool>(
    keys: &RoundKeys,
    source: *const u8,
    destination: *mut u8,
    tweaks: &[__m512i; LANES],
) -> [__m512i; LANES] {
    // With eight blocks and sixteen tweaks there are too few registers for the round keys.
    let keys = keep_in_memory(keys);
    let mut next = [_mm512_setzero_si512(); LANES];
    // SAFETY: promised by the caller.
    unsafe {
        let mut blocks = [_mm512_setzero_si512(); LANES];
        for (lane, block) in blocks.iter_mut().enumerate() {
            let data = _mm512_loadu_si512(source.add(lane * 64).cast());
            *block = _mm512_ternarylogic_epi64::<XOR3>(data, tweaks[lane], keys[0].x4());
        }
        for_each_inner_round!(ROUND => {
            for block in &mut blocks {
                *block = round::<ENCRYPT>(*block, keys[ROUND].x4());
            }
            pin!(zmm_reg, blocks);
            if NEXT && FIRST_UPDATE <= ROUND && ROUND < FIRST_UPDATE + LANES {
                let lane = ROUND - FIRST_UPDATE;
                next[lane] = times_x32(tweaks[lane]);
                // Pins the update between the rounds, as `pin` does with the blocks.
                asm!("/* {0} */", inout(zmm_reg) next[lane], options(nomem, nostack, preserves_flags));
            }
        });
        for (lane, block) in blocks.into_iter().enumerate() {
            let block = last_round::<ENCRYPT>(block, _mm512_xor_si512(keys[14].x4(), tweaks[lane]));
            _mm512_storeu_si512(destination.add(lane * 64).cast(), block);
        }
    }
    next
}

/// The round after which the first register of tweaks is updated: one a round, and done before the last round.
const FIRST_UPDATE: usize = 3;

/// Multiplies four tweaks by the 32nd power of the primitive element of GF(2^128), by shifts only: here AES slots are
/// dear, and shifts take none.
#[inline]
#[target_feature(enable = "avx512f")]
fn times_x32(tweaks: __m512i) -> __m512i {
    let shifted = _mm512_slli_epi64::<32>(tweaks);
    let fallen = _mm512_shuffle_epi32::<SWAP_HALVES>(_mm512_srli_epi64::<32>(tweaks));
    let carry = _mm512_maskz_mov_epi64(LOW_HALVES, fallen);
    let by_x = _mm512_slli_epi64::<1>(carry);
    let by_x2 = _mm512_slli_epi64::<2>(carry);
    let by_x7 = _mm512_slli_epi64::<7>(carry);
    let product = _mm512_ternarylogic_epi64::<XOR3>(shifted, fallen, by_x);
    _mm512_ternarylogic_epi64::<XOR3>(product, by_x2, by_x7)
}

const SWAP_HALVES: _MM_PERM_ENUM = 0b01_00_11_10;
