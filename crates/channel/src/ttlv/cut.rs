//! Taking the keys out of a message that has arrived.

use vmseal_secret::SecretKey;

use super::walk::{padded, walk};
use super::{HEADER, Limits};
use crate::{Error, PlainMessage};

/// Takes every secret byte string out of `message`: the message without them, each replaced by an empty string of the
/// same tag and type, and the keys in order of appearance. The source is wiped, whatever the outcome.
///
/// Secret are KeyMaterial, what a KeyMaterial structure holds, and KeyValue byte strings, unless the key block says
/// that they are wrapped.
///
/// Errors: [`Error::Malformed`] (also for a secret string that arrives empty: it would shift the order),
/// [`Error::TooLarge`], and [`Error::Keys`] when there is no key memory.
pub fn cut(mut message: PlainMessage, limits: &Limits) -> Result<(Vec<u8>, Vec<SecretKey>), Error> {
    let layout = walk(&message, limits)?;
    if let Some(empty) = layout.places.iter().find(|place| place.length == 0) {
        return Err(Error::Malformed { offset: empty.header, reason: "the key material is empty" });
    }
    let mut keys = Vec::with_capacity(layout.places.len());
    for place in &layout.places {
        let bytes = &message[place.value()..place.value() + place.length];
        keys.push(SecretKey::try_init(place.length, |slot| {
            slot.copy_from_slice(bytes);
            Ok::<(), Error>(())
        })?);
    }

    // The source may be altered: it is wiped in the end.
    for (structure, removed) in layout.changes(|_, place| padded(place.length)) {
        shorten(&mut message[structure..structure + HEADER], removed);
    }
    let removed: usize = layout.places.iter().map(|place| padded(place.length)).sum();
    let mut rest = Vec::with_capacity(message.len() - removed);
    let mut from = 0;
    for place in &layout.places {
        message[place.header + 4..place.value()].fill(0);
        rest.extend_from_slice(&message[from..place.value()]);
        from = place.value() + padded(place.length);
    }
    rest.extend_from_slice(&message[from..]);
    Ok((rest, keys))
}

fn shorten(header: &mut [u8], by: usize) {
    if let Some(length) = header.last_chunk_mut::<4>() {
        let shorter = u32::from_be_bytes(*length) - by as u32;
        *length = shorter.to_be_bytes();
    }
}
