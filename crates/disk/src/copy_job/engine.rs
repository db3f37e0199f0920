//! The order of a copy: what is durable before what, on any storage.
//!
//! 1. The record, with the frontier 0, and with it the name of the empty flat file.
//! 2. Stretch by stretch the data; **barrier**; the record with the next frontier.
//! 3. All data; **barrier**; second copy and descriptor: the disk exists. Then the record goes.
//!
//! The source goes in this order: a record that it is to be overwritten, where that is wanted; its descriptor, durably, so
//! that nobody takes what is left for a disk; second copy; data, overwritten and synced; the names, durably; the record.

use std::io::ErrorKind;
use std::ops::Range;

use super::discard::DiscardSource;
use super::record::Record;
use crate::control::Control;
use crate::error::Result;
use crate::in_place::MacKey;
use crate::in_place::lifecycle::{Texts, publish, publish_new, remove, replace};
use crate::in_place::storage::{Name, Storage, failed, write_all};
use crate::pipeline::CHUNK;

/// A copy under way.
pub(super) struct Copying<'a> {
    pub(super) key: &'a MacKey,
    /// What makes the finished target a disk.
    pub(super) texts: &'a Texts,
    pub(super) capacity: u64,
    pub(super) control: &'a Control,
}

impl Copying<'_> {
    /// Makes the record of a copy whose flat file is new and reads as zeros. When it fails neither of the two stays.
    pub(super) fn begin<S: Storage>(&self, storage: &mut S, record: &mut Record) -> Result<()> {
        self.put(storage, record).inspect_err(|_| {
            // The first error is the one that matters.
            let _ = remove(storage, Name::CopyRecord);
            let _ = remove(storage, Name::Flat);
        })
    }

    /// Copies from the frontier of `record` to the end and makes the target a disk. `stretch` says how far the copy goes from
    /// an offset before the next barrier, `copy` writes a range of the flat file. When it fails, the next run goes on.
    pub(super) fn run<S: Storage>(
        &self,
        storage: &mut S,
        record: &mut Record,
        stretch: impl Fn(u64) -> Result<u64>,
        copy: impl Fn(&S, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        while record.frontier() < self.capacity {
            let end = stretch(record.frontier())?;
            copy(storage, record.frontier()..end)?;
            record.advance(end);
            if end < self.capacity {
                storage.sync(Name::Flat).map_err(failed(storage, "sync", Name::Flat))?;
                self.put(storage, record)?;
            }
            self.control.check()?;
        }
        storage.sync(Name::Flat).map_err(failed(storage, "sync", Name::Flat))?;
        self.control.check()?;
        publish_new(storage, self.texts)?;
        remove(storage, Name::CopyRecord)
    }

    fn put<S: Storage>(&self, storage: &mut S, record: &mut Record) -> Result<()> {
        let text = record.signed(self.key)?;
        replace(storage, Name::CopyRecord, text.as_bytes())
    }
}

/// Removes what a crash between the second copy and the descriptor left, before a copy goes on.
pub(super) fn clear<S: Storage>(storage: &mut S) -> Result<()> {
    remove(storage, Name::Copy)
}

/// Removes what a copy of which nothing is durable left, for a crash may have taken the length of its flat file or its name:
/// it begins anew.
pub(super) fn clear_all<S: Storage>(storage: &mut S) -> Result<()> {
    remove(storage, Name::Copy)?;
    remove(storage, Name::Flat)
}

/// Ends a copy whose target stands there whole. Its names may be in memory only, after a failed sync: they are made durable
/// before the record goes.
pub(super) fn tidy<S: Storage>(storage: &mut S, texts: &Texts) -> Result<()> {
    publish(storage, texts)?;
    remove(storage, Name::CopyRecord)
}

/// First step of taking a source away: what becomes of its data is durable. `record` is none when it is only unlinked.
pub(super) fn promise<S: Storage>(storage: &mut S, record: Option<&str>) -> Result<()> {
    match record {
        Some(text) => replace(storage, Name::DiscardRecord, text.as_bytes()),
        None => remove(storage, Name::DiscardRecord),
    }
}

/// Second step: it is no disk any more.
pub(super) fn take_names<S: Storage>(storage: &mut S) -> Result<()> {
    remove(storage, Name::Descriptor)?;
    take_copy(storage)
}

/// The second copy of a descriptor that is gone.
pub(super) fn take_copy<S: Storage>(storage: &mut S) -> Result<()> {
    unlink(storage, Name::Copy)
}

/// Third step, for each of its files: the data goes. The caller makes that durable. A cancel leaves a part of it, and its name.
pub(super) fn take_data<S: Storage>(storage: &mut S, how: DiscardSource, control: &Control) -> Result<()> {
    if how == DiscardSource::Overwrite {
        overwrite(storage, control)?;
    }
    unlink(storage, Name::Flat)
}

/// What a run that goes on does with a name that is gone, before it relies on that: when the folder failed to sync, a power cut may
/// still bring the name back, and no later sync says anything about that. Between the two calls it names an empty file.
pub(super) fn take_again<S: Storage>(storage: &mut S, name: Name) -> Result<()> {
    unlink(storage, name)?;
    storage.create(name).map_err(failed(storage, "create", name))?;
    remove(storage, name)
}

/// Last step: no name comes back, and then nobody needs the record.
pub(super) fn end<S: Storage>(storage: &mut S) -> Result<()> {
    storage.sync_folder().map_err(failed(storage, "sync the folder of", Name::Flat))?;
    remove(storage, Name::DiscardRecord)
}

/// Zeros over everything that is no hole, durably. Counts the bytes of the file as done.
pub(super) fn overwrite<S: Storage>(storage: &S, control: &Control) -> Result<()> {
    let zeros = vec![0; CHUNK];
    let mut position = 0;
    while let Some((start, end)) =
        storage.next_data(Name::Flat, position).map_err(failed(storage, "find data in", Name::Flat))?
    {
        control.advance(start - position);
        position = start;
        while position < end {
            let count = (end - position).min(CHUNK as u64);
            control.turn(count)?;
            write_all(storage, Name::Flat, &zeros[..count as usize], position)?;
            control.advance(count);
            position += count;
        }
    }
    let len = storage.len(Name::Flat).map_err(failed(storage, "examine", Name::Flat))?;
    control.advance(len.saturating_sub(position));
    storage.sync(Name::Flat).map_err(failed(storage, "sync", Name::Flat))
}

fn unlink<S: Storage>(storage: &mut S, name: Name) -> Result<()> {
    match storage.unlink(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(storage, "remove", name)(error)),
        _ => Ok(()),
    }
}
