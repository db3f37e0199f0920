//! The VMDK text descriptor: what stock tools read, plus our `vmseal.*` lines.
//!
//! Reading accepts CRLF, trailing NULs (QEMU pads with them) and any order after the first line. Writing uses the one
//! order every tool accepts: version, encoding, CID, parentCID, createType, and only then everything else, because QEMU
//! takes the first letters `CID` of the text for the CID line. Lines nobody here knows are kept, in their order.

mod extent_line;
mod foreign;
mod seal_lines;
mod store;
mod text;

pub use extent_line::{Access, Extent, ExtentKind};
pub use foreign::ForeignSeal;
pub use seal_lines::{CIPHER, Holes, SealState, Sealed, VERSION};
pub use store::{CopyState, copy_path};

pub(crate) use extent_line::check_file_name;
pub(crate) use seal_lines::MAX_WRAPS;
pub(crate) use store::{folder_of, rename_new, sync_directory};

/// Longest descriptor that is read or written, in bytes: QEMU's limit. Ours stay below 8 KiB.
pub const MAX_LEN: usize = 1 << 20;

/// The value of `parentCID` that says "no parent".
pub const NO_PARENT: u32 = 0xffff_ffff;

/// A parsed descriptor. Change its fields and write it back; every line not represented by a field survives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Format version, 1 to 3.
    pub version: u32,
    /// Character set as written; this crate reads UTF-8 only.
    pub encoding: Option<String>,
    /// Content id. Every tool that writes to the disk changes it, so nothing may be bound to it.
    pub cid: u32,
    /// Content id of the parent, [`NO_PARENT`] for a disk that stands alone.
    pub parent_cid: u32,
    /// Kind of disk, for instance `monolithicFlat` or `vmfs`.
    pub create_type: String,
    /// Our lines, checked against their sum; `None` for a disk vmseal has not sealed.
    pub sealed: Option<Sealed>,
    /// Key lines of another product. Their text is kept among the unknown lines.
    pub foreign: Option<ForeignSeal>,
    /// The extents in disk order.
    pub extents: Vec<Extent>,
    /// Unknown lines that stand before the extents.
    header: Vec<String>,
    /// The disk data base and unknown lines after the extents.
    tail: Vec<TailLine>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TailLine {
    /// `ddb.name = "value"`
    Ddb {
        key: String,
        value: String,
    },
    Text(String),
}

impl Descriptor {
    /// A descriptor for one new flat extent of `sectors` (512 bytes each) in the file `flat_name`, with LSI Logic geometry
    /// as VMware writes it.
    pub fn new_flat(flat_name: &str, sectors: u64, disk_id: &[u8; 16]) -> Self {
        const GIB_IN_SECTORS: u64 = 1 << 21;
        let (heads, per_track) = match sectors {
            0..GIB_IN_SECTORS => (64, 32),
            _ if sectors < 2 * GIB_IN_SECTORS => (128, 32),
            _ => (255, 63),
        };
        let mut descriptor = Self {
            version: 1,
            encoding: Some("UTF-8".to_owned()),
            cid: 0xffff_fffe,
            parent_cid: NO_PARENT,
            create_type: "monolithicFlat".to_owned(),
            sealed: None,
            foreign: None,
            extents: vec![Extent::flat(flat_name, sectors)],
            header: Vec::new(),
            tail: Vec::new(),
        };
        descriptor.set_ddb("ddb.adapterType", "lsilogic");
        descriptor.set_ddb("ddb.geometry.cylinders", &(sectors / (heads * per_track)).max(1).to_string());
        descriptor.set_ddb("ddb.geometry.heads", &heads.to_string());
        descriptor.set_ddb("ddb.geometry.sectors", &per_track.to_string());
        descriptor.set_ddb("ddb.uuid", &crate::uuid::format_ddb(disk_id));
        descriptor.set_ddb("ddb.virtualHWVersion", "14");
        descriptor
    }

