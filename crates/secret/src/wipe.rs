//! Overwriting memory so that the compiler keeps the stores.

/// Overwrites `bytes` with zeros. The stores happen even when nothing reads the bytes afterwards.
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: a slice is valid for writes over its whole length.
    unsafe { wipe_raw(bytes.as_mut_ptr(), bytes.len()) }
}

/// Overwrites `len` bytes from `start` with zeros.
///
/// # Safety
/// `start` is valid for writes of `len` bytes.
#[inline]
pub(crate) unsafe fn wipe_raw(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise. memset runs at full width, which matters for the allocator.
    unsafe { start.write_bytes(0, len) };
    // SAFETY: no instruction is executed. Without `nomem` the compiler must assume that the block reads memory
    // through `start`, so the stores above are neither dropped as dead nor moved behind a later free.
    unsafe { core::arch::asm!("/* {0} */", in(reg) start, options(nostack, preserves_flags)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wipes_exactly_the_bytes_given() {
        for len in [0usize, 1, 7, 63, 64, 65, 4096] {
            let mut bytes = vec![0xa5u8; len + 2];
            wipe(&mut bytes[1..=len]);
            assert_eq!(bytes[0], 0xa5);
            assert_eq!(bytes[len + 1], 0xa5);
            assert!(bytes[1..=len].iter().all(|b| *b == 0), "{len}");
        }
    }
}
