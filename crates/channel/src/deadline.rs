//! A point in time by which a step must be done, and the name of the step for the error.

use std::time::{Duration, Instant};

use crate::Error;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    allowed: Duration,
    step: &'static str,
}

impl Deadline {
    pub(crate) fn after(allowed: Duration, step: &'static str) -> Deadline {
        // A time too far away to be represented is as good as a year.
        let now = Instant::now();
        let at = now.checked_add(allowed).unwrap_or_else(|| now + Duration::from_secs(31_536_000));
        Deadline { at, allowed, step }
    }

    /// Time left, never zero (a zero socket timeout would mean "for ever").
    pub(crate) fn remaining(&self) -> Result<Duration, Error> {
        let left = self.at.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(self.missed()) } else { Ok(left.max(Duration::from_millis(1))) }
    }

    pub(crate) fn missed(&self) -> Error {
        Error::Timeout { step: self.step, after: self.allowed }
    }

    /// The earlier of this deadline and `other`.
    pub(crate) fn or_sooner(self, other: Deadline) -> Deadline {
        if other.at < self.at { other } else { self }
    }
}
