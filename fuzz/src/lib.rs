//! What must hold for any bytes at all: each function panics when it does not.

#![forbid(unsafe_code)]

use vmseal_channel::PlainMessage;
use vmseal_channel::ttlv::{HEADER, Limits, MessageKind, cut, message_length, splice};
use vmseal_secret::SecretKey;

/// A header is refused, or announces a message within the limits.
pub fn check_message_length(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<HEADER>() else { return false };
    let limits = Limits::default();
    let mut announced = false;
    for kind in [MessageKind::Request, MessageKind::Response] {
        if let Ok(length) = message_length(header, kind, &limits) {
            assert!((HEADER..=limits.max_message).contains(&length), "{length} bytes were announced");
            assert!(length.is_multiple_of(8), "{length} bytes were announced");
            announced = true;
        }
    }
    announced
}

/// Keys that are cut out and spliced in again stay the same; without them the message cannot be sent.
pub fn check_cut(bytes: &[u8]) -> bool {
    let limits = Limits::default();
    let Ok((rest, keys)) = cut(PlainMessage::take(bytes.to_vec()), &limits) else { return false };
    assert!(keys.len() <= limits.max_keys);
    assert!(rest.len() <= bytes.len());
    let whole = splice(&rest, &keys, &limits).expect("what was cut can be spliced");
    assert_eq!(whole.len(), bytes.len());
    if !keys.is_empty() {
        assert!(splice::<SecretKey>(&rest, &[], &limits).is_err(), "keys were left out");
    }
    let (again, same) = cut(PlainMessage::take(whole.to_vec()), &limits).expect("it is well-formed");
    assert_eq!(again, rest);
    assert_eq!(same.len(), keys.len());
    for (one, other) in same.iter().zip(&keys) {
        assert!(one.expose(|one| other.expose(|other| one == other)), "a key changed its place");
    }
    true
}

/// A message that is to be sent as it is has no key bytes in it.
pub fn check_splice(bytes: &[u8]) -> bool {
    let limits = Limits::default();
    let Ok(whole) = splice::<SecretKey>(bytes, &[], &limits) else { return false };
    assert_eq!(&*whole, bytes);
    let (rest, keys) = cut(PlainMessage::take(bytes.to_vec()), &limits).expect("it is well-formed");
    assert!(keys.is_empty(), "a message with a key was sent as it is");
    assert_eq!(rest, bytes);
    true
}
