//! What a job reads: the sectors of a raw image or of a descriptor's flat extents, as one run of bytes with holes.

mod opening;
mod part;

use std::ops::Range;
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

use self::opening::open_extent;
pub(crate) use self::opening::{length, open_image};
pub(crate) use self::part::Stamp;
use self::part::{Part, PartFile};
use crate::descriptor::{Access, Descriptor, ExtentKind, NO_PARENT};
use crate::direct::{Direct, is_cold};
use crate::error::{Error, Result};
use crate::lock::{ByteLocks, keep_writers_away};

/// Extents one disk may have; each holds a file open.
const MAX_EXTENTS: usize = 512;

/// A readable disk. All files are open, of the right size and never written.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    parts: Vec<Part>,
    capacity: u64,
}

/// A [`Source`] read in one of the two ways.
pub(crate) struct Reader<'a> {
    source: &'a Source,
    direct: Vec<Option<Direct>>,
}

impl Source {
    /// A raw image: a regular file or a block device, whole sectors, not empty.
    pub(crate) fn raw(path: &Path) -> Result<Self> {
        let (file, metadata) = open_image(path)?;
        let len = length(path, &file, &metadata)?;
        if len == 0 {
            return Err(Error::image(path, "it is empty"));
        }
        if len % 512 != 0 {
            return Err(Error::image(
                path,
                format!(
                    "its {len} bytes are not a whole number of 512-byte sectors; pad it, for instance with truncate -s %512"
                ),
            ));
        }
        let file = PartFile::new(path.to_owned(), file, &metadata, len, 0);
        Ok(Self {
            path: path.to_owned(),
            parts: vec![Part { start: 0, len, file: Some(file) }],
            capacity: len,
        })
    }

    /// The flat extents of a descriptor read from `path`. Every file must have exactly the size the descriptor says.
    pub(crate) fn of_descriptor(path: &Path, descriptor: &Descriptor) -> Result<Self> {
        if descriptor.parent_cid != NO_PARENT {
            return Err(Error::unsupported(
                "it is a snapshot of another disk; consolidate the snapshots first",
            ));
        }
        Self::of_link(path, descriptor)
    }

    /// As [`Source::of_descriptor`], also of a child, whose holes are its parent's: only for who reads through the chain.
    pub(crate) fn of_link(path: &Path, descriptor: &Descriptor) -> Result<Self> {
        if descriptor.extents.is_empty() {
            return Err(Error::descriptor("it has no extent"));
        }
        if descriptor.extents.len() > MAX_EXTENTS {
            return Err(Error::unsupported(format!("it has more than {MAX_EXTENTS} extents")));
        }
        let mut parts = Vec::with_capacity(descriptor.extents.len());
        let mut start = 0;
        for extent in &descriptor.extents {
            if extent.access == Access::NoAccess {
                return Err(Error::unsupported("an extent is marked NOACCESS"));
            }
            // Parsing keeps offset and length within i64 bytes.
            let (len, offset) = (extent.sectors * 512, extent.offset * 512);
            let file = match (extent.kind, &extent.file) {
                (ExtentKind::Zero, _) => None,
                (ExtentKind::Flat | ExtentKind::Vmfs, Some(name)) => {
                    let ends = descriptor.extents.iter().filter(|other| other.file.as_ref() == Some(name));
                    let expected = ends.map(|other| (other.offset + other.sectors) * 512).max().unwrap_or(0);
                    Some(open_extent(&path.with_file_name(name), expected, offset)?)
                }
                _ => {
                    return Err(Error::unsupported("its extents are not flat; import the disk first"));
                }
            };
            parts.push(Part { start, len, file });
            start += len;
        }
        Ok(Self { path: path.to_owned(), parts, capacity: start })
    }

    /// A disk of nothing but zeros.
    pub(crate) fn zeros(path: &Path, capacity: u64) -> Self {
        Self { path: path.to_owned(), parts: vec![Part { start: 0, len: capacity, file: None }], capacity }
    }

    /// Size in bytes.
    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes the files occupy, at most the capacity.
    pub(crate) fn allocated(&self) -> u64 {
        let sum = self
            .parts
            .iter()
            .filter_map(|part| part.file.as_ref())
            .fold(0u64, |sum, file| sum.saturating_add(file.allocated));
        sum.min(self.capacity)
    }

    /// Whether any part of the disk is a hole.
    pub(crate) fn has_holes(&self) -> Result<bool> {
        Ok(self.next_data(0)? != Some((0, self.capacity)))
    }

