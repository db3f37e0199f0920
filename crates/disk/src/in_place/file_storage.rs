//! [`Storage`] in a folder of a Linux file system.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::job_path;
use super::storage::{NAMES, Name, Patience, Storage};
use crate::copy_job::{copy_job_path, discard_record_path};
use crate::descriptor::{copy_path, folder_of, rename_new};
use crate::error::{Error, Result};
use crate::lock::{Changes, DiskLock};
use crate::no_follow::{open_to_read, open_to_write};

/// A write of that many bytes begins to go to the disk at once, so that the barrier behind it waits less.
const EARLY: usize = 64 << 10;
/// Zeros written at once where a file system cannot reserve.
const ZEROS: usize = 1 << 20;

pub(crate) struct FileStorage {
    /// Goes before the files, whose descriptors carry the kernel's locks.
    lock: Option<DiskLock>,
    paths: [PathBuf; NAMES],
    files: [Option<File>; NAMES],
}

impl FileStorage {
    /// Takes the disk at `descriptor` with the extent file `flat_name` for one job: [`Error::FileLocked`] when another
    /// holds it. The lock is on the extent, which no step of a job replaces, and ends with this value or the process.
    pub(crate) fn lock(descriptor: &Path, flat_name: &str, capacity: u64, changes: Changes) -> Result<Self> {
        let mut storage = Self::names(descriptor, flat_name)?;
        let flat = storage.path(Name::Flat).to_owned();
        let file = open_regular(&flat)
            .map_err(|error| Error::io("open", &flat, error))?
            .ok_or_else(|| Error::extent(&flat, "it is not a regular file"))?;
        let lock = DiskLock::take(descriptor, &flat, &file, changes)?;
        let len = file.metadata().map_err(|error| Error::io("examine", &flat, error))?.len();
        if len != capacity {
            let reason = format!("it has {len} bytes, its descriptor says {capacity}; restore the file");
            return Err(Error::extent(&flat, reason));
        }
        storage.files[Name::Flat as usize] = Some(file);
        storage.lock = Some(lock);
        Ok(storage)
    }

    /// The same names without the data and its lock: for looking at a job.
    pub(crate) fn names(descriptor: &Path, flat_name: impl AsRef<OsStr>) -> Result<Self> {
        let name = descriptor.file_name().ok_or_else(|| Error::argument("the path names no file"))?;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        // The prefix of all temporary descriptors; one job at a time needs one name.
        temporary.push(".tmp-job");
        let paths = [
            descriptor.to_owned(),
            copy_path(descriptor),
            descriptor.with_file_name(flat_name),
            job_path(descriptor),
            descriptor.with_file_name(temporary),
            copy_job_path(descriptor),
            discard_record_path(descriptor),
        ];
        Ok(Self { paths, files: [const { None }; NAMES], lock: None })
    }

    /// The same names with the extent open, whose lock is the caller's.
    pub(crate) fn with_flat(descriptor: &Path, flat_name: impl AsRef<OsStr>, flat: File) -> Result<Self> {
        let mut storage = Self::names(descriptor, flat_name)?;
        storage.files[Name::Flat as usize] = Some(flat);
        Ok(storage)
    }

    /// Opens the sidecar for reading only.
    pub(crate) fn open_to_look(&mut self, name: Name) -> io::Result<()> {
        let file = open_to_read(self.path(name))?;
        if !file.metadata()?.is_file() {
            return Err(Errno::INVAL.into());
        }
        self.files[name as usize] = Some(file);
        Ok(())
    }

    /// Names the extent has.
    pub(crate) fn links(&self) -> Result<u64> {
        let metadata = self.file(Name::Flat).and_then(File::metadata);
        Ok(metadata.map_err(|error| Error::io("examine", self.path(Name::Flat), error))?.nlink())
    }

