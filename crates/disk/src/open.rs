//! An open disk: the bytes its guest would read.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use crate::buffer::Buffer;
use crate::control::Control;
use crate::descriptor::{Descriptor, Holes, IO_FILTER, SealState, Sealed};
use crate::error::{Error, Result};
use crate::in_place::refuse_in_conversion;
use crate::pipeline::CHUNK;
use crate::seal::{self, Binding};
use crate::source::Source;
use crate::transform::{decrypt, refuse_when_wiped};

/// A disk open for reading, sealed or plain. All checks were made when it was opened. Reads may run in parallel.
#[derive(Debug)]
pub struct OpenDisk {
    pub(crate) descriptor: Descriptor,
    pub(crate) source: Source,
    pub(crate) cipher: Option<Cipher>,
}

#[derive(Debug)]
pub(crate) struct Cipher {
    pub(crate) xts: Xts,
    pub(crate) holes: Holes,
}

/// Opens a sealed disk. Verified before any data is read: the vmseal lines and their sum, the state, the presence and exact
/// size of the flat file, the wrapped key, and every field bound into it against descriptor, extent and `binding`.
pub fn open_sealed(descriptor_path: &Path, kek: &SecretKey, binding: &Binding<'_>) -> Result<OpenDisk> {
    let descriptor = Descriptor::read(descriptor_path)?;
    refuse_foreign(descriptor_path, &descriptor)?;
    refuse_in_conversion(descriptor_path, &descriptor)?;
    let Some(sealed) = &descriptor.sealed else {
        return Err(Error::state(descriptor_path, "the disk is not sealed; open it as a plain disk"));
    };
    check_sealed(descriptor_path, &descriptor, sealed)?;
    let source = Source::of_descriptor(descriptor_path, &descriptor)?;
    let xts = seal::open(sealed, source.capacity(), kek, binding)?;
    let cipher = Cipher { xts, holes: sealed.holes };
    Ok(OpenDisk { source, cipher: Some(cipher), descriptor })
}

/// Opens a plain disk with flat extents.
pub fn open_plain(descriptor_path: &Path) -> Result<OpenDisk> {
    let descriptor = Descriptor::read(descriptor_path)?;
    let source = plain_source(descriptor_path, &descriptor)?;
    Ok(OpenDisk { source, cipher: None, descriptor })
}

/// The extents of a descriptor that nobody sealed.
pub(crate) fn plain_source(path: &Path, descriptor: &Descriptor) -> Result<Source> {
    refuse_sealed(path, descriptor)?;
    Source::of_descriptor(path, descriptor)
}

/// Refuses a disk that vmseal or vSphere sealed.
pub(crate) fn refuse_sealed(path: &Path, descriptor: &Descriptor) -> Result<()> {
    refuse_foreign(path, descriptor)?;
    refuse_in_conversion(path, descriptor)?;
    match descriptor.sealed {
        None => Ok(()),
        Some(_) => {
            Err(Error::state(path, "the disk is sealed already; open it with its key, or decrypt it first"))
        }
    }
}

impl OpenDisk {
    /// Size in bytes.
    pub fn capacity(&self) -> u64 {
        self.source.capacity()
    }

    /// Data unit in bytes: reads of whole units at multiples of it are the fastest. 512 for a plain disk.
    pub fn sector_size(&self) -> u32 {
        self.cipher.as_ref().map_or(512, |cipher| cipher.xts.sector_size())
    }

