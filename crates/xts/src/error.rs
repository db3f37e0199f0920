use crate::Kernel;

/// Why a cipher could not be made or a run of sectors was not ciphered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key is not the two 256-bit halves AES-256-XTS needs.
    #[error("an AES-256-XTS key has 64 bytes, this one has {length}: make the key with that length")]
    KeyLength {
        /// Length of the refused key in bytes.
        length: usize,
    },
    /// Both halves of the key are the same (FIPS 140-3 IG C.I forbids it: it voids the security proof of XTS).
    #[error("the two halves of the XTS key are equal: generate a new key")]
    WeakKey,
    /// The sector size is not one this cipher works on.
    #[error("sector size {sector_size} is not supported: use 512, 1024, 2048 or 4096 bytes")]
    SectorSize {
        /// The refused size in bytes.
        sector_size: u32,
    },
    /// A tweak step of zero would encrypt every sector under the same tweak.
    #[error("the tweak step must not be 0: use 1, or sector size / 512 for dm-crypt's numbering")]
    TweakStep,
    /// The buffer is not a whole number of sectors.
    #[error("{length} bytes are not a whole number of {sector_size}-byte sectors: pass whole sectors")]
    SectorAlignment {
        /// Length of the buffer in bytes.
        length: usize,
        /// Sector size of the cipher in bytes.
        sector_size: u32,
    },
    /// Source and destination differ in length.
    #[error("source has {source_length} bytes, destination {destination_length}: make them the same length")]
    LengthMismatch {
        /// Length of the source in bytes.
        source_length: usize,
        /// Length of the destination in bytes.
        destination_length: usize,
    },
    /// A data unit is shorter than one block or longer than IEEE 1619 allows.
    #[error("a data unit has 16 to 16777216 bytes, this one has {length}: split or pad the data")]
    DataUnitLength {
        /// Length of the refused data unit in bytes.
        length: usize,
    },
    /// The environment names a kernel that does not exist.
    #[error("VMSEAL_XTS_KERNEL names no kernel: set it to vaes512, vaes256, aesni or portable, or unset it")]
    KernelUnknown,
    /// The named kernel needs instructions this CPU does not have.
    #[error("this CPU cannot run the {} kernel: unset VMSEAL_XTS_KERNEL to let the CPU decide", .kernel.name())]
    KernelUnsupported {
        /// The refused kernel.
        kernel: Kernel,
    },
    /// The locked memory that should hold the expanded key refused.
    #[error(transparent)]
    Secret(#[from] vmseal_secret::Error),
}

impl Error {
    /// The stable `VMSEAL_...` code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::KeyLength { .. } => "VMSEAL_KEY_LENGTH",
            Error::WeakKey => "VMSEAL_KEY_WEAK",
            Error::SectorAlignment { .. } => "VMSEAL_SECTOR_ALIGNMENT",
            Error::SectorSize { .. }
            | Error::TweakStep
            | Error::LengthMismatch { .. }
            | Error::DataUnitLength { .. }
            | Error::KernelUnknown
            | Error::KernelUnsupported { .. } => "VMSEAL_INVALID_ARGUMENT",
            Error::Secret(error) => error.code(),
        }
    }
}
