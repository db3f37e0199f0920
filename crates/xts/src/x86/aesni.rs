use std::arch::x86_64::*;

use super::rounds::{for_each_inner_round, keep_in_memory, load_key_pair, pin};
use super::schedule::RoundKeys;
use super::stripes::{Memory, NEAR, STRIPE, Stripe, StripeKernel, Stripes};
use super::tweak::{Chain, Tweak};

/// AES-NI on 128-bit registers, eight blocks in flight: two rounds a cycle with a latency of four on current CPUs.
/// It is too slow for memory to matter: nothing is prefetched and all stores are ordinary.
pub(super) struct AesNi;

/// Blocks in flight, and bytes of a group of them.
const LANES: usize = 8;
const GROUP: usize = LANES * 16;

impl StripeKernel for AesNi {
    unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak) {
        // SAFETY: promised by the caller.
        unsafe { encrypt_tweaks(keys, first, step, count, tweaks) }
    }

    unsafe fn cipher<const ENCRYPT: bool, const MEMORY: Memory>(keys: &RoundKeys, stripes: &Stripes) {
        // SAFETY: promised by the caller.
        unsafe { cipher::<ENCRYPT>(keys, stripes) }
    }
}

#[target_feature(enable = "aes,avx")]
unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak) {
    let mut number = first;
    for group in (0..count).step_by(LANES) {
        let keys = keep_in_memory(keys);
        let mut blocks = [_mm_setzero_si128(); LANES];
        for block in &mut blocks {
            *block = _mm_xor_si128(_mm_set_epi64x(0, number.cast_signed()), keys[0].x1());
            number = number.wrapping_add(step);
        }
        for key in &keys[1..14] {
            for block in &mut blocks {
                *block = _mm_aesenc_si128(*block, key.x1());
            }
        }
        for (lane, block) in blocks.into_iter().enumerate() {
            let tweak = _mm_aesenclast_si128(block, keys[14].x1());
            // SAFETY: `tweaks` has room for `count` rounded up to the group.
            unsafe { _mm_storeu_si128(tweaks.add(group + lane).cast(), tweak) };
        }
    }
}

#[target_feature(enable = "aes,avx")]
unsafe fn cipher<const ENCRYPT: bool>(keys: &RoundKeys, stripes: &Stripes) {
    // SAFETY: four groups are the stripe, and so are their tweaks.
    unsafe {
        stripes.for_each::<NEAR>(|stripe, chain| {
            for group in 0..STRIPE / GROUP {
                cipher_group::<ENCRYPT>(keys, stripe.after(group * GROUP), chain);
            }
        });
    }
}

/// Ciphers eight blocks and writes eight tweaks of the next stripe.
#[inline]
#[target_feature(enable = "aes,avx")]
unsafe fn cipher_group<const ENCRYPT: bool>(keys: &RoundKeys, group: Stripe, chain: &mut Chain) {
    let keys = keep_in_memory(keys);
    // SAFETY: promised by the caller; the tweaks are aligned to 16 bytes.
    unsafe {
        let tweak = |lane: usize| _mm_load_si128(group.tweaks.add(lane).cast());
        let mut blocks = [_mm_setzero_si128(); LANES];
        for (lane, block) in blocks.iter_mut().enumerate() {
            let data = _mm_loadu_si128(group.source.add(lane * 16).cast());
            *block = _mm_xor_si128(data, _mm_xor_si128(tweak(lane), keys[0].x1()));
        }
        let mut pair = [_mm_setzero_si128(); 2];
        for_each_inner_round!(ROUND => {
            if ROUND % 2 == 1 {
                pair = load_key_pair!(xmm_reg, keys[ROUND].x1(), keys[ROUND + 1].x1());
            }
            for block in &mut blocks {
                *block = round::<ENCRYPT>(*block, pair[(ROUND + 1) % 2]);
            }
            pin!(xmm_reg, blocks);
            chain.write(group.next_tweaks, (ROUND - 1) * LANES / 13, ROUND * LANES / 13);
        });
        for (lane, block) in blocks.into_iter().enumerate() {
            // The whitening after the cipher is folded into the last round key, off the critical path.
            let block = last_round::<ENCRYPT>(block, _mm_xor_si128(pair[1], tweak(lane)));
            _mm_storeu_si128(group.destination.add(lane * 16).cast(), block);
        }
    }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn round<const ENCRYPT: bool>(block: __m128i, key: __m128i) -> __m128i {
    if ENCRYPT { _mm_aesenc_si128(block, key) } else { _mm_aesdec_si128(block, key) }
}

#[inline]
#[target_feature(enable = "aes,avx")]
fn last_round<const ENCRYPT: bool>(block: __m128i, key: __m128i) -> __m128i {
    if ENCRYPT { _mm_aesenclast_si128(block, key) } else { _mm_aesdeclast_si128(block, key) }
}
