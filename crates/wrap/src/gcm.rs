//! AES-256-GCM (SP 800-38D) from a key in locked memory, 96-bit nonces and 128-bit tags.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use vmseal_secret::SecretKey;

use crate::Error;

pub(crate) const KEY_LEN: usize = 32;
pub(crate) const NONCE_LEN: usize = 12;
pub(crate) const TAG_LEN: usize = 16;

/// The tag did not verify. Each caller has its own name for that.
#[derive(Debug)]
pub(crate) struct Unauthentic;

/// Refuses a key that AES-256-GCM cannot use.
pub(crate) fn check_key(what: &'static str, key: &SecretKey) -> Result<(), Error> {
    match key.len() {
        KEY_LEN => Ok(()),
        actual => Err(Error::KeyLength { what, expected: "32 bytes", actual }),
    }
}

/// Makes the cipher; it wipes its round keys when dropped. The length must have been checked.
pub(crate) fn cipher(key: &[u8]) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(key).expect("the key length was checked")
}

/// Encrypts `plain` straight into `sealed`, of the same length; the plaintext has no other copy.
pub(crate) fn seal(
    key: &[u8],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    plain: &[u8],
    sealed: &mut [u8],
) -> [u8; TAG_LEN] {
    let buffer = InOutBuf::new(plain, sealed).expect("the caller made both of one length");
    let tag = cipher(key).encrypt_inout_detached(nonce.into(), aad, buffer);
    tag.expect("every caller's limit is far below the 64 GiB of GCM").into()
}

/// Verifies the tag, and only then decrypts `sealed` straight into `plain`, of the same length.
pub(crate) fn open(
    key: &[u8],
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_LEN],
    plain: &mut [u8],
) -> Result<(), Unauthentic> {
    let buffer = InOutBuf::new(sealed, plain).map_err(|_| Unauthentic)?;
    cipher(key).decrypt_inout_detached(nonce.into(), aad, buffer, tag.into()).map_err(|_| Unauthentic)
}
