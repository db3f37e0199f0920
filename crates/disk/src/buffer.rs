//! Page-aligned chunk buffers that are wiped when dropped: they hold the guest's plaintext.

/// Alignment of the first byte, a page.
const ALIGNMENT: usize = 4096;

pub(crate) struct Buffer {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    pub(crate) fn new(len: usize) -> Self {
        // Below a page there is nothing to gain.
        let room = if len < ALIGNMENT { 0 } else { ALIGNMENT };
        let memory = vec![0; len + room];
        // `align_offset` may decline to answer; alignment is speed, not correctness.
        let start = match memory.as_ptr().align_offset(ALIGNMENT) {
            offset if offset <= room => offset,
            _ => 0,
        };
        Self { memory, start, len }
    }

    pub(crate) fn first(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len][..len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        vmseal_secret::wipe(&mut self.memory);
    }
}

/// Whether every byte is zero, at memory speed; for ciphertext it looks at the first bytes only.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (head, rest) = bytes.split_at(bytes.len().min(16));
    let no_bit = |bytes: &[u8]| bytes.iter().fold(0, |bits, byte| bits | byte) == 0;
    no_bit(head) && rest.chunks(4096).all(no_bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_page_aligned_and_zero() {
        let mut buffer = Buffer::new(1 << 20);
        assert_eq!(buffer.first(1).as_ptr().align_offset(ALIGNMENT), 0);
        assert!(is_zero(buffer.first(1 << 20)));
    }

    #[test]
    fn one_set_bit_anywhere_is_not_zero() {
        for at in [0, 15, 16, 4111, 4112, 8191] {
            let mut bytes = vec![0; 8192];
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "byte {at}");
        }
        assert!(is_zero(&[]));
    }
}