    /// Size of the virtual disk in 512-byte sectors. Parsing has checked that it fits in `i64` bytes.
    pub fn capacity_sectors(&self) -> u64 {
        self.extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.sectors))
    }

    /// The `ddb.adapterType` value.
    pub fn adapter(&self) -> Option<&str> {
        self.ddb("ddb.adapterType")
    }

    /// The disk id of `ddb.uuid`.
    pub fn disk_id(&self) -> Option<[u8; 16]> {
        self.ddb("ddb.uuid").and_then(crate::uuid::parse_ddb)
    }

    /// Value of the first disk data base line `key` (with its `ddb.` prefix).
    pub fn ddb(&self, key: &str) -> Option<&str> {
        self.ddb_lines().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The disk data base in file order.
    pub fn ddb_lines(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tail.iter().filter_map(|line| match line {
            TailLine::Ddb { key, value } => Some((key.as_str(), value.as_str())),
            TailLine::Text(_) => None,
        })
    }

    /// Sets a disk data base line in place, or appends it.
    pub fn set_ddb(&mut self, key: &str, new_value: &str) {
        for line in &mut self.tail {
            if let TailLine::Ddb { key: name, value } = line
                && name == key
            {
                new_value.clone_into(value);
                return;
            }
        }
        self.tail.push(TailLine::Ddb { key: key.to_owned(), value: new_value.to_owned() });
    }

    /// Removes every disk data base line `key`.
    pub fn remove_ddb(&mut self, key: &str) {
        self.tail.retain(|line| !matches!(line, TailLine::Ddb { key: name, .. } if name == key));
    }

    /// Whether `ddb.iofilters` names `filter`.
    pub fn has_io_filter(&self, filter: &str) -> bool {
        self.ddb_lines()
            .filter(|(key, _)| *key == "ddb.iofilters")
            .any(|(_, value)| value.split(',').any(|name| name.trim() == filter))
    }

    /// The descriptor of a copy of this disk in one new flat file: same hardware lines, another id and extent.
    pub(crate) fn retargeted(mut self, flat_name: &str, disk_id: &[u8; 16], sealed: Option<Sealed>) -> Self {
        let sectors = self.capacity_sectors();
        "monolithicFlat".clone_into(&mut self.create_type);
        self.encoding = Some("UTF-8".to_owned());
        self.extents = vec![Extent::flat(flat_name, sectors)];
        // The map of changed blocks belongs to the old file.
        self.header.retain(|line| !line.starts_with("changeTrackPath"));
        self.set_ddb("ddb.uuid", &crate::uuid::format_ddb(disk_id));
        self.set_io_filter(sealed.is_some());
        self.sealed = sealed;
        self
    }

    /// The descriptor of a child of this disk in one new file: same hardware lines.
    pub(crate) fn as_child(
        &self,
        create_type: &str,
        extent: &str,
        hint: &str,
        disk_id: &[u8; 16],
        sealed: Option<Sealed>,
    ) -> crate::error::Result<Self> {
        let mut child = self.clone().retargeted(extent, disk_id, sealed);
        create_type.clone_into(&mut child.create_type);
        child.parent_cid = if self.cid == NO_PARENT { 0 } else { self.cid };
        child.with_hint(hint)
    }

    /// With another `parentFileNameHint`, relative to the folder of the descriptor.
    pub(crate) fn with_hint(mut self, hint: &str) -> crate::error::Result<Self> {
        if hint.is_empty() || hint.len() > 1024 || hint.contains(['"', '\n', '\r', '\0']) {
            return Err(crate::error::Error::argument(
                "the parent's name has characters that a descriptor cannot carry",
            ));
        }
        self.header.retain(|line| !line.starts_with("parentFileNameHint"));
        self.header.push(format!("parentFileNameHint=\"{hint}\""));
        Ok(self)
    }

    /// Adds or removes our name in `ddb.iofilters`, the interlock that makes a foreign host refuse the ciphertext.
    pub(crate) fn set_io_filter(&mut self, present: bool) {
        let others: Vec<String> = self
            .ddb("ddb.iofilters")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && *name != IO_FILTER)
            .map(str::to_owned)
            .chain(present.then(|| IO_FILTER.to_owned()))
            .collect();
        if others.is_empty() {
            self.remove_ddb("ddb.iofilters")
        } else {
            self.set_ddb("ddb.iofilters", &others.join(","))
        }
    }
}

/// Our name in `ddb.iofilters`.
pub(crate) const IO_FILTER: &str = "vmseal";
