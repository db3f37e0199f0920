//! Many keys under one KEK. One wrap is a chain of latencies; side by side, independent ones fill the AES unit.

use vmseal_secret::SecretKey;

#[cfg(target_arch = "x86_64")]
use super::x86;
use super::{Kernel, SEMIBLOCK, check_kek, check_key, check_wrapped, unwrap_with, wrap_with};
use crate::Error;
#[cfg(target_arch = "x86_64")]
use crate::guard::guarded_shallow;

/// Wraps every key as [`wrap`](super::wrap) does, in the given order. Lengths may differ; keys of one length are wrapped
/// side by side.
///
/// The lengths are checked before anything is wrapped: one key that [`wrap`](super::wrap) refuses fails the call.
pub fn wrap_many(kek: &SecretKey, keys: &[&SecretKey]) -> Result<Vec<Vec<u8>>, Error> {
    let mut wrapped: Vec<Vec<u8>> = keys.iter().map(|key| vec![0; SEMIBLOCK + key.len()]).collect();
    let outputs = wrapped.iter_mut().map(Vec::as_mut_slice);
    wrap_jobs(
        Kernel::select()?,
        kek,
        keys.iter().zip(outputs).map(|(key, wrapped)| WrapJob { key, wrapped }),
    )?;
    Ok(wrapped)
}

/// As [`wrap_many`] into one buffer, one wrap behind the other. Its length is that of all keys and 8 bytes for each,
/// else [`Error::InvalidArgument`]. Nothing but finished wraps is ever written to it.
pub fn wrap_many_into(kek: &SecretKey, keys: &[&SecretKey], wrapped: &mut [u8]) -> Result<(), Error> {
    if wrapped.len() != keys.iter().map(|key| SEMIBLOCK + key.len()).sum::<usize>() {
        return Err(Error::InvalidArgument {
            reason: "the buffer must be as long as all keys and 8 bytes for each",
        });
    }
    let mut rest = wrapped;
    let jobs = keys.iter().map(|key| {
        let wrapped = rest.split_off_mut(..SEMIBLOCK + key.len()).expect("the length was checked");
        WrapJob { key, wrapped }
    });
    wrap_jobs(Kernel::select()?, kek, jobs)
}

/// Opens every wrap as [`unwrap`](super::unwrap) does, in the given order; one that does not open spoils no other.
///
/// The call itself fails for a KEK of a wrong length, and when the process has wiped its keys.
pub fn unwrap_many(kek: &SecretKey, wrapped: &[&[u8]]) -> Result<Vec<Result<SecretKey, Error>>, Error> {
    unwrap_jobs(Kernel::select()?, kek, wrapped)
}

/// Opens wraps of `length` bytes that stand one behind the other, as [`unwrap_many`] does, for less time than it needs to
/// keep the wraps apart. None unless every one opens, and where no kernel works side by side: then [`unwrap_many`] says
/// which does not open.
pub fn unwrap_row(kek: &SecretKey, packed: &[u8], length: usize) -> Result<Option<Vec<SecretKey>>, Error> {
    unwrap_row_with(Kernel::select()?, kek, packed, length)
}

/// [`unwrap_row`] with a given kernel.
pub(super) fn unwrap_row_with(
    kernel: Kernel,
    kek: &SecretKey,
    packed: &[u8],
    length: usize,
) -> Result<Option<Vec<SecretKey>>, Error> {
    check_kek(kek)?;
    #[cfg(target_arch = "x86_64")]
    if kernel != Kernel::Portable
        && kek.len() == x86::KEK_LEN
        && packed.len().is_multiple_of(length.max(1))
        && (1 + super::MIN_KEY_LEN / SEMIBLOCK..=1 + USUAL).contains(&(length / SEMIBLOCK))
        && length.is_multiple_of(SEMIBLOCK)
    {
        return guarded_shallow(|| match open_row(kernel, kek, packed, length) {
            Err(Error::UnwrapFailed) => Ok(None),
            opened => opened.map(Some),
        });
    }
    let _ = (kernel, packed, length);
    Ok(None)
}

