//! Core dumps of this process. Key memory is in none of them, but registers, stacks and the buffers of others may hold copies.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::error::Error;

/// From here on the kernel writes no core file of this process and feeds no core handler, and no other process of the same
/// user may trace it or read `/proc/PID/mem`. Lasts until the process ends: a program that it starts is dumpable again, with
/// a core limit of 0.
///
/// Errors: [`Error::Dumps`], when the kernel, or a filter of system calls, refuses.
pub fn forbid_core_dumps() -> Result<(), Error> {
    // Both: the limit alone does not keep a core handler (`|program` in core_pattern) from being fed.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(refused("setrlimit"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused("prctl(PR_SET_DUMPABLE)"))
}

fn refused(operation: &'static str) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Dumps { operation, errno: errno.raw_os_error() }
}
