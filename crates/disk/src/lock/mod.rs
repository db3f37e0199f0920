//! Who works on a disk: one job at a time, and no QEMU that would see it change.
//!
//! Three locks, because none is seen by everybody:
//!
//! * `flock` on the extent, which no step of a job replaces: jobs of this machine. It ends with the process, however that ends.
//! * QEMU's byte locks on the same file: running virtual machines, `qemu-nbd`, `qemu-img`.
//! * `<descriptor>.lck`, which names its holder: jobs of other machines that share the folder. One that a crash left is void
//!   when its machine is this one, for the locks above then tell that nobody works; see [`holder`].
//!
//! The lock of a virtual machine in the same folder (`<name>.vmx.lck`, taken by the host agent) is obeyed as well.

mod holder;
mod qemu;

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::error::{Error, Result};

pub(crate) use holder::{lock_path, refuse_held_machine};
pub(crate) use qemu::ByteLocks;

/// What a job changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// The extent: nobody may have it open.
    Data,
    /// Only descriptor and second copy: the guest goes on.
    Lines,
}

/// The right to change a disk, until dropped.
#[derive(Debug)]
pub(crate) struct DiskLock {
    record: holder::LockFile,
    _bytes: Option<ByteLocks>,
    _jobs: JobLock,
}

impl DiskLock {
    /// Takes the disk at `descriptor`, whose extent `file` is open for reading and writing. [`Error::FileLocked`] names who
    /// has it.
    pub(crate) fn take(descriptor: &Path, extent: &Path, file: &File, changes: Changes) -> Result<Self> {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let holder =
                    holder::named(&lock_path(descriptor)).unwrap_or_else(|| "another job".to_owned());
                return Err(Error::FileLocked { path: extent.to_owned(), holder });
            }
            Err(error) => return Err(Error::io("lock", extent, error)),
        }
        let jobs = JobLock(file.try_clone().map_err(|error| Error::io("lock", extent, error))?);
        let bytes = match changes {
            Changes::Data => Some(qemu::lock(extent, file, qemu::Use::Change)?),
            Changes::Lines => None,
        };
        holder::refuse_held_machine(descriptor)?;
        Ok(Self { record: holder::LockFile::make(descriptor)?, _bytes: bytes, _jobs: jobs })
    }

    /// Refuses to go on when somebody took the lock file away, as they do who think that this machine is down.
    pub(crate) fn check(&self) -> Result<()> {
        self.record.check()
    }
}

/// `flock`, given back on purpose for the reason that [`ByteLocks`] are.
#[derive(Debug)]
struct JobLock(File);

impl Drop for JobLock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Keeps writers away from a file that is read as a whole.
pub(crate) fn keep_writers_away(path: &Path, file: &File) -> Result<ByteLocks> {
    qemu::lock(path, file, qemu::Use::Read)
}

fn locked(path: PathBuf, holder: impl Into<String>) -> Error {
    Error::FileLocked { path, holder: holder.into() }
}
