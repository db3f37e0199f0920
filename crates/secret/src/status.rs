//! What protects the keys of this process, for a start-up check and a status call.

use std::fs;

use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

use crate::arena;
use crate::pages::{self, Backing};

/// Key memory of this process and the settings of the system that bear on it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Where key memory comes from; `None` when no secret can be made (unknown setting, call refused).
    pub backing: Option<Backing>,
    /// Secrets alive.
    pub allocations: usize,
    /// Bytes of key memory they take, in units of 64.
    pub bytes_used: usize,
    /// Bytes of key memory mapped and locked by this crate; grows on demand and is kept.
    pub bytes_reserved: usize,
    /// Soft `RLIMIT_MEMLOCK` in bytes; `None` is unlimited. It does not bind a process with `CAP_IPC_LOCK`.
    pub lock_limit: Option<u64>,
    /// Bytes the whole process has locked; `None` without `/proc`.
    pub locked_bytes: Option<u64>,
    /// Whether a crash of this process would write a core file or feed a core handler. Key memory is not in it, copies
    /// in registers and stacks may be.
    pub core_dumps_possible: bool,
    /// Whether other processes of the same user may attach a debugger (`PR_GET_DUMPABLE` is 1).
    pub dumpable: bool,
    /// Whether the system has swap. Key memory never reaches it, other memory may.
    pub swap_present: bool,
    /// Yama's `ptrace_scope` (0 any process of the user, 1 parents, 2 administrators, 3 nobody); `None` without Yama.
    pub ptrace_scope: Option<u8>,
}

/// Reads the state of key memory. Decides the backing when no secret was made yet, but maps nothing.
pub fn status() -> Status {
    let usage = arena::usage();
    let dumpable = matches!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
    Status {
        backing: pages::backing().ok(),
        allocations: usage.allocations,
        bytes_used: usage.bytes_used,
        bytes_reserved: usage.bytes_reserved,
        lock_limit: lock_limit(),
        locked_bytes: locked_bytes(),
        core_dumps_possible: dumpable && core_wanted(),
        dumpable,
        swap_present: fs::read_to_string("/proc/swaps").is_ok_and(|table| table.lines().count() > 1),
        ptrace_scope: fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope")
            .ok()
            .and_then(|text| text.trim().parse().ok()),
    }
}

/// Soft `RLIMIT_MEMLOCK` in bytes; `None` is unlimited.
pub(crate) fn lock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Bytes the process has locked, as the kernel counts them against the limit.
pub(crate) fn locked_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

// A core handler (a pattern that starts with | or @) is fed whatever RLIMIT_CORE says, core(5).
fn core_wanted() -> bool {
    let piped = fs::read_to_string("/proc/sys/kernel/core_pattern")
        .is_ok_and(|pattern| pattern.starts_with(['|', '@']));
    piped || getrlimit(Resource::Core).current != Some(0)
}
