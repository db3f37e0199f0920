//! Progress, cancellation and pace of a running job, shared between the job and whoever watches it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How long a job that waits for its turn may not notice a cancel or another limit.
const DOZE: Duration = Duration::from_millis(10);

/// Watches and stops one job. Put it in an `Arc`, give the job a reference and poll from any thread: all reads are
/// plain atomic loads.
#[derive(Debug, Default)]
pub struct Control {
    done: AtomicU64,
    total: AtomicU64,
    cancel: AtomicBool,
    /// Bytes per second; 0: as fast as it goes.
    limit: AtomicU64,
    /// When the time that the bytes so far were given is over.
    next_turn: Mutex<Option<Instant>>,
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

    /// Lets the job work on at most that many bytes per second on average from its next step on; 0: as fast as it goes. Steps are
    /// whole (a chunk of a copy, a zone of a conversion in place), so a low limit shows as bursts.
    pub fn limit(&self, bytes_per_second: u64) {
        self.limit.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Waits as long as the limit gives `bytes`. [`Error::Cancelled`] as soon as the job is cancelled.
    pub(crate) fn turn(&self, bytes: u64) -> Result<()> {
        self.check()?;
        let limit = self.limit.load(Ordering::Relaxed);
        if limit == 0 {
            return Ok(());
        }
        let end = {
            let mut next = self.next_turn.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = next.map_or(now, |next| next.max(now));
            // At most 2^64 nanoseconds.
            let end = begin + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / limit);
            *next = Some(end);
            end
        };
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if self.limit.load(Ordering::Relaxed) != limit {
                *self.next_turn.lock().unwrap_or_else(PoisonError::into_inner) = None;
                break;
            }
            thread::sleep(left.min(DOZE));
            self.check()?;
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn waiting(control: &Arc<Control>, bytes: u64) -> thread::JoinHandle<Result<()>> {
        let control = Arc::clone(control);
        thread::spawn(move || control.turn(bytes))
    }

    #[test]
    fn a_limit_spreads_the_work_and_may_be_lifted_meanwhile() {
        let control = Arc::new(Control::new());
        control.limit(1000);
        let begin = Instant::now();
        for _ in 0..4 {
            control.turn(10).expect("a turn");
        }
        assert!(begin.elapsed() >= Duration::from_millis(40));
        let one = waiting(&control, u64::MAX);
        control.limit(0);
        one.join().expect("no panic").expect("no limit any more");
        control.limit(1_000_000);
        control.turn(1).expect("nothing is left of the old limit");
    }

    #[test]
    fn a_job_that_waits_for_its_turn_is_cancelled() {
        let control = Arc::new(Control::new());
        control.limit(1);
        let one = waiting(&control, 1 << 40);
        control.cancel();
        assert!(matches!(one.join().expect("no panic"), Err(Error::Cancelled)));
    }
}
