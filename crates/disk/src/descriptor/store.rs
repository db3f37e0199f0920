//! Descriptor files: bounded reading, atomic replacement, and the second copy of the vmseal lines.
//!
//! Other tools may rewrite a descriptor from a template and lose our lines, and with them the key. So the lines stand a
//! second time in `<descriptor>.vmseal`, written right after the descriptor.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

use super::text::{pair, seal_text, text_lines};
use super::{Descriptor, Extent, IO_FILTER, MAX_LEN, Sealed};
use crate::error::{Error, Result};

/// How the second copy compares with the descriptor's own vmseal lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyState {
    /// There is none. Normal for a plain disk; a sealed one should be written again.
    Absent,
    /// Both say the same.
    Same,
    /// The descriptor had lost its lines; they were taken from the copy.
    Restored,
    /// The copy has the higher generation and was used.
    Newer,
    /// Both are sound and differ; the descriptor was used.
    Differs,
    /// The copy cannot be read; the descriptor was used.
    Damaged,
}

/// Where the second copy of a descriptor stands: `web01.vmdk.vmseal` beside `web01.vmdk`.
pub fn copy_path(descriptor: &Path) -> PathBuf {
    let mut name = OsString::from(descriptor.as_os_str());
    name.push(".vmseal");
    PathBuf::from(name)
}

impl Descriptor {
    /// Reads a descriptor and, where they are missing or older, takes the vmseal lines from its second copy.
    pub fn read(path: &Path) -> Result<Self> {
        Self::read_with_copy(path).map(|(descriptor, _)| descriptor)
    }

    /// The descriptor file by itself, for work on the files of a disk rather than on its data.
    pub(crate) fn read_alone(path: &Path) -> Result<Self> {
        Self::parse(&read_bounded(path)?)
    }

    /// As [`Descriptor::read`], and tells what the second copy was worth.
    pub fn read_with_copy(path: &Path) -> Result<(Self, CopyState)> {
        let descriptor = Self::read_alone(path)?;
        let copy = match read_bounded(&copy_path(path)) {
            Ok(bytes) => Some(SealCopy::parse(&bytes)),
            Err(Error::NotFound { .. }) => None,
            Err(error) => Some(Err(error)),
        };
        descriptor.complete(path, copy)
    }

    /// As [`Descriptor::read_with_copy`], from what the two files hold. `path` is for messages.
    pub(crate) fn from_files(
        path: &Path,
        descriptor: &[u8],
        copy: Option<&[u8]>,
    ) -> Result<(Self, CopyState)> {
        Self::parse(descriptor)?.complete(path, copy.map(SealCopy::parse))
    }

    fn complete(mut self, path: &Path, copy: Option<Result<SealCopy>>) -> Result<(Self, CopyState)> {
        let Some(copy) = copy else {
            return lost_lines_checked(path, self, CopyState::Absent);
        };
        let Ok(copy) = copy else {
            return lost_lines_checked(path, self, CopyState::Damaged);
        };
        // Only lines made for this very extent may be taken: restoring is for lost lines, not for swapped disks.
        let fits = matches!(self.extents.as_slice(),
            [extent] if extent.file.as_deref() == Some(copy.file.as_str()) && extent.sectors == copy.sectors);
        let state = match &self.sealed {
            None if fits => CopyState::Restored,
            None => CopyState::Differs,
            Some(own) if *own == copy.sealed => CopyState::Same,
            Some(own) if fits && own.id == copy.sealed.id && copy.sealed.generation > own.generation => {
                CopyState::Newer
            }
            Some(_) => CopyState::Differs,
        };
        if matches!(state, CopyState::Restored | CopyState::Newer) {
            self.sealed = Some(copy.sealed);
        }
        lost_lines_checked(path, self, state)
    }

    /// Replaces the descriptor and then its second copy, each through a temporary file (mode 0600) in the same folder,
    /// fsync, rename and fsync of the folder: a reader sees the old text or the new one. For a descriptor that is not
    /// sealed the second copy is removed first, so that no crash leaves vmseal lines beside a plain disk.
    pub fn write_atomic(&self, path: &Path) -> Result<()> {
        self.store(path, Existing::Replace)
    }

    /// As [`Descriptor::write_atomic`] for a new disk: [`Error::AlreadyExists`] when the name is taken.
    pub(crate) fn write_new(&self, path: &Path) -> Result<()> {
        self.store(path, Existing::Refuse)
    }

    /// The text, which reads back as this value.
    pub(crate) fn checked_text(&self) -> Result<String> {
        let text = self.to_text();
        if Self::parse(text.as_bytes()).ok().as_ref() != Some(self) {
            return Err(Error::argument(
                "a field of the descriptor holds text that its grammar cannot carry",
            ));
        }
        Ok(text)
    }

    /// The text of the second copy; `None` for a disk that is not sealed.
    pub(crate) fn copy_text(&self) -> Result<Option<String>> {
        match (&self.sealed, self.extents.as_slice()) {
            (Some(sealed), [Extent { file: Some(file), sectors, .. }]) => {
                Ok(Some(SealCopy::text(sealed, file, *sectors)))
            }
            (Some(_), _) => Err(Error::argument("a sealed disk has exactly one extent, in a file")),
            (None, _) => Ok(None),
        }
    }

