//! What can go wrong with key memory, and the stable code of each case.

use std::io;

/// Why a secret could not be made. [`Error::code`] is the stable name to decide on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process may lock no further memory (`RLIMIT_MEMLOCK`). Secrets that exist keep working.
    #[error(
        "the lock limit of this process is reached: {used} of {limit} bytes are locked and {requested} more \
         are needed for keys; dispose of keys, or raise the limit (ulimit -l, LimitMEMLOCK= in a systemd unit)"
    )]
    LockLimit {
        /// Bytes of memory that were to be locked.
        requested: u64,
        /// Bytes the process has locked, by this crate or others.
        used: u64,
        /// The soft `RLIMIT_MEMLOCK` in bytes.
        limit: u64,
    },
    /// The system refused locked memory for a reason other than the lock limit.
    #[error(
        "no lockable memory for keys: {operation} failed: {}; keys are never kept in unlocked memory, so free \
         memory or allow this system call for the process",
        io::Error::from_raw_os_error(*errno)
    )]
    Unavailable {
        /// The system call that failed.
        operation: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// The process could not be kept from being dumped.
    #[error(
        "core dumps of this process cannot be switched off: {operation} failed: {}; allow this system call for the process",
        io::Error::from_raw_os_error(*errno)
    )]
    Dumps {
        /// The system call that failed.
        operation: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// A fork without exec has no keys and cannot make any.
    #[error("this process was forked from one that holds keys; run a new program (exec) to use keys here")]
    Forked,
    /// The environment variable `VMSEAL_KEY_MEMORY` has a value this version does not know.
    #[error("VMSEAL_KEY_MEMORY has an unknown value; use auto, secret or locked, or leave it unset")]
    Setting,
    /// The length asked for is not one a key can have.
    #[error("a key of {length} bytes cannot be held; use 1 to {maximum} bytes")]
    Length {
        /// The length asked for, in bytes.
        length: usize,
        /// The greatest length allowed, in bytes.
        maximum: usize,
    },
    /// The random source of the operating system gave nothing.
    #[error("the operating system gave no random bytes; check that getrandom(2) is allowed for this process")]
    Random,
    /// [`wipe_all`](crate::wipe_all) ran: the process is going down and takes no new secrets.
    #[error("the process is shutting down and its keys are wiped; start it again to use keys")]
    ShuttingDown,
}

impl Error {
    /// The stable `VMSEAL_...` code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::LockLimit { .. } => "VMSEAL_KEY_MEMORY_EXHAUSTED",
            Error::Unavailable { .. } | Error::Dumps { .. } | Error::Forked => {
                "VMSEAL_KEY_MEMORY_UNAVAILABLE"
            }
            Error::Setting => "VMSEAL_INVALID_ARGUMENT",
            Error::Length { .. } => "VMSEAL_KEY_LENGTH",
            Error::Random => "VMSEAL_RANDOM_UNAVAILABLE",
            Error::ShuttingDown => "VMSEAL_SHUTTING_DOWN",
        }
    }
}
