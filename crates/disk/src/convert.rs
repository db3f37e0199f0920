//! New disks, and what every conversion to a copy begins and ends with.

use std::path::Path;
use std::time::Instant;

use crate::control::Control;
use crate::copy_job::unfinished_discard;
use crate::descriptor::{Descriptor, Holes};
use crate::error::{Error, Result};
use crate::image::{Image, ImageFormat};
use crate::open::plain_source;
use crate::pipeline::Job;
use crate::seal::{self, SealSpec};
use crate::source::Source;
use crate::target::Target;
use crate::transform::Transform;

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
        (ImageFormat::Raw, None) => {
            if unfinished_discard(path)?.is_some() {
                let reason = "it is being overwritten, and a part of it may be gone; resume that";
                return Err(Error::state(path, reason));
            }
            Ok((Source::raw(path)?, None))
        }
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
