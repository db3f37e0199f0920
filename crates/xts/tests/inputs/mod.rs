//! Keys and reproducible bytes for the tests.

#![allow(dead_code, reason = "every test file uses a part")]

use vmseal_secret::SecretKey;
use vmseal_xts::Kernel;

/// A key with the given bytes.
pub fn key(bytes: &[u8]) -> SecretKey {
    SecretKey::try_init::<vmseal_secret::Error>(bytes.len(), |slot| {
        slot.copy_from_slice(bytes);
        Ok(())
    })
    .expect("the test key fits into locked memory")
}

/// A sound 64-byte key chosen by a number.
pub fn numbered_key(number: u64) -> SecretKey {
    key(&Bytes::new(number).take(64))
}

/// The kernels this machine can run.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| kernel.is_supported())
}

/// SplitMix64: bytes that look random and are the same in every run.
pub struct Bytes(u64);

impl Bytes {
    pub fn new(seed: u64) -> Bytes {
        Bytes(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.number() % limit as u64) as usize
    }

    pub fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// Bytes of a hexadecimal string.
pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).expect("hexadecimal digit") as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
