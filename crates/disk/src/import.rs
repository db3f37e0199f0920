//! Bringing an image of any format into a datastore as a plain flat VMDK.

use std::path::Path;
use std::time::Instant;

use crate::control::Control;
use crate::convert::{Outcome, copy, finish, open_unsealed};
use crate::descriptor::Descriptor;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::open::refuse_sealed;
use crate::pipeline::CHUNK;
use crate::qemu_img::QemuImg;
use crate::target::{Target, check_free_space};
use crate::transform::Transform;

/// Copies `source` into a new plain disk with the id `disk_id` at `target` (`….vmdk`). Raw images and flat VMDKs are copied
/// here, holes kept; other formats go through `qemu-img`, or fail with [`Error::QemuImgRequired`] when it is not on PATH.
/// Images that lean on other files (backing files, snapshots) or are encrypted are refused.
pub fn import(source: &Path, target: &Path, disk_id: &[u8; 16], control: &Control) -> Result<Outcome> {
    let begun = Instant::now();
    control.check()?;
    let image = Image::identify(source)?;
    match image.format.qemu_driver() {
        None => import_flat(source, target, disk_id, control, begun),
        Some(driver) => {
            let source = QemuSource { path: source, image: &image, driver };
            import_with_qemu(&source, target, disk_id, control, begun)
        }
    }
}

fn import_flat(
    source: &Path,
    target: &Path,
    disk_id: &[u8; 16],
    control: &Control,
    begun: Instant,
) -> Result<Outcome> {
    let (source, descriptor) = open_unsealed(source)?;
    let _writers = source.keep_writers_away()?;
    let capacity = source.capacity();
    control.start(capacity);
    let files = Target::create(target, capacity, source.allocated())?;
    copy(&source, &files, Transform::Copy, true, control)?;
    let descriptor = descriptor
        .unwrap_or_else(|| Descriptor::new_flat(files.flat_name(), capacity / 512, disk_id))
        .retargeted(files.flat_name(), disk_id, None);
    finish(files, &descriptor, None, control, begun)
}

struct QemuSource<'a> {
    path: &'a Path,
    image: &'a Image,
    driver: &'static str,
}

fn import_with_qemu(
    source: &QemuSource<'_>,
    target: &Path,
    disk_id: &[u8; 16],
    control: &Control,
    begun: Instant,
) -> Result<Outcome> {
    if let Some((descriptor, _)) = &source.image.descriptor {
        refuse_sealed(source.path, descriptor)?;
    }
    let format = source.image.format.as_str();
    let qemu_img = QemuImg::find().ok_or(Error::QemuImgRequired { format })?;
    // Absolute, so that qemu-img does not take a name with a colon for a protocol.
    let path = source.path.canonicalize().map_err(|error| Error::io("resolve", source.path, error))?;
    let capacity = qemu_img.capacity(&path, source.driver, control)?;
    if capacity == 0 || !capacity.is_multiple_of(512) {
        let reason = format!("its {capacity} bytes are not a whole number of 512-byte sectors");
        return Err(Error::image(&path, reason));
    }
    control.start(capacity);
    let files = Target::create(target, capacity, source.image.allocated.min(capacity))?;
    let flat = files.flat();
    let flat = flat.canonicalize().map_err(|error| Error::io("resolve", flat, error))?;
    qemu_img.convert(&path, source.driver, &flat, capacity, control).map_err(|error| match error {
        // qemu-img tells its errors in words only; a full file system shows by itself.
        Error::QemuImgFailed { .. } => check_free_space(&flat, CHUNK as u64).err().unwrap_or(error),
        _ => error,
    })?;
    let metadata = files.file().metadata().map_err(|error| Error::io("examine", &flat, error))?;
    let length = metadata.len();
    if length != capacity {
        let reason = format!("it wrote {length} bytes instead of {capacity}");
        return Err(Error::QemuImgFailed { reason });
    }
    let descriptor = Descriptor::new_flat(files.flat_name(), capacity / 512, disk_id);
    finish(files, &descriptor, None, control, begun)
}
