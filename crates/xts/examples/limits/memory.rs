use std::arch::x86_64::*;
use std::time::Instant;

/// What can be done to a long buffer without ciphering it.
#[derive(Clone, Copy)]
pub enum Traffic {
    /// Read, change and write back every byte.
    InPlace,
    /// Copy with ordinary stores.
    Copy,
    /// Copy with stores that bypass the caches.
    StreamedCopy,
}

impl Traffic {
    pub const ALL: [Traffic; 3] = [Traffic::InPlace, Traffic::Copy, Traffic::StreamedCopy];

    pub fn name(self) -> &'static str {
        match self {
            Traffic::InPlace => "xor in place",
            Traffic::Copy => "copy",
            Traffic::StreamedCopy => "streamed copy",
        }
    }
}

/// Bytes of payload per second. Both slices have the same length, a multiple of 64, and begin at a multiple of 64.
pub fn bytes_per_second(traffic: Traffic, source: &mut [u8], destination: &mut [u8]) -> f64 {
    let start = Instant::now();
    let (lines, _) = source.as_chunks_mut::<64>();
    let (targets, _) = destination.as_chunks_mut::<64>();
    for (line, target) in lines.iter_mut().zip(targets) {
        // SAFETY: SSE2 is part of x86-64; every pointer is to 64 aligned bytes.
        unsafe {
            let (line, target) = (line.as_mut_ptr().cast::<__m128i>(), target.as_mut_ptr().cast::<__m128i>());
            _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(128).cast());
            for index in 0..4 {
                let data = _mm_load_si128(line.add(index));
                match traffic {
                    Traffic::InPlace => {
                        _mm_store_si128(line.add(index), _mm_xor_si128(data, _mm_set1_epi8(1)))
                    }
                    Traffic::Copy => _mm_store_si128(target.add(index), data),
                    Traffic::StreamedCopy => _mm_stream_si128(target.add(index), data),
                }
            }
        }
    }
    // SAFETY: SSE is part of x86-64.
    unsafe { _mm_sfence() };
    source.len() as f64 / start.elapsed().as_secs_f64()
}
