//! The descriptor of a copy of a sealed disk, made without touching its data: the same data key under another KEK, bound to
//! another place.

use std::path::Path;

use vmseal_secret::SecretKey;

use crate::descriptor::{Descriptor, NO_PARENT, SealState, Sealed};
use crate::error::{Error, Result};
use crate::in_place::refuse_in_conversion;
use crate::open::{check_sealed, refuse_foreign};
use crate::seal::{self, Binding, SealSpec};
use crate::target::flat_name;

/// Makes the new descriptor `target` for a byte-for-byte copy of the extent of the sealed disk `source`, which lies beside
/// `target` under the name that belongs to it (`web01-flat.vmdk` for `web01.vmdk`). `spec` says which KEK wraps the data key there,
/// and which VM, disk and generation it is bound to; `spec.holes` is that of the disk and not looked at. No former wrap goes along.
///
/// Whoever holds the new KEK has the data key, and so reads what `source` holds with the same key: only a deep recrypt parts them.
///
/// Errors: as [`open_sealed`](crate::open_sealed); [`Error::InvalidArgument`] when `spec.sector_size` is not that of the disk;
/// [`Error::DescriptorUnsupported`] when its data does not begin at the start of its extent; [`Error::ExtentInvalid`] when the copy of
/// the extent is missing or has another length; [`Error::AlreadyExists`].
pub fn reseal_copy(
    source: &Path,
    target: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    spec: &SealSpec<'_>,
) -> Result<()> {
    let descriptor = Descriptor::read(source)?;
    refuse_foreign(source, &descriptor)?;
    refuse_in_conversion(source, &descriptor)?;
    let Some(sealed) = descriptor.sealed.clone() else {
        return Err(Error::state(source, "the disk is not sealed, so it has no data key to wrap again"));
    };
    check_sealed(source, &descriptor, &sealed)?;
    if descriptor.parent_cid != NO_PARENT {
        return Err(Error::unsupported("it is the child of another disk, without which it says nothing"));
    }
    if descriptor.extents.iter().any(|extent| extent.offset != 0) {
        return Err(Error::unsupported("its data begins inside its extent, behind a header"));
    }
    let capacity = descriptor.capacity_sectors() * 512;
    seal::check_spec(spec, capacity)?;
    if spec.sector_size != sealed.sector_size {
        return Err(Error::argument(format!(
            "the disk has data units of {} bytes, which stay",
            sealed.sector_size
        )));
    }
    let name = flat_name(target)?;
    let extent = target.with_file_name(&name);
    let len = std::fs::symlink_metadata(&extent).map_err(|error| Error::io("examine", &extent, error))?.len();
    if len != capacity {
        return Err(Error::extent(&extent, format!("it has {len} bytes, the disk has {capacity}")));
    }
    let dek = seal::open_key(&sealed, capacity, kek, binding)?;
    let lines = Sealed {
        id: spec.disk_id,
        state: SealState::Sealed,
        sector_size: sealed.sector_size,
        holes: sealed.holes,
        generation: spec.generation,
        wraps: vec![seal::wrap_key(&dek, spec, capacity, sealed.holes)?],
        other: Vec::new(),
    };
    let own = Binding { vm_id: spec.vm_id, disk_id: spec.disk_id, provider_id: Some(spec.provider_id) };
    let proven = seal::open_key(&lines, capacity, spec.kek, &own)?;
    if !proven.ct_eq(&dek) {
        return Err(Error::EnvelopeMismatch { field: "data key" });
    }
    descriptor.retargeted(&name, &spec.disk_id, Some(lines)).write_new(target)
}
