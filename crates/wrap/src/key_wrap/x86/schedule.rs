use std::arch::x86_64::*;

use super::block::Block;

/// AES-256: one key for the whitening before round 1, one for each of the 14 rounds, in the order of use.
pub(super) type RoundKeys = [Block; 15];

/// Expands a KEK in place (FIPS 197 section 5.2; decryption for the equivalent inverse cipher, 5.3.5).
#[inline(never)]
#[target_feature(enable = "aes,avx")]
pub(super) fn expand<const ENCRYPT: bool>(kek: &[u8; 32], keys: &mut RoundKeys) {
    // SAFETY: the KEK has 32 readable bytes; the loads ask for no alignment.
    let (mut even, mut odd) =
        unsafe { (_mm_loadu_si128(kek.as_ptr().cast()), _mm_loadu_si128(kek.as_ptr().add(16).cast())) };
    place::<ENCRYPT>(keys, 0, even);
    place::<ENCRYPT>(keys, 1, odd);
    // The intrinsic takes its round constant (FIPS 197 table 5) as an immediate, so the rounds cannot be a loop.
    macro_rules! expand_pair {
        ($index:literal, $round_constant:literal) => {
            // RotWord, SubWord and the round constant, taken from word 3; then running xors of the four words.
            let assist = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$round_constant>(odd));
            even = _mm_xor_si128(running_xor(even), assist);
            place::<ENCRYPT>(keys, $index, even);
            if $index < 14 {
                // AES-256 has an extra SubWord without rotation in the middle of each key (FIPS 197 section 5.2).
                let assist = _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(even));
                odd = _mm_xor_si128(running_xor(odd), assist);
                place::<ENCRYPT>(keys, $index + 1, odd);
            }
        };
    }
    expand_pair!(2, 0x01);
    expand_pair!(4, 0x02);
    expand_pair!(6, 0x04);
    expand_pair!(8, 0x08);
    expand_pair!(10, 0x10);
    expand_pair!(12, 0x20);
    expand_pair!(14, 0x40);
}

/// Word i becomes the xor of words 0..=i.
#[inline]
#[target_feature(enable = "avx")]
fn running_xor(words: __m128i) -> __m128i {
    let pairs = _mm_xor_si128(words, _mm_slli_si128::<4>(words));
    _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs))
}

/// Puts encryption key `index` where it is used.
#[inline]
#[target_feature(enable = "aes,avx")]
fn place<const ENCRYPT: bool>(keys: &mut RoundKeys, index: usize, key: __m128i) {
    if ENCRYPT {
        keys[index].set(key);
    } else {
        let inner = (1..14).contains(&index);
        keys[14 - index].set(if inner { _mm_aesimc_si128(key) } else { key });
    }
}
