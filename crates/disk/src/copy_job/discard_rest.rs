//! What an interrupted overwriting left of a source: told, and overwritten and taken away.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::discard::{DiscardSource, open_to_change, storage_of};
use super::discard_record::{DiscardRecord, Doomed, discard_record_path};
use super::{copy_job_path, engine};
use crate::control::Control;
use crate::descriptor::{Descriptor, folder_of};
use crate::error::{Error, Result};
use crate::in_place::file_storage::FileStorage;
use crate::in_place::job_path;
use crate::in_place::storage::Name;
use crate::lock::{Changes, DiskLock, lock_path};

/// A source whose overwriting was interrupted, as its record tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedDiscard {
    /// Files that are still there, in part overwritten.
    pub files: Vec<PathBuf>,
    /// Their length together.
    pub bytes: u64,
}

/// What an interrupted [`DiscardSource::Overwrite`] left of the disk or image `source`; `None`: nothing, or the source is
/// whole, for its descriptor goes before the first byte.
///
/// [`Error::JobInvalid`] when the record is damaged.
pub fn unfinished_discard(source: &Path) -> Result<Option<UnfinishedDiscard>> {
    let Some(record) = believed(source)? else { return Ok(None) };
    let mut left = UnfinishedDiscard { files: Vec::new(), bytes: 0 };
    for doomed in record.files() {
        let path = source.with_file_name(&doomed.name);
        if let Ok(metadata) = fs::symlink_metadata(&path) {
            left.bytes = left.bytes.saturating_add(metadata.len());
            left.files.push(path);
        }
    }
    Ok(Some(left))
}

/// Goes on with an interrupted [`DiscardSource::Overwrite`] of `source` and ends it: the rest is overwritten and synced, the
/// names go, and the record last. `false`: there was nothing to go on with.
///
/// Nothing is written when a file is not the one that was to go ([`Error::JobInvalid`]), has a second name or is no
/// regular file ([`Error::ExtentInvalid`]), or when a disk or an unfinished conversion needs it ([`Error::DiskState`]). After
/// [`Error::Cancelled`] the next call goes on.
pub fn finish_discard(source: &Path, control: &Control) -> Result<bool> {
    let Some(record) = believed(source)? else { return Ok(false) };
    let (mut files, mut gone) = (Vec::new(), Vec::new());
    for doomed in record.files() {
        match open_to_change(source.with_file_name(&doomed.name)) {
            Ok((path, file)) if Doomed::new(&path, &file)? == *doomed => files.push((path, file)),
            Ok((path, file)) if length(&path, &file)? == 0 => gone.push(path),
            Ok((path, _)) => {
                let reason = format!(
                    "{} is not the file that was to be overwritten; move it away, or remove this record",
                    path.display()
                );
                return Err(Error::job(&discard_record_path(source), reason));
            }
            // Gone already, after it was overwritten.
            Err(Error::NotFound { path }) => gone.push(path),
            Err(error) => return Err(error),
        }
    }
    let paths: Vec<&Path> = files.iter().map(|(path, _)| path.as_path()).collect();
    refuse_needed(source, &paths)?;
    let lock =
        files.first().map(|(path, file)| DiskLock::take(source, path, file, Changes::Data)).transpose()?;
    if lock.is_none() {
        // Left by whoever was stopped between the last file and the record.
        let _ = fs::remove_file(lock_path(source));
    }
    // Both may be in memory only, after a failed sync.
    let mut names = FileStorage::names(source, "")?;
    engine::promise(&mut names, Some(&record.text()?))?;
    if !record.is_of_image(source) {
        engine::take_again(&mut names, Name::Descriptor)?;
        engine::take_copy(&mut names)?;
    }
    for path in gone {
        let name = path.file_name().unwrap_or_default();
        engine::take_again(&mut FileStorage::names(source, name)?, Name::Flat)?;
    }
    control.start(total_len(&files)?);
    for (path, file) in files {
        engine::take_data(&mut storage_of(source, &path, file)?, DiscardSource::Overwrite, control)?;
    }
    engine::end(&mut names)?;
    drop(lock);
    Ok(true)
}

/// The record, unless the source is a disk: then nothing of it is overwritten.
fn believed(source: &Path) -> Result<Option<DiscardRecord>> {
    let Some(record) = DiscardRecord::read(source)? else { return Ok(None) };
    if record.is_of_image(source) {
        return Ok(Some(record));
    }
    match fs::symlink_metadata(source) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(record)),
        Err(error) => Err(Error::io("examine", source, error)),
        // Empty: left by who made its removal durable.
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 => Ok(Some(record)),
        Ok(_) => Ok(None),
    }
}

/// Bytes of all files, which overwriting them counts.
pub(super) fn total_len(files: &[(PathBuf, File)]) -> Result<u64> {
    files.iter().map(|(path, file)| length(path, file)).sum()
}

fn length(path: &Path, file: &File) -> Result<u64> {
    Ok(file.metadata().map_err(|error| Error::io("examine", path, error))?.len())
}

/// Refuses while one of `files`, all in the folder of `source`, is a descriptor, belongs to a descriptor other than `source`,
/// or is the unfinished file of a copy or the disk of a conversion in place.
pub(super) fn refuse_needed(source: &Path, files: &[&Path]) -> Result<()> {
    let refused = |path: &Path, by: &Path| {
        Err(Error::state(path, format!("it is not overwritten, for {} needs it", by.display())))
    };
    for path in files {
        if Descriptor::read_alone(path).is_ok() {
            return Err(Error::state(path, "it is the descriptor of a disk and is not overwritten"));
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let owner = name.strip_suffix("-flat.vmdk").map(|stem| source.with_file_name(format!("{stem}.vmdk")));
        let Some(owner) = owner else { continue };
        let mut users = vec![copy_job_path(&owner), job_path(&owner)];
        if owner != source {
            users.push(owner);
        }
        if let Some(user) = users.iter().find(|user| fs::symlink_metadata(user).is_ok()) {
            return refused(path, user);
        }
    }
    let folder = folder_of(source);
    let entries = fs::read_dir(folder).map_err(|error| Error::io("list", folder, error))?;
    for entry in entries {
        let other = entry.map_err(|error| Error::io("list", folder, error))?.file_name();
        let other = source.with_file_name(other);
        if other == *source || files.contains(&other.as_path()) {
            continue;
        }
        let Ok(descriptor) = Descriptor::read_alone(&other) else { continue };
        let names = descriptor.extents.iter().filter_map(|extent| extent.file.as_ref());
        for name in names {
            if let Some(path) = files.iter().find(|path| path.file_name() == Some(name.as_ref())) {
                return refused(path, &other);
            }
        }
    }
    Ok(())
}
