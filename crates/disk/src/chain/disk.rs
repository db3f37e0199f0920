//! An open chain: what the guest reads and writes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use super::SECTOR;
use super::layer::{Layer, Link, Writer, read_through};
use crate::buffer::Buffer;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::pipeline::{CHUNK, lock};

/// A chain that is open, base first. Reads may run in parallel; writes take turns and go to the top.
#[derive(Debug)]
pub struct ChainDisk {
    pub(super) layers: RwLock<Vec<Arc<Layer>>>,
    pub(super) writing: Mutex<Writing>,
    capacity: u64,
}

/// Where writes go.
#[derive(Debug)]
pub(super) struct Writing {
    /// `None`: the disk is open for reading only.
    pub(super) top: Option<Writer>,
    /// The top before the last push, which may be taken back.
    pub(super) previous: Option<Writer>,
    /// While the top is merged into its parent: the parent gets each write too.
    pub(super) mirror: Option<Mirror>,
    /// A sync failed: what the file holds is unknown, so nothing more is promised of it.
    lost: bool,
}

#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) layer: Arc<Layer>,
    pub(super) writer: Writer,
    /// The first error; the merge fails with it, the guest goes on.
    pub(super) failure: Option<Error>,
}

impl ChainDisk {
    /// Opens every link, base first. Verified of each before any data is read: its vmseal lines and their sum, the state, presence
    /// and size of its file, the wrapped key and everything bound into it; and that all are of one size.
    pub fn open(links: &[Link<'_>], writable: bool) -> Result<Self> {
        let layers = links.iter().map(|link| Layer::open(link).map(Arc::new)).collect::<Result<Vec<_>>>()?;
        let Some((base, children)) = layers.split_first() else {
            return Err(Error::argument("a chain has one link at least"));
        };
        if base.is_child() {
            return Err(Error::state(base.path(), "it is a child; name the disks below it first"));
        }
        let capacity = base.capacity();
        for child in children {
            check_child(child, capacity)?;
        }
        let top = match layers.last() {
            Some(top) if writable => Some(top.writer()?),
            _ => None,
        };
        let writing = Mutex::new(Writing { top, previous: None, mirror: None, lost: false });
        Ok(Self { layers: RwLock::new(layers), writing, capacity })
    }

    /// Size in bytes.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Number of links.
    pub fn depth(&self) -> usize {
        self.stack().len()
    }

    /// Fills `buffer` with plaintext from byte `offset` on; any range inside the disk. When it fails, the buffer's content
    /// is not to be used.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check_range(offset, buffer.len())?;
        read_bytes(&self.stack(), offset, buffer)
    }

