//! The header of a journal area: which bytes of the disk the payload behind it belongs to.
//!
//! Little-endian, area *n* mod 2 belongs to sequence *n*:
//!
//! ```text
//!   0   8  "VMSEALZ1"     8  16 job id     24  8 sequence     32  8 from (the frontier)     40  8 to (the frontier after)
//!  48   4  payload bytes 52  4 runs        56  32 sum of the payload
//!  88  12  for each run: u64 offset on the disk, u32 length; ascending, whole data units, inside from..to; then zeros
//!  L-64 32 HMAC-SHA-256 over 0..L-64                 L-32 32 SHA-256 over 0..L-32         L = 4096
//! ```
//!
//! The payload is the bytes of the runs one after the other; its sum is the SHA-256 over the SHA-256 of each piece of
//! 1 MiB, so that pieces can be hashed side by side. What lies between the runs is a hole and stays one: whoever forged a
//! header could pass plaintext over as a hole, therefore the HMAC. Repair without a key looks at the SHA-256 only.

use super::record::{Slot, array_at, u32_at, u64_at};
use super::suite::Sum;

const MAGIC: &[u8; 8] = b"VMSEALZ1";
const FIELDS: usize = 88;
const RUN: usize = 12;
const SUM: usize = 32;

/// A run of bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// What ties a zone to its payload and to the holder of the disk's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) payload_sum: [u8; 32],
    /// Not verified by reading.
    pub(crate) mac: [u8; 32],
}

/// The part of the disk that one step converts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Zone {
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) runs: Vec<Run>,
}

impl Zone {
    /// Bytes of all runs.
    pub(crate) fn payload_len(&self) -> usize {
        self.runs.iter().map(|run| run.len as usize).sum()
    }

    /// Runs a header of `len` bytes has room for.
    pub(crate) fn max_runs(len: usize) -> usize {
        (len - FIELDS - 2 * SUM) / RUN
    }

    /// The parts of the payload's bytes `start..end`: offset on the disk and range, counted from `start`.
    pub(crate) fn parts(
        &self,
        start: usize,
        end: usize,
    ) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
        let mut at = 0;
        self.runs.iter().filter_map(move |run| {
            let (first, last) = (at, at + run.len as usize);
            at = last;
            let (low, high) = (first.max(start), last.min(end));
            (low < high).then(|| (run.offset + (low - first) as u64, low - start..high - start))
        })
    }

    /// The whole header of `len` bytes.
    pub(crate) fn encode<H: Sum>(&self, slot: &Slot, len: usize, proof: &Proof) -> Vec<u8> {
        let mut bytes = self.authenticated(slot, len, &proof.payload_sum);
        bytes.extend_from_slice(&proof.mac);
        let sum = H::sum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// The first `len` - 64 bytes, which the HMAC covers.
    pub(crate) fn authenticated(&self, slot: &Slot, len: usize, payload_sum: &[u8; 32]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&slot.record.job);
        bytes.extend_from_slice(&slot.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.from.to_le_bytes());
        bytes.extend_from_slice(&self.to.to_le_bytes());
        // A payload is at most one zone and a header holds a few hundred runs.
        bytes.extend_from_slice(&(self.payload_len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        bytes.extend_from_slice(payload_sum);
        for run in &self.runs {
            bytes.extend_from_slice(&run.offset.to_le_bytes());
            bytes.extend_from_slice(&run.len.to_le_bytes());
        }
        bytes.resize(len - 2 * SUM, 0);
        bytes
    }

    /// The zone of `slot`, nothing of it authenticated; `None` when the header is torn, of another step or impossible.
    pub(crate) fn decode<H: Sum>(bytes: &[u8], slot: &Slot) -> Option<(Self, Proof)> {
        let (covered, sum) = bytes.split_last_chunk::<SUM>()?;
        let (fields, mac) = covered.split_last_chunk::<SUM>()?;
        if !fields.starts_with(MAGIC) || H::sum(covered) != *sum {
            return None;
        }
        let count = u32_at(fields, 52)? as usize;
        if count > Self::max_runs(bytes.len()) {
            return None;
        }
        let run = |index: usize| {
            let at = FIELDS + index * RUN;
            Some(Run { offset: u64_at(fields, at)?, len: u32_at(fields, at + 8)? })
        };
        let zone = Self {
            from: u64_at(fields, 32)?,
            to: u64_at(fields, 40)?,
            runs: (0..count).map(run).collect::<Option<_>>()?,
        };
        let of_this_step = array_at(fields, 8) == Some(slot.record.job)
            && u64_at(fields, 24) == Some(slot.sequence)
            && zone.from == slot.frontier;
        let payload_len = u32_at(fields, 48)? as usize;
        (of_this_step && zone.is_possible(slot) && zone.payload_len() == payload_len)
            .then_some((zone, Proof { payload_sum: array_at(fields, 56)?, mac: *mac }))
    }

    fn is_possible(&self, slot: &Slot) -> bool {
        let unit = u64::from(slot.record.unit);
        let mut end = self.from;
        let mut room = u64::from(slot.record.zone);
        for run in &self.runs {
            let len = u64::from(run.len);
            let whole = len != 0 && run.offset.is_multiple_of(unit) && len.is_multiple_of(unit);
            if !whole || run.offset < end || len > room || run.offset > self.to || len > self.to - run.offset
            {
                return false;
            }
            end = run.offset + len;
            room -= len;
        }
        self.from < self.to && self.to <= slot.record.capacity && self.to.is_multiple_of(unit)
    }
}
