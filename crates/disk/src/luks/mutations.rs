//! 100,000 mutations of headers: read as some volume within bounds or refused, without a panic.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use vmseal_secret::SecretKey;

use super::key_slot::MATERIAL;
use super::volume::Volume;
use super::{luks1, luks2};

const COPY: usize = 16 << 10;
const EACH: u64 = 50_000;

fn key() -> SecretKey {
    SecretKey::generate(64).expect("key memory")
}

/// xorshift64*: the same run every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end as u64) as usize
    }

    /// One to four changes: a bit, a byte, a run copied elsewhere, digits.
    fn mutate(&mut self, bytes: &mut [u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 0xff, b'"', b'{', b'9', b'-', b',', 0x80][self.below(8)],
                2 => {
                    let len = self.below(40).min(bytes.len() - at);
                    let from = self.below(bytes.len() - len);
                    bytes.copy_within(from..from + len, at);
                }
                _ => {
                    let len = self.below(24).min(bytes.len() - at);
                    bytes[at..at + len].fill(b'9');
                }
            }
        }
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile_in("/dev/shm").expect("a file");
    file.write_all(bytes).expect("the header");
    file
}

/// Whether it is read; everything a later step relies on holds then.
fn is_read(file: &File) -> bool {
    match Volume::read(Path::new("header"), file) {
        Ok(volume) => {
            assert!(matches!(volume.sector_size, 512 | 4096) && matches!(volume.version, 1 | 2));
            assert!(volume.slots.len() <= 32);
            for slot in &volume.slots {
                assert!(slot.material.checked_add(MATERIAL as u64).is_some());
                assert!(slot.kdf.is_possible() && slot.digest.is_possible());
            }
            true
        }
        Err(error) => {
            assert!(matches!(error.code(), "VMSEAL_LUKS_INVALID" | "VMSEAL_LUKS_UNSUPPORTED"), "{error}");
            false
        }
    }
}

#[test]
fn mutated_luks1_headers_are_read_within_bounds_or_refused() {
    let header = luks1::header(&key(), &key(), &[7; 16], 0).expect("a header");
    let (head, file, mut random) = (&header[..592], file(&header[..4096]), Random(1));
    assert!(is_read(&file));
    let mut read = 0;
    for _ in 0..EACH {
        let mut bytes = head.to_vec();
        random.mutate(&mut bytes);
        file.write_all_at(&bytes, 0).expect("a change");
        read += u64::from(is_read(&file));
    }
    assert!(read > 1000 && read < EACH - 1000, "{read}: mutations of every kind");
}

#[test]
fn mutated_luks2_metadata_with_a_right_sum_is_read_within_bounds_or_refused() {
    let header = luks2::header(&key(), &key(), &[7; 16], 4096, 0).expect("a header");
    let text = header[4096..COPY].iter().position(|&byte| byte == 0).expect("its end");
    // One copy: the other would stand in.
    let (file, mut random) = (file(&header[..COPY]), Random(2));
    assert!(is_read(&file));
    let mut read = 0;
    for _ in 0..EACH {
        let mut bytes = header[..COPY].to_vec();
        if random.below(8) == 0 {
            random.mutate(&mut bytes[..512]);
        } else {
            random.mutate(&mut bytes[4096..4096 + text]);
        }
        bytes[448..512].fill(0);
        let sum = Sha256::digest(&bytes);
        bytes[448..480].copy_from_slice(&sum);
        file.write_all_at(&bytes, 0).expect("a change");
        read += u64::from(is_read(&file));
    }
    assert!(read > 1000 && read < EACH - 1000, "{read}: mutations of every kind");
}
