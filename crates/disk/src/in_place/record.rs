//! The two slots at the head of a sidecar: what the job is and how far it has come.
//!
//! Little-endian, slot *n* mod 2 holds sequence *n*, so an older slot is overwritten while the newer stands:
//!
//! ```text
//!   0   8  "VMSEALJ1"           8  u16 version 1     10  u8 mode (1 encrypt, 2 decrypt, 3 recrypt)   11  u8 holes (0 dense, 1 zero)
//!  12   4  data unit           16  16 job id         32  16 disk id
//!  48   8  sequence            56  8 frontier        64  8 capacity (bytes)
//!  72   4  zone (bytes)        76  4 plan (bytes)    80  32 SHA-256 of the plan           112 zeros
//!  L-64 32 HMAC-SHA-256 over 0..L-64                 L-32 32 SHA-256 over 0..L-32         L = 4096
//! ```
//!
//! The SHA-256 tells a torn slot and needs no key; the HMAC tells a forged one. A crash can tear one slot only, the elder
//! while it is overwritten, and then the journal of the other is whole: see [`check_elder`](super::sidecar::check_elder).

use super::JobMode;
use super::suite::Sum;
use crate::descriptor::Holes;

const MAGIC: &[u8; 8] = b"VMSEALJ1";
const VERSION: u16 = 1;
const FIELDS: usize = 112;
const SUM: usize = 32;

/// Longest plan: three descriptors of the largest size with their JSON escapes would be more, no real one is.
pub(crate) const MAX_PLAN: u32 = 4 << 20;
/// Longest zone a reader takes, in bytes.
const MAX_ZONE: u32 = 64 << 20;

/// What does not change while a job runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) mode: JobMode,
    pub(crate) holes: Holes,
    pub(crate) unit: u32,
    pub(crate) job: [u8; 16],
    pub(crate) disk: [u8; 16],
    pub(crate) capacity: u64,
    pub(crate) zone: u32,
    pub(crate) plan_len: u32,
    pub(crate) plan_sum: [u8; 32],
}

/// One state of a job: bytes below `frontier` are in the new form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) record: Record,
    pub(crate) sequence: u64,
    pub(crate) frontier: u64,
}

impl Slot {
    /// The two slots a job begins with. The elder stands for a step before the first, so that there are always two.
    pub(crate) fn first(record: Record) -> [Self; 2] {
        [0, 1].map(|sequence| Self { record: record.clone(), sequence, frontier: 0 })
    }

    /// Whether `self` is what this job wrote right before `newer`.
    pub(crate) fn precedes(&self, newer: &Self) -> bool {
        (&self.record, self.sequence + 1) == (&newer.record, newer.sequence)
            && self.frontier <= newer.frontier
    }

    pub(crate) fn next(&self, frontier: u64) -> Self {
        Self { record: self.record.clone(), sequence: self.sequence + 1, frontier }
    }

    /// The first `len` - 64 bytes, which the HMAC covers.
    pub(crate) fn authenticated(&self, len: usize) -> Vec<u8> {
        let record = &self.record;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.push(record.mode as u8);
        bytes.push(u8::from(record.holes == Holes::Zero));
        bytes.extend_from_slice(&record.unit.to_le_bytes());
        bytes.extend_from_slice(&record.job);
        bytes.extend_from_slice(&record.disk);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.frontier.to_le_bytes());
        bytes.extend_from_slice(&record.capacity.to_le_bytes());
        bytes.extend_from_slice(&record.zone.to_le_bytes());
        bytes.extend_from_slice(&record.plan_len.to_le_bytes());
        bytes.extend_from_slice(&record.plan_sum);
        bytes.resize(len - 2 * SUM, 0);
        bytes
    }

    /// The whole slot of `len` bytes.
    pub(crate) fn encode<H: Sum>(&self, len: usize, mac: &[u8; 32]) -> Vec<u8> {
        let mut bytes = self.authenticated(len);
        bytes.extend_from_slice(mac);
        let sum = H::sum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// The slot at `index` and its HMAC, which is **not** verified here. `None` for a torn or impossible one: every
    /// number is in range, so that what is computed from them cannot overflow or ask for absurd memory.
    pub(crate) fn decode<H: Sum>(bytes: &[u8], index: u64) -> Option<(Self, [u8; 32])> {
        let (covered, sum) = bytes.split_last_chunk::<SUM>()?;
        let (fields, mac) = covered.split_last_chunk::<SUM>()?;
        if fields.len() < FIELDS || !fields.starts_with(MAGIC) || H::sum(covered) != *sum {
            return None;
        }
        let record = Record {
            mode: JobMode::from_byte(fields[10])?,
            holes: match fields[11] {
                0 => Holes::Dense,
                1 => Holes::Zero,
                _ => return None,
            },
            unit: u32_at(fields, 12)?,
            job: array_at(fields, 16)?,
            disk: array_at(fields, 32)?,
            capacity: u64_at(fields, 64)?,
            zone: u32_at(fields, 72)?,
            plan_len: u32_at(fields, 76)?,
            plan_sum: array_at(fields, 80)?,
        };
        let slot = Self { sequence: u64_at(fields, 48)?, frontier: u64_at(fields, 56)?, record };
        (array_at(fields, 8) == Some(VERSION.to_le_bytes())
            && fields[FIELDS..].iter().all(|&byte| byte == 0)
            && slot.is_possible(index))
        .then_some((slot, *mac))
    }

    fn is_possible(&self, index: u64) -> bool {
        let Record { unit, zone, capacity, plan_len, .. } = self.record;
        (16..=4096).contains(&unit)
            && unit.is_power_of_two()
            && (unit..=MAX_ZONE).contains(&zone)
            && zone.is_multiple_of(unit)
            && (1..=i64::MAX as u64).contains(&capacity)
            && capacity.is_multiple_of(u64::from(unit))
            && self.frontier <= capacity
            && self.frontier.is_multiple_of(u64::from(unit))
            && (0..1 << 62).contains(&self.sequence)
            && self.sequence % 2 == index
            && plan_len <= MAX_PLAN
    }
}

pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}
