//! A key slot: the data key split over 4000 stripes (AFsplit, LUKS on-disk format 2.4) and encrypted under a passphrase.

use rustix::rand::{GetRandomFlags, getrandom};
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use super::hash::Hash;
use super::{ITERATIONS, KEY, SECTOR};
use crate::buffer::Buffer;
use crate::error::Result;

pub(super) const STRIPES: usize = 4000;
/// Bytes of key material.
pub(super) const MATERIAL: usize = STRIPES * KEY;
pub(super) const SALT: usize = 32;

/// The key material of a slot that `secret` opens, as it stands in the header.
pub(super) fn seal(dek: &SecretKey, secret: &SecretKey, salt: &[u8; SALT]) -> Result<Buffer> {
    let mut buffer = Buffer::new(MATERIAL);
    split(dek, buffer.first(MATERIAL))?;
    let key = SecretKey::try_init(KEY, |slot| -> Result<()> {
        derive(secret, salt, slot);
        Ok(())
    })?;
    Xts::new(&key, SECTOR as u32, 1)?.encrypt(buffer.first(MATERIAL), 0)?;
    Ok(buffer)
}

/// The digest by which a reader knows that it has the right data key; its length is that of `digest`.
pub(super) fn digest(dek: &SecretKey, salt: &[u8; SALT], digest: &mut [u8]) {
    derive(dek, salt, digest);
}

/// Fresh random bytes that are no secret.
pub(super) fn random<const LEN: usize>() -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    fill(&mut bytes)?;
    Ok(bytes)
}

/// PBKDF2 with HMAC-SHA-256 (RFC 8018).
fn derive(password: &SecretKey, salt: &[u8], into: &mut [u8]) {
    password.expose(|password| Hash::Sha256.pbkdf2(password, salt, ITERATIONS, into));
}

/// Every stripe is needed to get the key back: all but the last are random.
fn split(dek: &SecretKey, material: &mut [u8]) -> Result<()> {
    let (random, last) = material.split_at_mut(MATERIAL - KEY);
    fill(random)?;
    let diffused = SecretKey::try_init(KEY, |state| -> Result<()> {
        for stripe in random.chunks_exact(KEY) {
            xor(state, stripe);
            Hash::Sha256.diffuse(state);
        }
        Ok(())
    })?;
    dek.expose(|key| last.copy_from_slice(key));
    diffused.expose(|state| xor(last, state));
    Ok(())
}

pub(super) fn xor(into: &mut [u8], other: &[u8]) {
    for (byte, other) in into.iter_mut().zip(other) {
        *byte ^= other;
    }
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    // One call fills 256 bytes without fail, a longer one may be cut by a signal.
    for chunk in bytes.chunks_mut(256) {
        match getrandom(&mut *chunk, GetRandomFlags::empty()) {
            Ok(count) if count == chunk.len() => {}
            _ => return Err(vmseal_secret::Error::Random.into()),
        }
    }
    Ok(())
}
