use sha2::{Digest, Sha256};
use vmseal_secret::SecretKey;

use crate::Error;
use crate::guard::guarded;

/// Commits to `key` in the place named by `id`: the first 16 bytes of SHA-256("vmseal kcv 1" || id || key).
///
/// It tells nothing about a random key and lets a reader refuse a wrong one before touching data; AES-GCM alone does not
/// commit to its key. The id keeps equal keys in two places from showing.
pub fn key_check_value(id: &[u8; 16], key: &SecretKey) -> [u8; 16] {
    let value = guarded(|| {
        let digest = key.expose(|bytes| {
            Sha256::new().chain_update(b"vmseal kcv 1").chain_update(id).chain_update(bytes).finalize()
        });
        let mut value = [0; 16];
        value.copy_from_slice(&digest[..16]);
        Ok(value)
    });
    // Only a process that is exiting gets here, and no key has this check value.
    value.unwrap_or_default()
}

/// SHA-256 of a key: the KMIP Digest attribute (KMIP 1.4 specification 3.17). Only for keys that nobody can guess.
pub fn key_digest(key: &SecretKey) -> Result<[u8; 32], Error> {
    guarded(|| Ok(key.expose(|bytes| Sha256::digest(bytes).into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{hex, key};

    /// The expected value is `printf 'vmseal kcv 1' | cat - id key | sha256sum`.
    #[test]
    fn is_the_head_of_the_published_hash() {
        let id: [u8; 16] = std::array::from_fn(|at| at as u8);
        let value = key_check_value(&id, &key(&(0..64).collect::<Vec<u8>>()));
        assert_eq!(value.to_vec(), hex("8bb2deef2c5afdb138e6407f33b0cd9a"));
    }

    #[test]
    fn differs_for_another_id_or_key() {
        let value = key_check_value(&[1; 16], &key(&[2; 32]));
        assert_ne!(value, key_check_value(&[2; 16], &key(&[2; 32])));
        assert_ne!(value, key_check_value(&[1; 16], &key(&[3; 32])));
        assert_ne!(value, key_check_value(&[1; 16], &key(&[2; 64])));
    }
}
