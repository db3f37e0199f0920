//! Shallow recrypt: another KEK for the same data key. Only the vmseal lines change, never a byte of data.

use std::path::Path;

use vmseal_secret::SecretKey;

use crate::chain::{delta_extent, is_child};
use crate::descriptor::{CopyState, Descriptor, MAX_LEN, MAX_WRAPS, Sealed};
use crate::error::{Error, Result};
use crate::in_place::file_storage::FileStorage;
use crate::in_place::lifecycle::publish;
use crate::in_place::storage::{Name, Storage, failed, read_exact};
use crate::in_place::{NewKek, flat_extent, refuse_in_conversion, texts};
use crate::lock::Changes;
use crate::open::{check_sealed, refuse_foreign};
use crate::seal::{self, Binding, KekName, SealSpec};

/// Wraps the data key of a sealed disk under another KEK; afterwards that wrap is the only one. The disk may be open for
/// reading and writing meanwhile. `kek` opens one of the wraps that stand there; after an interrupted call that is the old KEK
/// or the new one.
///
/// Both wraps stand, in descriptor and second copy, until the new one was read back and opened. Whatever stops the call, the
/// disk opens with at least one of the two, and calling it again ends the work. `false`: there was nothing to do.
///
/// Errors: as [`open_sealed`](crate::open_sealed), and [`Error::FileLocked`] while a conversion holds the disk.
pub fn shallow_recrypt(
    descriptor: &Path,
    kek: &SecretKey,
    binding: &Binding<'_>,
    new: &NewKek<'_>,
) -> Result<bool> {
    let seen = Descriptor::read(descriptor)?;
    refuse_foreign(descriptor, &seen)?;
    if seen.sealed.is_none() {
        return Err(not_sealed(descriptor));
    }
    // The lines of a child are like those of any disk.
    let extent = if is_child(&seen) { delta_extent(descriptor, &seen)? } else { flat_extent(&seen)? };
    let mut storage = FileStorage::lock(descriptor, extent, seen.capacity_sectors() * 512, Changes::Lines)?;
    // A conversion may have begun or ended between reading and locking.
    let now = Descriptor::read(descriptor)?;
    refuse_in_conversion(descriptor, &now)?;
    refuse_foreign(descriptor, &now)?;
    if now.extents != seen.extents {
        return Err(Error::state(descriptor, "the disk was changed meanwhile; start again"));
    }
    rewrap(&mut storage, kek, binding, new)
}

/// The same on any storage, whose flat file is open.
fn rewrap<S: Storage>(
    storage: &mut S,
    kek: &SecretKey,
    binding: &Binding<'_>,
    new: &NewKek<'_>,
) -> Result<bool> {
    let path = storage.path(Name::Descriptor).to_owned();
    let capacity = storage.len(Name::Flat).map_err(failed(storage, "examine", Name::Flat))?;
    let (mut descriptor, copy) = read(storage)?;
    let Some(sealed) = descriptor.sealed.clone() else {
        return Err(not_sealed(&path));
    };
    check_sealed(&path, &descriptor, &sealed)?;
    let dek = seal::open_key(&sealed, capacity, kek, binding)?;
    let new_binding = Binding { provider_id: Some(new.provider_id), ..*binding };
    let opens = |wrap: &String, sealed: &Sealed| {
        let opened = seal::open_wrap(wrap, sealed, capacity, new.kek, &new_binding)?;
        if opened.ct_eq(&dek) { Ok(()) } else { Err(Error::EnvelopeMismatch { field: "data key" }) }
    };
    // Made by a call that was interrupted, or by one that ended.
    let made = sealed.wraps.iter().find(|wrap| is_under(wrap, new) && opens(wrap, &sealed).is_ok());
    let wrap = match made {
        Some(wrap) => wrap.clone(),
        None => wrap_for(&dek, &sealed, capacity, binding, new)?,
    };
    let both = with_wraps(&sealed, &wrap, &sealed.wraps);
    opens(&wrap, &both)?;
    let last = with_wraps(&sealed, &wrap, &[]);
    if last == sealed && copy == CopyState::Same {
        return Ok(false);
    }
    if last != sealed {
        descriptor.sealed = Some(both);
        publish(storage, &texts(&descriptor)?)?;
        let (written, copy) = read(storage)?;
        if written != descriptor || copy != CopyState::Same {
            return Err(Error::state(&path, "the disk was changed meanwhile; start again"));
        }
        let written = written.sealed.as_ref().ok_or_else(|| not_sealed(&path))?;
        written.wraps.first().map_or_else(|| Err(not_sealed(&path)), |wrap| opens(wrap, written))?;
    }
    descriptor.sealed = Some(last);
    publish(storage, &texts(&descriptor)?)?;
    Ok(true)
}

/// Descriptor and second copy as they stand now.
fn read<S: Storage>(storage: &mut S) -> Result<(Descriptor, CopyState)> {
    let descriptor = read_text(storage, Name::Descriptor)?;
    let copy = match read_text(storage, Name::Copy) {
        Ok(bytes) => Some(bytes),
        Err(Error::NotFound { .. }) => None,
        Err(error) => return Err(error),
    };
    Descriptor::from_files(storage.path(Name::Descriptor), &descriptor, copy.as_deref())
}

fn read_text<S: Storage>(storage: &mut S, name: Name) -> Result<Vec<u8>> {
    storage.open(name).map_err(failed(storage, "open", name))?;
    let len = storage.len(name).map_err(failed(storage, "examine", name))?;
    if len > MAX_LEN as u64 {
        let path = storage.path(name).display();
        return Err(Error::descriptor(format!(
            "{path} is longer than {MAX_LEN} bytes: not a text descriptor"
        )));
    }
    let mut bytes = vec![0; len as usize];
    read_exact(storage, name, &mut bytes, 0)?;
    Ok(bytes)
}

/// The same lines with `first` and as many of the old wraps as a descriptor holds.
fn with_wraps(sealed: &Sealed, first: &String, old: &[String]) -> Sealed {
    let rest = old.iter().filter(|wrap| *wrap != first);
    let wraps = std::iter::once(first).chain(rest).take(MAX_WRAPS).cloned().collect();
    Sealed { wraps, ..sealed.clone() }
}

fn wrap_for(
    dek: &SecretKey,
    sealed: &Sealed,
    capacity: u64,
    binding: &Binding<'_>,
    new: &NewKek<'_>,
) -> Result<String> {
    let spec = SealSpec {
        kek: new.kek,
        kek_id: new.kek_id,
        provider_id: new.provider_id,
        vm_id: binding.vm_id,
        disk_id: binding.disk_id,
        generation: sealed.generation,
        sector_size: sealed.sector_size,
        holes: Some(sealed.holes),
    };
    seal::check_spec(&spec, capacity)?;
    seal::wrap_key(dek, &spec, capacity, sealed.holes)
}

fn is_under(wrap: &str, new: &NewKek<'_>) -> bool {
    let name = KekName { provider_id: new.provider_id.to_owned(), key_id: new.kek_id.to_owned() };
    seal::kek_name(wrap) == Some(name)
}

fn not_sealed(path: &Path) -> Error {
    Error::state(path, "the disk is not sealed, so it has no data key to wrap again")
}

#[cfg(test)]
mod crashes;
