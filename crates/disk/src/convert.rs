//! Sealing and unsealing to a copy. The source is only read; the target appears whole or not at all.

use std::path::Path;
use std::time::Instant;

use vmseal_secret::SecretKey;

use crate::control::Control;
use crate::descriptor::{Descriptor, Holes};
use crate::error::{Error, Result};
use crate::image::{Image, ImageFormat};
use crate::open::{open_sealed, plain_source};
use crate::pipeline::{Job, Transform};
use crate::seal::{self, Binding, SealSpec};
use crate::source::Source;
use crate::target::Target;

/// What a finished conversion did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Size of the virtual disk in bytes.
    pub bytes: u64,
    /// Bytes the new flat file occupies.
    pub allocated_bytes: u64,
    /// Wall time in seconds, the final fsync included.
    pub seconds: f64,
    /// Hole rule of the sealed side; `None` when neither side is sealed.
    pub holes: Option<Holes>,
}

/// Seals a raw image or a plain flat VMDK into a new disk under a fresh data key. `target` is the new descriptor's path
/// (`….vmdk`); the flat file and the second copy of the vmseal lines stand beside it.
pub fn encrypt_copy(source: &Path, target: &Path, spec: &SealSpec<'_>, control: &Control) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let (source, descriptor) = open_unsealed(source)?;
    let _writers = source.keep_writers_away()?;
    let capacity = source.capacity();
    let holes = holes_to_seal(&source, source.path(), spec)?;
    let needed = if holes == Holes::Zero { source.allocated() } else { capacity };
    let (xts, sealed) = seal::seal(spec, capacity, holes)?;
    control.start(capacity);
    let files = Target::create(target, capacity, needed)?;
    copy(&source, &files, Transform::Encrypt(&xts), holes == Holes::Zero, control)?;
    let descriptor = descriptor
        .unwrap_or_else(|| Descriptor::new_flat(files.flat_name(), capacity / 512, &spec.disk_id))
        .retargeted(files.flat_name(), &spec.disk_id, Some(sealed));
    finish(files, &descriptor, Some(holes), control, begun)
}

/// What comes before every sealing of `source`, the image `at`: whether `spec` fits it, and which hole rule the disk gets.
pub(crate) fn holes_to_seal(source: &Source, at: &Path, spec: &SealSpec<'_>) -> Result<Holes> {
    let capacity = source.capacity();
    if spec.sector_size == 4096 && !capacity.is_multiple_of(4096) {
        let reason =
            format!("its {capacity} bytes are not a whole number of 4096-byte sectors; use sector size 512");
        return Err(Error::image(at, reason));
    }
    seal::check_spec(spec, capacity)?;
    Ok(match spec.holes {
        Some(holes) => holes,
        None if source.has_holes()? => Holes::Zero,
        None => Holes::Dense,
    })
}

/// Unseals a disk into a new plain flat VMDK at `target`. Everything [`open_sealed`] verifies is verified before the target
/// is made.
pub fn decrypt_copy(
    source: &Path,
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let disk = open_sealed(source, kek, binding)?;
    let Some(cipher) = &disk.cipher else {
        return Err(Error::state(source, "the disk is not sealed"));
    };
    let _writers = disk.source.keep_writers_away()?;
    let zero = cipher.holes == Holes::Zero;
    let needed = if zero { disk.source.allocated() } else { disk.capacity() };
    control.start(disk.capacity());
    let files = Target::create(target, disk.capacity(), needed)?;
    copy(&disk.source, &files, Transform::Decrypt(&cipher.xts, cipher.holes), zero, control)?;
    let descriptor = disk.descriptor.clone().retargeted(files.flat_name(), &binding.disk_id, None);
    finish(files, &descriptor, Some(cipher.holes), control, begun)
}

