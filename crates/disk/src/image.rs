//! Which kind of image a file is, told from its content and never from its name.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::descriptor::{CopyState, Descriptor, ExtentKind, ForeignSeal, Holes, SealState};
use crate::error::{Error, Result};
use crate::in_place::refuse_in_conversion;
use crate::seal::{KekName, kek_names};
use crate::source::{Source, length, open_image};

/// What [`inspect`] tells about an image without any key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The kind of file.
    pub format: ImageFormat,
    /// Size of the virtual disk in bytes; `None` for VHDX, whose size only qemu-img reads.
    pub capacity_bytes: Option<u64>,
    /// Bytes its files occupy on the file system.
    pub allocated_bytes: u64,
    /// The disk id in `ddb.uuid`.
    pub disk_id: Option<[u8; 16]>,
    /// Set when vmseal sealed the disk.
    pub sealed: Option<SealInfo>,
    /// Set when vSphere sealed the disk; such a disk cannot be opened.
    pub foreign: Option<ForeignSeal>,
    /// Whether [`import`](crate::import) needs qemu-img for it.
    pub needs_qemu_img: bool,
}

/// The vmseal lines of a disk, as far as they matter to whoever looks for its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealInfo {
    /// Disk id.
    pub id: [u8; 16],
    /// Whether an in-place conversion is under way.
    pub state: SealState,
    /// Name of the data cipher.
    pub cipher: &'static str,
    /// Data unit in bytes.
    pub sector_size: u32,
    /// How holes are kept.
    pub holes: Holes,
    /// Number of the data key.
    pub generation: u32,
    /// The KEKs that open the disk, any one will do.
    pub keks: Vec<KekName>,
    /// How the second copy of the lines compares.
    pub copy: CopyState,
}

/// Image formats told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageFormat {
    /// Sectors and nothing else.
    Raw,
    /// VMDK descriptor with flat extents.
    VmdkFlat,
    /// VMDK with grain tables: hosted sparse, stream-optimised, COWD, SE sparse.
    VmdkSparse,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// QEMU copy-on-write, version 1.
    Qcow,
    /// QEMU enhanced disk.
    Qed,
    /// Virtual PC, fixed or dynamic.
    Vhd,
    /// Hyper-V.
    Vhdx,
    /// VirtualBox.
    Vdi,
}

impl ImageFormat {
    /// The usual name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::VmdkFlat => "flat VMDK",
            Self::VmdkSparse => "sparse VMDK",
            Self::Qcow2 => "qcow2",
            Self::Qcow => "qcow",
            Self::Qed => "QED",
            Self::Vhd => "VHD",
            Self::Vhdx => "VHDX",
            Self::Vdi => "VDI",
        }
    }

    /// The name qemu-img gives the format, for formats it is needed for.
    pub(crate) fn qemu_driver(self) -> Option<&'static str> {
        match self {
            Self::Raw | Self::VmdkFlat => None,
            Self::VmdkSparse => Some("vmdk"),
            Self::Qcow2 => Some("qcow2"),
            Self::Qcow => Some("qcow"),
            Self::Qed => Some("qed"),
            Self::Vhd => Some("vpc"),
            Self::Vhdx => Some("vhdx"),
            Self::Vdi => Some("vdi"),
        }
    }
}

/// Tells format, size and seal of an image. Reads headers only and needs no key. Errors when the file is missing or no
/// disk, when a descriptor is damaged, and when a flat extent is missing or has the wrong size.
pub fn inspect(path: &Path) -> Result<ImageInfo> {
    let image = Image::identify(path)?;
    let mut info = ImageInfo {
        format: image.format,
        capacity_bytes: image.capacity,
        allocated_bytes: image.allocated,
        disk_id: None,
        sealed: None,
        foreign: None,
        needs_qemu_img: image.format.qemu_driver().is_some(),
    };
    if let Some((descriptor, copy)) = image.descriptor {
        refuse_in_conversion(path, &descriptor)?;
        if image.format == ImageFormat::VmdkFlat && descriptor.foreign.is_none() {
            Source::of_descriptor(path, &descriptor)?;
        }
        info.disk_id = descriptor.disk_id();
        info.sealed = descriptor.sealed.as_ref().map(|sealed| SealInfo {
            id: sealed.id,
            state: sealed.state,
            cipher: crate::descriptor::CIPHER,
            sector_size: sealed.sector_size,
            holes: sealed.holes,
            generation: sealed.generation,
            keks: kek_names(sealed),
            copy,
        });
        info.foreign = descriptor.foreign;
    }
    Ok(info)
}

