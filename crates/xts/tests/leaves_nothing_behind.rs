//! After a call no round key and no tweak is left on the stack or in vector registers.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod inputs;

use std::arch::asm;
use std::collections::HashSet;
use std::fs::File;
use std::hint::{black_box, spin_loop};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use inputs::{Bytes, kernels, key};
use vmseal_xts::{Kernel, Xts, data_unit};
use zeroize::zeroize_stack;

/// Stack searched below the function under test, in bytes.
const DEPTH: usize = 48 * 1024;

#[test]
fn the_search_finds_a_planted_key() {
    let secret = Bytes::new(1).take(64);
    let secrets = secrets(&secret, 0, 1);
    assert_eq!(search(&secrets, || ()), 0);
    let found = search(&secrets, || {
        let mut copy = [0; 2048];
        copy[512..528].copy_from_slice(&secret[32..48]);
        black_box(&mut copy);
    });
    assert_ne!(found, 0);
}

#[test]
fn the_search_finds_a_key_in_a_register() {
    let secret = Bytes::new(1).take(64);
    let found = search(&secrets(&secret, 0, 1), || {
        // SAFETY: reads 16 bytes of the slice.
        unsafe { asm!("movdqu xmm13, [{}]", in(reg) secret.as_ptr(), out("xmm13") _) };
    });
    assert_ne!(found, 0);
}

#[test]
fn expanding_a_key() {
    let secret = Bytes::new(2).take(64);
    let (secrets, key) = (secrets(&secret, 0, 1), key(&secret));
    for kernel in kernels() {
        let mut xts = None;
        let found = search(&secrets, || xts = Some(Xts::with_kernel(&key, 512, 1, kernel)));
        assert_eq!(found, 0, "{kernel}");
        xts.expect("called").expect("cipher");
    }
}

#[test]
fn ciphering_sectors() {
    let secret = Bytes::new(3).take(64);
    let key = key(&secret);
    for (sector_size, count) in [(512, 1), (512, 3), (512, 8), (512, 300), (4096, 1), (4096, 2), (4096, 70)] {
        let secrets = secrets(&secret, 9, count);
        for kernel in kernels() {
            let xts = Xts::with_kernel(&key, sector_size, 1, kernel).expect("cipher");
            let mut data = vec![0; count * sector_size as usize];
            let found = search(&secrets, || xts.encrypt(&mut data, 9).expect("encrypt"));
            assert_eq!(found, 0, "{kernel}: encryption of {count} x {sector_size}");
            let found = search(&secrets, || xts.decrypt(&mut data, 9).expect("decrypt"));
            assert_eq!(found, 0, "{kernel}: decryption of {count} x {sector_size}");
        }
    }
}

/// Long enough for every way to treat memory: prefetched in place, prefetched copies, copies that bypass the caches.
#[test]
fn ciphering_long_runs() {
    let secret = Bytes::new(5).take(64);
    let key = key(&secret);
    let length = 16 << 20;
    let mut source = vec![0; length];
    let mut memory = vec![0; length + 128];
    let aligned = memory.as_ptr().align_offset(64);
    let destination = &mut memory[aligned..];
    for sector_size in [512, 4096] {
        let secrets = secrets(&secret, 9, length / sector_size as usize);
        for kernel in kernels().filter(|kernel| *kernel != Kernel::Portable) {
            let xts = Xts::with_kernel(&key, sector_size, 1, kernel).expect("cipher");
            let found = search(&secrets, || xts.encrypt(&mut source, 9).expect("encrypt"));
            assert_eq!(found, 0, "{kernel}: encryption in place of {sector_size}");
            let found = search(&secrets, || xts.decrypt(&mut source, 9).expect("decrypt"));
            assert_eq!(found, 0, "{kernel}: decryption in place of {sector_size}");
            for start in [0, 16] {
                let to = &mut destination[start..];
                for length in [8 << 20, length] {
                    let (from, to) = (&source[..length], &mut to[..length]);
                    let found = search(&secrets, || xts.encrypt_to(from, to, 9).expect("encrypt"));
                    assert_eq!(found, 0, "{kernel}: encryption of {length} to {start} with {sector_size}");
                    let found = search(&secrets, || xts.decrypt_to(from, to, 9).expect("decrypt"));
                    assert_eq!(found, 0, "{kernel}: decryption of {length} to {start} with {sector_size}");
                }
            }
        }
    }
}

#[test]
fn ciphering_a_data_unit() {
    let secret = Bytes::new(4).take(64);
    let (secrets, key) = (secrets(&secret, 7, 1), key(&secret));
    let tweak = 7_u128.to_le_bytes();
    let mut data = vec![0; 1000];
    assert_eq!(search(&secrets, || data_unit::encrypt(&key, &tweak, &mut data).expect("encrypt")), 0);
    assert_eq!(search(&secrets, || data_unit::decrypt(&key, &tweak, &mut data).expect("decrypt")), 0);
}

