//! Putting keys into a message that is to be sent.

use std::borrow::Borrow;

use vmseal_secret::SecretKey;

use super::walk::{padded, walk};
use super::{HEADER, Limits};
use crate::{Error, PlainMessage};

/// The reverse of [`super::cut`]: every empty secret byte string of `message` takes the next of `keys`.
///
/// Errors: [`Error::KeyBytesInMessage`] when a secret string is not empty, [`Error::KeyCount`] when there are more or
/// fewer keys than empty strings, [`Error::TooLarge`] when the message would exceed `limits`, [`Error::Malformed`].
pub fn splice<K: Borrow<SecretKey>>(
    message: &[u8],
    keys: &[K],
    limits: &Limits,
) -> Result<PlainMessage, Error> {
    let layout = walk(message, limits)?;
    if let Some(place) = layout.places.iter().find(|place| place.length != 0) {
        return Err(Error::KeyBytesInMessage { offset: place.header });
    }
    if layout.places.len() != keys.len() {
        return Err(Error::KeyCount { places: layout.places.len(), keys: keys.len() });
    }
    let length_of = |index: usize| keys.get(index).map_or(0, |key| padded(key.borrow().len()));
    let total = message.len() + (0..keys.len()).map(length_of).sum::<usize>();
    if total > limits.max_message.min(u32::MAX as usize) {
        return Err(Error::TooLarge { what: "bytes", actual: total, limit: limits.max_message });
    }

    let mut whole = PlainMessage::with_capacity(total);
    // How far the bytes after each place have moved.
    let mut moved = Vec::with_capacity(keys.len());
    let mut from = 0;
    for (place, key) in layout.places.iter().zip(keys) {
        let key = key.borrow();
        whole.append(&message[from..place.header + 4]);
        whole.append(&(key.len() as u32).to_be_bytes());
        key.expose(|bytes| whole.append(bytes));
        whole.append(&[0; 8][..padded(key.len()) - key.len()]);
        from = place.value();
        moved.push((place.header, whole.len() - from));
    }
    whole.append(&message[from..]);
    for (structure, added) in layout.changes(|index, _| length_of(index)) {
        let before = moved.partition_point(|(place, _)| *place < structure);
        let offset = before.checked_sub(1).map_or(0, |last| moved[last].1);
        lengthen(&mut whole[structure + offset..structure + offset + HEADER], added);
    }
    // Keys read after the wipe at exit are zeros, and must not become somebody's keys.
    if vmseal_secret::wiped() {
        return Err(vmseal_secret::Error::ShuttingDown.into());
    }
    Ok(whole)
}

fn lengthen(header: &mut [u8], by: usize) {
    if let Some(length) = header.last_chunk_mut::<4>() {
        let longer = u32::from_be_bytes(*length) + by as u32;
        *length = longer.to_be_bytes();
    }
}
