//! A new child of a disk.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::layer::{delta_extent, is_child};
use super::{DELTA, MASK};
use crate::descriptor::{Descriptor, Holes, copy_path, sync_directory};
use crate::error::{Error, Result};
use crate::in_place::refuse_in_conversion;
use crate::open::refuse_foreign;
use crate::seal::{self, SealSpec};
use crate::target::flat_name;
use crate::uuid;

/// Makes the empty child `descriptor` of the disk or child `parent`, which is only read. `hint` is the parent's path as seen from
/// the child's folder. With `spec` it is sealed under a data key of its own, without it a plain child of a plain disk. `disk_id` is
/// that of `spec` when there is one. Durable when it returns, and gone when it fails.
pub fn create_child(
    descriptor: &Path,
    parent: &Path,
    hint: &str,
    disk_id: &[u8; 16],
    spec: Option<&SealSpec<'_>>,
) -> Result<()> {
    let above = Descriptor::read(parent)?;
    refuse_foreign(parent, &above)?;
    refuse_in_conversion(parent, &above)?;
    if is_child(&above) {
        delta_extent(parent, &above)?;
    }
    if above.sealed.is_some() != spec.is_some() {
        return Err(Error::state(parent, "a child is sealed exactly when its parent is"));
    }
    let capacity = above.capacity_sectors() * 512;
    let sealed = match spec {
        None => None,
        Some(spec) => {
            seal::check_spec(spec, capacity)?;
            Some(seal::seal(spec, capacity, Holes::Parent)?.1)
        }
    };
    let name = delta_name(descriptor)?;
    let mut child = above.as_child(DELTA, &name, hint, disk_id, sealed)?;
    if spec.is_none() {
        child.set_ddb(MASK, &uuid::hex(&uuid::random()?));
    }
    let extent = descriptor.with_file_name(&name);
    for path in [descriptor, &copy_path(descriptor), &extent] {
        match fs::symlink_metadata(path) {
            Ok(_) => return Err(Error::AlreadyExists { path: path.to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("examine", path, error)),
        }
    }
    let made = make_extent(&extent, capacity).and_then(|()| child.write_new(descriptor));
    if made.is_err() {
        // The first error is the one that counts.
        let _ = fs::remove_file(&extent);
        let _ = sync_directory(&extent);
    }
    made
}

/// Writes another hint of the parent into a child's descriptor, for people and tools.
pub fn set_parent(descriptor: &Path, hint: &str) -> Result<()> {
    let child = Descriptor::read(descriptor)?;
    delta_extent(descriptor, &child)?;
    child.with_hint(hint)?.write_atomic(descriptor)
}

fn make_extent(path: &PathBuf, capacity: u64) -> Result<()> {
    let file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|error| Error::io("create", path, error))?;
    file.set_len(capacity).map_err(|error| Error::io("extend", path, error))?;
    file.sync_all().map_err(|error| Error::io("sync", path, error))
}

/// `web01-000001-delta.vmdk` for `web01-000001.vmdk`.
fn delta_name(descriptor: &Path) -> Result<String> {
    flat_name(descriptor).map(|name| name.replace("-flat.vmdk", "-delta.vmdk"))
}
