//! RFC 3394 and RFC 5649 key wrap.

use napi::Result;
use napi::bindgen_prelude::Buffer;
use napi_derive::napi;
use vmseal_wrap::key_wrap;

use crate::fault::guard;
use crate::key::KeyHandle;

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