/// All lengths have been checked.
#[cfg(target_arch = "x86_64")]
fn open_row(kernel: Kernel, kek: &SecretKey, packed: &[u8], length: usize) -> Result<Vec<SecretKey>, Error> {
    let mut lanes = x86::Lanes::<false, { x86::WIDEST }, { x86::WIDEST * USUAL }>::empty(kernel);
    kek.expose(|kek| lanes.expand(kek));
    let semiblocks = length / SEMIBLOCK - 1;
    let (mut rest, mut width, mut lane, mut loaded) = (packed, 0, 0, 0);
    let opened = SecretKey::try_init_many(semiblocks * SEMIBLOCK, packed.len() / length, |_, slot| {
        lane += 1;
        if lane >= loaded {
            width = lanes.lanes_for(rest.len() / length, semiblocks);
            let (now, later) = rest.split_at(rest.len().min(width * length));
            for (lane, wrapped) in now.chunks_exact(length).enumerate() {
                let (a, r) = wrapped.split_at(SEMIBLOCK);
                lanes.load(lane, width, a, r);
            }
            lanes.run(width, semiblocks);
            (rest, lane, loaded) = (later, 0, now.len() / length);
            // No slot is filled for a wrap that does not open.
            if !(0..loaded).all(|lane| super::is_initial_value(lanes.a(lane))) {
                return Err(Error::UnwrapFailed);
            }
        }
        lanes.store(lane, width, slot);
        Ok(())
    });
    lanes.wipe_residue();
    opened
}

pub(super) struct WrapJob<'a> {
    pub(super) key: &'a SecretKey,
    pub(super) wrapped: &'a mut [u8],
}

/// [`wrap_many`] with a given kernel.
pub(super) fn wrap_jobs<'a>(
    kernel: Kernel,
    kek: &SecretKey,
    jobs: impl Iterator<Item = WrapJob<'a>>,
) -> Result<(), Error> {
    check_kek(kek)?;
    let mut jobs: Vec<WrapJob<'_>> = jobs.collect();
    jobs.iter().try_for_each(|job| check_key(job.key))?;
    // Nearly always there is only one length.
    if !jobs.is_sorted_by_key(|job| job.key.len()) {
        jobs.sort_by_key(|job| job.key.len());
    }
    #[cfg(target_arch = "x86_64")]
    if kernel != Kernel::Portable && kek.len() == x86::KEK_LEN {
        let longest = jobs.last().map_or(0, |job| job.key.len());
        return guarded_shallow(|| {
            if longest <= USUAL * SEMIBLOCK {
                wrap_side_by_side::<{ x86::WIDEST * USUAL }>(kernel, kek, &mut jobs);
            } else {
                wrap_side_by_side::<MOST>(kernel, kek, &mut jobs);
            }
            Ok(())
        });
    }
    jobs.into_iter().try_for_each(|job| wrap_with(kernel, kek, job.key, job.wrapped))
}

struct UnwrapJob<'a> {
    wrapped: &'a [u8],
    key: Result<SecretKey, Error>,
    position: usize,
}

/// [`unwrap_many`] with a given kernel.
pub(super) fn unwrap_jobs(
    kernel: Kernel,
    kek: &SecretKey,
    wrapped: &[&[u8]],
) -> Result<Vec<Result<SecretKey, Error>>, Error> {
    check_kek(kek)?;
    let job = |(position, wrapped)| UnwrapJob { wrapped, key: Err(Error::UnwrapFailed), position };
    let mut jobs: Vec<UnwrapJob<'_>> = wrapped.iter().copied().enumerate().map(job).collect();
    // Nearly always there is only one length.
    let in_order = jobs.is_sorted_by_key(|job| job.wrapped.len());
    if !in_order {
        jobs.sort_by_key(|job| job.wrapped.len());
    }
    let possible = jobs.iter_mut().filter(|job| check_wrapped(job.wrapped).is_ok());
    #[cfg(target_arch = "x86_64")]
    if kernel != Kernel::Portable && kek.len() == x86::KEK_LEN {
        let mut possible: Vec<&mut UnwrapJob<'_>> = possible.collect();
        let longest = possible.last().map_or(0, |job| job.wrapped.len());
        guarded_shallow(|| {
            if longest <= (1 + USUAL) * SEMIBLOCK {
                unwrap_side_by_side::<{ x86::WIDEST * USUAL }>(kernel, kek, &mut possible);
            } else {
                unwrap_side_by_side::<MOST>(kernel, kek, &mut possible);
            }
            Ok(())
        })?;
    } else {
        possible.for_each(|job| job.key = unwrap_with(kernel, kek, job.wrapped));
    }
    #[cfg(not(target_arch = "x86_64"))]
    possible.for_each(|job| job.key = unwrap_with(kernel, kek, job.wrapped));
    if !in_order {
        jobs.sort_by_key(|job| job.position);
    }
    Ok(jobs.into_iter().map(|job| job.key).collect())
}

