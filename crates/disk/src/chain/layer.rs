//! One file of a chain and how its bytes become the guest's.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::{DELTA, MASK, SECTOR};
use crate::buffer::{Buffer, is_zero};
use crate::descriptor::{Access, Descriptor, ExtentKind, Holes, NO_PARENT};
use crate::error::{Error, Result};
use crate::in_place::refuse_in_conversion;
use crate::no_follow::open_to_write;
use crate::open::{check_sealed, refuse_foreign};
use crate::seal::{self, Binding};
use crate::source::Source;
use crate::transform::refuse_when_wiped;

/// A file of a chain as its owner names it.
#[derive(Debug, Clone, Copy)]
pub struct Link<'a> {
    /// Its descriptor.
    pub descriptor: &'a Path,
    /// For a sealed link: a KEK that opens it, and where its data key belongs.
    pub key: Option<(&'a SecretKey, Binding<'a>)>,
}

/// An open link. All checks were made when it was opened.
#[derive(Debug)]
pub(super) struct Layer {
    path: PathBuf,
    descriptor: Descriptor,
    source: Source,
    form: Form,
    child: bool,
}

#[derive(Debug)]
enum Form {
    /// The bytes as they are.
    Plain,
    Sealed {
        xts: Xts,
        holes: Holes,
    },
    Masked(Box<[u8; SECTOR]>),
}

/// The one file of a layer, open for writing.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    pub(super) file: File,
}

impl Layer {
    pub(super) fn open(link: &Link<'_>) -> Result<Self> {
        let path = link.descriptor;
        let descriptor = Descriptor::read(path)?;
        refuse_foreign(path, &descriptor)?;
        refuse_in_conversion(path, &descriptor)?;
        let child = is_child(&descriptor);
        let source = if child {
            delta_extent(path, &descriptor)?;
            Source::of_link(path, &descriptor)?
        } else {
            Source::of_descriptor(path, &descriptor)?
        };
        let form = match (&descriptor.sealed, &link.key) {
            (Some(sealed), Some((kek, binding))) => {
                check_sealed(path, &descriptor, sealed)?;
                if child != (sealed.holes == Holes::Parent) {
                    return Err(Error::state(path, "its vmseal.holes is not that of its place in the chain"));
                }
                let xts = seal::open(sealed, source.capacity(), kek, binding)?;
                Form::Sealed { xts, holes: sealed.holes }
            }
            (None, None) if child => Form::Masked(mask_of(path, &descriptor)?),
            (None, None) => Form::Plain,
            (Some(_), None) => return Err(Error::state(path, "the link is sealed; open it with its key")),
            (None, Some(_)) => return Err(Error::state(path, "the link is not sealed")),
        };
        Ok(Self { path: path.to_owned(), descriptor, source, form, child })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    pub(super) fn is_child(&self) -> bool {
        self.child
    }

    pub(super) fn capacity(&self) -> u64 {
        self.source.capacity()
    }

    /// The next run of bytes at or after `from` that the file holds.
    pub(super) fn next_data(&self, from: u64) -> Result<Option<(u64, u64)>> {
        match &self.form {
            Form::Sealed { holes: Holes::Dense, .. } => {
                Ok((from < self.capacity()).then_some((from, self.capacity())))
            }
            _ => self.source.next_data(from),
        }
    }

    /// The data unit: what is ciphered in one piece.
    pub(super) fn unit(&self) -> u64 {
        match &self.form {
            Form::Sealed { xts, .. } => u64::from(xts.sector_size()),
            _ => SECTOR as u64,
        }
    }

    /// Fills `data`, whole units from `offset` on, with what this file holds. Sectors that it does not hold are passed to `below`
    /// as ranges of `data`; in a base they are zeros.
    pub(super) fn read(
        &self,
        offset: u64,
        data: &mut [u8],
        mut below: impl FnMut(u64, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        self.source.read_at(offset, data)?;
        let xts = match &self.form {
            Form::Plain => return Ok(()),
            Form::Sealed { xts, holes: Holes::Dense } => {
                xts.decrypt(data, offset / self.unit())?;
                return refuse_when_wiped();
            }
            Form::Sealed { xts, .. } => Some(xts),
            Form::Masked(_) => None,
        };
        let absent: Vec<bool> = data.chunks(SECTOR).map(is_zero).collect();
        let per_unit = self.unit() as usize / SECTOR;
        let units: Vec<bool> =
            absent.chunks(per_unit).map(|unit| unit.iter().any(|&absent| !absent)).collect();
        for (present, from, to) in runs(&units) {
            if !present {
                continue;
            }
            let bytes = &mut data[from * per_unit * SECTOR..to * per_unit * SECTOR];
            match (xts, &self.form) {
                (Some(xts), _) => xts.decrypt(bytes, offset / self.unit() + from as u64)?,
                (None, Form::Masked(mask)) => apply_mask(mask, bytes),
                (None, _) => {}
            }
        }
        refuse_when_wiped()?;
        for (is_absent, from, to) in runs(&absent) {
            if !is_absent {
                continue;
            }
            let bytes = &mut data[from * SECTOR..to * SECTOR];
            if self.child {
                below(offset + (from * SECTOR) as u64, bytes)?;
            } else {
                bytes.fill(0);
            }
        }
        Ok(())
    }

    /// Which sectors from `offset` on the file holds. `scratch` is as long as the range.
    pub(super) fn held(&self, offset: u64, scratch: &mut [u8]) -> Result<Vec<bool>> {
        self.source.read_at(offset, scratch)?;
        Ok(scratch.chunks(SECTOR).map(|sector| !is_zero(sector)).collect())
    }

    /// Turns the guest's bytes, whole units, into those of the file.
    pub(super) fn encode(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        match &self.form {
            Form::Plain => Ok(()),
            Form::Masked(mask) => {
                apply_mask(mask, data);
                Ok(())
            }
            Form::Sealed { xts, .. } => {
                xts.encrypt(data, offset / self.unit())?;
                refuse_when_wiped()
            }
        }
    }

    /// Opens the file for writing: it must be one flat file of its own.
    pub(super) fn writer(&self) -> Result<Writer> {
        let name = match self.descriptor.extents.as_slice() {
            [extent]
                if extent.offset == 0
                    && extent.access == Access::ReadWrite
                    && matches!(extent.kind, ExtentKind::Flat | ExtentKind::Vmfs) =>
            {
                extent.file.as_ref()
            }
            _ => None,
        };
        let Some(name) = name else {
            return Err(Error::unsupported("only a disk with one writable flat extent can be written to"));
        };
        let path = self.path.with_file_name(name);
        let file = open_to_write(&path).map_err(|error| Error::io("open", &path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("examine", &path, error))?;
        if !metadata.is_file() || metadata.len() != self.capacity() {
            return Err(Error::extent(&path, "it is not the file that was opened for reading"));
        }
        Ok(Writer { path, file })
    }
}

impl Writer {
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|error| Error::io("write", &self.path, error))
    }

    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error))
    }
}

