use std::fmt;

use vmseal_secret::SecretKey;

use crate::engine::Engine;
use crate::run::{Direction, Geometry, Run};
use crate::{Error, Kernel};

/// Sector sizes in bytes that [`Xts`] works on.
pub const SECTOR_SIZES: [u32; 4] = [512, 1024, 2048, 4096];

/// AES-256-XTS for one disk: an expanded key in locked memory, a sector size and a sector numbering.
pub struct Xts {
    engine: Engine,
    kernel: Kernel,
    geometry: Geometry,
}

impl Xts {
    /// A cipher over sectors of `sector_size` bytes (512, 1024, 2048 or 4096) under the 64-byte `key`. Sector *n* has
    /// the tweak *n* x `tweak_step` mod 2^64: step 1 counts sectors, step 8 is dm-crypt's count for 4096-byte sectors.
    ///
    /// # Errors
    /// Wrong key length, equal key halves, sector size, step 0, an impossible `VMSEAL_XTS_KERNEL`, no locked memory.
    pub fn new(key: &SecretKey, sector_size: u32, tweak_step: u64) -> Result<Xts, Error> {
        Self::with_kernel(key, sector_size, tweak_step, Kernel::select()?)
    }

    /// As [`Xts::new`] with a given kernel, whatever the environment says: for tests and measurements.
    ///
    /// # Errors
    /// As [`Xts::new`]; [`Error::KernelUnsupported`] when this CPU cannot run `kernel`.
    pub fn with_kernel(
        key: &SecretKey,
        sector_size: u32,
        tweak_step: u64,
        kernel: Kernel,
    ) -> Result<Xts, Error> {
        if !SECTOR_SIZES.contains(&sector_size) {
            return Err(Error::SectorSize { sector_size });
        }
        if tweak_step == 0 {
            return Err(Error::TweakStep);
        }
        let engine = Engine::new(key, kernel)?;
        Ok(Xts { engine, kernel, geometry: Geometry { sector_size, tweak_step } })
    }

    /// Encrypts whole sectors in place; `first_sector` is the number of the first one.
    ///
    /// # Errors
    /// [`Error::SectorAlignment`] before anything is changed. [`Error::Secret`] when the process wiped its keys: the
    /// content of `data` is then undefined and must not be written anywhere.
    pub fn encrypt(&self, data: &mut [u8], first_sector: u64) -> Result<(), Error> {
        self.engine.run(Direction::Encrypt, Run::in_place(data, first_sector, self.geometry)?)
    }

    /// Decrypts whole sectors in place; `first_sector` is the number of the first one.
    ///
    /// # Errors
    /// As [`Xts::encrypt`].
    pub fn decrypt(&self, data: &mut [u8], first_sector: u64) -> Result<(), Error> {
        self.engine.run(Direction::Decrypt, Run::in_place(data, first_sector, self.geometry)?)
    }

    /// Encrypts whole sectors of `source` into `destination`, which has the same length.
    ///
    /// # Errors
    /// As [`Xts::encrypt`], and [`Error::LengthMismatch`].
    pub fn encrypt_to(&self, source: &[u8], destination: &mut [u8], first_sector: u64) -> Result<(), Error> {
        self.engine.run(Direction::Encrypt, Run::copying(source, destination, first_sector, self.geometry)?)
    }

    /// Decrypts whole sectors of `source` into `destination`, which has the same length.
    ///
    /// # Errors
    /// As [`Xts::encrypt_to`].
    pub fn decrypt_to(&self, source: &[u8], destination: &mut [u8], first_sector: u64) -> Result<(), Error> {
        self.engine.run(Direction::Decrypt, Run::copying(source, destination, first_sector, self.geometry)?)
    }

    /// Sector size in bytes.
    pub fn sector_size(&self) -> u32 {
        self.geometry.sector_size
    }

    /// The kernel that does the work.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }
}

impl fmt::Debug for Xts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Xts")
            .field("sector_size", &self.geometry.sector_size)
            .field("tweak_step", &self.geometry.tweak_step)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}
