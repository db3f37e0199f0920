//! Opening what a disk is read from.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::part::PartFile;
use crate::error::{Error, Result};
use crate::no_follow::open_to_read;

/// Opens an image the caller named, read-only, without hanging on a FIFO.
pub(crate) fn open_image(path: &Path) -> Result<(File, Metadata)> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(number) if number == Errno::NXIO.raw_os_error() => {
            Error::image(path, "it is a socket or a device without a driver")
        }
        _ => Error::io("read", path, error),
    })?;
    let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
    let kind = metadata.file_type();
    let wrong = if kind.is_dir() {
        "it is a directory; name the image file in it"
    } else if kind.is_fifo() {
        "it is a pipe; save it to a file first"
    } else if !kind.is_file() && !kind.is_block_device() {
        "it is neither a file nor a block device"
    } else {
        return Ok((file, metadata));
    };
    Err(Error::image(path, wrong))
}

/// Length in bytes of an open image or block device.
pub(crate) fn length(path: &Path, mut file: &File, metadata: &Metadata) -> Result<u64> {
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    file.seek(SeekFrom::End(0)).map_err(|error| Error::io("measure", path, error))
}

/// Opens an extent file beside a descriptor. A symbolic link there could lead anywhere and is refused.
pub(super) fn open_extent(path: &Path, expected: u64, offset: u64) -> Result<PartFile> {
    let file =
        open_to_read(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => {
                Error::extent(path, "the file is missing; put it back beside its descriptor")
            }
            Some(Errno::LOOP) => {
                Error::extent(path, "it is a symbolic link; extents must be files of their own")
            }
            Some(Errno::NXIO) => Error::extent(path, "it is not a regular file"),
            _ => Error::io("read", path, error),
        })?;
    let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
    if !metadata.is_file() {
        return Err(Error::extent(path, "it is not a regular file"));
    }
    if metadata.len() != expected {
        let actual = metadata.len();
        return Err(Error::extent(
            path,
            format!(
                "it has {actual} bytes, its descriptor says {expected}; restore the file or the descriptor it belongs to"
            ),
        ));
    }
    Ok(PartFile::new(path.to_owned(), file, &metadata, expected, offset))
}