/// Every check that opening one link makes, without the links below it.
pub fn check_link(link: &Link<'_>) -> Result<()> {
    Layer::open(link).map(|_| ())
}

/// Reads through `layers`, base first, whole sectors from `offset` on.
pub(super) fn read_through(layers: &[std::sync::Arc<Layer>], offset: u64, data: &mut [u8]) -> Result<()> {
    let Some((top, lower)) = layers.split_last() else {
        data.fill(0);
        return Ok(());
    };
    let end = offset + data.len() as u64;
    if top.child && top.next_data(offset)?.is_none_or(|(start, _)| start >= end) {
        return read_through(lower, offset, data);
    }
    let unit = top.unit();
    let (start, stop) = (offset - offset % unit, end.next_multiple_of(unit));
    let below = |offset: u64, data: &mut [u8]| read_through(lower, offset, data);
    if (start, stop) == (offset, end) {
        return top.read(offset, data, below);
    }
    let mut window = Buffer::new((stop - start) as usize);
    let window = window.first((stop - start) as usize);
    top.read(start, window, below)?;
    let from = (offset - start) as usize;
    data.copy_from_slice(&window[from..from + data.len()]);
    Ok(())
}

/// Whether a descriptor is that of a child.
pub(crate) fn is_child(descriptor: &Descriptor) -> bool {
    descriptor.create_type == DELTA || descriptor.parent_cid != NO_PARENT
}

/// The name of a child's extent.
pub(crate) fn delta_extent<'a>(path: &Path, descriptor: &'a Descriptor) -> Result<&'a str> {
    let ours = descriptor.create_type == DELTA && descriptor.parent_cid != NO_PARENT;
    match descriptor.extents.as_slice() {
        [extent] if ours && extent.offset == 0 && extent.kind == ExtentKind::Flat => {
            extent.file.as_deref().ok_or_else(|| Error::descriptor("its extent names no file"))
        }
        _ => Err(Error::unsupported(format!(
            "{} is a snapshot of a kind that vmseal does not make; consolidate it where it was made",
            path.display()
        ))),
    }
}

fn mask_of(path: &Path, descriptor: &Descriptor) -> Result<Box<[u8; SECTOR]>> {
    let seed = descriptor.ddb(MASK).filter(|seed| seed.len() == 32);
    let seed = seed.ok_or_else(|| Error::state(path, "the line ddb.vmsealMask is missing or damaged"))?;
    let mut mask = Box::new([0; SECTOR]);
    for (index, block) in mask.chunks_mut(32).enumerate() {
        let mut hash = Sha256::new();
        hash.update(b"vmseal mask 1");
        hash.update(seed);
        hash.update([index as u8]);
        block.copy_from_slice(&hash.finalize());
    }
    Ok(mask)
}

fn apply_mask(mask: &[u8; SECTOR], data: &mut [u8]) {
    for sector in data.chunks_mut(SECTOR) {
        for (byte, mask) in sector.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
}

/// Runs of equal values: value, first index, index after the last.
pub(super) fn runs(values: &[bool]) -> impl Iterator<Item = (bool, usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let &value = values.get(at)?;
        let from = at;
        at += values[at..].iter().take_while(|&&other| other == value).count();
        Some((value, from, at))
    })
}
