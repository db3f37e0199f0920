//! No branch and no address depends on a key or on data, as far as memcheck knows the kernels.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod inputs;
#[path = "../../secret/tests/memcheck/mod.rs"]
mod memcheck;

use std::env;
use std::hint::black_box;

use inputs::{Bytes, kernels};
use memcheck::{CHILD, make_secret, secret_key, under_memcheck};
use vmseal_xts::{Kernel, Xts, data_unit};

/// The one decision that is made on key bytes on purpose: keys with equal halves are refused.
const SUPPRESSION: &str = "{\n weak keys\n Memcheck:Cond\n ...\n fun:*KeyHalves*split*\n}\n";

#[test]
fn ciphering_decides_nothing_on_secrets() {
    let Some(report) = under_memcheck("cipher", SUPPRESSION, &[]) else { return };
    assert!(report.is_clean, "{}", report.text);
    for kernel in [Kernel::AesNi, Kernel::Portable] {
        assert!(report.text.contains(&format!("ciphered with {kernel}")), "{}", report.text);
    }
}

#[test]
fn a_planted_branch_is_found() {
    let Some(report) = under_memcheck("branch", SUPPRESSION, &[]) else { return };
    assert!(!report.is_clean && report.text.contains("Conditional jump"), "{}", report.text);
}

#[test]
fn a_planted_table_lookup_is_found() {
    let Some(report) = under_memcheck("lookup", SUPPRESSION, &[]) else { return };
    assert!(!report.is_clean && report.text.contains("Use of uninitialised value"), "{}", report.text);
}

/// What runs under memcheck; on its own it does nothing.
#[test]
fn child() {
    match env::var(CHILD).as_deref() {
        Ok("cipher") => cipher_secrets(),
        Ok("branch") => {
            let key = secret_key(&Bytes::new(1).take(64));
            key.expose(|bytes| if black_box(bytes)[7] & 1 == 1 { println!("odd") } else { println!("even") });
        }
        Ok("lookup") => {
            let (key, table) = (secret_key(&Bytes::new(1).take(64)), [7u8; 256]);
            black_box(key.expose(|bytes| black_box(&table)[usize::from(bytes[7])]));
        }
        _ => {}
    }
}

fn cipher_secrets() {
    let key = secret_key(&Bytes::new(1).take(64));
    for kernel in kernels() {
        for (sector_size, sectors) in [(512, 1), (512, 9), (512, 300), (4096, 1), (4096, 5)] {
            let mut data = vec![0x5a; sector_size as usize * sectors];
            let mut copy = data.clone();
            make_secret(&mut data);
            let xts = Xts::with_kernel(&key, sector_size, 1, kernel).expect("cipher");
            xts.encrypt(&mut data, u64::MAX - 3).expect("encrypt");
            xts.encrypt_to(&data, &mut copy, 7).expect("encrypt to another buffer");
            xts.decrypt(&mut data, u64::MAX - 3).expect("decrypt");
            xts.decrypt_to(&data, &mut copy, 7).expect("decrypt to another buffer");
        }
        println!("ciphered with {kernel}");
    }
    let mut data = vec![1; 16 * 5 + 3];
    make_secret(&mut data);
    data_unit::encrypt(&key, &[9; 16], &mut data).expect("encrypt");
    data_unit::decrypt(&key, &[9; 16], &mut data).expect("decrypt");
}
