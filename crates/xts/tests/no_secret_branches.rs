//! No branch and no address depends on a key or on data: under valgrind's memcheck they count as uninitialised, and it
//! reports every decision and every address made from such bytes. It knows AES-NI and AVX2, but neither VAES nor
//! AVX-512: for those kernels there is the example `timing`.

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod inputs;

use std::arch::asm;
use std::env;
use std::hint::black_box;
use std::process::Command;

use inputs::{Bytes, kernels};
use vmseal_secret::SecretKey;
use vmseal_xts::{Kernel, Xts, data_unit};

/// Names the work that the child does.
const CHILD: &str = "VMSEAL_TEST_SECRET_BRANCHES";

/// The one decision that is made on key bytes on purpose: keys with equal halves are refused.
const SUPPRESSION: &str = "{\n weak keys\n Memcheck:Cond\n ...\n fun:*KeyHalves*split*\n}\n";

#[test]
fn ciphering_decides_nothing_on_secrets() {
    let Some(report) = under_memcheck("cipher") else { return };
    assert!(report.is_clean, "{}", report.text);
    for kernel in [Kernel::AesNi, Kernel::Portable] {
        assert!(report.text.contains(&format!("ciphered with {kernel}")), "{}", report.text);
    }
}

#[test]
fn a_planted_branch_is_found() {
    let Some(report) = under_memcheck("branch") else { return };
    assert!(!report.is_clean && report.text.contains("Conditional jump"), "{}", report.text);
}

#[test]
fn a_planted_table_lookup_is_found() {
    let Some(report) = under_memcheck("lookup") else { return };
    assert!(!report.is_clean && report.text.contains("Use of uninitialised value"), "{}", report.text);
}

/// What runs under memcheck; on its own it does nothing.
#[test]
fn child() {
    match env::var(CHILD).as_deref() {
        Ok("cipher") => cipher_secrets(),
        Ok("branch") => {
            let key = secret_key();
            key.expose(|bytes| if black_box(bytes)[7] & 1 == 1 { println!("odd") } else { println!("even") });
        }
        Ok("lookup") => {
            let (key, table) = (secret_key(), [7u8; 256]);
            black_box(key.expose(|bytes| black_box(&table)[usize::from(bytes[7])]));
        }
        _ => {}
    }
}

fn cipher_secrets() {
    let key = secret_key();
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

/// A sound key whose bytes count as secret.
fn secret_key() -> SecretKey {
    let bytes = Bytes::new(1).take(64);
    SecretKey::try_init::<vmseal_secret::Error>(64, |slot| {
        slot.copy_from_slice(&bytes);
        make_secret(slot);
        Ok(())
    })
    .expect("key")
}

/// memcheck's client request MAKE_MEM_UNDEFINED (memcheck.h); elsewhere these instructions do nothing.
fn make_secret(bytes: &mut [u8]) {
    const MAKE_MEM_UNDEFINED: u64 = ((b'M' as u64) << 24 | (b'C' as u64) << 16) + 1;
    let request = [MAKE_MEM_UNDEFINED, bytes.as_mut_ptr() as u64, bytes.len() as u64, 0, 0, 0];
    // SAFETY: the rotations of rdi add up to 128 bits and rbx is exchanged with itself; the request is read only.
    unsafe {
        asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            in("rdi") 0u64, in("rax") &raw const request, inout("rdx") 0u64 => _, options(nostack)
        );
    }
}

struct Report {
    is_clean: bool,
    text: String,
}

/// Runs the child under memcheck; None, said aloud, where there is no valgrind.
fn under_memcheck(work: &str) -> Option<Report> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(env::var("VMSEAL_REQUIRE_PEERS").is_err(), "valgrind is missing: npm run setup:peers");
        eprintln!("skipped: no valgrind (npm run setup:peers)");
        return None;
    }
    let file = env::temp_dir().join(format!("vmseal-{}-{work}.supp", std::process::id()));
    std::fs::write(&file, SUPPRESSION).expect("suppressions");
    let output = Command::new("valgrind")
        .args(["--error-exitcode=99", "--leak-check=no", "--quiet"])
        .arg(format!("--suppressions={}", file.display()))
        .arg(env::current_exe().expect("this test"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, work)
        // valgrind does not know the system call.
        .env("VMSEAL_KEY_MEMORY", "locked")
        .output()
        .expect("valgrind runs");
    std::fs::remove_file(&file).expect("suppressions");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Some(Report { is_clean: output.status.success(), text })
}
