//! Every kernel gives the bytes of the textbook data-unit code, whatever the size, place and number of the sectors.

mod inputs;

use inputs::{Bytes, kernels, numbered_key};
use vmseal_secret::SecretKey;
use vmseal_xts::{SECTOR_SIZES, Xts, data_unit};

/// Numbers where a carry or a wrap could go wrong.
const FIRST_SECTORS: [u64; 10] = [
    0,
    1,
    0xff,
    123_456_789,
    u32::MAX as u64 - 3,
    1 << 32,
    (1 << 61) - 5,
    (1 << 63) - 2,
    u64::MAX - 15,
    u64::MAX,
];

#[test]
fn counts_from_one_to_600() {
    let key = numbered_key(1);
    for (sector_size, step) in [(512, 1), (4096, 8)] {
        let plaintext = Bytes::new(2).take(600 * sector_size as usize);
        let first = u64::MAX - 299;
        let ciphertext = reference(&key, sector_size, step, first, &plaintext);
        for kernel in kernels() {
            let xts = Xts::with_kernel(&key, sector_size, step, kernel).expect("cipher");
            let mut data = plaintext.clone();
            for count in counts(sector_size) {
                let end = count * sector_size as usize;
                xts.encrypt(&mut data[..end], first).expect("encrypt");
                assert!(data[..end] == ciphertext[..end], "{kernel}: encryption of {count} x {sector_size}");
                assert!(data[end..] == plaintext[end..], "{kernel}: wrote behind {count} x {sector_size}");
                xts.decrypt(&mut data[..end], first).expect("decrypt");
                assert!(data == plaintext, "{kernel}: decryption of {count} x {sector_size}");
            }
        }
    }
}

/// All counts where it is cheap; else every small count and those around the batch sizes.
fn counts(sector_size: u32) -> impl Iterator<Item = usize> {
    (1..=600)
        .filter(move |count| {
            sector_size == 512 || *count <= 40 || (250..=262).contains(count) || *count >= 511
        })
        .filter(move |count| sector_size == 512 || *count < 516 || *count >= 599)
}

#[test]
fn all_alignments_in_place_and_to_another_buffer() {
    let key = numbered_key(3);
    for sector_size in SECTOR_SIZES {
        let length = 3 * sector_size as usize;
        let plaintext = Bytes::new(4).take(length);
        let ciphertext = reference(&key, sector_size, 1, 77, &plaintext);
        for kernel in kernels() {
            let xts = Xts::with_kernel(&key, sector_size, 1, kernel).expect("cipher");
            for offset in 0..64 {
                let other = (offset * 37 + 11) % 64;
                let mut from = Guarded::new(offset, length);
                let mut to = Guarded::new(other, length);
                from.data().copy_from_slice(&plaintext);
                xts.encrypt_to(from.data(), to.data(), 77).expect("encrypt");
                assert!(
                    from.data() == plaintext && to.data() == ciphertext,
                    "{kernel} {sector_size} +{offset} +{other}"
                );
                xts.encrypt(from.data(), 77).expect("encrypt");
                assert!(from.data() == ciphertext, "{kernel} {sector_size} +{offset}");
                xts.decrypt_to(to.data(), from.data(), 77).expect("decrypt");
                assert!(
                    from.data() == plaintext && to.data() == ciphertext,
                    "{kernel} {sector_size} +{other} +{offset}"
                );
                xts.decrypt(to.data(), 77).expect("decrypt");
                assert!(to.data() == plaintext, "{kernel} {sector_size} +{other}");
                from.check();
                to.check();
            }
        }
    }
}

#[test]
fn random_runs() {
    let mut random = Bytes::new(5);
    for case in 0..150 {
        let key = numbered_key(random.number());
        let sector_size = SECTOR_SIZES[random.below(4)];
        let step = [1, 2, 4, 8, u64::from(sector_size / 512), random.number() | 1][random.below(6)];
        let limit = if case % 10 == 0 { 300 } else { 24 };
        let count = 1 + random.below(limit);
        let first = FIRST_SECTORS[random.below(FIRST_SECTORS.len())].wrapping_add(random.number() % 4);
        let plaintext = random.take(count * sector_size as usize);
        let ciphertext = reference(&key, sector_size, step, first, &plaintext);
        for kernel in kernels() {
            let context = format!("{kernel}: {count} x {sector_size} from {first} step {step}");
            let xts = Xts::with_kernel(&key, sector_size, step, kernel).expect("cipher");
            let mut encrypted = Guarded::new(random.below(64), plaintext.len());
            xts.encrypt_to(&plaintext, encrypted.data(), first).expect("encrypt");
            assert!(encrypted.data() == ciphertext, "{context}: encryption");
            let mut decrypted = Guarded::new(random.below(64), plaintext.len());
            xts.decrypt_to(encrypted.data(), decrypted.data(), first).expect("decrypt");
            assert!(decrypted.data() == plaintext, "{context}: decryption");
            encrypted.check();
            decrypted.check();
        }
    }
}

/// Long enough for the paths that bypass the caches, with the destination aligned for them and not.
#[test]
fn long_runs() {
    let key = numbered_key(6);
    let length = 48 << 20;
    let plaintext = Bytes::new(7).take(length);
    let mut expected = plaintext.clone();
    let mut buffer = vec![0; length + 64];
    for sector_size in [512, 4096] {
        let mut ciphers = kernels()
            .map(|kernel| Xts::with_kernel(&key, sector_size, 1, kernel).expect("cipher"))
            .collect::<Vec<_>>();
        let reference = ciphers.pop().expect("the portable kernel");
        expected.copy_from_slice(&plaintext);
        for (index, sector) in expected.chunks_mut(1 << 20).enumerate() {
            let first = index as u64 * ((1 << 20) / u64::from(sector_size));
            reference.encrypt(sector, first).expect("encrypt");
        }
        for xts in ciphers {
            let start = buffer.as_ptr().align_offset(64);
            for offset in [start, (start + 16) % 64] {
                let data = &mut buffer[offset..offset + length];
                xts.encrypt_to(&plaintext, data, 0).expect("encrypt");
                assert!(data == expected, "{}: encryption to {offset}", xts.kernel());
                xts.decrypt(data, 0).expect("decrypt");
                assert!(data == plaintext, "{}: decryption", xts.kernel());
            }
        }
    }
}

/// Sector by sector through the textbook code.
fn reference(key: &SecretKey, sector_size: u32, step: u64, first: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut data = plaintext.to_vec();
    for (index, sector) in data.chunks_mut(sector_size as usize).enumerate() {
        let number = first.wrapping_add(index as u64).wrapping_mul(step);
        data_unit::encrypt(key, &u128::from(number).to_le_bytes(), sector).expect("encrypt");
    }
    data
}

/// A buffer that begins `offset` bytes after a multiple of 64 and knows when a write went past either end.
struct Guarded {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Guarded {
    const GUARD: usize = 128;

    fn new(offset: usize, length: usize) -> Guarded {
        let memory = vec![0xee; length + 2 * Self::GUARD + 128];
        let start = memory.as_ptr().wrapping_add(Self::GUARD).align_offset(64) + Self::GUARD + offset;
        Guarded { memory, start, length }
    }

    fn data(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }

    fn check(&self) {
        let (before, rest) = self.memory.split_at(self.start);
        assert!(before.iter().all(|byte| *byte == 0xee), "a write before the buffer");
        assert!(rest[self.length..].iter().all(|byte| *byte == 0xee), "a write behind the buffer");
    }
}
