use std::arch::x86_64::*;

/// 16 bytes in memory: a round key, or A and a semiblock of R.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub(super) struct Block(pub(super) [u8; 16]);

impl Block {
    pub(super) const ZERO: Block = Block([0; 16]);

    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn get(&self) -> __m128i {
        // SAFETY: 16 readable bytes, aligned by the type.
        unsafe { _mm_load_si128(self.0.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn set(&mut self, value: __m128i) {
        // SAFETY: 16 writable bytes, aligned by the type.
        unsafe { _mm_store_si128(self.0.as_mut_ptr().cast(), value) }
    }

    /// The low half of `low` with the high half of this block.
    #[inline]
    #[target_feature(enable = "avx")]
    pub(super) fn below(&self, low: __m128i) -> __m128i {
        // SAFETY: the high half is 8 readable bytes; the load asks for no alignment.
        unsafe { _mm_castpd_si128(_mm_loadh_pd(_mm_castsi128_pd(low), self.0.as_ptr().add(8).cast())) }
    }
}

/// Four blocks at once; `blocks` has at least four.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn get_four(blocks: &[Block]) -> __m512i {
    let four = &blocks[..4];
    // SAFETY: 64 readable bytes; the load asks for no alignment.
    unsafe { _mm512_loadu_si512(four.as_ptr().cast()) }
}

/// See [`get_four`].
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn set_four(blocks: &mut [Block], value: __m512i) {
    let four = &mut blocks[..4];
    // SAFETY: 64 writable bytes; the store asks for no alignment.
    unsafe { _mm512_storeu_si512(four.as_mut_ptr().cast(), value) }
}

/// The low halves of `low` with the high halves of four blocks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn four_below(blocks: &[Block], low: __m512i) -> __m512i {
    let four = &blocks[..4];
    // SAFETY: 64 readable bytes; the load asks for no alignment.
    unsafe { _mm512_mask_loadu_epi64(low, 0b1010_1010, four.as_ptr().cast()) }
}
