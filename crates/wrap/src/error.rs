use std::io;

/// Why a key could not be wrapped, opened or streamed. Texts never hold key bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The key given cannot be used here because of its length (in bytes).
    #[error("{what} is {actual} bytes long; use a key of {expected}")]
    KeyLength {
        /// Which key of the call it is.
        what: &'static str,
        /// The lengths that fit.
        expected: &'static str,
        /// The length it has.
        actual: usize,
    },
    /// The two halves of an XTS key are equal (FIPS 140-3 IG C.I).
    #[error("the two halves of the XTS key are equal; generate a new key")]
    KeyWeak,
    /// The caller passed something other than key material that cannot be used.
    #[error("invalid argument: {reason}")]
    InvalidArgument {
        /// What is wrong and what to pass instead.
        reason: &'static str,
    },
    /// RFC 3394 or RFC 5649 refused the wrapped key: wrong KEK, altered, or of an impossible length.
    #[error("the wrapped key does not open: check that it is whole and that this KEK wrapped it")]
    UnwrapFailed,
    /// The JWE cannot be parsed or is of another kind than the one asked for.
    #[error("not a vmseal envelope: {reason}; restore the line from the copy beside the descriptor")]
    EnvelopeInvalid {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The JWE is of the right shape, but this key does not open it.
    #[error("the envelope does not open: it was altered, or another key sealed it")]
    EnvelopeAuthentication,
    /// The JWE opens, but the key in it is not the one its check value commits to.
    #[error(
        "the key in the envelope does not match its check value; do not use this disk before its descriptor is restored"
    )]
    EnvelopeMismatch,
    /// The HPKE seal was altered, or is for another host, request or purpose.
    #[error(
        "the sealed key does not open on this host: ask for it to be sealed again to this host's public key"
    )]
    SealInvalid,
    /// The record of a KMS at rest was altered or moved.
    #[error("the key record does not open: it was altered, moved, or belongs to another key store")]
    SealedRecordInvalid,
    /// The encrypted file was altered, cut, lengthened or belongs to another VM or role.
    #[error("the encrypted file does not open: {reason}; restore it from a backup")]
    StreamInvalid {
        /// What was found.
        reason: &'static str,
    },
    /// The progress callback asked to stop.
    #[error("cancelled; what was written so far must be deleted")]
    Cancelled,
    /// Reading or writing failed.
    #[error("input or output failed: {0}")]
    Io(#[from] io::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes; nothing was sealed")]
    Random,
    /// Locked memory refused a key.
    #[error(transparent)]
    Secret(#[from] vmseal_secret::Error),
}

impl Error {
    /// The stable `VMSEAL_...` code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            Error::KeyLength { .. } => "VMSEAL_KEY_LENGTH",
            Error::KeyWeak => "VMSEAL_KEY_WEAK",
            Error::InvalidArgument { .. } => "VMSEAL_INVALID_ARGUMENT",
            Error::UnwrapFailed => "VMSEAL_UNWRAP_FAILED",
            Error::EnvelopeInvalid { .. } => "VMSEAL_ENVELOPE_INVALID",
            Error::EnvelopeAuthentication => "VMSEAL_ENVELOPE_AUTHENTICATION",
            Error::EnvelopeMismatch => "VMSEAL_ENVELOPE_MISMATCH",
            Error::SealInvalid => "VMSEAL_SEAL_INVALID",
            Error::SealedRecordInvalid => "VMSEAL_SEALED_RECORD_INVALID",
            Error::StreamInvalid { .. } => "VMSEAL_STREAM_INVALID",
            Error::Cancelled => "VMSEAL_CANCELLED",
            Error::Io(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "VMSEAL_NO_SPACE",
                io::ErrorKind::NotFound => "VMSEAL_NOT_FOUND",
                io::ErrorKind::AlreadyExists => "VMSEAL_ALREADY_EXISTS",
                io::ErrorKind::PermissionDenied => "VMSEAL_PERMISSION_DENIED",
                _ => "VMSEAL_IO",
            },
            Error::Random => "VMSEAL_RANDOM_UNAVAILABLE",
            Error::Secret(error) => error.code(),
        }
    }
}
