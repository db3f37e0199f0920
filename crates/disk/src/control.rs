//! Progress and cancellation of a running job, shared between the job and whoever watches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Watches and stops one job. Put it in an `Arc`, give the job a reference and poll from any thread: all reads are
/// plain atomic loads.
#[derive(Debug, Default)]
pub struct Control {
    done: AtomicU64,
    total: AtomicU64,
    cancel: AtomicBool,
}

/// How far a job has come, in bytes of the virtual disk (holes that are skipped count as done).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes finished.
    pub done_bytes: u64,
    /// Bytes of the whole job; 0 until the job knows.
    pub total_bytes: u64,
}

impl Control {
    /// A control with nothing done and not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the job to stop. It returns [`Error::Cancelled`] after its workers finish the chunk in hand and its
    /// half-made files are removed.
    pub fn cancel(&self) {
        self.cancel.store(true, Ordering::Release);
    }

    /// Whether [`Control::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.load(Ordering::Acquire)
    }

    /// The progress now.
    pub fn progress(&self) -> Progress {
        Progress {
            done_bytes: self.done.load(Ordering::Relaxed),
            total_bytes: self.total.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Begins a job of `total_bytes` bytes.
    pub fn start(&self, total_bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total_bytes, Ordering::Relaxed);
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets the bytes finished so far.
    pub fn set_done(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }
}
