//! Copies that stopped, and what the folder around them holds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::super::engine::Copying;
use super::super::record::{Record, record_path};
use super::super::{absolute, encrypt_copy, open_with_key, resume_copy, storage_of};
use crate::control::Control;
use crate::convert::{Outcome, open_unsealed};
use crate::descriptor::{Descriptor, Holes};
use crate::error::{Error, Result};
use crate::in_place::model::crash::Random;
use crate::in_place::storage::{Name, write_all};
use crate::in_place::{JobMode, MacKey, texts};
use crate::seal::{self, Binding, SealSpec};
use crate::target::Target;

pub(super) const UNIT: usize = 512;
pub(super) const STRETCH: usize = 4096;
pub(super) const CAPACITY: usize = 4 * STRETCH;
const VM: [u8; 16] = [1; 16];
const SOURCE: [u8; 16] = [2; 16];
const TARGET: [u8; 16] = [3; 16];
const JOB: [u8; 16] = [7; 16];

/// Where the copy stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is durable but the record.
    Begun,
    Middle,
    /// The target is a disk; the record, as it was before the last stretch, is left.
    Whole,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    File(Vec<u8>),
    Link(PathBuf),
    Other,
}

pub(super) type Tree = BTreeMap<OsString, Entry>;

/// The KEKs of both sides.
pub(super) struct Keks(pub(super) [SecretKey; 2]);

impl Keks {
    pub(super) fn new() -> Self {
        Self([(); 2].map(|()| SecretKey::generate(32).expect("a key")))
    }

    fn spec(&self, side: usize, disk_id: [u8; 16]) -> SealSpec<'_> {
        SealSpec {
            kek: &self.0[side],
            kek_id: "kek",
            provider_id: "kms",
            vm_id: VM,
            disk_id,
            generation: 1,
            sector_size: UNIT as u32,
            holes: Some(Holes::Dense),
        }
    }
}

/// A source, and the copies of it that are begun.
pub(super) struct Folder {
    folder: TempDir,
    pub(super) mode: JobMode,
    source: PathBuf,
    pub(super) plain: Vec<u8>,
}

impl Folder {
    pub(super) fn new(mode: JobMode, keks: &Keks) -> Self {
        // In memory where there is such a folder: this is about bytes, not about a disk.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder");
        let mut random = Random::new(9);
        let plain: Vec<u8> = (0..CAPACITY).map(|_| random.next() as u8).collect();
        let raw = folder.path().join("s.raw");
        fs::write(&raw, &plain).expect("an image");
        fs::write(folder.path().join("victim"), vec![0x55; CAPACITY]).expect("a file");
        let mut source = raw.clone();
        if mode != JobMode::Encrypt {
            source.set_file_name("s.vmdk");
            encrypt_copy(&raw, &source, &keks.spec(0, SOURCE), &Control::new()).expect("a sealed source");
            fs::remove_file(raw).expect("removal");
        }
        Self { folder, mode, source, plain }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Begins a copy to `name` and stops it.
    pub(super) fn stop(&self, name: &str, stage: Stage, keks: &Keks) -> Stopped<'_> {
        self.try_stop(name, stage, keks).expect("a copy that stopped")
    }

