//! The byte locks with which QEMU keeps its processes off each other's images (`block/file-posix.c`).
//!
//! For each right a process uses it holds a shared lock on byte 100 + right, for each right it does not grant to others
//! on byte 200 + right. Rights: 0 consistent read, 1 write, 2 write unchanged, 3 resize. Locks are first set, then looked
//! at, so of two that come at the same time at most one goes on. They are locks of an open file description: they end with it,
//! and they are seen by everybody on this kernel and, where it supports them, through NFS.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, SEEK_SET, flock};

use super::locked;
use crate::error::{Error, Result};

const USED: i64 = 100;
const KEPT: i64 = 200;

/// What a lock is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Others may read as well.
    Read,
    /// Nobody else may use the file: it is in two forms.
    Change,
}

impl Use {
    /// Rights that are used, and rights that others must not use.
    fn rights(self) -> (&'static [i64], &'static [i64]) {
        match self {
            Self::Read => (&[0], &[1, 3]),
            Self::Change => (&[0, 1], &[0, 1, 2, 3]),
        }
    }
}

/// Locks that are held. They are given back on purpose: closing the file would not do while a child process that is being
/// started still has it.
#[derive(Debug)]
#[must_use = "the locks go with this value"]
pub(crate) struct ByteLocks(File);

impl Drop for ByteLocks {
    fn drop(&mut self) {
        let all = flock { l_len: KEPT - USED + 4, ..region(F_UNLCK, USED) };
        // At the latest they go with the last descriptor.
        let _ = fcntl(&self.0, FcntlArg::F_OFD_SETLK(&all));
    }
}

/// Sets the locks and refuses when a process that is there already uses what we keep or keeps what we use.
pub(super) fn lock(path: &Path, file: &File, wanted: Use) -> Result<ByteLocks> {
    let held = ByteLocks(file.try_clone().map_err(|error| Error::io("lock", path, error))?);
    let (used, kept) = wanted.rights();
    let bytes = used.iter().map(|right| USED + right).chain(kept.iter().map(|right| KEPT + right));
    for byte in bytes {
        match fcntl(file, FcntlArg::F_OFD_SETLK(&region(F_RDLCK, byte))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Err(in_use(path, wanted)),
            // A file system without locks has no QEMU that holds one either.
            Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(held),
            Err(error) => return Err(Error::io("lock", path, error)),
        }
    }
    let foreign = used.iter().map(|right| KEPT + right).chain(kept.iter().map(|right| USED + right));
    for byte in foreign {
        let mut found = region(F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).map_err(|error| Error::io("lock", path, error))?;
        if i32::from(found.l_type) != F_UNLCK {
            return Err(in_use(path, wanted));
        }
    }
    Ok(held)
}

fn region(kind: i32, byte: i64) -> flock {
    flock { l_type: kind as i16, l_whence: SEEK_SET as i16, l_start: byte, l_len: 1, l_pid: 0 }
}

fn in_use(path: &Path, wanted: Use) -> Error {
    let doing = if wanted == Use::Read { " for writing" } else { "" };
    locked(
        path.to_owned(),
        format!("QEMU, which has it open{doing} (a running virtual machine, qemu-nbd or qemu-img)"),
    )
}
