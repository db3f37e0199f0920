//! Runs a role of a test in a process of its own: the test binary again, with the role in the environment.
#![allow(dead_code, reason = "every test binary uses its part")]

use std::process::{Command, Output};

const ROLE: &str = "VMSEAL_TEST_ROLE";
const DONE: &str = "role done";

/// Both kinds of key memory, as `VMSEAL_KEY_MEMORY` names them.
pub const MEMORIES: [&str; 2] = ["auto", "locked"];

/// The role this process was started for; `None` in the parent.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Tells the parent that the role ran to its end: a misspelt test name must not pass for success.
pub fn done() {
    println!("{DONE}");
}

/// Starts `role` of the test function `test` with the given key memory and waits for it.
pub fn start(test: &str, role: &str, memory: &str) -> Output {
    Command::new(std::env::current_exe().expect("own path"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env("VMSEAL_KEY_MEMORY", memory)
        .output()
        .expect("start the test binary")
}

/// Starts a role and demands that it runs to its end.
pub fn pass(test: &str, role: &str, memory: &str) {
    let output = start(test, role, memory);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out.contains(DONE),
        "{test} {role} {memory}: {}\n{out}\n{err}",
        output.status
    );
    out.lines().filter(|line| line.starts_with("skipped")).for_each(|line| println!("{line}"));
}

/// Lowers or restores a soft limit of this process; the hard one stays.
pub fn set_limit(resource: libc::__rlimit_resource_t, limit: u64) {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` is a valid rlimit for the duration of the calls.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limits), 0);
        limits.rlim_cur = limit;
        assert_eq!(libc::setrlimit(resource, &raw const limits), 0);
    }
}

/// One line of `/proc/self/maps`.
pub struct Mapping {
    pub start: usize,
    pub end: usize,
    pub readable: bool,
    pub name: String,
}

/// The mappings of this process.
pub fn mappings() -> Vec<Mapping> {
    let text = std::fs::read_to_string("/proc/self/maps").expect("read /proc/self/maps");
    text.lines()
        .map(|line| {
            let mut fields = line.split_whitespace();
            let (start, end) = fields.next().and_then(|range| range.split_once('-')).expect("a range");
            let readable = fields.next().expect("permissions").starts_with('r');
            let number = |digits| usize::from_str_radix(digits, 16).expect("an address");
            Mapping {
                start: number(start),
                end: number(end),
                readable,
                name: fields.nth(3).unwrap_or_default().to_owned(),
            }
        })
        .collect()
}

/// The mapping that holds `address`.
pub fn mapping_of(address: usize) -> Mapping {
    mappings().into_iter().find(|m| (m.start..m.end).contains(&address)).expect("a mapped address")
}
