//! A process that forbids its dumps, seen from outside.

mod child;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use vmseal_secret::{SecretKey, forbid_core_dumps, status};

const TEST: &str = "a_process_that_forbids_dumps_leaves_none";

#[test]
fn a_process_that_forbids_dumps_leaves_none() {
    match child::role().as_deref() {
        None => {
            child::pass(TEST, "look", "auto");
            // The control: without the call an abort of this very program says that it dumped core.
            assert!(!aborted("forbid").core_dumped());
            if fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|at| at.starts_with('|')) {
                println!("skipped: where cores go to a program, the control has no limit to raise");
            } else {
                let allowed = raise_core_limit();
                assert_eq!(aborted("allow").core_dumped(), allowed);
            }
        }
        Some("look") => {
            forbid_core_dumps().expect("the kernel takes it");
            let after = status();
            assert!(!after.dumpable && !after.core_dumps_possible);
            let limits = fs::read_to_string("/proc/self/limits").expect("limits");
            let core =
                limits.lines().find(|line| line.starts_with("Max core file size")).expect("a core limit");
            let fields: Vec<_> = core.split_whitespace().collect();
            assert_eq!(fields[4..6], ["0", "0"], "{core}");
            SecretKey::generate(32).expect("keys are made as before");
            forbid_core_dumps().expect("a second time");
            child::done();
        }
        Some("forbid") => {
            raise_core_limit();
            forbid_core_dumps().expect("the kernel takes it");
            std::process::abort();
        }
        Some(_) => {
            raise_core_limit();
            std::process::abort();
        }
    }
}

/// Runs the role in an empty directory, where a core file would go.
fn aborted(role: &str) -> std::process::ExitStatus {
    let directory = std::env::temp_dir().join(format!("vmseal-dumps-{role}-{}", std::process::id()));
    fs::create_dir(&directory).expect("a new directory");
    let status = Command::new(std::env::current_exe().expect("own path"))
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env("VMSEAL_TEST_ROLE", role)
        .current_dir(&directory)
        .output()
        .expect("start the test binary")
        .status;
    let left = fs::read_dir(&directory).expect("the directory").count();
    fs::remove_dir_all(&directory).expect("it goes");
    assert_eq!(status.signal(), Some(libc::SIGABRT), "{role}");
    if role == "forbid" {
        assert_eq!(left, 0, "a core file");
    }
    status
}

/// As far as the hard limit goes; whether that lets a core through.
fn raise_core_limit() -> bool {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is a valid rlimit for the duration of the calls.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_CORE, &raw mut limits), 0);
        limits.rlim_cur = limits.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_CORE, &raw const limits), 0);
    }
    limits.rlim_max > 1 << 20
}
