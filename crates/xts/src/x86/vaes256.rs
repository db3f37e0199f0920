use std::arch::x86_64::*;

use super::rounds::{for_each_inner_round, keep_in_memory, load_key_pair, pin};
use super::schedule::RoundKeys;
use super::stripes::{Memory, STREAMED, STRIPE, Stripe, StripeKernel, Stripes};
use super::tweak::{Chain, Tweak};

/// VAES on 256-bit registers, 16 blocks in flight, for CPUs without AVX-512.
pub(super) struct Vaes256;

/// Registers in flight, and the blocks and bytes of a group of them.
const LANES: usize = 8;
const GROUP_BLOCKS: usize = LANES * 2;
const GROUP: usize = GROUP_BLOCKS * 16;

impl StripeKernel for Vaes256 {
    unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak) {
        // SAFETY: promised by the caller.
        unsafe { encrypt_tweaks(keys, first, step, count, tweaks) }
    }

    unsafe fn cipher<const ENCRYPT: bool, const MEMORY: Memory>(keys: &RoundKeys, stripes: &Stripes) {
        // SAFETY: promised by the caller.
        unsafe { cipher::<ENCRYPT, MEMORY>(keys, stripes) }
    }
}

#[target_feature(enable = "avx2,vaes")]
unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak) {
    let mut number = first;
    for group in (0..count).step_by(GROUP_BLOCKS) {
        let keys = keep_in_memory(keys);
        let mut blocks = [_mm256_setzero_si256(); LANES];
        for block in &mut blocks {
            let numbers =
                _mm256_set_epi64x(0, number.wrapping_add(step).cast_signed(), 0, number.cast_signed());
            *block = _mm256_xor_si256(numbers, keys[0].x2());
            number = number.wrapping_add(step.wrapping_mul(2));
        }
        for key in &keys[1..14] {
            for block in &mut blocks {
                *block = _mm256_aesenc_epi128(*block, key.x2());
            }
        }
        for (lane, block) in blocks.into_iter().enumerate() {
            let pair = _mm256_aesenclast_epi128(block, keys[14].x2());
            // SAFETY: `tweaks` has room for `count` rounded up to the group.
            unsafe { _mm256_storeu_si256(tweaks.add(group + lane * 2).cast(), pair) };
        }
    }
}

#[target_feature(enable = "avx2,vaes")]
unsafe fn cipher<const ENCRYPT: bool, const MEMORY: Memory>(keys: &RoundKeys, stripes: &Stripes) {
    // SAFETY: two groups are the stripe, and so are their tweaks.
    unsafe {
        stripes.for_each::<MEMORY>(|stripe, chain| {
            for group in 0..STRIPE / GROUP {
                cipher_group::<ENCRYPT, MEMORY>(keys, stripe.after(group * GROUP), chain);
            }
        });
    }
}

/// Ciphers 16 blocks and writes 16 tweaks of the next stripe.
#[inline]
#[target_feature(enable = "avx2,vaes")]
unsafe fn cipher_group<const ENCRYPT: bool, const MEMORY: Memory>(
    keys: &RoundKeys,
    group: Stripe,
    chain: &mut Chain,
) {
    let keys = keep_in_memory(keys);
    // SAFETY: promised by the caller; the tweaks of a pair of blocks are aligned to 32 bytes.
    unsafe {
        let tweak = |lane: usize| _mm256_load_si256(group.tweaks.add(lane * 2).cast());
        let mut blocks = [_mm256_setzero_si256(); LANES];
        for (lane, block) in blocks.iter_mut().enumerate() {
            let data = _mm256_loadu_si256(group.source.add(lane * 32).cast());
            *block = _mm256_xor_si256(data, _mm256_xor_si256(tweak(lane), keys[0].x2()));
        }
        let mut pair = [_mm256_setzero_si256(); 2];
        for_each_inner_round!(ROUND => {
            if ROUND % 2 == 1 {
                pair = load_key_pair!(ymm_reg, keys[ROUND].x2(), keys[ROUND + 1].x2());
            }
            for block in &mut blocks {
                *block = round::<ENCRYPT>(*block, pair[(ROUND + 1) % 2]);
            }
            pin!(ymm_reg, blocks);
            if ROUND <= GROUP / 64 {
                group.prefetch::<MEMORY>(ROUND - 1);
            }
            chain.write(group.next_tweaks, (ROUND - 1) * GROUP_BLOCKS / 13, ROUND * GROUP_BLOCKS / 13);
        });
        for (lane, block) in blocks.into_iter().enumerate() {
            // The whitening after the cipher is folded into the last round key, off the critical path.
            let block = last_round::<ENCRYPT>(block, _mm256_xor_si256(pair[1], tweak(lane)));
            let destination = group.destination.add(lane * 32).cast();
            if MEMORY == STREAMED {
                _mm256_stream_si256(destination, block);
            } else {
                _mm256_storeu_si256(destination, block);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,vaes")]
fn round<const ENCRYPT: bool>(block: __m256i, key: __m256i) -> __m256i {
    if ENCRYPT { _mm256_aesenc_epi128(block, key) } else { _mm256_aesdec_epi128(block, key) }
}

#[inline]
#[target_feature(enable = "avx2,vaes")]
fn last_round<const ENCRYPT: bool>(block: __m256i, key: __m256i) -> __m256i {
    if ENCRYPT { _mm256_aesenclast_epi128(block, key) } else { _mm256_aesdeclast_epi128(block, key) }
}
