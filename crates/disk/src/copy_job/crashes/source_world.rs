//! The source of a copy, being taken away: whole, or nothing that opens as a disk.

use std::cell::Cell;

use super::super::discard::DiscardSource;
use super::super::engine::{take_data, take_names};
use super::exists;
use crate::error::Result;
use crate::in_place::model::explore::Explored;
use crate::in_place::model::world::UNIT;
use crate::in_place::model::{Fate, Image, Lie, ModelDisk, put};
use crate::in_place::storage::{NAMES, Name, Storage as _, failed};

/// The source of a copy that is durable, being taken away.
pub(super) struct SourceWorld {
    pub(super) how: DiscardSource,
    pub(super) data: Vec<u8>,
    pub(super) sealed: bool,
    pub(super) lie: Option<Lie>,
    /// Whether the last run found a whole source.
    pub(super) begun_whole: Cell<bool>,
}

impl Explored for SourceWorld {
    fn seed(&self) -> u64 {
        self.data.len() as u64
    }

    fn untouched(&self) -> Image {
        let mut files = [const { None }; NAMES];
        files[Name::Descriptor as usize] = Some(b"descriptor".to_vec());
        files[Name::Copy as usize] = self.sealed.then(|| b"second copy".to_vec());
        files[Name::Flat as usize] = Some(self.data.clone());
        Image { files }
    }

    fn disk(&self, image: &Image, record: bool) -> ModelDisk {
        let disk = ModelDisk::new(image, None, record);
        disk.lie(self.lie);
        disk
    }

    fn go_on(&self, disk: &mut ModelDisk) -> Result<()> {
        let named = exists(disk, Name::Descriptor)?;
        self.begun_whole.set(named);
        if named {
            take_names(disk)?;
        }
        if exists(disk, Name::Flat)? {
            // What is left of a source is refused as one, and taken away as what is unfinished.
            take_data(disk, if named { self.how } else { DiscardSource::Unlink })?;
        }
        if exists(disk, Name::Copy)? {
            disk.unlink(Name::Copy).map_err(failed(disk, "remove", Name::Copy))?;
        }
        disk.sync_folder().map_err(failed(disk, "sync the folder of", Name::Flat))
    }

    /// Whole, or nothing that opens as a disk.
    fn check_at_rest(&self, image: &Image) -> Result<(), String> {
        let file = |name: Name| image.files[name as usize].as_ref();
        let opens = file(Name::Descriptor).is_some() && file(Name::Flat).is_some();
        if opens && file(Name::Flat) != Some(&self.data) {
            Err("a source that is no longer whole opens".to_owned())
        } else {
            Ok(())
        }
    }

    fn check_done(&self, disk: &ModelDisk) -> Result<(), String> {
        if [Name::Descriptor, Name::Copy, Name::Flat].iter().any(|&name| disk.content(name).is_some()) {
            return Err("the source is still there".to_owned());
        }
        // Its blocks, which nobody names any more. After a failed sync nobody knows what they hold.
        let now = disk.now();
        let known =
            now.files.iter().all(|file| file.writes.iter().all(|write| write.fate != Fate::Forgotten));
        let overwritten = self.how == DiscardSource::Overwrite && self.begun_whole.get() && known;
        for file in now.files.iter().filter(|_| overwritten) {
            let mut blocks = file.base.clone();
            for write in file.writes.iter().filter(|write| write.fate == Fate::Durable) {
                put(&mut blocks, write.offset, &write.bytes);
            }
            let left = |(block, data): (&[u8], &[u8])| block == data;
            if blocks.chunks(UNIT).zip(self.data.chunks(UNIT)).any(left) {
                return Err("data was left in blocks that are free".to_owned());
            }
        }
        Ok(())
    }
}