    /// Writes to the top; any range inside the disk. After a crash each 512-byte sector is as before or as written.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_range(offset, bytes.len())?;
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let step = (CHUNK - (position % CHUNK as u64) as usize).min(bytes.len() - at);
            self.write_piece(position, &bytes[at..at + step])?;
            at += step;
        }
        Ok(())
    }

    /// Makes what was written durable. After a failure every later write and flush fails: open the disk again and look what is
    /// there.
    pub fn flush(&self) -> Result<()> {
        let mut writing = lock(&self.writing);
        refuse_lost(&writing)?;
        let Some(top) = &writing.top else { return Ok(()) };
        if let Err(error) = top.sync() {
            writing.lost = true;
            return Err(error);
        }
        if let Some(mirror) = &mut writing.mirror
            && mirror.failure.is_none()
            && let Err(error) = mirror.writer.sync()
        {
            mirror.failure = Some(error);
        }
        Ok(())
    }

    /// Puts a new child on top; what was the top is written to no more. The caller lets no write in meanwhile that it minds.
    pub fn push(&self, link: &Link<'_>) -> Result<()> {
        let layer = Arc::new(Layer::open(link)?);
        check_child(&layer, self.capacity)?;
        let mut writing = lock(&self.writing);
        if writing.mirror.is_some() {
            return Err(Error::state(layer.path(), "the chain is being merged; wait for it"));
        }
        if writing.top.is_some() {
            let writer = layer.writer()?;
            writing.previous = writing.top.replace(writer);
        }
        self.layers.write().unwrap_or_else(PoisonError::into_inner).push(layer);
        Ok(())
    }

    /// Takes back the last [`ChainDisk::push`], when nothing was written since and no merge has ended.
    pub fn pop(&self) -> Result<()> {
        let mut writing = lock(&self.writing);
        let previous = writing.previous.take();
        let previous = previous.ok_or_else(|| Error::argument("no child was just put on the chain"))?;
        self.layers.write().unwrap_or_else(PoisonError::into_inner).pop();
        writing.top = Some(previous);
        Ok(())
    }

    /// SHA-256 of the whole plaintext.
    pub fn digest(&self, control: &Control) -> Result<[u8; 32]> {
        control.start(self.capacity);
        let layers = self.stack();
        let (mut hash, mut buffer) = (Sha256::new(), Buffer::new(CHUNK));
        let zeros = vec![0; CHUNK];
        let mut walk = Walk::default();
        let mut offset = 0;
        while offset < self.capacity {
            control.check()?;
            let (len, is_data) = walk.step(&layers, offset, self.capacity)?;
            if is_data {
                let chunk = buffer.first(len);
                read_bytes(&layers, offset, chunk)?;
                hash.update(chunk);
            } else {
                hash.update(&zeros[..len]);
            }
            offset += len as u64;
            control.advance(len as u64);
        }
        Ok(hash.finalize().into())
    }

    pub(super) fn stack(&self) -> Vec<Arc<Layer>> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check_range(&self, offset: u64, len: usize) -> Result<()> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.capacity => Ok(()),
            _ => Err(Error::argument(format!("the range ends outside the disk of {} bytes", self.capacity))),
        }
    }

    fn write_piece(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut writing = lock(&self.writing);
        refuse_lost(&writing)?;
        let layers = self.stack();
        let (Some(layer), Some(top)) = (layers.last(), &writing.top) else {
            return Err(Error::argument("the disk is open for reading only"));
        };
        let unit =
            writing.mirror.as_ref().map_or(layer.unit(), |mirror| mirror.layer.unit().max(layer.unit()));
        let end = offset + bytes.len() as u64;
        let (start, stop) = (offset - offset % unit, end.next_multiple_of(unit).min(self.capacity));
        let len = (stop - start) as usize;
        let (mut plain, mut coded) = (Buffer::new(len), Buffer::new(len));
        let (plain, coded) = (plain.first(len), coded.first(len));
        let (head, tail) = ((offset - start) as usize, (end - start) as usize);
        let unit = unit as usize;
        // What the guest does not write of the units at both ends stays.
        if head > 0 {
            let first = unit.min(len);
            read_bytes(&layers, start, &mut plain[..first])?;
        }
        if tail < len {
            let last = (tail - 1) / unit * unit;
            if last > 0 || head == 0 {
                read_bytes(&layers, start + last as u64, &mut plain[last..])?;
            }
        }
        plain[head..tail].copy_from_slice(bytes);
        coded.copy_from_slice(plain);
        layer.encode(start, coded)?;
        top.write_at(coded, start)?;
        if let Some(mirror) = &mut writing.mirror
            && mirror.failure.is_none()
        {
            coded.copy_from_slice(plain);
            let written =
                mirror.layer.encode(start, coded).and_then(|()| mirror.writer.write_at(coded, start));
            mirror.failure = written.err();
        }
        Ok(())
    }
}

/// Walks a chain in steps of at most a chunk, holes apart from data.
#[derive(Default)]
pub(super) struct Walk {
    data: (u64, u64),
}

impl Walk {
    /// Length of the next step from `offset` on, and whether any link holds data there.
    pub(super) fn step(
        &mut self,
        layers: &[Arc<Layer>],
        offset: u64,
        capacity: u64,
    ) -> Result<(usize, bool)> {
        if offset >= self.data.1 {
            let mut next = (capacity, capacity);
            for layer in layers {
                if let Some((start, end)) = layer.next_data(offset)?
                    && start < next.0
                {
                    next = (start - start % 4096, end.next_multiple_of(4096).min(capacity));
                }
            }
            self.data = (next.0.max(offset), next.1);
        }
        let (start, end) = self.data;
        let (until, is_data) = if offset < start { (start, false) } else { (end, true) };
        let boundary = (offset / CHUNK as u64 + 1) * CHUNK as u64;
        Ok(((until.min(boundary) - offset) as usize, is_data))
    }
}

/// Any range of bytes.
pub(super) fn read_bytes(layers: &[Arc<Layer>], offset: u64, buffer: &mut [u8]) -> Result<()> {
    let sector = SECTOR as u64;
    let mut at = 0;
    while at < buffer.len() {
        let position = offset + at as u64;
        let rest = buffer.len() - at;
        let skip = (position % sector) as usize;
        if skip == 0 && rest >= SECTOR {
            let len = (rest - rest % SECTOR).min(CHUNK);
            read_through(layers, position, &mut buffer[at..at + len])?;
            at += len;
        } else {
            let len = (SECTOR - skip).min(rest);
            let mut whole = Buffer::new(SECTOR);
            let whole = whole.first(SECTOR);
            read_through(layers, position - skip as u64, whole)?;
            buffer[at..at + len].copy_from_slice(&whole[skip..skip + len]);
            at += len;
        }
    }
    Ok(())
}

fn check_child(child: &Layer, capacity: u64) -> Result<()> {
    if !child.is_child() {
        return Err(Error::state(child.path(), "it is no child of another disk"));
    }
    if child.capacity() != capacity {
        return Err(Error::extent(
            Path::new(child.path()),
            format!("it has {} bytes, its base {capacity}: it is of another disk", child.capacity()),
        ));
    }
    Ok(())
}

fn refuse_lost(writing: &Writing) -> Result<()> {
    if writing.lost {
        return Err(Error::argument("an earlier sync of the disk failed; close it and open it again"));
    }
    Ok(())
}