    fn try_stop(&self, name: &str, stage: Stage, keks: &Keks) -> Result<Stopped<'_>> {
        let target = self.path(name);
        let files = Target::create(&target, CAPACITY as u64, 0)?;
        let (source, old, before) = if self.mode == JobMode::Encrypt {
            let source = open_unsealed(&self.source)?.0;
            (source, None, Descriptor::new_flat(files.flat_name(), CAPACITY as u64 / 512, &TARGET))
        } else {
            let place = Binding { vm_id: VM, disk_id: SOURCE, provider_id: None };
            let (disk, old, _) = open_with_key(&self.source, &[&keks.0[0]], &place)?;
            (disk.source, Some(old.key), disk.descriptor)
        };
        let disk_id = if self.mode == JobMode::Decrypt { SOURCE } else { TARGET };
        let (data_key, sealed, form) = if self.mode == JobMode::Decrypt {
            (old.expect("the key of the source"), None, self.plain.clone())
        } else {
            let spec = keks.spec(1, TARGET);
            let (key, sealed) = seal::seal_key(&spec, CAPACITY as u64, Holes::Dense)?;
            let mut form = self.plain.clone();
            Xts::new(&key, UNIT as u32, 1)?.encrypt(&mut form, 0)?;
            (key, Some(sealed), form)
        };
        let descriptor = before.retargeted(files.flat_name(), &disk_id, sealed);
        let path = absolute(&self.source)?.to_string_lossy().into_owned();
        let mut record = Record::new(JOB, path, source.stamps(), descriptor.checked_text()?);
        let [mac, of_another] =
            [disk_id, [4; 16]].map(|disk| MacKey::derive(&data_key, &JOB, &disk).expect("a key"));
        let (mut storage, texts) = (storage_of(&files)?, texts(&descriptor)?);
        let control = Control::new();
        let copying = Copying { key: &mac, texts: &texts, capacity: CAPACITY as u64, control: &control };
        copying.begin(&mut storage, &mut record)?;
        let last = RefCell::new(Vec::new());
        let ended = copying.run(
            &mut storage,
            &mut record,
            |from| Ok(from + STRETCH as u64),
            |storage, range| {
                *last.borrow_mut() = fs::read(record_path(&target)).expect("a record");
                let (start, end) = (range.start as usize, range.end as usize);
                let stops = match stage {
                    Stage::Begun => start == 0,
                    Stage::Middle => start == 2 * STRETCH,
                    Stage::Whole => false,
                };
                let end = if stops { start + STRETCH / 2 } else { end };
                write_all(storage, Name::Flat, &form[start..end], range.start)?;
                if stops { Err(Error::Cancelled) } else { Ok(()) }
            },
        );
        assert_eq!(ended.is_ok(), stage == Stage::Whole, "{ended:?}");
        let mut files = files;
        files.keep();
        let record = last.into_inner();
        if stage == Stage::Whole {
            fs::write(record_path(&target), &record).expect("as a crash before its removal leaves it");
        }
        let record = String::from_utf8(record).expect("text");
        Ok(Stopped {
            folder: self,
            name: name.to_owned(),
            target,
            stage,
            place: Binding { vm_id: VM, disk_id, provider_id: None },
            mac,
            of_another,
            record,
        })
    }

    /// Everything that is there.
    pub(super) fn tree(&self) -> Tree {
        let entries = fs::read_dir(self.folder.path()).expect("a folder").flatten();
        let told = entries.map(|entry| {
            let kind = entry.file_type().expect("a kind");
            let what = if kind.is_symlink() {
                Entry::Link(fs::read_link(entry.path()).expect("a link"))
            } else if kind.is_file() && entry.metadata().expect("its size").len() <= 16 << 20 {
                Entry::File(fs::read(entry.path()).expect("a file"))
            } else {
                Entry::Other
            };
            (entry.file_name(), what)
        });
        told.collect()
    }

    /// Makes the folder hold `tree` again; what was not touched is left alone, for the source has its time.
    pub(super) fn restore(&self, tree: &Tree) {
        let now = self.tree();
        for (name, entry) in &now {
            if tree.get(name) != Some(entry) {
                clear(&self.folder.path().join(name));
            }
        }
        for (name, entry) in tree {
            if let (true, Entry::File(bytes)) = (now.get(name) != Some(entry), entry) {
                fs::write(self.folder.path().join(name), bytes).expect("a file");
            }
        }
    }
}

/// Removes whatever stands there.
pub(super) fn clear(path: &Path) {
    let removed =
        if path.is_dir() && !path.is_symlink() { fs::remove_dir(path) } else { fs::remove_file(path) };
    removed.expect("removal");
}

pub(super) struct Stopped<'a> {
    pub(super) folder: &'a Folder,
    pub(super) name: String,
    pub(super) target: PathBuf,
    pub(super) stage: Stage,
    pub(super) place: Binding<'static>,
    /// The key of the record, and the one it would have if the disk had another id.
    pub(super) mac: MacKey,
    pub(super) of_another: MacKey,
    pub(super) record: String,
}

impl Stopped<'_> {
    pub(super) fn resume(&self, keks: &Keks) -> Result<Outcome> {
        let keks: Vec<&SecretKey> = keks.0.iter().collect();
        resume_copy(&self.target, &keks, &self.place, &Control::new())
    }

    /// The two lines of a record, signed.
    pub(super) fn signed(json: &str, key: &MacKey) -> String {
        let mac = key.sign(super::super::record::signed(json).as_bytes()).expect("a signature");
        format!("{json}\n{}\n", super::super::record::hex(&mac))
    }

    pub(super) fn json(&self) -> &str {
        self.record.lines().next().expect("a line")
    }

    /// A name beside the target.
    pub(super) fn beside(&self, end: &str) -> PathBuf {
        self.folder.path(&format!("{}{end}", self.name.trim_end_matches(".vmdk")))
    }
}
