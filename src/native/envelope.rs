//! The JWE forms of wrapped DEKs and of the secret part of a .vmx.

use napi::Result;
use napi_derive::napi;
use vmseal_wrap::envelope;

use crate::fault::{coded, guard};
use crate::key::KeyHandle;

/// A DEK out of its envelope.
#[napi(object, object_from_js = false)]
pub struct OpenedDek {
    pub key: KeyHandle,
    /// The authenticated header, JSON.
    pub header: String,
}

/// A text out of its envelope.
#[napi(object, object_from_js = false)]
pub struct OpenedText {
    pub text: String,
    /// The authenticated header, JSON.
    pub header: String,
}

/// Wraps a DEK into a compact JWE (A256KW, A256GCM). `header` is JSON with kid, typ, cty and the vmseal object;
/// alg, enc and the key check value are added.
#[napi]
pub fn seal_dek(kek: &KeyHandle, dek: &KeyHandle, header: String) -> Result<String> {
    let (kek, dek) = (kek.get()?, dek.get()?);
    guard(|| envelope::seal(&kek, &dek, &header))
}

/// Opens a wrapped DEK and verifies its key check value. Comparing the header with its place is the caller's duty.
#[napi]
pub fn open_dek(kek: &KeyHandle, jwe: String) -> Result<OpenedDek> {
    let kek = kek.get()?;
    let (key, header) = guard(|| envelope::open(&kek, &jwe))?;
    Ok(OpenedDek { key: KeyHandle::new(key), header })
}

/// The header of a JWE, JSON, without keys: not authenticated.
#[napi]
pub fn inspect_dek(jwe: String) -> Result<String> {
    guard(|| envelope::inspect(&jwe))
}

/// Seals a text under the VM home DEK (JWE, dir, A256GCM).
#[napi]
pub fn seal_text(dek: &KeyHandle, header: String, text: String) -> Result<String> {
    let dek = dek.get()?;
    guard(|| envelope::seal_text(&dek, &header, text.as_bytes()))
}

/// Opens a text sealed with `sealText`.
#[napi]
pub fn open_text(dek: &KeyHandle, jwe: String) -> Result<OpenedText> {
    let dek = dek.get()?;
    let (text, header) = guard(|| envelope::open_text(&dek, &jwe))?;
    let text = String::from_utf8(text)
        .map_err(|_| coded("VMSEAL_ENVELOPE_INVALID", "the sealed text is not UTF-8"))?;
    Ok(OpenedText { text, header })
}
