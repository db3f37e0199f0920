//! Reading and writing past the page cache (`O_DIRECT`), where file system, range and buffer allow it.
//!
//! A disk that is larger than the page cache has room for gains nothing from it, and the rest of the host loses its own
//! pages. File systems that cannot do it, and the odd end of a disk, are read and written through the cache; the kernel
//! keeps both ways coherent.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// A multiple of every logical block size in use.
pub(crate) const ALIGNMENT: usize = 4096;
/// Places of a range that are looked at to tell whether it is in the page cache.
const SAMPLES: u64 = 16;

/// The direct way to an open file.
#[derive(Debug)]
pub(crate) struct Direct {
    file: File,
    /// Set once the file system refused: it may accept the flag and refuse the transfer.
    refused: AtomicBool,
}

impl Direct {
    /// A second descriptor of the same file with the same rights; `None` where there is no direct way.
    pub(crate) fn of(file: &File) -> Option<Self> {
        let access = rustix::fs::fcntl_getfl(file).ok()? & OFlags::RWMODE;
        let mut options = OpenOptions::new();
        options.read(access != OFlags::WRONLY).write(access != OFlags::RDONLY);
        options.custom_flags((OFlags::DIRECT | OFlags::NONBLOCK).bits().cast_signed());
        // By number and not by name, which may mean another file by now.
        let file = options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        Some(Self { file, refused: AtomicBool::new(false) })
    }

    /// As `read_at`; `None` when this transfer has to go through the cache.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Option<io::Result<usize>> {
        self.fits(buffer, offset)
            .then(|| self.file.read_at(buffer, offset))
            .and_then(|result| self.judge(result))
    }

    /// As `write_at`; `None` when this transfer has to go through the cache.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Option<io::Result<usize>> {
        self.fits(bytes, offset)
            .then(|| self.file.write_at(bytes, offset))
            .and_then(|result| self.judge(result))
    }

    fn fits(&self, bytes: &[u8], offset: u64) -> bool {
        offset.is_multiple_of(ALIGNMENT as u64)
            && bytes.len().is_multiple_of(ALIGNMENT)
            && bytes.as_ptr().align_offset(ALIGNMENT) == 0
            && !self.refused.load(Ordering::Relaxed)
    }

    fn judge(&self, result: io::Result<usize>) -> Option<io::Result<usize>> {
        match &result {
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.refused.store(true, Ordering::Relaxed);
                None
            }
            _ => Some(result),
        }
    }
}

/// Whether most of `file`'s bytes `start..start + len` would have to come from the disk. Says no where the kernel does not
/// tell.
pub(crate) fn is_cold(file: &File, start: u64, len: u64) -> bool {
    let mut byte = [0];
    let cold = (0..SAMPLES).filter(|&sample| {
        let at = start + len / SAMPLES * sample + len / SAMPLES / 2;
        let read = preadv2(file, &mut [IoSliceMut::new(&mut byte)], at, ReadWriteFlags::NOWAIT);
        read == Err(Errno::AGAIN)
    });
    cold.count() as u64 > SAMPLES / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

    const LEN: usize = 3 * ALIGNMENT;

    fn file() -> File {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(&[7; LEN], 0).expect("its data");
        file.sync_all().expect("its data on the disk");
        file
    }

    #[test]
    fn what_does_not_fit_goes_through_the_cache() {
        let file = file();
        let Some(direct) = Direct::of(&file) else { return };
        let mut buffer = Buffer::new(LEN);
        for (offset, start, len) in [(512, 0, 4096), (0, 512, 4096), (0, 0, 512), (4096, 0, 4096 + 512)] {
            let part = &mut buffer.first(LEN)[start..start + len];
            assert!(direct.read_at(part, offset).is_none(), "{offset} {start} {len}");
            assert!(direct.write_at(part, offset).is_none(), "{offset} {start} {len}");
        }
        assert!(!direct.refused.load(Ordering::Relaxed));
    }

    #[test]
    fn what_fits_is_read_and_written() {
        let file = file();
        let Some(direct) = Direct::of(&file) else { return };
        let mut buffer = Buffer::new(LEN);
        let bytes = buffer.first(LEN);
        // A file system may refuse, and then says so once.
        if let Some(read) = direct.read_at(bytes, 0) {
            assert_eq!(read.expect("reading"), LEN);
            assert!(bytes.iter().all(|&byte| byte == 7));
            bytes.fill(8);
            assert_eq!(direct.write_at(&bytes[..4096], 4096).expect("a direct way").expect("writing"), 4096);
            let mut seen = [0; LEN];
            file.read_exact_at(&mut seen, 0).expect("reading");
            assert!(seen[..4096].iter().chain(&seen[8192..]).all(|&byte| byte == 7));
            assert!(seen[4096..8192].iter().all(|&byte| byte == 8));
        }
    }

    #[test]
    fn a_refusal_is_remembered_and_other_errors_are_errors() {
        let file = file();
        let Some(direct) = Direct::of(&file) else { return };
        assert!(direct.judge(Err(Errno::IO.into())).is_some_and(|result| result.is_err()));
        assert!(!direct.refused.load(Ordering::Relaxed));
        assert!(direct.judge(Err(Errno::INVAL.into())).is_none());
        assert!(direct.read_at(Buffer::new(LEN).first(LEN), 0).is_none(), "asked again");
    }

    #[test]
    fn what_was_just_written_is_in_the_cache() {
        assert!(!is_cold(&file(), 0, LEN as u64));
    }
}