    /// The descriptor as it was when the disk was opened.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Fills `buffer` with plaintext from byte `offset` on; any range inside the disk. When it fails, the buffer's content
    /// is not to be used.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if offset.checked_add(buffer.len() as u64).is_none_or(|end| end > self.capacity()) {
            return Err(Error::argument(format!(
                "the range read ends outside the disk of {} bytes",
                self.capacity()
            )));
        }
        let Some(cipher) = &self.cipher else {
            return self.source.read_at(offset, buffer);
        };
        let unit = cipher.xts.sector_size() as usize;
        // A head and a tail that cover units in part go through a buffer of one unit.
        let head_skip = (offset % unit as u64) as usize;
        let head_len = if head_skip == 0 { 0 } else { (unit - head_skip).min(buffer.len()) };
        let (head, rest) = buffer.split_at_mut(head_len);
        let (body, tail) = rest.split_at_mut(rest.len() - rest.len() % unit);
        let body_start = offset + head.len() as u64;
        let tail_start = body_start + body.len() as u64;
        let mut bounce = (!head.is_empty() || !tail.is_empty()).then(|| Buffer::new(unit));
        if let Some(bounce) = &mut bounce {
            if !head.is_empty() {
                let whole = bounce.first(unit);
                self.read_units(cipher, offset - head_skip as u64, whole)?;
                head.copy_from_slice(&whole[head_skip..head_skip + head.len()]);
            }
            if !tail.is_empty() {
                let whole = bounce.first(unit);
                self.read_units(cipher, tail_start, whole)?;
                tail.copy_from_slice(&whole[..tail.len()]);
            }
        }
        self.read_units(cipher, body_start, body)
    }

    /// SHA-256 of the whole plaintext, as a guest that reads the disk from end to end would get it.
    pub fn digest(&self, control: &Control) -> Result<[u8; 32]> {
        let capacity = self.capacity();
        control.start(capacity);
        self.source.advise_sequential();
        let skip_holes = self.cipher.as_ref().is_none_or(|cipher| cipher.holes == Holes::Zero);
        let mut hash = Sha256::new();
        let mut buffer = Buffer::new(CHUNK);
        let zeros = vec![0; CHUNK];
        let mut offset = 0;
        let mut data_end = 0;
        while offset < capacity {
            let mut hole_end = offset;
            if !skip_holes {
                data_end = capacity;
            } else if offset >= data_end {
                let unit = u64::from(self.sector_size());
                let (start, end) = self.source.next_data(offset)?.unwrap_or((capacity, capacity));
                hole_end = (start - start % unit).max(offset);
                data_end = end.next_multiple_of(unit).min(capacity);
            }
            while offset < hole_end {
                control.check()?;
                let len = (hole_end - offset).min(CHUNK as u64);
                hash.update(&zeros[..len as usize]);
                offset += len;
                control.advance(len);
            }
            if offset < data_end {
                control.check()?;
                let len = (data_end - offset).min(CHUNK as u64);
                let chunk = buffer.first(len as usize);
                self.read_at(offset, chunk)?;
                hash.update(chunk);
                offset += len;
                control.advance(len);
            }
        }
        self.source.check_unchanged()?;
        Ok(hash.finalize().into())
    }

    fn read_units(&self, cipher: &Cipher, offset: u64, data: &mut [u8]) -> Result<()> {
        self.source.read_at(offset, data)?;
        decrypt(&cipher.xts, cipher.holes, data, offset)?;
        refuse_when_wiped()
    }
}

pub(crate) fn refuse_foreign(path: &Path, descriptor: &Descriptor) -> Result<()> {
    let filter = descriptor.has_io_filter("vmwarevmcrypt");
    if descriptor.foreign.is_some() || filter {
        return Err(Error::state(
            path,
            "the disk is sealed by vSphere and cannot be opened here; decrypt it in vSphere first",
        ));
    }
    Ok(())
}

pub(crate) fn check_sealed(path: &Path, descriptor: &Descriptor, sealed: &Sealed) -> Result<()> {
    if sealed.state != SealState::Sealed {
        return Err(Error::InConversion { path: path.to_owned() });
    }
    let plain = descriptor.extents.iter().all(|extent| extent.file.is_some());
    if descriptor.extents.len() != 1 || !plain {
        return Err(Error::unsupported(format!(
            "a sealed disk has one flat extent (see also the {IO_FILTER} lines)"
        )));
    }
    Ok(())
}
