//! The five parts of RFC 7516 section 7.1.

use base64ct::{Base64UrlUnpadded, Encoding};

use crate::Error;
use crate::gcm::{NONCE_LEN, TAG_LEN};

/// A JWE taken apart. Nothing is verified yet.
pub(super) struct Compact<'a> {
    /// The base64url text of the protected header: it is the additional authenticated data.
    pub protected: &'a str,
    pub encrypted_key: Vec<u8>,
    pub iv: [u8; NONCE_LEN],
    pub ciphertext: Vec<u8>,
    pub tag: [u8; TAG_LEN],
}

/// Takes a JWE of at most `limit` characters apart. Base64url must be canonical: no padding, no stray bits.
pub(super) fn parse(jwe: &str, limit: usize) -> Result<Compact<'_>, Error> {
    if jwe.len() > limit {
        return Err(Error::EnvelopeInvalid { reason: "it is longer than any vmseal makes" });
    }
    let mut parts = jwe.split('.');
    let (Some(protected), Some(encrypted_key), Some(iv), Some(ciphertext), Some(tag), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Error::EnvelopeInvalid { reason: "a compact JWE has five parts" });
    };
    Ok(Compact {
        protected,
        encrypted_key: decode(encrypted_key)?,
        iv: decode_exact(iv)?,
        ciphertext: decode(ciphertext)?,
        tag: decode_exact(tag)?,
    })
}

/// The inverse of [`parse`]; `protected` is base64url already.
pub(super) fn assemble(
    protected: &str,
    encrypted_key: &[u8],
    iv: &[u8],
    ciphertext: &[u8],
    tag: &[u8],
) -> String {
    let mut jwe = String::from(protected);
    for part in [encrypted_key, iv, ciphertext, tag] {
        jwe.push('.');
        jwe.push_str(&Base64UrlUnpadded::encode_string(part));
    }
    jwe
}

pub(super) fn decode(part: &str) -> Result<Vec<u8>, Error> {
    Base64UrlUnpadded::decode_vec(part)
        .map_err(|_| Error::EnvelopeInvalid { reason: "a part is not canonical base64url" })
}

pub(super) fn decode_exact<const N: usize>(part: &str) -> Result<[u8; N], Error> {
    decode(part)?
        .try_into()
        .map_err(|_| Error::EnvelopeInvalid { reason: "the IV, tag or check value has a wrong length" })
}