/// An image file told by its first bytes.
pub(crate) struct Image {
    pub(crate) format: ImageFormat,
    pub(crate) capacity: Option<u64>,
    pub(crate) allocated: u64,
    /// Set for text descriptors.
    pub(crate) descriptor: Option<(Descriptor, CopyState)>,
}

impl Image {
    pub(crate) fn identify(path: &Path) -> Result<Self> {
        let (file, metadata) = open_image(path)?;
        let len = length(path, &file, &metadata)?;
        if len == 0 {
            return Err(Error::image(path, "it is empty"));
        }
        let mut head = [0; 512];
        let head = read_some(path, &file, 0, &mut head)?;
        if head.starts_with(b"# Disk DescriptorFile") {
            return Self::of_descriptor(path);
        }
        let mut foot = [0; 512];
        let foot = read_some(path, &file, len.saturating_sub(512), &mut foot)?;
        let (format, capacity) = identify_binary(head, foot).unwrap_or((ImageFormat::Raw, Some(len)));
        let allocated = if metadata.is_file() { metadata.blocks().saturating_mul(512) } else { len };
        Ok(Self { format, capacity, allocated, descriptor: None })
    }

    fn of_descriptor(path: &Path) -> Result<Self> {
        let (descriptor, copy) = Descriptor::read_with_copy(path)?;
        let kinds = || descriptor.extents.iter().map(|extent| extent.kind);
        let format =
            if kinds().all(|kind| matches!(kind, ExtentKind::Flat | ExtentKind::Vmfs | ExtentKind::Zero)) {
                ImageFormat::VmdkFlat
            } else if kinds().any(|kind| matches!(kind, ExtentKind::VmfsRdm | ExtentKind::VmfsRaw)) {
                return Err(Error::unsupported("it maps a raw device; copy the device itself"));
            } else {
                ImageFormat::VmdkSparse
            };
        let files = descriptor.extents.iter().filter_map(|extent| extent.file.as_ref());
        let allocated = files
            .filter_map(|name| fs::symlink_metadata(path.with_file_name(name)).ok())
            .fold(0u64, |sum, metadata| sum.saturating_add(metadata.blocks().saturating_mul(512)));
        let capacity = Some(descriptor.capacity_sectors() * 512);
        Ok(Self { format, capacity, allocated, descriptor: Some((descriptor, copy)) })
    }
}

/// Format and capacity from the fixed headers: qcow2 specification, QED specification, Virtual Disk Format 5.0,
/// VHD specification (footer), MS-VHDX 2.2.1, VirtualBox VDICore.h.
fn identify_binary(head: &[u8], foot: &[u8]) -> Option<(ImageFormat, Option<u64>)> {
    let big = |bytes: &[u8], at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let little = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let little32 = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
    if head.starts_with(b"QFI\xfb") {
        let version = head.get(4..8)?;
        let format = if version == [0, 0, 0, 1] { ImageFormat::Qcow } else { ImageFormat::Qcow2 };
        return Some((format, big(head, 24)));
    }
    if head.starts_with(b"QED\0") {
        return Some((ImageFormat::Qed, little(48)));
    }
    if head.starts_with(b"KDMV") {
        return Some((ImageFormat::VmdkSparse, little(12).and_then(|sectors| sectors.checked_mul(512))));
    }
    if head.starts_with(b"COWD") {
        return Some((ImageFormat::VmdkSparse, little32(12).map(|sectors| u64::from(sectors) * 512)));
    }
    if head.starts_with(b"vhdxfile") {
        return Some((ImageFormat::Vhdx, None));
    }
    if head.starts_with(b"conectix") {
        return Some((ImageFormat::Vhd, big(head, 48)));
    }
    if little32(0x40) == Some(0xbeda_107f) {
        return Some((ImageFormat::Vdi, little(0x170)));
    }
    foot.starts_with(b"conectix").then(|| (ImageFormat::Vhd, big(foot, 48)))
}

fn read_some<'a>(path: &Path, file: &File, offset: u64, buffer: &'a mut [u8; 512]) -> Result<&'a [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path, error)),
        }
    }
    Ok(&buffer[..filled])
}