    fn store(&self, path: &Path, existing: Existing) -> Result<()> {
        let text = self.checked_text()?;
        let copy = copy_path(path);
        let copy_text = self.copy_text()?;
        match (copy_text, existing) {
            (Some(copy_text), Existing::Replace) => {
                replace_file(path, text.as_bytes(), existing)?;
                replace_file(&copy, copy_text.as_bytes(), existing)
            }
            (Some(copy_text), Existing::Refuse) => {
                // The descriptor makes the disk exist, so it comes last and takes the copy back when it fails.
                replace_file(&copy, copy_text.as_bytes(), existing)?;
                replace_file(path, text.as_bytes(), existing).inspect_err(|_| {
                    let _ = fs::remove_file(&copy);
                })
            }
            (None, _) => {
                match fs::remove_file(&copy) {
                    Ok(()) => sync_directory(path)?,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(Error::io("remove", &copy, error)),
                }
                replace_file(path, text.as_bytes(), existing)
            }
        }
    }
}

/// A disk that carries our I/O filter name but no vmseal lines is ciphertext without its key: never a plain disk.
fn lost_lines_checked(
    path: &Path,
    descriptor: Descriptor,
    state: CopyState,
) -> Result<(Descriptor, CopyState)> {
    if descriptor.sealed.is_none() && descriptor.has_io_filter(IO_FILTER) {
        return Err(Error::state(
            path,
            "the disk is sealed but its vmseal lines are gone and no usable copy (.vmseal) stands beside it; restore one of them from a backup",
        ));
    }
    Ok((descriptor, state))
}

struct SealCopy {
    sealed: Sealed,
    file: String,
    sectors: u64,
}

impl SealCopy {
    const TITLE: &str = "# vmseal: second copy of the sealed lines of the descriptor beside it";

    fn text(sealed: &Sealed, file: &str, sectors: u64) -> String {
        let mut lines = vec![Self::TITLE.to_owned()];
        lines.extend(seal_text(sealed));
        lines.push(format!("copy.extent=\"{file}\""));
        lines.push(format!("copy.sectors=\"{sectors}\"\n"));
        lines.join("\n")
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut lines = text_lines(bytes)?;
        if lines.next() != Some(Self::TITLE) {
            return Err(Error::descriptor("the second copy does not begin with its title"));
        }
        let (mut seal_lines, mut file, mut sectors) = (Vec::new(), None, None);
        for line in lines {
            match pair(line) {
                Some((key, Some(value))) if Sealed::is_seal_key(key) => {
                    seal_lines.push((key.to_owned(), value.to_owned()));
                }
                Some(("copy.extent", Some(value))) => file = Some(value.to_owned()),
                Some(("copy.sectors", Some(value))) => sectors = value.parse().ok(),
                _ => {}
            }
        }
        let missing = || Error::descriptor("the second copy is incomplete");
        let sealed = Sealed::parse(&seal_lines)?;
        Ok(Self { sealed, file: file.ok_or_else(missing)?, sectors: sectors.ok_or_else(missing)? })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Existing {
    Replace,
    Refuse,
}

fn replace_file(path: &Path, bytes: &[u8], existing: Existing) -> Result<()> {
    let (temporary, mut file) = create_temporary(path)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::io("write", &temporary, error))
        .and_then(|()| rename(&temporary, path, existing));
    if let Err(error) = written {
        // The name is ours alone; what matters is the first error.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(path).inspect_err(|_| {
        if existing == Existing::Refuse {
            let _ = fs::remove_file(path);
        }
    })
}

fn rename(from: &Path, to: &Path, existing: Existing) -> Result<()> {
    match existing {
        Existing::Refuse => rename_new(from, to).map_err(|error| Error::io("create", to, error)),
        Existing::Replace => fs::rename(from, to).map_err(|error| Error::io("replace", to, error)),
    }
}

/// Renames to a free name; [`ErrorKind::AlreadyExists`] when it is taken.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without this flag: the name was looked up before the job began, look once more.
        Err(Errno::INVAL | Errno::NOSYS) if fs::symlink_metadata(to).is_ok() => Err(Errno::EXIST.into()),
        Err(Errno::INVAL | Errno::NOSYS) => fs::rename(from, to),
        other => Ok(other?),
    }
}

/// `.<name>.tmp-<pid>-<n>` beside `path`, new and readable by the owner only.
fn create_temporary(path: &Path) -> Result<(PathBuf, File)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = path.file_name().ok_or_else(|| Error::argument("the descriptor path names no file"))?;
    for _ in 0..64 {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".tmp-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let temporary = path.with_file_name(temporary);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(file) => return Ok((temporary, file)),
            // Left by a crashed process that had our id.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create", &temporary, error)),
        }
    }
    Err(Error::state(
        path,
        "too many temporary files of earlier crashes beside the descriptor; remove the .tmp- files",
    ))
}

/// Makes names in the folder of `path` durable.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Error::io("sync", folder, error))
}

/// The folder a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens a text file without hanging on a FIFO and checks kind and length.
fn open_text_file(path: &Path) -> Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(|error| Error::io("open", path, error))?;
    let metadata = file.metadata().map_err(|error| Error::io("examine", path, error))?;
    if !metadata.is_file() {
        return Err(Error::image(path, "it is not a regular file"));
    }
    if metadata.len() > MAX_LEN as u64 {
        return Err(Error::descriptor(format!(
            "{} is longer than {MAX_LEN} bytes: not a text descriptor",
            path.display()
        )));
    }
    Ok(file)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = open_text_file(path)?;
    let mut bytes = Vec::new();
    // One byte over the limit lets the parser see that the file grew meanwhile.
    file.take(MAX_LEN as u64 + 1).read_to_end(&mut bytes).map_err(|error| Error::io("read", path, error))?;
    Ok(bytes)
}
