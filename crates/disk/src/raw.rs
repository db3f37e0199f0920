//! A raw image becomes a disk where it lies: a descriptor beside it names it as its extent.

use std::path::{Path, PathBuf};

use crate::descriptor::{Descriptor, check_file_name};
use crate::error::{Error, Result};
use crate::image::{Image, ImageFormat};
use crate::source::Source;

/// Writes a descriptor for the raw image `raw` beside it (`db01.vmdk` for `db01.raw`) and returns its path; no byte of the image
/// changes. A descriptor that is there and has this image as its one extent is kept, whatever its state, so that the call
/// can be repeated. Any other file of the name is [`Error::AlreadyExists`].
///
/// [`Error::ImageInvalid`] when the file is of another format, no regular file or no whole number of sectors.
pub fn describe_raw(raw: &Path, disk_id: &[u8; 16]) -> Result<PathBuf> {
    let format = Image::identify(raw)?.format;
    if format != ImageFormat::Raw {
        return Err(Error::image(raw, format!("it is a {} image; convert it to a copy", format.as_str())));
    }
    let metadata = std::fs::symlink_metadata(raw).map_err(|error| Error::io("examine", raw, error))?;
    if !metadata.is_file() {
        return Err(Error::image(raw, "only a regular file can become the extent of a disk"));
    }
    let name = raw.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| Error::argument(format!("the name of {} must be UTF-8", raw.display())))?;
    check_file_name(name).map_err(Error::argument)?;
    let path = raw.with_extension("vmdk");
    if path == raw {
        return Err(Error::image(raw, "a raw image named .vmdk is taken for a descriptor; rename it first"));
    }
    let sectors = Source::raw(raw)?.capacity() / 512;
    match Descriptor::new_flat(name, sectors, disk_id).write_new(&path) {
        Ok(()) => Ok(path),
        Err(Error::AlreadyExists { .. }) => match Descriptor::read(&path) {
            Ok(known) if is_only_extent(&known, name, sectors) => Ok(path),
            _ => Err(Error::AlreadyExists { path }),
        },
        Err(error) => Err(error),
    }
}

fn is_only_extent(descriptor: &Descriptor, name: &str, sectors: u64) -> bool {
    matches!(descriptor.extents.as_slice(),
        [extent] if extent.file.as_deref() == Some(name) && extent.sectors == sectors && extent.offset == 0)
}
