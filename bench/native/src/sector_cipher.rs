//! What every implementation of AES-256-XTS looks like to the measurement.

use vmseal_secret::SecretKey;
use vmseal_xts::{Kernel, Xts};

use crate::Outcome;
use crate::report::Implementation;

/// What is done to a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    EncryptInPlace,
    DecryptInPlace,
    EncryptCopy,
    DecryptCopy,
}

impl Operation {
    pub const ALL: [Operation; 4] = [
        Operation::EncryptInPlace,
        Operation::DecryptInPlace,
        Operation::EncryptCopy,
        Operation::DecryptCopy,
    ];

    pub fn encrypts(self) -> bool {
        matches!(self, Operation::EncryptInPlace | Operation::EncryptCopy)
    }

    pub fn in_place(self) -> bool {
        matches!(self, Operation::EncryptInPlace | Operation::DecryptInPlace)
    }
}

/// An expanded key that works on whole sectors, tweak = sector number.
pub trait SectorCipher: Send {
    /// One call over a buffer. In place, `destination` is left alone.
    fn run(&mut self, operation: Operation, source: &mut [u8], destination: &mut [u8], first_sector: u64);
}

/// Someone who makes ciphers.
pub struct Maker {
    pub implementation: Implementation,
    /// The kernel of ours, if it is one.
    pub kernel: Option<Kernel>,
    pub make: Box<Make>,
}

/// A cipher under a 64-byte key for sectors of that many bytes.
type Make = dyn Fn(&SecretKey, usize) -> Outcome<Box<dyn SectorCipher>>;

/// Our kernels that this CPU can run, the one chosen by itself first.
pub fn own_kernels() -> Vec<Maker> {
    let supported = Kernel::ALL.into_iter().filter(|kernel| kernel.is_supported());
    supported
        .map(|kernel| Maker {
            implementation: Implementation {
                name: format!("vmseal {kernel}"),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                call_path: "Xts::encrypt: one call for all sectors",
                peer: false,
            },
            kernel: Some(kernel),
            make: Box::new(move |key, sector_size| {
                Ok(Box::new(Xts::with_kernel(key, u32::try_from(sector_size)?, 1, kernel)?))
            }),
        })
        .collect()
}

impl SectorCipher for Xts {
    fn run(&mut self, operation: Operation, source: &mut [u8], destination: &mut [u8], first_sector: u64) {
        let outcome = match operation {
            Operation::EncryptInPlace => self.encrypt(source, first_sector),
            Operation::DecryptInPlace => self.decrypt(source, first_sector),
            Operation::EncryptCopy => self.encrypt_to(source, destination, first_sector),
            Operation::DecryptCopy => self.decrypt_to(source, destination, first_sector),
        };
        outcome.expect("whole sectors, and no key is wiped here");
    }
}

/// A cipher whose interface knows one sector at a time.
pub trait OneSector: Send {
    /// # Safety
    /// `from` is `length` readable bytes, `to` as many writable ones; they are the same or do not overlap.
    unsafe fn cipher(&mut self, encrypt: bool, sector: u64, from: *const u8, to: *mut u8, length: usize);
}

/// The loop that a caller of such an interface writes.
pub struct PerSector<T> {
    pub cipher: T,
    pub sector_size: usize,
}

impl<T: OneSector> SectorCipher for PerSector<T> {
    fn run(&mut self, operation: Operation, source: &mut [u8], destination: &mut [u8], first_sector: u64) {
        assert!(source.len() == destination.len() && source.len().is_multiple_of(self.sector_size));
        let from = source.as_mut_ptr();
        let to = if operation.in_place() { from } else { destination.as_mut_ptr() };
        for index in 0..source.len() / self.sector_size {
            let (offset, sector) = (index * self.sector_size, first_sector.wrapping_add(index as u64));
            // SAFETY: the sector lies in both slices, which have the same length.
            unsafe {
                let (from, to) = (from.add(offset), to.add(offset));
                self.cipher.cipher(operation.encrypts(), sector, from, to, self.sector_size);
            }
        }
    }
}

/// A sector number as XTS sees it.
pub fn tweak(sector: u64) -> [u8; 16] {
    u128::from(sector).to_le_bytes()
}
