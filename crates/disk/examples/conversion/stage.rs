//! The folder everything is measured in: a source without holes, and a second file of the same size. Removed at the end.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::Advice;
use rustix::rand::{GetRandomFlags, getrandom};
use tempfile::TempDir;
use vmseal_disk::SealSpec;
use vmseal_secret::SecretKey;

use crate::Outcome;

pub(crate) const VM: [u8; 16] = [1; 16];
pub(crate) const DISK: [u8; 16] = [2; 16];

pub(crate) struct Stage {
    folder: TempDir,
    pub(crate) bytes: u64,
    pub(crate) kek: SecretKey,
}

impl Stage {
    pub(crate) fn new(parent: &Path, bytes: u64) -> Outcome<Self> {
        let stage = Self { folder: TempDir::new_in(parent)?, bytes, kek: SecretKey::generate(32)? };
        for path in [stage.source(), stage.target()] {
            fill(&path, bytes)?;
        }
        Ok(stage)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.path("source.raw")
    }

    /// What is copied over, and what is converted in place.
    pub(crate) fn target(&self) -> PathBuf {
        self.path("target.raw")
    }

    pub(crate) fn handle(&self) -> Outcome<File> {
        Ok(File::open(self.folder.path())?)
    }

    pub(crate) fn spec(&self) -> SealSpec<'_> {
        SealSpec {
            kek: &self.kek,
            kek_id: "kek",
            provider_id: "provider",
            vm_id: VM,
            disk_id: DISK,
            generation: 1,
            sector_size: 512,
            holes: None,
        }
    }

    /// `ext4`, `tmpfs` …, by the type number that `statfs` gives.
    pub(crate) fn file_system(&self) -> Outcome<String> {
        let kind = rustix::fs::statfs(self.folder.path())?.f_type;
        Ok(match kind {
            0xef53 => "ext4".to_owned(),
            0x0102_1994 => "tmpfs".to_owned(),
            0x5846_5342 => "xfs".to_owned(),
            0x9123_683e => "btrfs".to_owned(),
            other => format!("{other:#x}"),
        })
    }
}

/// Takes a file out of the page cache; what is not written yet stays, so sync first.
pub(crate) fn chill(path: &Path) -> Outcome<()> {
    rustix::fs::fadvise(File::open(path)?, 0, None, Advice::DontNeed)?;
    Ok(())
}

/// Reads a file into the page cache.
pub(crate) fn warm(path: &Path) -> Outcome<()> {
    io::copy(&mut File::open(path)?, &mut io::sink())?;
    Ok(())
}

/// Removes what is there of these files.
pub(crate) fn clear(paths: &[PathBuf]) -> Outcome<()> {
    for path in paths {
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Noise that no file system stores in less.
fn fill(path: &Path, bytes: u64) -> Outcome<()> {
    let mut block = vec![0; 1 << 20];
    for chunk in block.chunks_mut(256) {
        getrandom(chunk, GetRandomFlags::empty())?;
    }
    let mut file = File::create(path)?;
    let mut left = bytes;
    while left > 0 {
        block[..8].copy_from_slice(&left.to_le_bytes());
        let len = left.min(block.len() as u64);
        file.write_all(&block[..len as usize])?;
        left -= len;
    }
    file.sync_all()?;
    Ok(())
}
