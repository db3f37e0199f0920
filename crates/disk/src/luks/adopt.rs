//! A LUKS volume becomes a sealed disk as it lies: a descriptor beside it wraps its volume key, and no byte of it changes.

use std::fs::{self, File};
use std::path::Path;

use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::SECTOR;
use super::unlock::unlock;
use super::volume::Volume;
use crate::control::Control;
use crate::descriptor::{Descriptor, Holes, SealState, Sealed, check_file_name, copy_path, folder_of};
use crate::error::{Error, Result};
use crate::seal::{self, SealSpec, tweak_step};
use crate::source::{Source, open_image};

/// What [`import_luks`] found and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LuksImport {
    /// 1 or 2.
    pub version: u16,
    /// Size of the virtual disk in bytes.
    pub bytes: u64,
    /// Where data begins in the volume's file, in bytes.
    pub data_offset: u64,
    /// Data unit in bytes.
    pub sector_size: u32,
}

/// Makes the descriptor `target` for the LUKS1 or LUKS2 volume in the file `volume` in the same folder. Its volume key, opened
/// with `passphrase`, becomes the disk's data key and is wrapped with `spec.kek`; `spec.sector_size` and `spec.holes` are
/// those of the volume and are not looked at. `header` is the file of a detached header.
///
/// The volume stays what it is: whoever knows a passphrase of its header still opens it. A deep recrypt ends that.
///
/// Errors: [`Error::LuksInvalid`] for a damaged header; [`Error::LuksUnsupported`], with what it is, for another cipher, a
/// reencryption, integrity data, costs above the limits and what else cannot be taken as it lies; [`Error::LuksPassphrase`].
pub fn import_luks(
    volume: &Path,
    header: Option<&Path>,
    passphrase: &SecretKey,
    target: &Path,
    spec: &SealSpec<'_>,
    control: &Control,
) -> Result<LuksImport> {
    control.check()?;
    let name = name_beside(volume, target)?;
    for path in [target, &copy_path(target)] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::AlreadyExists { path: path.to_owned() });
        }
    }
    let (data, metadata) = open_image(volume)?;
    if !metadata.is_file() || fs::symlink_metadata(volume).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(Error::image(volume, "only a regular file can become the extent of a disk"));
    }
    let header_file = header.map(|path| open_image(path).map(|(file, _)| file)).transpose()?;
    let (header_path, header_file): (&Path, &File) = match (header, &header_file) {
        (Some(path), Some(file)) => (path, file),
        _ => (volume, &data),
    };
    let found = Volume::read(header_path, header_file)?;
    let bytes = data_len(volume, &found, metadata.len())?;
    let spec = SealSpec { sector_size: found.sector_size, holes: Some(Holes::Dense), ..*spec };
    seal::check_spec(&spec, bytes)?;
    let key = unlock(header_path, header_file, &found, passphrase, control)?;
    // A weak key is refused here and not when the disk is first opened.
    Xts::new(&key, found.sector_size, tweak_step(found.sector_size))?;
    let sealed = Sealed {
        id: spec.disk_id,
        state: SealState::Sealed,
        sector_size: spec.sector_size,
        holes: Holes::Dense,
        generation: spec.generation,
        wraps: vec![seal::wrap_key(&key, &spec, bytes, Holes::Dense)?],
        other: Vec::new(),
    };
    let sectors = bytes / SECTOR as u64;
    let mut descriptor =
        Descriptor::new_flat(name, sectors, &spec.disk_id).retargeted(name, &spec.disk_id, Some(sealed));
    for extent in &mut descriptor.extents {
        extent.offset = found.offset / SECTOR as u64;
    }
    // The same look at the file that opening the disk takes.
    let _writers = Source::of_descriptor(target, &descriptor)?.keep_writers_away()?;
    control.check()?;
    descriptor.write_new(target)?;
    let Volume { version, offset, sector_size, .. } = found;
    Ok(LuksImport { version, bytes, data_offset: offset, sector_size })
}

/// The volume's name, as the descriptor will have it.
fn name_beside<'a>(volume: &'a Path, target: &Path) -> Result<&'a str> {
    if target.extension().is_none_or(|extension| extension != "vmdk") || target == volume {
        return Err(Error::argument(format!(
            "{} must be a new descriptor that ends in .vmdk",
            target.display()
        )));
    }
    let folder = |path: &Path| {
        let folder = folder_of(path);
        folder.canonicalize().map_err(|error| Error::io("resolve", folder, error))
    };
    if folder(volume)? != folder(target)? {
        return Err(Error::argument(
            "the descriptor must stand in the folder of the volume, whose data stays where it is",
        ));
    }
    let name = volume.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Error::argument(format!("the name of {} must be UTF-8", volume.display())))?;
    check_file_name(name).map_err(Error::argument)?;
    Ok(name)
}

fn data_len(path: &Path, volume: &Volume, file: u64) -> Result<u64> {
    let len = file.checked_sub(volume.offset).filter(|&len| len > 0);
    let len =
        len.ok_or_else(|| Error::luks_invalid(path, "its data would begin behind the end of the file"))?;
    if !volume.offset.is_multiple_of(SECTOR as u64) || !len.is_multiple_of(u64::from(volume.sector_size)) {
        let reason = format!(
            "its {len} bytes of data are not a whole number of sectors of {} bytes",
            volume.sector_size
        );
        return Err(Error::luks_unsupported(path, reason));
    }
    if volume.len.is_some_and(|fixed| fixed != len) {
        return Err(Error::luks_unsupported(path, "its data does not reach to the end of the file"));
    }
    Ok(len)
}
