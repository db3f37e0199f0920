//! What a job does to bytes: cipher, authentication and hash, apart from when it does so.

use sha2::{Digest as _, Sha256};
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::JobMode;
use super::mac::MacKey;
use crate::descriptor::Holes;
use crate::error::Result;
use crate::seal::tweak_step;
use crate::transform::{decrypt, each_run, refuse_when_wiped};

/// A hash that tells torn and damaged records; SHA-256 but for the crash model.
pub(crate) trait Sum {
    fn sum(bytes: &[u8]) -> [u8; 32];

    /// The sums of two pieces.
    fn sum_two(one: &[u8], two: &[u8]) -> [[u8; 32]; 2] {
        [Self::sum(one), Self::sum(two)]
    }
}

/// SHA-256.
pub(crate) struct Sha;

impl Sum for Sha {
    fn sum(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }

    fn sum_two(one: &[u8], two: &[u8]) -> [[u8; 32]; 2] {
        vmseal_bulk::sha256_two(one, two)
    }
}

/// The two forms of a disk's bytes, and the key that authenticates a job.
pub(crate) trait Forms: Sync {
    fn mode(&self) -> JobMode;
    /// From the old form to the new one, in place: whole data units that begin at byte `offset` of the disk.
    fn convert(&self, data: &mut [u8], offset: u64) -> Result<()>;
    /// HMAC of a slot.
    fn mac(&self, bytes: &[u8]) -> Result<[u8; 32]>;
}

/// The forms of a real disk.
pub(crate) struct DiskForms {
    change: Change,
    holes: Holes,
    mac: MacKey,
}

enum Change {
    Encrypt { new: Xts },
    Decrypt { old: Xts },
    Recrypt { old: Xts, new: Xts },
}

impl DiskForms {
    /// `old` is the key the data is under, `new` the one it shall be under. The job's own key comes from the new one, on
    /// decryption from the old: whoever forges a record would have to know it. `None` when there is neither.
    pub(crate) fn new(
        old: Option<&SecretKey>,
        new: Option<&SecretKey>,
        unit: u32,
        holes: Holes,
        job: &[u8; 16],
        disk: &[u8; 16],
    ) -> Result<Option<Self>> {
        let xts = |key: &SecretKey| Xts::new(key, unit, tweak_step(unit));
        let (change, key) = match (old, new) {
            (None, Some(new)) => (Change::Encrypt { new: xts(new)? }, new),
            (Some(old), None) => (Change::Decrypt { old: xts(old)? }, old),
            (Some(old), Some(new)) => (Change::Recrypt { old: xts(old)?, new: xts(new)? }, new),
            (None, None) => return Ok(None),
        };
        Ok(Some(Self { change, holes, mac: MacKey::derive(key, job, disk)? }))
    }
}

impl Forms for DiskForms {
    fn mode(&self) -> JobMode {
        match self.change {
            Change::Encrypt { .. } => JobMode::Encrypt,
            Change::Decrypt { .. } => JobMode::Decrypt,
            Change::Recrypt { .. } => JobMode::Recrypt,
        }
    }

    fn convert(&self, data: &mut [u8], offset: u64) -> Result<()> {
        match &self.change {
            Change::Encrypt { new } => new.encrypt(data, offset / u64::from(new.sector_size()))?,
            Change::Decrypt { old } => {
                decrypt(old, self.holes, data, offset)?;
            }
            Change::Recrypt { old, new } => recrypt(old, new, self.holes, data, offset)?,
        }
        refuse_when_wiped()
    }

    fn mac(&self, bytes: &[u8]) -> Result<[u8; 32]> {
        self.mac.sign(bytes)
    }
}

/// From one key to another.
fn recrypt(old: &Xts, new: &Xts, holes: Holes, data: &mut [u8], offset: u64) -> Result<()> {
    let unit = old.sector_size() as usize;
    let first = offset / unit as u64;
    each_run(unit, holes, data, |at, run| {
        old.decrypt(run, first + at)?;
        Ok(new.encrypt(run, first + at)?)
    })?;
    Ok(())
}
