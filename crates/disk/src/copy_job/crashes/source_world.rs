//! The source of a copy, being taken away: whole, or nothing that opens as a disk; and no name goes before its data when
//! that is to be overwritten.

use super::super::discard::DiscardSource;
use super::super::discard_record::DiscardRecord;
use super::super::engine::{end, promise, take_again, take_copy, take_data, take_names};
use super::{exists, text};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::in_place::model::explore::Explored;
use crate::in_place::model::{Change, Fate, Image, Lie, ModelDisk, Moment, put};
use crate::in_place::storage::{NAMES, Name, Storage as _, failed};

/// As the record of the real thing says it, but for identity, which the model has not.
const RECORD: &str = "{\"v\":1,\"overwritten\":[{\"name\":\"d-flat.vmdk\",\"file\":7,\"len\":80}]}\n";

/// What is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Sealed,
    /// An image, which has no descriptor.
    Image,
}

/// The source of a copy that is durable, being taken away.
pub(super) struct SourceWorld {
    pub(super) how: DiscardSource,
    pub(super) data: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) lie: Option<Lie>,
    /// Whether the wish to overwrite is written down first, as it must be.
    pub(super) promises: bool,
}

impl SourceWorld {
    /// Whether this may be a file of the source's data: no other has its length.
    fn is_data(&self, len: usize) -> bool {
        len == self.data.len()
    }

    /// What the user does about a source that is whole.
    fn discard(&self, disk: &mut ModelDisk) -> Result<()> {
        if self.promises {
            promise(disk, (self.how == DiscardSource::Overwrite).then_some(RECORD))?;
        }
        if self.kind != Kind::Image {
            take_names(disk)?;
        }
        take_data(disk, self.how, &Control::new())?;
        end(disk)
    }

    /// What the user does about one that is being overwritten.
    fn resume(&self, disk: &mut ModelDisk) -> Result<()> {
        let record = text(disk, Name::DiscardRecord)?.and_then(|text| DiscardRecord::parse(&text));
        let Some(record) = record else {
            return Err(Error::job(disk.path(Name::DiscardRecord), "it is damaged"));
        };
        promise(disk, Some(&record.text()?))?;
        if self.kind != Kind::Image {
            take_again(disk, Name::Descriptor)?;
            take_copy(disk)?;
        }
        if is_there(disk, Name::Flat)? {
            take_data(disk, DiscardSource::Overwrite, &Control::new())?;
        } else {
            take_again(disk, Name::Flat)?;
        }
        end(disk)
    }
}

/// Whether a file is there that is not empty.
fn is_there(disk: &mut ModelDisk, name: Name) -> Result<bool> {
    Ok(exists(disk, name)? && disk.len(name).map_err(failed(disk, "examine", name))? > 0)
}

impl Explored for SourceWorld {
    fn seed(&self) -> u64 {
        self.data.len() as u64
    }

    fn untouched(&self) -> Image {
        let mut files = [const { None }; NAMES];
        files[Name::Descriptor as usize] = (self.kind != Kind::Image).then(|| b"descriptor".to_vec());
        files[Name::Copy as usize] = (self.kind == Kind::Sealed).then(|| b"second copy".to_vec());
        files[Name::Flat as usize] = Some(self.data.clone());
        Image { files }
    }

    fn disk(&self, image: &Image, record: bool) -> ModelDisk {
        let disk = ModelDisk::new(image, None, record);
        disk.lie(self.lie);
        // Zeros that were written are no hole: what a failed sync lost is written again.
        disk.show_no_holes();
        disk
    }

    fn go_on(&self, disk: &mut ModelDisk) -> Result<()> {
        let (named, promised) = (is_there(disk, Name::Descriptor)?, exists(disk, Name::DiscardRecord)?);
        let data = is_there(disk, Name::Flat)?;
        if named || self.kind == Kind::Image && data && !promised {
            return self.discard(disk);
        }
        if promised {
            return self.resume(disk);
        }
        // What is left is no source any more and is taken away as what is unfinished.
        if data {
            take_data(disk, DiscardSource::Unlink, &Control::new())?;
        }
        take_copy(disk)?;
        end(disk)
    }

    /// Whole, or nothing that opens as a disk or image.
    fn check_at_rest(&self, image: &Image) -> Result<(), String> {
        let file = |name: Name| image.files[name as usize].as_ref().filter(|bytes| !bytes.is_empty());
        let opens = match self.kind {
            Kind::Image => file(Name::DiscardRecord).is_none(),
            Kind::Plain | Kind::Sealed => file(Name::Descriptor).is_some(),
        };
        if opens && file(Name::Flat).is_some_and(|data| *data != self.data) {
            return Err("a source that is no longer whole opens".to_owned());
        }
        Ok(())
    }

    /// No power cut at this moment frees blocks that hold data: whose name is gone, or may be.
    fn check_moment(&self, moment: &Moment) -> Result<(), String> {
        if self.how != DiscardSource::Overwrite {
            return Ok(());
        }
        for (index, file) in moment.files.iter().enumerate() {
            let is_named = moment.names.contains(&Some(index));
            let may_go = moment.changes.iter().any(|(change, _)| matches!(change, Change::Clear(Name::Flat)));
            if !self.is_data(file.base.len()) || is_named && !may_go {
                continue;
            }
            let mut blocks = file.base.clone();
            for write in file.writes.iter().filter(|write| write.fate == Fate::Durable) {
                put(&mut blocks, write.offset, &write.bytes);
            }
            if blocks.iter().any(|&byte| byte != 0) {
                return Err("data was left in blocks that are free".to_owned());
            }
        }
        Ok(())
    }

    fn check_done(&self, disk: &ModelDisk) -> Result<(), String> {
        let names = [Name::Descriptor, Name::Copy, Name::Flat, Name::DiscardRecord];
        match names.iter().find(|&&name| disk.content(name).is_some()) {
            Some(name) => Err(format!("{name:?} is still there")),
            None => Ok(()),
        }
    }
}
