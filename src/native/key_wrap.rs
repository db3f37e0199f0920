//! RFC 3394 and RFC 5649 key wrap.

use napi::Result;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use vmseal_wrap::key_wrap;

use crate::direct::{Call, DirectCall};
use crate::fault::{coded, guard, invalid_argument};
use crate::key::{KeyHandle, keep, keep_all, with_key, with_keys, with_two_keys};

/// Wraps `key` under `kek` (RFC 3394). The result is 8 bytes longer than the key.
#[napi]
pub fn wrap_key(kek: &KeyHandle, key: &KeyHandle) -> Result<Buffer> {
    let (kek, key) = (kek.get()?, key.get()?);
    guard(|| key_wrap::wrap(&kek, &key)).map(Buffer::from)
}

/// Opens an RFC 3394 wrap, or VMSEAL_UNWRAP_FAILED.
#[napi]
pub fn unwrap_key(kek: &KeyHandle, wrapped: &[u8]) -> Result<KeyHandle> {
    let kek = kek.get()?;
    guard(|| key_wrap::unwrap(&kek, wrapped)).map(KeyHandle::new)
}

/// Wraps a key (RFC 3394): tokens of the KEK and the key, and the place for the wrap, 8 bytes longer than the key.
pub(crate) struct Wrap;

impl DirectCall for Wrap {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let (kek, key) = (call.number(0)?, call.number(1)?);
        let wrapped = call.bytes(2)?;
        with_two_keys(kek, key, |kek, key| guard(|| key_wrap::wrap_into(kek, key, wrapped)))?;
        Ok(None)
    }
}

/// Opens an RFC 3394 wrap: token of the KEK, and the wrap. Gives the token of the key, which lives until it is disposed.
pub(crate) struct Unwrap;

impl DirectCall for Unwrap {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let kek = call.number(0)?;
        let wrapped = call.bytes(1)?;
        let key = with_key(kek, |kek| guard(|| key_wrap::unwrap(kek, wrapped)))?;
        Ok(Some(keep(key)))
    }
}

/// Wraps keys, one wrap behind the other: token of the KEK, tokens of the keys, their number, and the place for the
/// wraps, which is as long as all keys and 8 bytes for each.
pub(crate) struct WrapAll;

impl DirectCall for WrapAll {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let (kek, count) = (call.number(0)?, call.number(2)?);
        let tokens = call.numbers(1, count)?.to_vec();
        let packed = call.bytes(3)?;
        with_key(kek, |kek| {
            with_keys(&tokens, |keys| guard(|| key_wrap::wrap_many_into(kek, keys, packed)))
        })?;
        Ok(None)
    }
}

/// Opens wraps that stand one behind the other: token of the KEK, the wraps, their lengths, and their number. Gives the
/// token of the first key, those of the others follow it; each key lives until it is disposed. If one wrap does not open,
/// all keys are wiped and the call fails with VMSEAL_UNWRAP_FAILED.
pub(crate) struct UnwrapAll;

impl DirectCall for UnwrapAll {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let (kek, count) = (call.number(0)?, call.number(3)?);
        let lengths = call.numbers(2, count)?;
        // Nearly always there is only one length.
        let alike = lengths.first().copied().filter(|first| lengths.iter().all(|length| length == first));
        let total = alike.map(|length| length * count);
        if let Some(length) = alike
            && let packed = call.bytes(1)?
            && total == Some(packed.len() as f64)
            && let Some(keys) =
                with_key(kek, |kek| guard(|| key_wrap::unwrap_row(kek, packed, length as usize)))?
        {
            return Ok(Some(keep_all(keys)));
        }
        let lengths = call.numbers(2, count)?.to_vec();
        let wrapped = cut(call.bytes(1)?, &lengths)?;
        let opened = with_key(kek, |kek| guard(|| key_wrap::unwrap_many(kek, &wrapped)))?;
        let keys = opened
            .into_iter()
            .enumerate()
            .map(|(index, key)| key.map_err(|error| coded(error.code(), format!("wrap {index}: {error}"))));
        Ok(Some(keep_all(keys.collect::<Result<_>>()?)))
    }
}

fn cut<'a>(packed: &'a [u8], lengths: &[f64]) -> Result<Vec<&'a [u8]>> {
    let mut rest = packed;
    let pieces: Option<Vec<_>> = lengths.iter().map(|length| rest.split_off(..*length as usize)).collect();
    pieces
        .filter(|_| rest.is_empty())
        .ok_or_else(|| invalid_argument("the lengths must add up to the bytes given"))
}

/// Wraps `key` under `kek` with padding (RFC 5649), for lengths that are no multiple of 8.
#[napi]
pub fn wrap_key_padded(kek: &KeyHandle, key: &KeyHandle) -> Result<Buffer> {
    let (kek, key) = (kek.get()?, key.get()?);
    guard(|| key_wrap::wrap_padded(&kek, &key)).map(Buffer::from)
}

/// Opens an RFC 5649 wrap, or VMSEAL_UNWRAP_FAILED.
#[napi]
pub fn unwrap_key_padded(kek: &KeyHandle, wrapped: &[u8]) -> Result<KeyHandle> {
    let kek = kek.get()?;
    guard(|| key_wrap::unwrap_padded(&kek, wrapped)).map(KeyHandle::new)
}
