//! Compact JWE (RFC 7516): the wrapped data-encryption key of a disk or VM, and text sealed under such a key.
//!
//! Any JOSE library opens both, given the key. `crit` is not used, so that recovery with stock tools stays possible;
//! what a vmseal reader checks beyond RFC 7516 it checks without being asked.

mod compact;
mod header;
mod payload;
mod sealed_text;

use subtle::ConstantTimeEq;
use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use crate::guard::{guarded, random};
use crate::{Error, gcm, key_check_value, key_wrap};
use compact::Compact;
use header::{Header, Kind};

pub use sealed_text::{MAX_TEXT_LEN, open_text, seal_text};

/// The longest JWE of a wrapped key that is read or made, in characters.
pub const MAX_ENVELOPE_LEN: usize = 16 * 1024;
/// The longest protected header, in bytes of JSON.
pub const MAX_HEADER_LEN: usize = header::MAX_LEN;

/// RFC 3394 of a 32-byte content key.
const WRAPPED_CONTENT_KEY_LEN: usize = gcm::KEY_LEN + 8;

/// Seals a data-encryption key of 64 bytes (AES-256-XTS) or 32 bytes (AES-256-GCM) under a KEK of 32 bytes.
///
/// `header_json` is an object with `kid`, `typ`, `cty` and `vmseal`, of which `vmseal.id` (a UUID) is required. `alg`
/// A256KW, `enc` A256GCM and `vmseal.kcv` are set here, whatever the caller wrote there. Every call draws its own
/// content key and IV, so one KEK serves any number of envelopes.
///
/// Errors: [`Error::KeyLength`], [`Error::KeyWeak`] (XTS halves equal), [`Error::InvalidArgument`] (header).
pub fn seal(kek: &SecretKey, dek: &SecretKey, header_json: &str) -> Result<String, Error> {
    gcm::check_key("the KEK", kek)?;
    payload::check_key(dek)?;
    let protected = header::build(header_json, Kind::WrappedKey, Some(dek))?;
    let content_key = SecretKey::generate(gcm::KEY_LEN)?;
    let encrypted_key = key_wrap::wrap(kek, &content_key)?;
    let iv = random()?;
    guarded(|| {
        let jwk = dek.expose(payload::write);
        let mut ciphertext = vec![0; jwk.len()];
        let tag = content_key.expose(|key| gcm::seal(key, &iv, protected.as_bytes(), &jwk, &mut ciphertext));
        let jwe = compact::assemble(&protected, &encrypted_key, &iv, &ciphertext, &tag);
        if jwe.len() > MAX_ENVELOPE_LEN {
            return Err(Error::InvalidArgument {
                reason: "the header makes the envelope longer than 16 KiB; shorten it",
            });
        }
        Ok(jwe)
    })
}

/// Opens what [`seal`], or a JOSE library given the same header and payload, made: the key and the protected header.
///
/// The header is returned as it stands in the JWE, for the caller to compare with the place the JWE was found in.
///
/// Errors: [`Error::EnvelopeInvalid`] (not such a JWE, or over 16 KiB), [`Error::EnvelopeAuthentication`] (another KEK,
/// or altered), [`Error::EnvelopeMismatch`] (the key is not the one `vmseal.kcv` commits to), [`Error::KeyWeak`].
pub fn open(kek: &SecretKey, jwe: &str) -> Result<(SecretKey, String), Error> {
    gcm::check_key("the KEK", kek)?;
    let Compact { protected, encrypted_key, iv, ciphertext, tag } = compact::parse(jwe, MAX_ENVELOPE_LEN)?;
    let header = Header::parse(protected)?;
    header.require(Kind::WrappedKey)?;
    let (id, kcv) = (header.id()?, header.kcv()?);
    if encrypted_key.len() != WRAPPED_CONTENT_KEY_LEN {
        return Err(Error::EnvelopeInvalid { reason: "the wrapped content key is not 40 bytes" });
    }
    let content_key = key_wrap::unwrap(kek, &encrypted_key).map_err(|error| match error {
        Error::UnwrapFailed => Error::EnvelopeAuthentication,
        other => other,
    })?;
    let dek = guarded(|| {
        let mut jwk = Zeroizing::new(vec![0; ciphertext.len()]);
        content_key
            .expose(|key| gcm::open(key, &iv, protected.as_bytes(), &ciphertext, &tag, &mut jwk))
            .map_err(|_| Error::EnvelopeAuthentication)?;
        payload::read(&jwk)
    })?;
    if !bool::from(key_check_value(&id, &dek).ct_eq(&kcv)) {
        return Err(Error::EnvelopeMismatch);
    }
    payload::check_key(&dek)?;
    Ok((dek, header.text))
}

/// The protected header of a JWE of either kind. **Nothing in it is verified**: for display and for finding the key id.
///
/// Errors: [`Error::EnvelopeInvalid`].
pub fn inspect(jwe: &str) -> Result<String, Error> {
    let parts = compact::parse(jwe, sealed_text::MAX_JWE_LEN)?;
    let header = Header::parse(parts.protected)?;
    match header.kind() {
        Some(Kind::WrappedKey) if jwe.len() <= MAX_ENVELOPE_LEN => Ok(header.text),
        Some(Kind::SealedText) => Ok(header.text),
        _ => Err(Error::EnvelopeInvalid { reason: "alg and enc are not a pair vmseal uses" }),
    }
}

#[cfg(test)]
mod tests;
