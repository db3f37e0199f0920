//! Making a view of a sealed disk: its header, the secret that opens it, and for QEMU a descriptor that puts both together.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use vmseal_secret::SecretKey;

use super::{SECTOR, luks1, luks2};
use crate::descriptor::{Descriptor, Holes};
use crate::error::{Error, Result};
use crate::in_place::refuse_in_conversion;
use crate::lock::refuse_held_machine;
use crate::open::{check_sealed, refuse_foreign};
use crate::seal::{self, Binding};
use crate::source::Source;

/// Which header a view has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewKind {
    /// For QEMU of any version, and cryptsetup. Data units of 512 bytes only.
    Luks1,
    /// For cryptsetup and the kernel.
    Luks2,
}

/// The files of a view. Removing them ends it; the disk does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The header.
    pub header: PathBuf,
    /// The secret that opens it, 64 hexadecimal digits without a line end.
    pub secret: PathBuf,
    /// The extent, the very one of the disk.
    pub extent: PathBuf,
    /// For [`ViewKind::Luks1`]: a VMDK of header and extent, which QEMU's luks driver opens as one file.
    pub vmdk: Option<PathBuf>,
    /// Data unit in bytes.
    pub sector_size: u32,
}

/// `statfs` types of file systems that are memory.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;

/// Makes a view of the sealed disk `descriptor` in `folder`, which must be a tmpfs: the header and its secret together open
/// the disk. All files are made anew with mode 0600, or none stays.
///
/// Errors: as [`open_sealed`](crate::open_sealed); [`Error::InvalidArgument`] when `folder` is no tmpfs or the kind cannot
/// carry the data unit; [`Error::FileLocked`] while somebody writes the disk; [`Error::DiskState`] for a disk whose holes stay
/// holes, which other programs would read as noise.
pub fn view(
    descriptor: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    kind: ViewKind,
    folder: &Path,
) -> Result<View> {
    let disk = Descriptor::read(descriptor)?;
    refuse_foreign(descriptor, &disk)?;
    refuse_in_conversion(descriptor, &disk)?;
    let Some(sealed) = &disk.sealed else {
        return Err(Error::state(descriptor, "the disk is not sealed; other programs open it as it is"));
    };
    check_sealed(descriptor, &disk, sealed)?;
    if sealed.holes == Holes::Zero {
        let reason =
            "its holes stay holes, which other programs would read as noise; recrypt or encrypt it dense";
        return Err(Error::state(descriptor, reason));
    }
    if kind == ViewKind::Luks1 && sealed.sector_size as usize != SECTOR {
        return Err(Error::argument("LUKS1 knows sectors of 512 bytes only; make a LUKS2 view"));
    }
    refuse_unless_memory(folder)?;
    let source = Source::of_descriptor(descriptor, &disk)?;
    // Whoever opens the view writes beside those that write now.
    refuse_held_machine(descriptor)?;
    let _writers = source.keep_writers_away()?;
    let capacity = source.capacity();
    let dek = seal::open_key(sealed, capacity, kek, binding)?;
    let extent = extent_of(descriptor, &disk)?;
    // Not 0 in a volume that was imported behind its own header.
    let offset = disk.extents.first().map_or(0, |extent| extent.offset);
    let mut files = Files::new(folder, descriptor);
    let secret = new_secret()?;
    let header = match kind {
        ViewKind::Luks1 => luks1::header(&dek, &secret, &sealed.id, luks1::LEN)?,
        ViewKind::Luks2 => {
            luks2::header(&dek, &secret, &sealed.id, sealed.sector_size, offset * SECTOR as u64)?
        }
    };
    let secret = secret.expose(|secret| files.write("secret", secret))?;
    let header = files.write("header", &header)?;
    let vmdk = match kind {
        ViewKind::Luks1 => {
            Some(files.write("view.vmdk", vmdk_text(&header, (&extent, offset), capacity)?.as_bytes())?)
        }
        ViewKind::Luks2 => None,
    };
    files.keep = true;
    Ok(View { header, secret, extent, vmdk, sector_size: sealed.sector_size })
}

/// 256 random bits in hexadecimal: QEMU takes no secret that is not UTF-8.
fn new_secret() -> Result<SecretKey> {
    let random = SecretKey::generate(32)?;
    SecretKey::try_init(64, |digits| {
        random.expose(|bytes| {
            for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
                // Without a table: no lookup depends on the secret.
                for (digit, half) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
                    *digit = half + b'0' + (b'a' - b'0' - 10) * u8::from(half > 9);
                }
            }
        });
        Ok(())
    })
}

fn refuse_unless_memory(folder: &Path) -> Result<()> {
    let kind = rustix::fs::statfs(folder).map_err(|error| Error::io("examine", folder, error))?.f_type as i64;
    if kind == TMPFS || kind == RAMFS {
        return Ok(());
    }
    let reason = format!(
        "{} is not in memory: header and secret together open the disk, so they go into a tmpfs, for instance below /dev/shm",
        folder.display()
    );
    Err(Error::argument(reason))
}

fn extent_of(path: &Path, disk: &Descriptor) -> Result<PathBuf> {
    let name = disk.extents.first().and_then(|extent| extent.file.as_deref());
    let extent = path.with_file_name(name.ok_or_else(|| Error::descriptor("its extent names no file"))?);
    extent.canonicalize().map_err(|error| Error::io("resolve", &extent, error))
}

/// Header and extent as one disk of two extents.
fn vmdk_text(header: &Path, (extent, offset): (&Path, u64), capacity: u64) -> Result<String> {
    let line = |file: &Path, sectors: u64, offset: u64| match file.to_str() {
        Some(name) if !name.contains(['"', '\n', '\r']) => {
            Ok(format!("RW {sectors} FLAT \"{name}\" {offset}\n"))
        }
        _ => Err(Error::argument(format!("the path {} cannot stand in a descriptor", file.display()))),
    };
    let lines =
        line(header, (luks1::LEN / SECTOR) as u64, 0)? + &line(extent, capacity / SECTOR as u64, offset)?;
    Ok(format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"twoGbMaxExtentFlat\"\n\n\
         # Extent description\n{lines}\n# The Disk Data Base\n#DDB\nddb.adapterType = \"ide\"\n"
    ))
}

/// Files that are removed unless they are kept.
struct Files {
    stem: PathBuf,
    made: Vec<PathBuf>,
    keep: bool,
}

impl Files {
    fn new(folder: &Path, descriptor: &Path) -> Self {
        let stem = descriptor.file_stem().unwrap_or_default();
        Self { stem: folder.join(stem), made: Vec::new(), keep: false }
    }

    fn write(&mut self, ending: &str, bytes: &[u8]) -> Result<PathBuf> {
        let mut name = self.stem.clone().into_os_string();
        name.push(".");
        name.push(ending);
        let path = PathBuf::from(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file: File = options.open(&path).map_err(|error| Error::io("create", &path, error))?;
        self.made.push(path.clone());
        file.write_all(bytes).map_err(|error| Error::io("write", &path, error))?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if !self.keep {
            for path in &self.made {
                // Nothing better can be done with a failure here than to report the error that led to it.
                let _ = fs::remove_file(path);
            }
        }
    }
}
