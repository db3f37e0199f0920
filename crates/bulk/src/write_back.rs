//! Write-back that begins while the next bytes are made.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd as _;

/// Lets the kernel begin to write `len` bytes from `offset` on to the disk and does not wait for it. A hint that makes a later
/// sync short: it promises nothing, and what it cannot do the sync does and reports. Nothing happens where `offset` or `len` is
/// beyond the largest file.
pub fn begin_write_back(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // To begin only: a call that also waits would take the error of a failed write away from the sync that must report it.
    // SAFETY: the call takes no pointer, and the descriptor is open as long as `file` is borrowed.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn bytes_stay_what_they_are_and_impossible_ranges_do_nothing() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&[7; 10_000]).expect("its bytes");
        for (offset, len) in [(0, 10_000), (1, 3), (1 << 40, 4096), (u64::MAX, 1), (0, u64::MAX), (0, 0)] {
            begin_write_back(&file, offset, len);
        }
        file.sync_all().expect("a sync");
        let mut bytes = vec![0; 10_000];
        file.read_exact_at(&mut bytes, 0).expect("its bytes");
        assert!(bytes.iter().all(|&byte| byte == 7));
    }
}
