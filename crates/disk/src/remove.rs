//! Taking a disk's files away.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::control::Control;
use crate::copy_job::{copy_job_path, discard_record_path, finish_discard};
use crate::descriptor::{Descriptor, copy_path, folder_of, sync_directory};
use crate::error::{Error, Result};
use crate::in_place::job_path;
use crate::lock::lock_path;
use crate::target::flat_name;

/// Unlinks a disk: descriptor first, so that no crash leaves a descriptor without its data, then the second copy and the
/// extent files, and makes that durable. Files that are gone already do not matter. The freed blocks keep their content
/// until the file system reuses them.
///
/// Refused with [`Error::DiskState`] when a file it names is the flat file of another descriptor in the folder.
pub fn remove(descriptor_path: &Path) -> Result<()> {
    let descriptor = Descriptor::read_alone(descriptor_path)?;
    for name in descriptor.extents.iter().filter_map(|extent| extent.file.as_ref()) {
        let owner = name.strip_suffix("-flat.vmdk").map(|stem| format!("{stem}.vmdk"));
        let Some(owner) = owner.map(|owner| descriptor_path.with_file_name(owner)) else { continue };
        if owner != descriptor_path && fs::symlink_metadata(&owner).is_ok() {
            let reason =
                format!("its extent {name} belongs to {}; correct the descriptor first", owner.display());
            return Err(Error::state(descriptor_path, reason));
        }
    }
    unlink(descriptor_path)?;
    sync_directory(descriptor_path)?;
    unlink(&copy_path(descriptor_path))?;
    unlink(&job_path(descriptor_path))?;
    // Of an overwriting that was not begun.
    unlink(&discard_record_path(descriptor_path))?;
    unlink(&lock_path(descriptor_path))?;
    for name in descriptor.extents.iter().filter_map(|extent| extent.file.as_ref()) {
        unlink(&descriptor_path.with_file_name(name))?;
    }
    sync_directory(descriptor_path)
}

/// Removes what a process that died left of a disk it was making at `descriptor_path`: the flat file, the second copy and
/// temporary descriptors. A source that was being overwritten is overwritten to its end first, as
/// [`finish_discard`](crate::finish_discard) does. Refused with [`Error::DiskState`] when the descriptor exists, because then the disk is whole.
/// The caller makes sure that nobody is making the disk now. Returns whether anything was there.
pub fn remove_unfinished(descriptor_path: &Path) -> Result<bool> {
    match fs::symlink_metadata(descriptor_path) {
        Ok(_) => {
            return Err(Error::state(descriptor_path, "the disk is complete; remove it as a disk"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("examine", descriptor_path, error)),
    }
    let mut found = finish_discard(descriptor_path, &Control::new())?;
    let flat = descriptor_path.with_file_name(flat_name(descriptor_path)?);
    let copy = copy_path(descriptor_path);
    let mut left = temporaries(descriptor_path)?;
    left.extend(temporaries(&copy)?);
    let record = copy_job_path(descriptor_path);
    left.extend(temporaries(&record)?);
    left.extend([flat, copy, record, lock_path(descriptor_path)]);
    for path in left {
        found |= unlink(&path)?;
    }
    sync_directory(descriptor_path)?;
    Ok(found)
}

/// The `.<name>.tmp-…` files beside `path`.
fn temporaries(path: &Path) -> Result<Vec<PathBuf>> {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".tmp-");
    let folder = folder_of(path);
    let entries = fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))?;
    let ours = entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()));
    Ok(ours.map(|entry| entry.path()).collect())
}

/// Whether there was something to remove.
fn unlink(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("remove", path, error)),
    }
}
