//! The compression function on two messages with the SHA instructions of x86-64.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_loadu_si128, _mm_set_epi64x,
    _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8,
    _mm_shuffle_epi32, _mm_storeu_si128,
};

use crate::sha256::BLOCK;

#[repr(align(16))]
struct Constants([u32; 64]);

/// FIPS 180-4, 4.2.2.
static ROUND: Constants = Constants([
    0x428a_2f98,
    0x7137_4491,
    0xb5c0_fbcf,
    0xe9b5_dba5,
    0x3956_c25b,
    0x59f1_11f1,
    0x923f_82a4,
    0xab1c_5ed5,
    0xd807_aa98,
    0x1283_5b01,
    0x2431_85be,
    0x550c_7dc3,
    0x72be_5d74,
    0x80de_b1fe,
    0x9bdc_06a7,
    0xc19b_f174,
    0xe49b_69c1,
    0xefbe_4786,
    0x0fc1_9dc6,
    0x240c_a1cc,
    0x2de9_2c6f,
    0x4a74_84aa,
    0x5cb0_a9dc,
    0x76f9_88da,
    0x983e_5152,
    0xa831_c66d,
    0xb003_27c8,
    0xbf59_7fc7,
    0xc6e0_0bf3,
    0xd5a7_9147,
    0x06ca_6351,
    0x1429_2967,
    0x27b7_0a85,
    0x2e1b_2138,
    0x4d2c_6dfc,
    0x5338_0d13,
    0x650a_7354,
    0x766a_0abb,
    0x81c2_c92e,
    0x9272_2c85,
    0xa2bf_e8a1,
    0xa81a_664b,
    0xc24b_8b70,
    0xc76c_51a3,
    0xd192_e819,
    0xd699_0624,
    0xf40e_3585,
    0x106a_a070,
    0x19a4_c116,
    0x1e37_6c08,
    0x2748_774c,
    0x34b0_bcb5,
    0x391c_0cb3,
    0x4ed8_aa4a,
    0x5b9c_ca4f,
    0x682e_6ff3,
    0x748f_82ee,
    0x78a5_636f,
    0x84c8_7814,
    0x8cc7_0208,
    0x90be_fffa,
    0xa450_6ceb,
    0xbef9_a3f7,
    0xc671_78f2,
]);

pub(crate) fn is_supported() -> bool {
    is_x86_feature_detected!("sha")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("sse4.1")
        && is_x86_feature_detected!("avx")
}

/// Takes the whole blocks of both messages, as many as the shorter has, into the states. Only where [`is_supported`].
pub(crate) fn compress(states: &mut [[u32; 8]; 2], one: &[u8], two: &[u8]) {
    assert!(is_supported(), "asked for without the instructions");
    // SAFETY: the processor has the features that the function is compiled for.
    unsafe { compress_blocks(states, one, two) }
}

/// A state as the instructions want it: words `ABEF` and `CDGH`, the first letter highest.
type State = [__m128i; 2];

#[target_feature(enable = "sha,ssse3,sse4.1,avx")]
fn compress_blocks(states: &mut [[u32; 8]; 2], one: &[u8], two: &[u8]) {
    let mut packed = [pack(&states[0]), pack(&states[1])];
    for (one, two) in one.chunks_exact(BLOCK).zip(two.chunks_exact(BLOCK)) {
        let before = packed;
        let mut words = [words(one), words(two)];
        // Written out by the compiler, so that all words stay in registers.
        macro_rules! four_rounds {
            ($($group:expr),*) => { $(
                // SAFETY: the constants have 16 groups of 16 bytes, and the load needs no alignment.
                let constants = unsafe { _mm_loadu_si128(ROUND.0.as_ptr().add($group * 4).cast()) };
                for (state, words) in packed.iter_mut().zip(&mut words) {
                    if $group >= 4 {
                        words[$group % 4] = next_words(words, $group);
                    }
                    let input = _mm_add_epi32(words[$group % 4], constants);
                    state[1] = _mm_sha256rnds2_epu32(state[1], state[0], input);
                    state[0] = _mm_sha256rnds2_epu32(state[0], state[1], _mm_shuffle_epi32(input, 0x0e));
                }
            )* };
        }
        four_rounds!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (state, before) in packed.iter_mut().zip(before) {
            *state = [_mm_add_epi32(state[0], before[0]), _mm_add_epi32(state[1], before[1])];
        }
    }
    *states = [unpack(packed[0]), unpack(packed[1])];
}

/// Words `4 * group` to `4 * group + 3` of the message schedule from the sixteen before them.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1,avx")]
fn next_words(words: &[__m128i; 4], group: usize) -> __m128i {
    let [w0, w1, w2, w3] = [0, 1, 2, 3].map(|at| words[(group + at) % 4]);
    _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3)
}

/// The sixteen words of a block, each from big-endian.
#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1,avx")]
fn words(block: &[u8]) -> [__m128i; 4] {
    let order = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut words = [_mm_setzero_si128(); 4];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(16)) {
        // SAFETY: the chunk has 16 bytes, and the load needs no alignment.
        *word = _mm_shuffle_epi8(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }, order);
    }
    words
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1,avx")]
fn pack(state: &[u32; 8]) -> State {
    // SAFETY: the state has 32 bytes, and the loads need no alignment.
    let (abcd, efgh) =
        unsafe { (_mm_loadu_si128(state.as_ptr().cast()), _mm_loadu_si128(state.as_ptr().add(4).cast())) };
    let (badc, hgfe) = (_mm_shuffle_epi32(abcd, 0xb1), _mm_shuffle_epi32(efgh, 0x1b));
    [_mm_alignr_epi8(badc, hgfe, 8), _mm_blend_epi16(hgfe, badc, 0xf0)]
}

#[inline]
#[target_feature(enable = "sha,ssse3,sse4.1,avx")]
fn unpack([abef, cdgh]: State) -> [u32; 8] {
    let (feba, dchg) = (_mm_shuffle_epi32(abef, 0x1b), _mm_shuffle_epi32(cdgh, 0xb1));
    let mut state = [0u32; 8];
    // SAFETY: the state has 32 bytes, and the stores need no alignment.
    unsafe {
        _mm_storeu_si128(state.as_mut_ptr().cast(), _mm_blend_epi16(feba, dchg, 0xf0));
        _mm_storeu_si128(state.as_mut_ptr().add(4).cast(), _mm_alignr_epi8(dchg, feba, 8));
    }
    state
}
