//! The files of a disk in the making: all of them appear, or none stays.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::control::Control;
use crate::copy_job::discard_record_path;
use crate::copy_job::open_to_change;
use crate::descriptor::{Descriptor, check_file_name, copy_path, folder_of, sync_directory};
use crate::error::{Error, Result};

/// A new flat file whose descriptor is not written yet. Dropping it unfinished removes the file, unless it is kept.
pub(crate) struct Target {
    descriptor: PathBuf,
    flat: PathBuf,
    flat_name: String,
    file: File,
    finished: bool,
}

impl Target {
    /// Makes the flat file for the descriptor `descriptor` (`web01.vmdk` gets `web01-flat.vmdk`), `capacity` bytes long and
    /// reading as zeros. Refused when any of the disk's names is taken, also by a disk that is still being overwritten, or `needed` bytes are not free.
    pub(crate) fn create(descriptor: &Path, capacity: u64, needed: u64) -> Result<Self> {
        let flat_name = flat_name(descriptor)?;
        let flat = descriptor.with_file_name(&flat_name);
        for path in [descriptor, &copy_path(descriptor), &flat, &discard_record_path(descriptor)] {
            match fs::symlink_metadata(path) {
                Ok(_) => {
                    return Err(Error::AlreadyExists { path: path.to_owned() });
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("examine", path, error)),
            }
        }
        check_free_space(&flat, needed)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&flat)
            .map_err(|error| Error::io("create", &flat, error))?;
        let target = Self { descriptor: descriptor.to_owned(), flat, flat_name, file, finished: false };
        target.file.set_len(capacity).map_err(|error| Error::io("extend", &target.flat, error))?;
        Ok(target)
    }

    /// The flat file of an unfinished disk, of the right length and without a second name.
    pub(crate) fn reopen(descriptor: &Path, capacity: u64) -> Result<Self> {
        let flat_name = flat_name(descriptor)?;
        let flat = descriptor.with_file_name(&flat_name);
        let (flat, file) = open_to_change(flat)?;
        if file.metadata().map_err(|error| Error::io("examine", &flat, error))?.len() != capacity {
            return Err(Error::extent(
                &flat,
                "it is not the unfinished file of this copy; start the copy again",
            ));
        }
        Ok(Self { descriptor: descriptor.to_owned(), flat, flat_name, file, finished: true })
    }

    /// From here on a failure leaves the files.
    pub(crate) fn keep(&mut self) {
        self.finished = true;
    }

    pub(crate) fn descriptor(&self) -> &Path {
        &self.descriptor
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn flat(&self) -> &Path {
        &self.flat
    }

    pub(crate) fn flat_name(&self) -> &str {
        &self.flat_name
    }

    /// Bytes the flat file occupies.
    pub(crate) fn allocated(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = self.file.metadata().map_err(|error| Error::io("examine", &self.flat, error))?;
        Ok(metadata.blocks().saturating_mul(512))
    }

    /// Makes data and then descriptor durable; from here on the disk exists.
    pub(crate) fn finish(mut self, descriptor: &Descriptor, control: &Control) -> Result<()> {
        control.check()?;
        self.file.sync_all().map_err(|error| Error::io("sync", &self.flat, error))?;
        control.check()?;
        descriptor.write_new(&self.descriptor)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing better can be done with a failure here than to report the error that led to it.
            let _ = fs::remove_file(&self.flat);
            let _ = sync_directory(&self.flat);
        }
    }
}

/// `web01-flat.vmdk` for `web01.vmdk`.
pub(crate) fn flat_name(descriptor: &Path) -> Result<String> {
    let name = descriptor.file_name().and_then(|name| name.to_str());
    let stem = name.and_then(|name| name.strip_suffix(".vmdk")).filter(|stem| !stem.is_empty());
    let stem = stem.ok_or_else(|| {
        Error::argument(format!(
            "{} must be a descriptor name that ends in .vmdk, in UTF-8",
            descriptor.display()
        ))
    })?;
    let name = format!("{stem}-flat.vmdk");
    check_file_name(&name).map_err(Error::argument)?;
    Ok(name)
}

/// Refuses when fewer than `needed` bytes are free where `flat` stands.
pub(crate) fn check_free_space(flat: &Path, needed: u64) -> Result<()> {
    let folder = folder_of(flat);
    let space = rustix::fs::statvfs(folder).map_err(|error| Error::io("examine", folder, error))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    // Some network file systems report no size at all.
    if space.f_blocks != 0 && needed > free {
        return Err(Error::NoSpace {
            path: flat.to_owned(),
            reason: format!(
                "{needed} bytes are needed, {free} are free; make room or choose another datastore"
            ),
        });
    }
    Ok(())
}
