use std::arch::asm;
use std::arch::x86_64::*;

use super::rounds::{for_each_inner_round, keep_in_memory, pin};
use super::schedule::{ROUND_KEYS, RoundKeys};
use super::stripes::{Memory, STREAMED, Stripe, StripeKernel, Stripes};
use super::tweak::{Chain, STRIPE_TWEAKS, Tweak};

/// VAES on 512-bit registers: a stripe of 32 blocks in flight in eight registers, the round keys in fifteen.
pub(super) struct Vaes512;

/// Registers in flight.
pub(super) const LANES: usize = 8;

impl StripeKernel for Vaes512 {
    unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak) {
        // SAFETY: promised by the caller.
        unsafe { encrypt_tweaks(keys, first, step, count, tweaks) }
    }

    unsafe fn cipher<const ENCRYPT: bool, const MEMORY: Memory>(keys: &RoundKeys, stripes: &Stripes) {
        // SAFETY: promised by the caller.
        unsafe { cipher::<ENCRYPT, MEMORY>(keys, stripes) }
    }
}

#[target_feature(enable = "avx512f,vaes")]
unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak) {
    let mut numbers = four_numbers(first, step);
    // SAFETY: `tweaks` has room for `count` rounded up to 32.
    unsafe {
        if count <= 16 {
            // Four registers take the latency of one, eight take twice as long.
            encrypt_group::<4>(keys, &mut numbers, step, tweaks);
        } else {
            for group in (0..count).step_by(32) {
                encrypt_group::<8>(keys, &mut numbers, step, tweaks.add(group));
            }
        }
    }
}

/// Encrypts the tweaks of four times `REGISTERS` sectors.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn encrypt_group<const REGISTERS: usize>(
    keys: &RoundKeys,
    numbers: &mut __m512i,
    step: u64,
    tweaks: *mut Tweak,
) {
    let keys = keep_in_memory(keys);
    let four_steps = _mm512_maskz_set1_epi64(LOW_HALVES, step.wrapping_mul(4).cast_signed());
    let mut blocks = [_mm512_setzero_si512(); REGISTERS];
    for block in &mut blocks {
        *block = _mm512_xor_si512(*numbers, keys[0].x4());
        *numbers = _mm512_add_epi64(*numbers, four_steps);
    }
    for key in &keys[1..14] {
        for block in &mut blocks {
            *block = _mm512_aesenc_epi128(*block, key.x4());
        }
    }
    for (lane, block) in blocks.into_iter().enumerate() {
        let four = _mm512_aesenclast_epi128(block, keys[14].x4());
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_si512(tweaks.add(lane * 4).cast(), four) };
    }
}

/// The numbers of four sectors, each in the low half of its lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn four_numbers(mut first: u64, mut step: u64) -> __m512i {
    // The caller has just stored both in the run; the compiler would load them as one vector, which has to wait until
    // the two stores have left the store queue. This has them loaded one by one.
    // SAFETY: the block has no instruction.
    unsafe {
        asm!("/* {0} {1} */", inout(reg) first, inout(reg) step, options(nomem, nostack, preserves_flags))
    };
    let all = _mm512_maskz_set1_epi64(LOW_HALVES, first.cast_signed());
    let second_and_fourth = _mm512_maskz_set1_epi64(0b0100_0100, step.cast_signed());
    let third_and_fourth = _mm512_maskz_set1_epi64(0b0101_0000, step.wrapping_mul(2).cast_signed());
    _mm512_add_epi64(all, _mm512_add_epi64(second_and_fourth, third_and_fourth))
}

#[target_feature(enable = "avx512f,vaes")]
unsafe fn cipher<const ENCRYPT: bool, const MEMORY: Memory>(keys: &RoundKeys, stripes: &Stripes) {
    let mut registers = [_mm512_setzero_si512(); ROUND_KEYS];
    for (register, key) in registers.iter_mut().zip(keys) {
        *register = key.x4();
    }
    // SAFETY: as the callee asks.
    unsafe {
        stripes
            .for_each::<MEMORY>(|stripe, chain| cipher_stripe::<ENCRYPT, MEMORY>(&registers, stripe, chain))
    };
}

/// Ciphers a stripe and writes the tweaks of the next one.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
unsafe fn cipher_stripe<const ENCRYPT: bool, const MEMORY: Memory>(
    keys: &[__m512i; ROUND_KEYS],
    stripe: Stripe,
    chain: &mut Chain,
) {
    // SAFETY: promised by the caller; the tweaks of four blocks are aligned to 64 bytes.
    unsafe {
        let tweak = |lane: usize| _mm512_load_si512(stripe.tweaks.add(lane * 4).cast());
        let mut blocks = [_mm512_setzero_si512(); LANES];
        for (lane, block) in blocks.iter_mut().enumerate() {
            let data = _mm512_loadu_si512(stripe.source.add(lane * 64).cast());
            // Data, tweak and first round key in one instruction.
            *block = _mm512_ternarylogic_epi64::<XOR3>(data, tweak(lane), keys[0]);
        }
        for_each_inner_round!(ROUND => {
            for block in &mut blocks {
                *block = round::<ENCRYPT>(*block, keys[ROUND]);
            }
            pin!(zmm_reg, blocks);
            if ROUND <= LANES {
                stripe.prefetch::<MEMORY>(ROUND - 1);
            }
            chain.write(stripe.next_tweaks, (ROUND - 1) * STRIPE_TWEAKS / 13, ROUND * STRIPE_TWEAKS / 13);
        });
        for (lane, block) in blocks.into_iter().enumerate() {
            // The whitening after the cipher is folded into the last round key, off the critical path.
            let block = last_round::<ENCRYPT>(block, _mm512_xor_si512(keys[14], tweak(lane)));
            let destination = stripe.destination.add(lane * 64).cast();
            if MEMORY == STREAMED {
                _mm512_stream_si512(destination, block);
            } else {
                _mm512_storeu_si512(destination, block);
            }
        }
    }
}

/// The truth table of a xor of three.
pub(super) const XOR3: i32 = 0x96;

/// Masks the low 64 bits of each 128-bit lane.
pub(super) const LOW_HALVES: __mmask8 = 0b0101_0101;

#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub(super) fn round<const ENCRYPT: bool>(block: __m512i, key: __m512i) -> __m512i {
    if ENCRYPT { _mm512_aesenc_epi128(block, key) } else { _mm512_aesdec_epi128(block, key) }
}

#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub(super) fn last_round<const ENCRYPT: bool>(block: __m512i, key: __m512i) -> __m512i {
    if ENCRYPT { _mm512_aesenclast_epi128(block, key) } else { _mm512_aesdeclast_epi128(block, key) }
}