    /// Bytes the extent occupies.
    pub(crate) fn allocated(&self) -> Result<u64> {
        let metadata = self.file(Name::Flat).and_then(File::metadata);
        let metadata = metadata.map_err(|error| Error::io("examine", self.path(Name::Flat), error))?;
        Ok(metadata.blocks().saturating_mul(512))
    }

    fn file(&self, name: Name) -> io::Result<&File> {
        self.files[name as usize].as_ref().ok_or_else(|| Errno::BADF.into())
    }

    /// For file systems without `fallocate`: a zero written into a hole changes nothing and takes the room.
    fn fill_holes(&self, name: Name, mut position: u64, to: u64) -> io::Result<()> {
        let file = self.file(name)?;
        let zeros = vec![0; ZEROS];
        while position < to {
            let (start, end) = self.next_data(name, position)?.unwrap_or((to, to));
            while position < start.min(to) {
                let count = (start.min(to) - position).min(ZEROS as u64);
                file.write_all_at(&zeros[..count as usize], position)?;
                position += count;
            }
            position = position.max(end);
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn path(&self, name: Name) -> &Path {
        &self.paths[name as usize]
    }

    fn check_held(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), DiskLock::check)
    }

    fn open(&mut self, name: Name) -> io::Result<()> {
        let file = open_regular(self.path(name))?.ok_or(Errno::INVAL)?;
        self.files[name as usize] = Some(file);
        Ok(())
    }

    fn create(&mut self, name: Name) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags);
        self.files[name as usize] = Some(options.open(self.path(name))?);
        Ok(())
    }

    fn len(&self, name: Name) -> io::Result<u64> {
        Ok(self.file(name)?.metadata()?.len())
    }

    fn read_at(&self, name: Name, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file(name)?.read_at(buffer, offset)
    }

    fn write_at(&self, name: Name, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let file = self.file(name)?;
        let count = file.write_at(bytes, offset)?;
        if count >= EARLY {
            vmseal_bulk::begin_write_back(file, offset, count as u64);
        }
        Ok(count)
    }

    fn reserve(&self, name: Name, offset: u64, len: u64) -> io::Result<()> {
        let file = self.file(name)?;
        let mut patience = Patience::new();
        loop {
            match rustix::fs::fallocate(file, FallocateFlags::empty(), offset, len).map_err(io::Error::from) {
                Err(error) if patience.allows(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => break,
                other => return other,
            }
        }
        let end = offset + len;
        if file.metadata()?.len() < end {
            file.set_len(end)?;
        }
        self.fill_holes(name, offset, end)
    }

    fn next_data(&self, name: Name, from: u64) -> io::Result<Option<(u64, u64)>> {
        let file = self.file(name)?;
        let len = file.metadata()?.len();
        let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
            Ok(start) => start.max(from),
            Err(Errno::NXIO) => return Ok(None),
            // A file system without holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((from < len).then_some((from, len))),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        Ok(Some((start, end.max(start + 1))))
    }

    fn sync(&self, name: Name) -> io::Result<()> {
        let mut patience = Patience::new();
        loop {
            match rustix::fs::fdatasync(self.file(name)?).map_err(io::Error::from) {
                Err(error) if patience.allows(&error) => {}
                other => return other,
            }
        }
    }

    fn rename(&mut self, from: Name, to: Name) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))?;
        self.files[to as usize] = self.files[from as usize].take();
        Ok(())
    }

    fn rename_new(&mut self, from: Name, to: Name) -> io::Result<()> {
        rename_new(self.path(from), self.path(to))?;
        self.files[to as usize] = self.files[from as usize].take();
        Ok(())
    }

    fn unlink(&mut self, name: Name) -> io::Result<()> {
        fs::remove_file(self.path(name))?;
        self.files[name as usize] = None;
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let folder = folder_of(self.path(Name::Descriptor));
        File::open(folder)?.sync_all()
    }
}

/// `None` for what is no regular file. A symbolic link could lead anywhere and fails.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    let file = open_to_write(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}
