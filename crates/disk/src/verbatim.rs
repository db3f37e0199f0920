//! Files copied byte for byte, as they lie: ciphertext needs no key to move.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, seek};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::buffer::Buffer;
use crate::control::Control;
use crate::descriptor::sync_directory;
use crate::error::{Error, Result};
use crate::lock::keep_writers_away;
use crate::no_follow::open_to_read;
use crate::target::check_free_space;

/// Bytes read and written at a time.
const CHUNK: usize = 1 << 20;

/// Copies the regular file `source` into the new file `target`, holes as holes, makes it durable, and reads both from end to end
/// to see that they are equal: `target` after its pages were given back to the kernel, so from the disk where there is one.
/// Progress counts the bytes of the file twice, for copying and for comparing. Returns the length in bytes.
///
/// `target` is whole when the call returns, and gone when it fails or is cancelled. Errors: [`Error::AlreadyExists`],
/// [`Error::NoSpace`], [`Error::FileLocked`] while QEMU writes to `source`, and [`Error::ImageInvalid`] when it is no regular file or was
/// changed meanwhile.
pub fn copy_verbatim(source: &Path, target: &Path, control: &Control) -> Result<u64> {
    control.check()?;
    let from = Reading::open(source)?;
    let _writers = keep_writers_away(source, &from.file)?;
    control.start(from.len.saturating_mul(2));
    check_free_space(target, from.allocated)?;
    let to = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(target)
        .map_err(|error| Error::io("create", target, error))?;
    fill(&from, &to, target, control).inspect_err(|_| {
        // The first error is the one that counts.
        let _ = fs::remove_file(target);
        let _ = sync_directory(target);
    })?;
    Ok(from.len)
}

/// SHA-256 of a regular file, as `sha256sum` tells it, and its length in bytes. Errors: [`Error::ImageInvalid`] when it is no regular
/// file or was changed meanwhile.
pub fn sum_file(path: &Path, control: &Control) -> Result<([u8; 32], u64)> {
    control.check()?;
    let file = Reading::open(path)?;
    control.start(file.len);
    let mut hash = Sha256::new();
    let mut buffer = Buffer::new(CHUNK);
    let mut at = 0;
    while at < file.len {
        control.check()?;
        let chunk = buffer.first(chunk_at(at, file.len));
        file.read(at, chunk)?;
        hash.update(&*chunk);
        at += chunk.len() as u64;
        control.set_done(at);
    }
    file.check_unchanged()?;
    Ok((hash.finalize().into(), file.len))
}

/// A file that must not change while it is read.
struct Reading<'a> {
    path: &'a Path,
    file: File,
    len: u64,
    allocated: u64,
    modified: (i64, i64),
}

impl<'a> Reading<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let file =
            open_to_read(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::LOOP) => Error::image(path, "it is a symbolic link"),
                Some(Errno::NXIO) => Error::image(path, "it is no regular file"),
                _ => Error::io("read", path, error),
            })?;
        let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
        if !metadata.is_file() {
            return Err(Error::image(path, "it is no regular file"));
        }
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let allocated = metadata.blocks().saturating_mul(512).min(metadata.len());
        Ok(Self { path, file, len: metadata.len(), allocated, modified })
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, at).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => changed(self.path),
            _ => Error::io("read", self.path, error),
        })
    }

    /// The first byte at or after `at` that is not in a hole; the length of the file when only a hole follows.
    fn next_data(&self, at: u64) -> Result<u64> {
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(data.clamp(at, self.len)),
            Err(Errno::NXIO) => Ok(self.len),
            // A file system without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at),
            Err(error) => Err(Error::io("find data in", self.path, error)),
        }
    }

    fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|error| Error::io("examine", self.path, error))?;
        let same = now.len() == self.len && (now.mtime(), now.mtime_nsec()) == self.modified;
        if same { Ok(()) } else { Err(changed(self.path)) }
    }
}

fn fill(from: &Reading<'_>, to: &File, target: &Path, control: &Control) -> Result<()> {
    to.set_len(from.len).map_err(|error| Error::io("extend", target, error))?;
    let mut buffer = Buffer::new(CHUNK);
    let mut at = from.next_data(0)?;
    while at < from.len {
        control.check()?;
        let chunk = buffer.first(chunk_at(at, from.len));
        from.read(at, chunk)?;
        to.write_all_at(chunk, at).map_err(|error| Error::io("write", target, error))?;
        at = from.next_data(at + chunk.len() as u64)?;
        control.set_done(at);
    }
    to.sync_all().map_err(|error| Error::io("sync", target, error))?;
    // Advice only: a file system may keep its pages.
    let _ = fadvise(to, 0, None, Advice::DontNeed);
    compare(from, to, target, control)?;
    from.check_unchanged()?;
    control.check()?;
    sync_directory(target)
}

fn compare(from: &Reading<'_>, to: &File, target: &Path, control: &Control) -> Result<()> {
    let copy = Reading {
        path: target,
        file: to.try_clone().map_err(|error| Error::io("read", target, error))?,
        len: from.len,
        allocated: 0,
        modified: (0, 0),
    };
    let (mut one, mut other) = (Buffer::new(CHUNK), Buffer::new(CHUNK));
    // Where both have holes both are zeros.
    let next = |at: u64| Ok::<_, Error>(from.next_data(at)?.min(copy.next_data(at)?));
    let mut at = next(0)?;
    while at < from.len {
        control.check()?;
        let len = chunk_at(at, from.len);
        let (one, other) = (one.first(len), other.first(len));
        from.read(at, one)?;
        copy.read(at, other)?;
        if one != other {
            return Err(Error::image(target, "it does not read back as it was written"));
        }
        at = next(at + len as u64)?;
        control.set_done(from.len + at);
    }
    Ok(())
}

/// Up to the next multiple of the chunk.
fn chunk_at(at: u64, len: u64) -> usize {
    let end = (at / CHUNK as u64 + 1) * CHUNK as u64;
    (end.min(len) - at) as usize
}

fn changed(path: &Path) -> Error {
    Error::image(path, "it was changed while it was being read; stop whatever writes to it and start again")
}
