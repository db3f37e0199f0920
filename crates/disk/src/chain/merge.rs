//! Taking a link out of a chain: what it holds is written into the link below it.
//!
//! The child covers what is being written, so the disk reads the same before, meanwhile and after, and a merge that stops
//! anywhere is begun again from the start. Only when the parent is whole and durable does the owner of the chain say that the
//! child is gone. Nobody else may read the parent: whoever did would see the guest's newer bytes.

use std::sync::{Arc, PoisonError};

use super::SECTOR;
use super::disk::{ChainDisk, Mirror, read_bytes};
use super::layer::{Layer, Writer, runs};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::pipeline::{CHUNK, lock};

impl ChainDisk {
    /// Writes what link `index` holds into the link below and makes it durable. The guest may go on: while the top is merged, each
    /// write goes to both. Call [`ChainDisk::end_merge`] when the outcome is settled.
    pub fn merge(&self, index: usize, control: &Control) -> Result<()> {
        let layers = self.stack();
        let (Some(upper), Some(lower)) =
            (layers.get(index), index.checked_sub(1).and_then(|below| layers.get(below)))
        else {
            return Err(Error::argument("there is no such child in the chain"));
        };
        let writer = lower.writer()?;
        {
            let mut writing = lock(&self.writing);
            if writing.mirror.is_some() {
                return Err(Error::state(upper.path(), "the chain is being merged already"));
            }
            if index + 1 == layers.len() && writing.top.is_some() {
                let mirror = Mirror { layer: Arc::clone(lower), writer: lower.writer()?, failure: None };
                writing.mirror = Some(mirror);
            }
        }
        let merged = self.copy_down(&layers[..=index], upper, lower, &writer, control);
        if merged.is_err() {
            lock(&self.writing).mirror = None;
        }
        merged
    }

    /// `keep`: link `index`, which was merged, leaves the chain. Otherwise everything stays as it was.
    pub fn end_merge(&self, index: usize, keep: bool) -> Result<()> {
        let mut writing = lock(&self.writing);
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        if index == 0 || index >= layers.len() {
            return Err(Error::argument("there is no such child in the chain"));
        }
        let mirror = writing.mirror.take();
        if !keep {
            return Ok(());
        }
        if index + 1 == layers.len() && writing.top.is_some() {
            let mirror = mirror.ok_or_else(|| Error::argument("the top was not merged"))?;
            if let Some(error) = mirror.failure {
                return Err(error);
            }
            writing.top = Some(mirror.writer);
        }
        layers.remove(index);
        writing.previous = None;
        Ok(())
    }

    /// To be asked right before the owner settles it: what was written meanwhile is in the parent, too, and durable.
    pub fn sync_merge(&self) -> Result<()> {
        self.flush()?;
        match &mut lock(&self.writing).mirror {
            Some(Mirror { failure, .. }) => failure.take().map_or(Ok(()), Err),
            None => Ok(()),
        }
    }

    fn copy_down(
        &self,
        chain: &[Arc<Layer>],
        upper: &Layer,
        lower: &Layer,
        writer: &Writer,
        control: &Control,
    ) -> Result<()> {
        let capacity = self.capacity();
        control.start(capacity);
        let (mut scratch, mut data) = (Buffer::new(CHUNK), Buffer::new(CHUNK));
        let mut offset = 0;
        while let Some((start, end)) = upper.next_data(offset)? {
            let (mut at, end) = (start - start % 4096, end.next_multiple_of(4096).min(capacity));
            control.set_done(at);
            while at < end {
                control.check()?;
                let boundary = (at / CHUNK as u64 + 1) * CHUNK as u64;
                let len = (end.min(boundary) - at) as usize;
                // The guest does not write to the chunk while it is on its way.
                let mut writing = lock(&self.writing);
                if let Some(failure) = writing.mirror.as_mut().and_then(|mirror| mirror.failure.take()) {
                    return Err(failure);
                }
                let held = upper.held(at, scratch.first(len))?;
                let per_unit = lower.unit() as usize / SECTOR;
                let units: Vec<bool> = held.chunks(per_unit).map(|unit| unit.contains(&true)).collect();
                for (wanted, from, to) in runs(&units) {
                    if !wanted {
                        continue;
                    }
                    let from = from * per_unit * SECTOR;
                    let to = (to * per_unit * SECTOR).min(len);
                    let position = at + from as u64;
                    let piece = &mut data.first(len)[from..to];
                    read_bytes(chain, position, piece)?;
                    lower.encode(position, piece)?;
                    writer.write_at(piece, position)?;
                }
                drop(writing);
                at += len as u64;
                control.set_done(at);
            }
            offset = end;
        }
        control.set_done(capacity);
        control.check()?;
        writer.sync()
    }
}
