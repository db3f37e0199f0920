//! Reading a small record beside a disk, whatever stands in its place.

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::no_follow::open_to_read;

/// The text at `path`, of at most `most` bytes; what is beyond is not read. `damaged` is the error for what is no text or no
/// regular file.
pub(super) fn read_record(path: &Path, most: u64, damaged: impl Fn() -> Error) -> Result<String> {
    let file =
        open_to_read(path).map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            // A symbolic link, or a socket.
            Some(Errno::LOOP | Errno::NXIO) => damaged(),
            _ => Error::io("open", path, error),
        })?;
    if !file.metadata().map_err(|error| Error::io("examine", path, error))?.is_file() {
        return Err(damaged());
    }
    let mut text = String::new();
    match file.take(most).read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(damaged()),
        Err(error) => Err(Error::io("read", path, error)),
    }
}
