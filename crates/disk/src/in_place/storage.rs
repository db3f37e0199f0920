//! The few file operations a job consists of. The engine knows nothing else of the world, so that a test can put a disk
//! under it that loses power, tears writes and fails any call.

use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// The files of one job, all in the descriptor's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// `web01.vmdk`
    Descriptor,
    /// `web01.vmdk.vmseal`, the second copy of the vmseal lines
    Copy,
    /// `web01-flat.vmdk`, the data
    Flat,
    /// `web01.vmdk.vmseal-job`, record and journal
    Sidecar,
    /// What becomes a descriptor, copy or record by rename
    Temporary,
    /// `web01.vmdk.vmseal-copy`, the record of an unfinished copy to this disk
    CopyRecord,
    /// `web01.vmdk.vmseal-discard`, the record of a source that is being overwritten
    DiscardRecord,
}

/// Names there are.
pub(crate) const NAMES: usize = 7;

/// A folder with the files of one job. What is not synced may be lost by a crash, in any combination, down to parts of
/// one write; [`Storage::sync`] covers a file's data, [`Storage::sync_folder`] the names.
///
/// Reads and writes may be short and may fail with [`io::ErrorKind::Interrupted`]; [`read_exact`] and [`write_all`] cope.
pub(crate) trait Storage: Sync {
    /// Where the file is, for messages.
    fn path(&self, name: Name) -> &Path;
    /// Whether this job still has the disk to itself; asked once a zone.
    fn check_held(&self) -> Result<()>;
    /// Opens an existing file for reading and writing.
    fn open(&mut self, name: Name) -> io::Result<()>;
    /// Makes a new file, readable by the owner only. Fails when the name is taken.
    fn create(&mut self, name: Name) -> io::Result<()>;
    fn len(&self, name: Name) -> io::Result<u64>;
    fn read_at(&self, name: Name, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, name: Name, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Gives `len` bytes from `offset` on room on the disk, so that writing there cannot run out of space. Contents stay; the
    /// file is extended when it is shorter.
    fn reserve(&self, name: Name, offset: u64, len: u64) -> io::Result<()>;
    /// The next run of bytes at or after `from` that is no hole; `None` when only holes follow.
    fn next_data(&self, name: Name, from: u64) -> io::Result<Option<(u64, u64)>>;
    /// Barrier: everything written to the file so far survives a crash. A failure is final for what was written: the
    /// kernel then calls the pages clean.
    fn sync(&self, name: Name) -> io::Result<()>;
    /// Puts `from` in the place of `to` in one step.
    fn rename(&mut self, from: Name, to: Name) -> io::Result<()>;
    /// Gives `from` the free name `to` in one step; [`io::ErrorKind::AlreadyExists`] when it is taken.
    fn rename_new(&mut self, from: Name, to: Name) -> io::Result<()>;
    fn unlink(&mut self, name: Name) -> io::Result<()>;
    /// Barrier for names.
    fn sync_folder(&self) -> io::Result<()>;
}

/// Names the failed call for the error.
pub(crate) fn failed<S: Storage>(
    storage: &S,
    action: &'static str,
    name: Name,
) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::io(action, storage.path(name), error)
}

/// Fills `buffer`; a file that ends early is [`Error::JobInvalid`] or [`Error::ExtentInvalid`].
pub(crate) fn read_exact<S: Storage>(
    storage: &S,
    name: Name,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> Result<()> {
    let mut patience = Patience::new();
    while !buffer.is_empty() {
        match storage.read_at(name, buffer, offset) {
            Ok(0) if name == Name::Sidecar => return Err(Error::job(storage.path(name), "it is too short")),
            Ok(0) => return Err(Error::extent(storage.path(name), "it ends too early; restore it")),
            Ok(count) => {
                offset += count as u64;
                buffer = &mut buffer[count..];
            }
            Err(error) if patience.allows(&error) => {}
            Err(error) => return Err(failed(storage, "read", name)(error)),
        }
    }
    Ok(())
}

/// Writes all of `bytes`.
pub(crate) fn write_all<S: Storage>(
    storage: &S,
    name: Name,
    mut bytes: &[u8],
    mut offset: u64,
) -> Result<()> {
    let mut patience = Patience::new();
    while !bytes.is_empty() {
        match storage.write_at(name, bytes, offset) {
            Ok(0) => return Err(failed(storage, "write", name)(io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                offset += count as u64;
                bytes = &bytes[count..];
            }
            Err(error) if patience.allows(&error) => {}
            Err(error) => return Err(failed(storage, "write", name)(error)),
        }
    }
    Ok(())
}

/// How often in a row a call is made again that a signal interrupted. A system that never gets past its signals is an error,
/// not a hang.
pub(crate) struct Patience(u32);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(1000)
    }

    pub(crate) fn allows(&mut self, error: &io::Error) -> bool {
        self.0 = self.0.saturating_sub(1);
        error.kind() == io::ErrorKind::Interrupted && self.0 > 0
    }
}