/// Semiblocks of an XTS-AES-256 key: nearly everything that is wrapped in numbers is no longer.
#[cfg(target_arch = "x86_64")]
const USUAL: usize = 8;

/// Semiblocks of working memory for longer keys: all lanes up to 256 bytes a key, fewer for longer ones.
#[cfg(target_arch = "x86_64")]
const MOST: usize = 1024;

/// `jobs` is sorted by length.
#[cfg(target_arch = "x86_64")]
fn wrap_side_by_side<const CAPACITY: usize>(kernel: Kernel, kek: &SecretKey, jobs: &mut [WrapJob<'_>]) {
    let mut lanes = x86::Lanes::<true, { x86::WIDEST }, CAPACITY>::empty(kernel);
    kek.expose(|kek| lanes.expand(kek));
    for group in jobs.chunk_by_mut(|one, next| one.key.len() == next.key.len()) {
        let semiblocks = group[0].key.len() / SEMIBLOCK;
        let mut rest = group;
        while !rest.is_empty() {
            let width = lanes.lanes_for(rest.len(), semiblocks);
            let (now, later) = rest.split_at_mut(width.min(rest.len()));
            for (lane, job) in now.iter().enumerate() {
                job.key.expose(|key| lanes.load(lane, width, &super::INITIAL_VALUE, key));
            }
            lanes.run(width, semiblocks);
            for (lane, job) in now.iter_mut().enumerate() {
                let (a, r) = job.wrapped.split_at_mut(SEMIBLOCK);
                a.copy_from_slice(lanes.a(lane));
                lanes.store(lane, width, r);
            }
            rest = later;
        }
    }
    lanes.wipe_residue();
}

/// `jobs` is sorted by length.
#[cfg(target_arch = "x86_64")]
fn unwrap_side_by_side<const CAPACITY: usize>(
    kernel: Kernel,
    kek: &SecretKey,
    jobs: &mut [&mut UnwrapJob<'_>],
) {
    let mut lanes = x86::Lanes::<false, { x86::WIDEST }, CAPACITY>::empty(kernel);
    kek.expose(|kek| lanes.expand(kek));
    for group in jobs.chunk_by_mut(|one, next| one.wrapped.len() == next.wrapped.len()) {
        let semiblocks = group[0].wrapped.len() / SEMIBLOCK - 1;
        let mut rest = group;
        while !rest.is_empty() {
            let width = lanes.lanes_for(rest.len(), semiblocks);
            let (now, later) = rest.split_at_mut(width.min(rest.len()));
            for (lane, job) in now.iter().enumerate() {
                let (a, r) = job.wrapped.split_at(SEMIBLOCK);
                lanes.load(lane, width, a, r);
            }
            lanes.run(width, semiblocks);
            // No slot is filled for a wrap that does not open.
            let sound: Vec<usize> =
                (0..now.len()).filter(|lane| super::is_initial_value(lanes.a(*lane))).collect();
            let fill = |index: usize, slot: &mut [u8]| {
                lanes.store(sound[index], width, slot);
                Ok::<_, vmseal_secret::Error>(())
            };
            match SecretKey::try_init_many(semiblocks * SEMIBLOCK, sound.len(), fill) {
                Ok(keys) => sound.iter().zip(keys).for_each(|(lane, key)| now[*lane].key = Ok(key)),
                Err(error) => sound.iter().for_each(|lane| now[*lane].key = Err(error.clone().into())),
            }
            rest = later;
        }
    }
    lanes.wipe_residue();
}