/// Deep recrypt to a copy: the same plaintext under a fresh data key and, with it, a fresh wrap of `spec.kek` alone. `kek` and
/// `binding` are of the source; `spec.holes` of `None` keeps its hole rule. Everything [`open_sealed`] verifies is verified
/// before the target is made; no plaintext leaves memory.
pub fn recrypt_copy(
    source: &Path,
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    spec: &SealSpec<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let disk = open_sealed(source, kek, binding)?;
    let Some(cipher) = &disk.cipher else {
        return Err(Error::state(source, "the disk is not sealed"));
    };
    let _writers = disk.source.keep_writers_away()?;
    let capacity = disk.capacity();
    seal::check_spec(spec, capacity)?;
    if spec.holes.is_some_and(|holes| holes != cipher.holes) {
        return Err(Error::argument("a recrypt keeps the hole rule of the disk"));
    }
    let holes = cipher.holes;
    let zero = holes == Holes::Zero;
    let needed = if zero { disk.source.allocated() } else { capacity };
    let (xts, mut sealed) = seal::seal(spec, capacity, holes)?;
    if let Some(old) = &disk.descriptor.sealed {
        sealed.other.clone_from(&old.other);
    }
    control.start(capacity);
    let files = Target::create(target, capacity, needed)?;
    let transform = Transform::Recrypt { old: &cipher.xts, new: &xts, holes };
    copy(&disk.source, &files, transform, zero, control)?;
    let descriptor = disk.descriptor.clone().retargeted(files.flat_name(), &spec.disk_id, Some(sealed));
    finish(files, &descriptor, Some(holes), control, begun)
}

/// A new empty plain disk of `capacity` bytes (a multiple of 512): a hole file that reads as zeros.
pub fn create_plain(target: &Path, capacity: u64, disk_id: &[u8; 16]) -> Result<()> {
    check_new_capacity(capacity)?;
    let files = Target::create(target, capacity, 0)?;
    let descriptor = Descriptor::new_flat(files.flat_name(), capacity / 512, disk_id);
    files.finish(&descriptor, &Control::new())
}

/// A new empty sealed disk of `capacity` bytes that reads as zeros. [`Holes::Zero`] (also when `spec.holes` is `None`, as
/// an empty disk is all hole) makes a hole file at once; [`Holes::Dense`] writes encrypted zeros throughout.
pub fn create_sealed(
    target: &Path,
    capacity: u64,
    spec: &SealSpec<'_>,
    control: &Control,
) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    check_new_capacity(capacity)?;
    seal::check_spec(spec, capacity)?;
    let holes = spec.holes.unwrap_or(Holes::Zero);
    let (xts, sealed) = seal::seal(spec, capacity, holes)?;
    control.start(capacity);
    let files = Target::create(target, capacity, if holes == Holes::Dense { capacity } else { 0 })?;
    copy(&Source::zeros(target, capacity), &files, Transform::Encrypt(&xts), holes == Holes::Zero, control)?;
    let descriptor = Descriptor::new_flat(files.flat_name(), capacity / 512, &spec.disk_id).retargeted(
        files.flat_name(),
        &spec.disk_id,
        Some(sealed),
    );
    finish(files, &descriptor, Some(holes), control, begun)
}

/// The sectors of a raw image or of a plain flat VMDK, whose descriptor comes along.
pub(crate) fn open_unsealed(path: &Path) -> Result<(Source, Option<Descriptor>)> {
    let image = Image::identify(path)?;
    match (image.format, image.descriptor) {
        (_, Some((descriptor, _))) => Ok((plain_source(path, &descriptor)?, Some(descriptor))),
        (ImageFormat::Raw, None) => Ok((Source::raw(path)?, None)),
        (format, None) => Err(Error::image(
            path,
            format!("it is a {} image; import it into the datastore first", format.as_str()),
        )),
    }
}

pub(crate) fn copy(
    source: &Source,
    files: &Target,
    transform: Transform<'_>,
    skip_holes: bool,
    control: &Control,
) -> Result<()> {
    let range = 0..source.capacity();
    Job { source, target: files.file(), target_path: files.flat(), transform, skip_holes, range, control }
        .run()
}

pub(crate) fn finish(
    files: Target,
    descriptor: &Descriptor,
    holes: Option<Holes>,
    control: &Control,
    begun: Instant,
) -> Result<Outcome> {
    let allocated_bytes = files.allocated()?;
    files.finish(descriptor, control)?;
    let bytes = descriptor.capacity_sectors() * 512;
    Ok(Outcome { bytes, allocated_bytes, seconds: begun.elapsed().as_secs_f64(), holes })
}

fn check_new_capacity(capacity: u64) -> Result<()> {
    if capacity == 0 || !capacity.is_multiple_of(512) || capacity > i64::MAX as u64 {
        return Err(Error::argument(format!(
            "a capacity of {capacity} bytes is not a positive multiple of 512 in range"
        )));
    }
    Ok(())
}
