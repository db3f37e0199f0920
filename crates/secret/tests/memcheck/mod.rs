//! Whether code decides on secrets: under valgrind's memcheck they count as uninitialised, and it reports every decision
//! and every address made from such bytes. For tests of several crates. memcheck knows AES-NI and AVX2, but neither VAES
//! nor AVX-512: for those kernels there is the example `timing` of the XTS crate.
//!
//! A test runs its own program again under memcheck, with the name of the work to do in [`CHILD`].

use std::arch::asm;
use std::env;
use std::process::Command;

use vmseal_secret::SecretKey;

/// Names the work that the child does: the test `child` of the same program.
pub const CHILD: &str = "VMSEAL_TEST_SECRET_BRANCHES";

/// A key of these bytes, which count as secret.
pub fn secret_key(bytes: &[u8]) -> SecretKey {
    SecretKey::try_init::<vmseal_secret::Error>(bytes.len(), |slot| {
        slot.copy_from_slice(bytes);
        make_secret(slot);
        Ok(())
    })
    .expect("key")
}

/// Has the bytes count as secret: memcheck's client request MAKE_MEM_UNDEFINED (memcheck.h); elsewhere these instructions do nothing.
pub fn make_secret(bytes: &mut [u8]) {
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

/// What memcheck had to say, and what the child printed.
pub struct Report {
    pub is_clean: bool,
    pub text: String,
}

/// Runs the child under memcheck; None, said aloud, where there is no valgrind. `suppressions` are those of valgrind.
pub fn under_memcheck(work: &str, suppressions: &str, variables: &[(&str, &str)]) -> Option<Report> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        assert!(env::var("VMSEAL_REQUIRE_PEERS").is_err(), "valgrind is missing: npm run setup:peers");
        eprintln!("skipped: no valgrind (npm run setup:peers)");
        return None;
    }
    let file = env::temp_dir().join(format!("vmseal-{}-{work}.supp", std::process::id()));
    std::fs::write(&file, suppressions).expect("suppressions");
    let output = Command::new("valgrind")
        .args(["--error-exitcode=99", "--leak-check=no", "--quiet"])
        .arg(format!("--suppressions={}", file.display()))
        .arg(env::current_exe().expect("this test"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(CHILD, work)
        .envs(variables.iter().copied())
        // valgrind does not know the system call.
        .env("VMSEAL_KEY_MEMORY", "locked")
        .output()
        .expect("valgrind runs");
    std::fs::remove_file(&file).expect("suppressions");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Some(Report { is_clean: output.status.success(), text })
}
