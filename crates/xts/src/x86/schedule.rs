use std::arch::x86_64::*;

use vmseal_secret::Pod;

use crate::key::KeyHalves;

/// Round keys of AES-256: one for the whitening before round 1, one for each of the 14 rounds.
pub(super) const ROUND_KEYS: usize = 15;

/// One round key twice over, so that 256-bit kernels can use it straight from memory: a copy on the stack, broadcast
/// there on every call, would have to be wiped.
#[repr(C, align(32))]
pub(super) struct RoundKey([u8; 32]);

/// The round keys of one direction of AES-256, in the order of use.
pub(super) type RoundKeys = [RoundKey; ROUND_KEYS];

/// The expanded key of AES-256-XTS.
#[repr(C, align(64))]
pub(super) struct Schedule {
    pub(super) encrypt: RoundKeys,
    pub(super) decrypt: RoundKeys,
    pub(super) tweak: RoundKeys,
}

// SAFETY: byte arrays only; alignment is 64.
unsafe impl Pod for Schedule {}

impl Schedule {
    /// Expands both halves in place (FIPS 197 section 5.2; decryption for the equivalent inverse cipher, 5.3.5).
    /// Leaves round keys in vector registers and on the stack below its caller's frame: the caller wipes both.
    #[inline(never)]
    #[target_feature(enable = "aes,avx")]
    pub(super) fn expand(&mut self, halves: &KeyHalves<'_>) {
        expand_encryption(halves.data, &mut self.encrypt);
        invert(&self.encrypt, &mut self.decrypt);
        expand_encryption(halves.tweak, &mut self.tweak);
    }
}

impl RoundKey {
    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn x1(&self) -> __m128i {
        // SAFETY: 16 readable bytes at an address that is a multiple of 32.
        unsafe { _mm_load_si128(self.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn x2(&self) -> __m256i {
        // SAFETY: 32 readable bytes at an address that is a multiple of 32.
        unsafe { _mm256_load_si256(self.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn x4(&self) -> __m512i {
        _mm512_broadcast_i32x4(self.x1())
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn set(&mut self, key: __m128i) {
        let [low, high] = self.0.as_chunks_mut::<16>().0 else { return };
        // SAFETY: both halves have 16 writable bytes.
        unsafe {
            _mm_storeu_si128(low.as_mut_ptr().cast(), key);
            _mm_storeu_si128(high.as_mut_ptr().cast(), key);
        }
    }
}

#[target_feature(enable = "aes,avx")]
fn expand_encryption(key: &[u8; 32], round_keys: &mut RoundKeys) {
    // SAFETY: the key has 32 readable bytes.
    let (mut even, mut odd) =
        unsafe { (_mm_loadu_si128(key.as_ptr().cast()), _mm_loadu_si128(key.as_ptr().add(16).cast())) };
    round_keys[0].set(even);
    round_keys[1].set(odd);
    // The intrinsic takes its round constant (FIPS 197 table 5) as an immediate, so the rounds cannot be a loop.
    macro_rules! expand_round {
        ($index:literal, $round_constant:literal) => {
            // RotWord, SubWord and the round constant, taken from word 3; then running xors of the four words.
            let assist = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$round_constant>(odd));
            even = _mm_xor_si128(running_xor(even), assist);
            round_keys[$index].set(even);
            if $index + 1 < ROUND_KEYS {
                // AES-256 has an extra SubWord without rotation in the middle of each key (FIPS 197 section 5.2).
                let assist = _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(even));
                odd = _mm_xor_si128(running_xor(odd), assist);
                round_keys[($index + 1) % ROUND_KEYS].set(odd);
            }
        };
    }
    expand_round!(2, 0x01);
    expand_round!(4, 0x02);
    expand_round!(6, 0x04);
    expand_round!(8, 0x08);
    expand_round!(10, 0x10);
    expand_round!(12, 0x20);
    expand_round!(14, 0x40);
}

/// Word i becomes the xor of words 0..=i.
#[inline]
#[target_feature(enable = "avx")]
fn running_xor(words: __m128i) -> __m128i {
    let pairs = _mm_xor_si128(words, _mm_slli_si128::<4>(words));
    _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs))
}

#[target_feature(enable = "aes,avx")]
fn invert(encrypt: &RoundKeys, decrypt: &mut RoundKeys) {
    for (round, (from, to)) in encrypt.iter().rev().zip(decrypt).enumerate() {
        let outer = round == 0 || round == ROUND_KEYS - 1;
        to.set(if outer { from.x1() } else { _mm_aesimc_si128(from.x1()) });
    }
}
