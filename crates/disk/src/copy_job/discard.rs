//! Taking the source of a finished copy away, after everything was read back.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, SeekFrom};
use vmseal_secret::SecretKey;

use crate::buffer::Buffer;
use crate::control::Control;
use crate::convert::open_unsealed;
use crate::descriptor::{Descriptor, copy_path, sync_directory};
use crate::error::{Error, Result};
use crate::lock::{Changes, DiskLock};
use crate::open::{OpenDisk, open_sealed};
use crate::pipeline::CHUNK;
use crate::seal::Binding;

/// How the source of a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiscardSource {
    /// The names go; the blocks keep their content until the file system reuses them.
    Unlink,
    /// All data is overwritten with zeros and synced before the names go. This reaches what the file system shows and no
    /// more: not the old blocks of a copy-on-write file system, not snapshots, reflinks or backups, not the spare blocks of
    /// an SSD. A journal or a log-structured medium may keep them too.
    Overwrite,
}

/// Removes `source`, a plain disk or image or a sealed disk, after the disk at `copy` was read from end to end and gave the same
/// plaintext. One of the two is sealed; `kek` and `binding` open it.
///
/// [`Error::DiskState`] when the two differ or when both or neither are sealed, [`Error::ExtentInvalid`] when the source's file
/// has a second name; nothing is removed then. A crash leaves the whole source, or none that opens.
pub fn discard_source(
    source: &Path,
    copy: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    how: DiscardSource,
    control: &Control,
) -> Result<()> {
    control.check()?;
    let open = |path: &Path| -> Result<OpenDisk> {
        match open_unsealed(path) {
            Ok((source, descriptor)) => {
                let descriptor = descriptor.unwrap_or_else(|| Descriptor::new_flat("raw", 1, &[0; 16]));
                Ok(OpenDisk { descriptor, source, cipher: None })
            }
            Err(Error::DiskState { .. }) => open_sealed(path, kek, binding),
            Err(error) => Err(error),
        }
    };
    let (from, to) = (open(source)?, open(copy)?);
    if from.cipher.is_some() == to.cipher.is_some() {
        return Err(Error::state(
            copy,
            "it is no copy of the source in another form: one of the two is to be sealed",
        ));
    }
    let writers = (from.source.keep_writers_away()?, to.source.keep_writers_away()?);
    compare(&from, &to, copy, control)?;
    from.source.check_unchanged()?;
    let is_disk = Descriptor::read_alone(source).is_ok();
    let names = if is_disk {
        let names = from.descriptor.extents.iter().filter_map(|extent| extent.file.as_ref());
        names.map(|name| source.with_file_name(name)).collect()
    } else {
        vec![source.to_owned()]
    };
    // Its read locks would keep the change out.
    drop(writers);
    drop(from);
    // The copy's names may be in memory only, if somebody else made it.
    sync_directory(copy)?;
    let files = names.into_iter().map(open_to_change).collect::<Result<Vec<(PathBuf, File)>>>()?;
    let locks: Vec<DiskLock> = if is_disk {
        files
            .iter()
            .take(1)
            .map(|(path, file)| DiskLock::take(source, path, file, Changes::Data))
            .collect::<Result<_>>()?
    } else {
        Vec::new()
    };
    if is_disk {
        // From here on nobody takes it for a disk, however much of it is overwritten.
        unlink(source)?;
        sync_directory(source)?;
        if copy_path(source).exists() {
            unlink(&copy_path(source))?;
        }
    }
    for (path, file) in &files {
        if how == DiscardSource::Overwrite {
            overwrite(path, file)?;
        }
        unlink(path)?;
    }
    drop(locks);
    sync_directory(source)
}

fn compare(from: &OpenDisk, to: &OpenDisk, copy: &Path, control: &Control) -> Result<()> {
    let differs = || Error::state(copy, "it does not hold what the source holds; the source was kept");
    if from.capacity() != to.capacity() {
        return Err(differs());
    }
    control.start(from.capacity());
    let (mut one, mut two) = (Buffer::new(CHUNK), Buffer::new(CHUNK));
    let mut offset = 0;
    while offset < from.capacity() {
        control.check()?;
        let len = (from.capacity() - offset).min(CHUNK as u64);
        let (one, two) = (one.first(len as usize), two.first(len as usize));
        from.read_at(offset, one)?;
        to.read_at(offset, two)?;
        if one != two {
            return Err(differs());
        }
        offset += len;
        control.advance(len);
    }
    Ok(())
}

fn open_to_change(path: PathBuf) -> Result<(PathBuf, File)> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
    let file = file.map_err(|error| Error::io("open", &path, error))?;
    let metadata = file.metadata().map_err(|error| Error::io("examine", &path, error))?;
    if !metadata.is_file() {
        return Err(Error::extent(&path, "it is not a regular file and is not removed"));
    }
    if metadata.nlink() > 1 {
        return Err(Error::extent(&path, "it has more than one name (hard links) and is not removed"));
    }
    Ok((path, file))
}

/// Zeros over everything that is no hole.
fn overwrite(path: &Path, file: &File) -> Result<()> {
    let failed = |error: std::io::Error| Error::io("overwrite", path, error);
    let len = file.metadata().map_err(failed)?.len();
    let zeros = vec![0; CHUNK];
    let mut position = 0;
    while position < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => position,
        };
        let end =
            rustix::fs::seek(file, SeekFrom::Hole(start)).unwrap_or(len).clamp(start + 1, len.max(start + 1));
        position = start;
        while position < end {
            let count = (end - position).min(CHUNK as u64);
            file.write_all_at(&zeros[..count as usize], position).map_err(failed)?;
            position += count;
        }
    }
    file.sync_all().map_err(failed)
}

fn unlink(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| Error::io("remove", path, error))
}