    /// What tells whether the files are still the same, also for a later process.
    pub(crate) fn stamps(&self) -> Vec<Stamp> {
        let files = self.parts.iter().filter_map(|part| part.file.as_ref());
        files.map(|part| part.identity).collect()
    }

    /// Refuses while a QEMU may write to a file of the disk, and keeps such away until the result is dropped.
    pub(crate) fn keep_writers_away(&self) -> Result<Vec<ByteLocks>> {
        let files = self.parts.iter().filter_map(|part| part.file.as_ref());
        files.map(|part| keep_writers_away(&part.path, &part.file)).collect()
    }

    /// Tells the kernel that everything will be read once, in order.
    pub(crate) fn advise_sequential(&self) {
        for file in self.parts.iter().filter_map(|part| part.file.as_ref()) {
            // Only a hint: a file system that declines still reads.
            let _ = rustix::fs::fadvise(&file.file, 0, None, Advice::Sequential);
        }
    }

    /// Whether most of `range` would have to come from the disk and not from the page cache.
    pub(crate) fn is_cold(&self, range: &Range<u64>) -> bool {
        let parts = self.parts.iter().filter_map(|part| Some((part, part.file.as_ref()?)));
        let (mut cold, mut all) = (0, 0);
        for (part, file) in parts {
            let (start, end) = (range.start.max(part.start), range.end.min(part.start + part.len));
            if start < end {
                all += end - start;
                if is_cold(&file.file, file.offset + (start - part.start), end - start) {
                    cold += end - start;
                }
            }
        }
        cold > all / 2
    }

    /// Reads through the page cache.
    pub(crate) fn cached(&self) -> Reader<'_> {
        Reader { source: self, direct: Vec::new() }
    }

    /// Reads past the page cache where the file systems allow it.
    pub(crate) fn direct(&self) -> Reader<'_> {
        let open = |part: &Part| part.file.as_ref().and_then(|file| Direct::of(&file.file));
        Reader { source: self, direct: self.parts.iter().map(open).collect() }
    }

    /// Fills `buffer` from `offset` on. The range must lie inside the disk.
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_through(&[], offset, buffer)
    }

    /// `direct`: the direct way to each part, as far as there is one.
    fn read_through(&self, direct: &[Option<Direct>], mut offset: u64, mut buffer: &mut [u8]) -> Result<()> {
        while !buffer.is_empty() {
            let index = self
                .part_at(offset)
                .ok_or_else(|| Error::argument("the range read ends outside the disk"))?;
            let part = &self.parts[index];
            let within = offset - part.start;
            let len = usize::try_from(part.len - within).unwrap_or(usize::MAX).min(buffer.len());
            let (now, rest) = buffer.split_at_mut(len);
            match &part.file {
                Some(file) => {
                    let direct = direct.get(index).and_then(Option::as_ref);
                    file.read_exact(direct, file.offset + within, now)?;
                }
                None => now.fill(0),
            }
            offset += len as u64;
            buffer = rest;
        }
        Ok(())
    }

    /// The next run of bytes at or after `from` that is not a hole, adjoining runs joined; `None` when only holes follow.
    pub(crate) fn next_data(&self, from: u64) -> Result<Option<(u64, u64)>> {
        let mut found: Option<(u64, u64)> = None;
        let mut position = from;
        while let Some(part) = self.part_at(position).map(|index| &self.parts[index]) {
            match part.next_data(position)? {
                Some((start, end)) => {
                    match &mut found {
                        None => found = Some((start, end)),
                        Some((_, joined)) if *joined == start => *joined = end,
                        Some(_) => break,
                    }
                    position = end;
                    if end < part.start + part.len {
                        break;
                    }
                }
                None if found.is_some() => break,
                None => position = part.start + part.len,
            }
        }
        Ok(found)
    }

    /// Fails when a file was written, cut or grown since it was opened: what was read is then no state the disk ever had.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        self.parts.iter().filter_map(|part| part.file.as_ref()).try_for_each(PartFile::check_unchanged)
    }

    fn part_at(&self, offset: u64) -> Option<usize> {
        let index = self.parts.partition_point(|part| part.start <= offset).checked_sub(1)?;
        let part = self.parts.get(index)?;
        (offset - part.start < part.len).then_some(index)
    }
}

impl Reader<'_> {
    /// As [`Source::read_at`].
    pub(crate) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.source.read_through(&self.direct, offset, buffer)
    }
}
