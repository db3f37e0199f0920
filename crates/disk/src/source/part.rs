//! One extent of a disk: a range of a file, or zeros.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::direct::Direct;
use crate::error::{Error, Result};

#[derive(Debug)]
pub(super) struct Part {
    /// First byte of the virtual disk that this part holds.
    pub(super) start: u64,
    pub(super) len: u64,
    /// `None` reads as zeros.
    pub(super) file: Option<PartFile>,
}

#[derive(Debug)]
pub(super) struct PartFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Where `start` is in the file.
    pub(super) offset: u64,
    /// Length and modification time when the job began.
    stamp: (u64, i64, i64),
    pub(super) identity: Stamp,
    pub(super) allocated: u64,
}

/// Identity, length and modification time of a file. Not its device: that number may change from boot to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    file: u64,
    len: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Part {
    pub(super) fn next_data(&self, from: u64) -> Result<Option<(u64, u64)>> {
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let (end, position) = (file.offset + self.len, file.offset + (from - self.start));
        let to_virtual = |at: u64| at - file.offset + self.start;
        let data = match rustix::fs::seek(&file.file, rustix::fs::SeekFrom::Data(position)) {
            Ok(data) => data.max(position),
            Err(Errno::NXIO) => return Ok(None),
            // A file system or device without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, to_virtual(end)))),
            Err(error) => return Err(Error::io("find data in", &file.path, error)),
        };
        if data >= end {
            return Ok(None);
        }
        let hole = match rustix::fs::seek(&file.file, rustix::fs::SeekFrom::Hole(data)) {
            // The area may have been punched between the two calls; at least one byte keeps the walk moving.
            Ok(hole) => hole.clamp(data + 1, end),
            Err(Errno::NXIO) => return Err(changed(&file.path)),
            Err(error) => return Err(Error::io("find holes in", &file.path, error)),
        };
        Ok(Some((to_virtual(data), to_virtual(hole))))
    }
}

impl PartFile {
    pub(super) fn new(path: PathBuf, file: File, metadata: &Metadata, len: u64, offset: u64) -> Self {
        let allocated = if metadata.is_file() { metadata.blocks().saturating_mul(512) } else { len };
        Self { path, file, offset, stamp: stamp(metadata), identity: identity(metadata), allocated }
    }

    /// Fails when the file was written, cut or grown since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|error| Error::io("examine", &self.path, error))?;
        if metadata.is_file() && stamp(&metadata) != self.stamp { Err(changed(&self.path)) } else { Ok(()) }
    }

    pub(super) fn read_exact(
        &self,
        direct: Option<&Direct>,
        mut offset: u64,
        mut buffer: &mut [u8],
    ) -> Result<()> {
        while !buffer.is_empty() {
            let read = direct.and_then(|direct| direct.read_at(buffer, offset));
            match read.unwrap_or_else(|| self.file.read_at(buffer, offset)) {
                Ok(0) => return Err(changed(&self.path)),
                Ok(count) => {
                    offset += count as u64;
                    buffer = &mut buffer[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(())
    }
}

fn stamp(metadata: &Metadata) -> (u64, i64, i64) {
    (metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

fn identity(metadata: &Metadata) -> Stamp {
    Stamp {
        file: metadata.ino(),
        len: metadata.len(),
        seconds: metadata.mtime(),
        nanoseconds: metadata.mtime_nsec(),
    }
}

fn changed(path: &Path) -> Error {
    Error::image(path, "it was changed while it was being read; stop whatever writes to it and start again")
}
