//! Everything that can go wrong with a disk, and the one place where an operating system error gets its name.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a disk operation was refused or failed. Variants say who is at fault; [`Error::code`] gives the stable code.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller passed something this operation cannot take.
    #[error("{reason}")]
    InvalidArgument {
        /// What is wrong and what to pass instead.
        reason: String,
    },
    /// The descriptor text breaks the grammar, or its vmseal lines do not add up.
    #[error("the disk descriptor is not valid: {reason}")]
    DescriptorInvalid {
        /// Which line or rule.
        reason: String,
    },
    /// The descriptor is sound but describes a kind of disk this version does not work on.
    #[error("the disk descriptor is of a kind vmseal does not handle: {reason}")]
    DescriptorUnsupported {
        /// Which kind, and what to do.
        reason: String,
    },
    /// An extent file is missing or has another size than the descriptor says.
    #[error("extent {}: {reason}", file.display())]
    ExtentInvalid {
        /// The extent file.
        file: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The file is not a disk image that can be read.
    #[error("{} is not a usable disk image: {reason}", path.display())]
    ImageInvalid {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The disk is not in the state this operation needs (sealed, plain, sealed by another product).
    #[error("{}: {reason}", path.display())]
    DiskState {
        /// The descriptor.
        path: PathBuf,
        /// The state found and what to do.
        reason: String,
    },
    /// The disk is between two states: an in-place conversion was begun and is not done.
    #[error(
        "{}: an in-place conversion of the disk is unfinished, so its data is in two forms; resume it first",
        path.display()
    )]
    InConversion {
        /// The descriptor.
        path: PathBuf,
    },
    /// The sidecar of an in-place conversion is missing, damaged or of another disk; nothing was written.
    #[error("the job record {}: {reason}", path.display())]
    JobInvalid {
        /// The sidecar.
        path: PathBuf,
        /// What does not fit and what to do.
        reason: String,
    },
    /// The record of an in-place conversion was not made by a holder of the disk's key; nothing was written.
    #[error(
        "the job record {} is not authentic: it was forged or altered; restore the record that belongs to the disk",
        path.display()
    )]
    JobAuthentication {
        /// The sidecar.
        path: PathBuf,
    },
    /// The header of a LUKS volume is damaged, or is none.
    #[error("the LUKS header of {} is not valid: {reason}", path.display())]
    LuksInvalid {
        /// The file with the header.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The LUKS volume is sound but cannot become a disk as it lies.
    #[error("the LUKS volume {} cannot be taken as it lies: {reason}", path.display())]
    LuksUnsupported {
        /// The file with the header.
        path: PathBuf,
        /// What it is, and what to do.
        reason: String,
    },
    /// No key slot of the LUKS header opens with the passphrase.
    #[error("no key slot of {} opens with this passphrase or key file; a key file counts to its last byte, line end included", path.display())]
    LuksPassphrase {
        /// The file with the header.
        path: PathBuf,
    },
    /// Somebody else works on the disk.
    #[error("{} is in use by {holder}; wait for it or stop it", path.display())]
    FileLocked {
        /// The file that is locked.
        path: PathBuf,
        /// Who holds it, as far as is known.
        holder: String,
    },
    /// The wrapped key is authentic but was made for another disk, VM, size or generation than the place it stands in.
    #[error(
        "the wrapped key belongs elsewhere: its {field} does not match this disk; restore the descriptor this disk was sealed with"
    )]
    EnvelopeMismatch {
        /// The header field that differs.
        field: &'static str,
    },
    /// The image needs QEMU's converter, which is not installed.
    #[error(
        "a {format} image is read with qemu-img, which is not on PATH: install the package qemu-utils (Debian, Ubuntu) or qemu-img (Fedora, RHEL, SUSE) and try again"
    )]
    QemuImgRequired {
        /// Name of the image format.
        format: &'static str,
    },
    /// QEMU's converter ran and refused or failed.
    #[error("qemu-img failed: {reason}")]
    QemuImgFailed {
        /// Exit status and the last lines it printed.
        reason: String,
    },
    /// The operation was cancelled. What a copy had made was removed; an in-place conversion can be resumed.
    #[error("the operation was cancelled")]
    Cancelled,
    /// There is not enough room on the file system.
    #[error("no space left for {}: {reason}", path.display())]
    NoSpace {
        /// The file that was being made.
        path: PathBuf,
        /// Bytes needed and free, or the system's word.
        reason: String,
    },
    /// A file is not there.
    #[error("{} does not exist", path.display())]
    NotFound {
        /// The missing file.
        path: PathBuf,
    },
    /// A file that would be made is already there; nothing was overwritten.
    #[error("{} already exists: remove it or choose another name", path.display())]
    AlreadyExists {
        /// The file in the way.
        path: PathBuf,
    },
    /// The operating system refuses access.
    #[error("no permission to {action} {}", path.display())]
    PermissionDenied {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Any other failure of the operating system.
    #[error("cannot {action} {}: {} ({source})", path.display(), errno_name(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Wrapping or unwrapping the data key failed.
    #[error(transparent)]
    Wrap(#[from] vmseal_wrap::Error),
    /// Key memory failed.
    #[error(transparent)]
    Secret(#[from] vmseal_secret::Error),
    /// The cipher refused its key or its input.
    #[error(transparent)]
    Cipher(#[from] vmseal_xts::Error),
    /// A worker thread panicked; the half-made result was removed. This is a fault in vmseal: please report it.
    #[error("internal error in a worker thread: {reason}")]
    Internal {
        /// The panic's message.
        reason: String,
    },
}

impl Error {
    /// The stable code, one of the table in `src/errors.ts`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidArgument { .. } => "VMSEAL_INVALID_ARGUMENT",
            Self::DescriptorInvalid { .. } => "VMSEAL_DESCRIPTOR_INVALID",
            Self::DescriptorUnsupported { .. } => "VMSEAL_DESCRIPTOR_UNSUPPORTED",
            Self::ExtentInvalid { .. } => "VMSEAL_EXTENT_INVALID",
            Self::ImageInvalid { .. } => "VMSEAL_IMAGE_INVALID",
            Self::DiskState { .. } => "VMSEAL_DISK_STATE",
            Self::InConversion { .. } => "VMSEAL_DISK_IN_CONVERSION",
            Self::JobInvalid { .. } => "VMSEAL_JOB_INVALID",
            Self::JobAuthentication { .. } => "VMSEAL_JOB_AUTHENTICATION",
            Self::LuksInvalid { .. } => "VMSEAL_LUKS_INVALID",
            Self::LuksUnsupported { .. } => "VMSEAL_LUKS_UNSUPPORTED",
            Self::LuksPassphrase { .. } => "VMSEAL_LUKS_PASSPHRASE",
            Self::FileLocked { .. } => "VMSEAL_FILE_LOCKED",
            Self::EnvelopeMismatch { .. } => "VMSEAL_ENVELOPE_MISMATCH",
            Self::QemuImgRequired { .. } => "VMSEAL_QEMU_IMG_REQUIRED",
            Self::QemuImgFailed { .. } => "VMSEAL_QEMU_IMG_FAILED",
            Self::Cancelled => "VMSEAL_CANCELLED",
            Self::NoSpace { .. } => "VMSEAL_NO_SPACE",
            Self::NotFound { .. } => "VMSEAL_NOT_FOUND",
            Self::AlreadyExists { .. } => "VMSEAL_ALREADY_EXISTS",
            Self::PermissionDenied { .. } => "VMSEAL_PERMISSION_DENIED",
            Self::Io { .. } => "VMSEAL_IO",
            Self::Wrap(error) => error.code(),
            Self::Secret(error) => error.code(),
            Self::Cipher(error) => error.code(),
            Self::Internal { .. } => "VMSEAL_INTERNAL",
        }
    }

    pub(crate) fn argument(reason: impl Into<String>) -> Self {
        Self::InvalidArgument { reason: reason.into() }
    }

    pub(crate) fn descriptor(reason: impl Into<String>) -> Self {
        Self::DescriptorInvalid { reason: reason.into() }
    }

    pub(crate) fn unsupported(reason: impl Into<String>) -> Self {
        Self::DescriptorUnsupported { reason: reason.into() }
    }

    pub(crate) fn extent(file: &Path, reason: impl Into<String>) -> Self {
        Self::ExtentInvalid { file: file.to_owned(), reason: reason.into() }
    }

    pub(crate) fn image(path: &Path, reason: impl Into<String>) -> Self {
        Self::ImageInvalid { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn luks_invalid(path: &Path, reason: impl Into<String>) -> Self {
        Self::LuksInvalid { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn luks_unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::LuksUnsupported { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn state(path: &Path, reason: impl Into<String>) -> Self {
        Self::DiskState { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn job(path: &Path, reason: impl Into<String>) -> Self {
        Self::JobInvalid { path: path.to_owned(), reason: reason.into() }
    }

    /// The only mapping from operating system errors to this enum. `action` reads as "cannot {action} {path}".
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_owned();
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => Self::NotFound { path },
            Some(Errno::EXIST) => Self::AlreadyExists { path },
            Some(Errno::ACCESS | Errno::PERM) => Self::PermissionDenied { action, path },
            Some(Errno::NOSPC | Errno::DQUOT) => {
                Self::NoSpace { path, reason: format!("{} ({source})", errno_name(&source)) }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

/// The symbolic name of an operating system error, for logs that are searched for `EIO`.
fn errno_name(error: &io::Error) -> String {
    const NAMES: [(Errno, &str); 24] = [
        (Errno::IO, "EIO"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::DQUOT, "EDQUOT"),
        (Errno::ROFS, "EROFS"),
        (Errno::FBIG, "EFBIG"),
        (Errno::MFILE, "EMFILE"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::BUSY, "EBUSY"),
        (Errno::STALE, "ESTALE"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::LOOP, "ELOOP"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::INVAL, "EINVAL"),
        (Errno::NXIO, "ENXIO"),
        (Errno::NODEV, "ENODEV"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::XDEV, "EXDEV"),
        (Errno::NOTCONN, "ENOTCONN"),
    ];
    match error.raw_os_error() {
        None => format!("{:?}", error.kind()),
        Some(number) => NAMES
            .iter()
            .find(|(errno, _)| errno.raw_os_error() == number)
            .map_or_else(|| format!("errno {number}"), |(_, name)| (*name).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_errno(errno: Errno) -> Error {
        Error::io("write", Path::new("/d/x-flat.vmdk"), errno)
    }

    #[test]
    fn every_errno_of_interest_has_its_own_code() {
        for (errno, code) in [
            (Errno::NOENT, "VMSEAL_NOT_FOUND"),
            (Errno::EXIST, "VMSEAL_ALREADY_EXISTS"),
            (Errno::ACCESS, "VMSEAL_PERMISSION_DENIED"),
            (Errno::PERM, "VMSEAL_PERMISSION_DENIED"),
            (Errno::NOSPC, "VMSEAL_NO_SPACE"),
            (Errno::DQUOT, "VMSEAL_NO_SPACE"),
            (Errno::IO, "VMSEAL_IO"),
            (Errno::ROFS, "VMSEAL_IO"),
        ] {
            assert_eq!(from_errno(errno).code(), code);
        }
    }

    #[test]
    fn texts_carry_the_errno_name_and_the_file() {
        let text = from_errno(Errno::IO).to_string();
        assert!(text.contains("EIO") && text.contains("/d/x-flat.vmdk"), "{text}");
        assert!(from_errno(Errno::NOSPC).to_string().contains("ENOSPC"));
        assert!(from_errno(Errno::from_raw_os_error(4000)).to_string().contains("errno 4000"));
    }

    #[test]
    fn the_missing_converter_is_named_with_its_package() {
        let text = Error::QemuImgRequired { format: "qcow2" }.to_string();
        assert!(text.contains("qemu-utils") && text.contains("qcow2"), "{text}");
    }
}
