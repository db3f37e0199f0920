use subtle::{Choice, ConstantTimeEq};
use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use super::portable::{unwrap_in_place, wrap_in_place};
use super::{MAX_KEY_LEN, MIN_KEY_LEN, SEMIBLOCK, check_kek};
use crate::Error;
use crate::guard::guarded;

/// The fixed half of the alternative initial value (RFC 5649 section 3).
const PREFIX: [u8; 4] = [0xa6, 0x59, 0x59, 0xa6];

/// Wraps a key of any length from 16 to 4096 bytes under `kek` (RFC 5649, AES key wrap with padding).
///
/// `kek` is 16, 24 or 32 bytes; a length outside of this is [`Error::KeyLength`].
pub fn wrap_padded(kek: &SecretKey, key: &SecretKey) -> Result<Vec<u8>, Error> {
    wrap_from(MIN_KEY_LEN, kek, key)
}

/// Opens what [`wrap_padded`] made.
///
/// Anything else is [`Error::UnwrapFailed`], also a sound wrap of a key below 16 bytes.
pub fn unwrap_padded(kek: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, Error> {
    unwrap_from(MIN_KEY_LEN, kek, wrapped)
}

/// `minimum` is 1 only where published vectors of shorter keys are run.
pub(super) fn wrap_from(minimum: usize, kek: &SecretKey, key: &SecretKey) -> Result<Vec<u8>, Error> {
    check_kek(kek)?;
    if !(minimum..=MAX_KEY_LEN).contains(&key.len()) {
        return Err(Error::KeyLength {
            what: "the key to wrap",
            expected: "16 to 4096 bytes",
            actual: key.len(),
        });
    }
    guarded(|| {
        let padded_len = key.len().next_multiple_of(SEMIBLOCK);
        // Holds the key until the last round has passed over it; wiped if anything unwinds before that.
        let mut wrapped = Zeroizing::new(vec![0; SEMIBLOCK + padded_len]);
        let (a, r) = wrapped.split_at_mut(SEMIBLOCK);
        a[..4].copy_from_slice(&PREFIX);
        a[4..].copy_from_slice(&(key.len() as u32).to_be_bytes());
        key.expose(|bytes| r[..bytes.len()].copy_from_slice(bytes));
        kek.expose(|kek| wrap_in_place(kek, a, r));
        Ok(std::mem::take(&mut *wrapped))
    })
}

/// See [`wrap_from`].
pub(super) fn unwrap_from(minimum: usize, kek: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, Error> {
    check_kek(kek)?;
    let shortest = SEMIBLOCK + minimum.next_multiple_of(SEMIBLOCK);
    if !(shortest..=SEMIBLOCK + MAX_KEY_LEN).contains(&wrapped.len())
        || !wrapped.len().is_multiple_of(SEMIBLOCK)
    {
        return Err(Error::UnwrapFailed);
    }
    guarded(|| {
        let (sealed_a, sealed_r) = wrapped.split_at(SEMIBLOCK);
        let mut key_len = 0;
        let padded = kek.expose(|kek| {
            SecretKey::try_init(sealed_r.len(), |r| {
                let mut a = [0; SEMIBLOCK];
                a.copy_from_slice(sealed_a);
                r.copy_from_slice(sealed_r);
                unwrap_in_place(kek, &mut a, r);
                key_len = message_length(&a, r).ok_or(Error::UnwrapFailed)?;
                Ok::<(), Error>(())
            })
        })?;
        if key_len < minimum {
            return Err(Error::UnwrapFailed);
        }
        if key_len == padded.len() {
            return Ok(padded);
        }
        padded.expose(|bytes| {
            SecretKey::try_init(key_len, |slot| {
                slot.copy_from_slice(&bytes[..key_len]);
                Ok(())
            })
        })
    })
}

/// The length of the key if the integrity check of RFC 5649 section 3 holds: prefix, length in range, padding all zero.
/// One decision at the end: where it failed does not show in the time taken.
fn message_length(a: &[u8; SEMIBLOCK], r: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes([a[4], a[5], a[6], a[7]]) as usize;
    let padding = r.len().wrapping_sub(length);
    let mut sound = a[..4].ct_eq(&PREFIX) & Choice::from(u8::from(padding < SEMIBLOCK));
    for (index, byte) in r[r.len() - SEMIBLOCK..].iter().enumerate() {
        let is_padding = Choice::from(u8::from(SEMIBLOCK - index <= padding));
        sound &= byte.ct_eq(&0) | !is_padding;
    }
    bool::from(sound).then_some(length)
}