/// Runs `call` on a clean stack and counts the secrets it leaves on it or in vector registers.
fn search(secrets: &HashSet<[u8; 16]>, call: impl FnOnce() + Send) -> usize {
    let frame = AtomicUsize::new(0);
    let searched = AtomicBool::new(false);
    let memory = File::open("/proc/self/mem").expect("the memory of this process");
    let mut registers = vec![0; 32 * 64];
    let mut stack = vec![0; DEPTH];
    thread::scope(|scope| {
        let (frame, searched, registers) = (&frame, &searched, &mut registers[..]);
        scope.spawn(move || {
            let marker = 0_u8;
            // Stacks of earlier threads are used again.
            zeroize_stack::<{ 2 * DEPTH }>();
            call_in_own_frame(call);
            save_registers(registers);
            frame.store((&raw const marker).addr(), Ordering::Release);
            // Nothing here may use the stack below this frame until it has been read.
            while !searched.load(Ordering::Acquire) {
                spin_loop();
            }
        });
        while frame.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let bottom = frame.load(Ordering::Acquire) - DEPTH;
        let result = memory.read_exact_at(&mut stack, bottom as u64);
        searched.store(true, Ordering::Release);
        result.expect("the stack can be read");
    });
    let hits = |bytes: &[u8]| bytes.windows(16).filter(|window| secrets.contains(*window)).count();
    hits(&stack) + hits(&registers)
}

#[inline(never)]
fn call_in_own_frame(call: impl FnOnce()) {
    call();
    black_box(());
}

#[inline(never)]
fn save_registers(registers: &mut [u8]) {
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was just detected.
        unsafe { save_avx512(registers) }
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: the feature was just detected.
        unsafe { save_avx(registers) }
    }
}

macro_rules! save {
    ($registers:ident, $instruction:literal, $name:literal, $($number:literal)*) => {
        assert!($registers.len() >= 32 * 64);
        // SAFETY: the buffer has 64 bytes for each of 32 registers.
        unsafe {
            asm!(
                $( concat!($instruction, " [{buffer} + 64 * ", $number, "], ", $name, $number), )*
                buffer = in(reg) $registers.as_mut_ptr(),
                options(nostack, preserves_flags)
            );
        }
    };
}

#[target_feature(enable = "avx512f")]
fn save_avx512(registers: &mut [u8]) {
    save!(registers, "vmovdqu64", "zmm",
        0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);
}

#[target_feature(enable = "avx")]
fn save_avx(registers: &mut [u8]) {
    save!(registers, "vmovdqu", "ymm", 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// All round keys, and the block tweaks of `count` sectors from `first`. Made in a thread of its own, because a thread
/// inherits the vector registers of the one that starts it.
fn secrets(key: &[u8], first: u64, count: usize) -> HashSet<[u8; 16]> {
    thread::scope(|scope| scope.spawn(|| make_secrets(key, first, count)).join().expect("no panic"))
}

fn make_secrets(key: &[u8], first: u64, count: usize) -> HashSet<[u8; 16]> {
    let data_keys = round_keys(&key[..32]);
    let tweak_keys = round_keys(&key[32..]);
    let mut secrets: HashSet<[u8; 16]> = data_keys.iter().chain(&tweak_keys).copied().collect();
    secrets.extend(data_keys[1..14].iter().map(inverse_mix_columns));
    let cipher = Aes256Enc::new_from_slice(&key[32..]).expect("32 bytes");
    for number in first..first + count as u64 {
        let mut block = u128::from(number).to_le_bytes().into();
        cipher.encrypt_block(&mut block);
        let mut tweak = u128::from_le_bytes(block.into());
        for _ in 0..64 {
            secrets.insert(tweak.to_le_bytes());
            tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
        }
    }
    secrets
}

/// The key expansion of AES-256 (FIPS 197 section 5.2).
fn round_keys(key: &[u8]) -> Vec<[u8; 16]> {
    let mut words: Vec<[u8; 4]> = key.as_chunks::<4>().0.to_vec();
    let mut constant = 1;
    for index in 8..60 {
        let mut word = words[index - 1];
        if index % 8 == 0 {
            word.rotate_left(1);
        }
        if index % 4 == 0 {
            word = word.map(substitute);
        }
        if index % 8 == 0 {
            word[0] ^= constant;
            constant = times(constant, 2);
        }
        let earlier = words[index - 8];
        words.push([0, 1, 2, 3].map(|byte| word[byte] ^ earlier[byte]));
    }
    words.chunks(4).map(|four| four.concat().try_into().expect("16 bytes")).collect()
}

/// The S-box (FIPS 197 section 5.1.1): inverse, then the affine map.
fn substitute(byte: u8) -> u8 {
    let inverse = (0..=255).find(|other| times(byte, *other) == 1).unwrap_or(0);
    [1, 2, 3, 4].into_iter().fold(inverse ^ 0x63, |sum, bits| sum ^ inverse.rotate_left(bits))
}

fn inverse_mix_columns(block: &[u8; 16]) -> [u8; 16] {
    std::array::from_fn(|index| {
        let (column, row) = (index & !3, index & 3);
        [14, 11, 13, 9]
            .into_iter()
            .zip(0..)
            .fold(0, |sum, (factor, offset)| sum ^ times(block[column + (row + offset) % 4], factor))
    })
}

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
fn times(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    while b != 0 {
        product ^= if b & 1 == 1 { a } else { 0 };
        a = (a << 1) ^ if a & 0x80 == 0 { 0 } else { 0x1b };
        b >>= 1;
    }
    product
}
