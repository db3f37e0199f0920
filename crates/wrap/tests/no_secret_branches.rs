//! Key wrap makes no branch and no address from a KEK, a key, or what it unwraps, as far as memcheck knows the kernels.
//! Whether a wrap opens is public: that one decision is made on purpose, on the result of a comparison in constant time.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

#[path = "../../secret/tests/memcheck/mod.rs"]
mod memcheck;

use std::env;
use std::hint::black_box;

use memcheck::{CHILD, make_secret, secret_key, under_memcheck};
use vmseal_secret::SecretKey;
use vmseal_wrap::key_wrap::{self, KERNEL_VARIABLE};

/// Where it is decided whether a wrap opens. Only the functions themselves: the kernels are called by them, not in them.
const SUPPRESSION: &str = "{\n check\n Memcheck:Cond\n ...\n fun:*is_initial_value*\n}\n\
    {\n one, portable\n Memcheck:Cond\n fun:*try_init*\n}\n\
    {\n one\n Memcheck:Cond\n fun:*unwrap_alone*\n}\n\
    {\n many\n Memcheck:Cond\n fun:*unwrap_side_by_side*\n}\n\
    {\n row\n Memcheck:Cond\n fun:*open_row*\n}\n";

#[test]
fn wrapping_decides_nothing_on_secrets() {
    for kernel in ["aesni", "portable"] {
        let Some(report) = under_memcheck("wrap", SUPPRESSION, &[(KERNEL_VARIABLE, kernel)]) else { return };
        assert!(
            report.is_clean && report.text.contains("wrapped and unwrapped"),
            "{kernel}: {}",
            report.text
        );
    }
}

#[test]
fn a_planted_branch_is_found() {
    let Some(report) = under_memcheck("branch", SUPPRESSION, &[]) else { return };
    assert!(!report.is_clean && report.text.contains("Conditional jump"), "{}", report.text);
}

/// What runs under memcheck; on its own it does nothing.
#[test]
fn child() {
    match env::var(CHILD).as_deref() {
        Ok("wrap") => wrap_secrets(),
        Ok("branch") => {
            let wrapped = key_wrap::wrap(&secret_key(&[7; 32]), &secret_key(&[9; 64])).expect("wrapped");
            if black_box(&wrapped)[9] & 1 == 1 { println!("odd") } else { println!("even") }
        }
        _ => {}
    }
}

fn wrap_secrets() {
    for kek_length in [16, 24, 32] {
        let kek = secret_key(&[7; 64][..kek_length]);
        let keys: Vec<SecretKey> =
            [16, 32, 64, 64, 256].iter().map(|length| secret_key(&[9; 256][..*length])).collect();
        let borrowed: Vec<&SecretKey> = keys.iter().collect();
        for key in &keys {
            let mut wrapped = key_wrap::wrap(&kek, key).expect("wrapped");
            make_secret(&mut wrapped);
            key_wrap::unwrap(&kek, &wrapped).expect("unwrapped");
        }
        let wrapped = key_wrap::wrap_many(&kek, &borrowed).expect("wrapped");
        let wraps: Vec<&[u8]> = wrapped.iter().map(Vec::as_slice).collect();
        assert!(key_wrap::unwrap_many(&kek, &wraps).expect("unwrapped").iter().all(Result::is_ok));
        let mut row = [&wrapped[2][..]; 40].concat();
        make_secret(&mut row);
        // None where no kernel works side by side.
        let opened = key_wrap::unwrap_row(&kek, &row, wrapped[2].len()).expect("a good KEK");
        assert!(opened.is_none_or(|keys| keys.len() == 40));
        // Only one way: the length of a padded key is in what was unwrapped, and is public.
        let odd = secret_key(&[9; 33]);
        key_wrap::wrap_padded(&kek, &odd).expect("wrapped");
    }
    println!("wrapped and unwrapped");
}
