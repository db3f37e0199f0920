//! What goes wrong in the model: calls that fail, barriers that are none, and faults of the engine itself.

use rustix::io::Errno;

use crate::in_place::storage::Name;

/// Faults put into the engine to see that the harness finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    Nothing,
    /// No barrier after the journal.
    NoJournalBarrier,
    /// No barrier after the data.
    NoDiskBarrier,
    /// The slot moves on before the data is in place.
    SlotFirst,
    /// What is read back after a failed sync is taken to be durable.
    TrustMemory,
}

impl Planted {
    pub(crate) fn skips(self, name: Name) -> bool {
        matches!((self, name), (Self::NoJournalBarrier, Name::Sidecar) | (Self::NoDiskBarrier, Name::Flat))
    }
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This error, whatever the call.
    Error(Errno),
    /// This error from syncs only; the other calls are not counted.
    Sync(Errno),
    /// Reads and writes do half of what they are asked.
    Short,
}

/// Which calls fail: number `at`, and all after it when `forever`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FaultPlan {
    pub(crate) fault: Fault,
    pub(crate) at: u64,
    pub(crate) forever: bool,
}

/// A barrier that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Sync(Name),
    SyncFolder,
}
