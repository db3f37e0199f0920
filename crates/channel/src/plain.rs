//! A byte buffer for messages with key bytes in them.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Bytes of a message that may hold keys: wiped when dropped, never copied by growing, never printed.
#[derive(Default)]
pub struct PlainMessage {
    bytes: Vec<u8>,
}

impl PlainMessage {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> PlainMessage {
        PlainMessage { bytes: Vec::with_capacity(capacity) }
    }

    /// A buffer of `length` zero bytes.
    pub fn zeroed(length: usize) -> PlainMessage {
        PlainMessage { bytes: vec![0; length] }
    }

    /// Takes over `bytes` without copying them.
    pub fn take(bytes: Vec<u8>) -> PlainMessage {
        PlainMessage { bytes }
    }

    /// Appends `bytes`. Beyond the capacity the contents move to a larger buffer and the old one is wiped.
    pub fn append(&mut self, bytes: &[u8]) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let mut larger = Vec::with_capacity(needed.max(self.bytes.capacity() * 2));
            larger.extend_from_slice(&self.bytes);
            vmseal_secret::wipe(&mut self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Wipes the contents and leaves the buffer empty, with its capacity.
    pub fn clear(&mut self) {
        vmseal_secret::wipe(&mut self.bytes);
        self.bytes.clear();
    }
}

impl Drop for PlainMessage {
    fn drop(&mut self) {
        vmseal_secret::wipe(&mut self.bytes);
    }
}

impl Deref for PlainMessage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PlainMessage {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl fmt::Debug for PlainMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainMessage({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_past_its_capacity_without_losing_bytes() {
        let mut message = PlainMessage::with_capacity(4);
        for chunk in [&b"abc"[..], b"defgh", b"", b"i"] {
            message.append(chunk);
        }
        assert_eq!(&*message, b"abcdefghi");
    }

    #[test]
    fn clear_leaves_nothing_to_read() {
        let mut message = PlainMessage::take(b"key bytes".to_vec());
        message.clear();
        assert!(message.is_empty());
    }

    #[test]
    fn debug_tells_only_the_length() {
        let message = PlainMessage::take(vec![0x41; 5]);
        assert_eq!(format!("{message:?}"), "PlainMessage(5 bytes)");
    }
}
