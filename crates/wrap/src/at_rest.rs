//! A key in the record of a KMS: `version 1 (1) || salt (32) || nonce (12) || ciphertext || tag (16)`.
//!
//! AES-256-GCM under HKDF-SHA256(root key, salt, "vmseal kms record 1"): the random salt makes a new key for every record,
//! so the number of records under one root key is not limited by the nonce.

use hkdf::Hkdf;
use sha2::Sha256;
use vmseal_secret::SecretKey;

use crate::Error;
use crate::gcm::{self, KEY_LEN, NONCE_LEN, TAG_LEN};
use crate::guard::{guarded, random};
use crate::key_wrap::MAX_KEY_LEN;

const VERSION: u8 = 1;
const INFO: &[u8] = b"vmseal kms record 1";
const SALT_LEN: usize = 32;
/// What a record is longer than its key, in bytes.
pub const OVERHEAD: usize = 1 + SALT_LEN + NONCE_LEN + TAG_LEN;

/// Seals a key of any length under the 32-byte root key of a key store. `aad` says where the record stands and is bound,
/// not stored.
///
/// Errors: [`Error::KeyLength`] (root key), [`Error::Random`].
pub fn seal(root: &SecretKey, key: &SecretKey, aad: &[u8]) -> Result<Vec<u8>, Error> {
    gcm::check_key("the root key", root)?;
    let (salt, nonce) = (random::<SALT_LEN>()?, random::<NONCE_LEN>()?);
    guarded(|| {
        let record_key = derive(root, &salt)?;
        let mut record = Vec::with_capacity(OVERHEAD + key.len());
        record.push(VERSION);
        record.extend_from_slice(&salt);
        record.extend_from_slice(&nonce);
        let start = record.len();
        record.resize(start + key.len(), 0);
        let tag = record_key.expose(|record_key| {
            key.expose(|bytes| gcm::seal(record_key, &nonce, aad, bytes, &mut record[start..]))
        });
        record.extend_from_slice(&tag);
        Ok(record)
    })
}

/// Opens what [`seal`] made under the same root key with the same `aad`; anything else is
/// [`Error::SealedRecordInvalid`].
pub fn open(root: &SecretKey, record: &[u8], aad: &[u8]) -> Result<SecretKey, Error> {
    gcm::check_key("the root key", root)?;
    let key_len = record.len().checked_sub(OVERHEAD).ok_or(Error::SealedRecordInvalid)?;
    if !(1..=MAX_KEY_LEN).contains(&key_len) {
        return Err(Error::SealedRecordInvalid);
    }
    // The version needs no other protection: it only ever names this layout and the info string above.
    let Some((&[VERSION], rest)) = record.split_first_chunk() else {
        return Err(Error::SealedRecordInvalid);
    };
    let (salt, rest) = rest.split_first_chunk::<SALT_LEN>().ok_or(Error::SealedRecordInvalid)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Error::SealedRecordInvalid)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Error::SealedRecordInvalid)?;
    guarded(|| {
        let record_key = derive(root, salt)?;
        record_key.expose(|record_key| {
            SecretKey::try_init(key_len, |slot| {
                gcm::open(record_key, nonce, aad, ciphertext, tag, slot)
                    .map_err(|_| Error::SealedRecordInvalid)
            })
        })
    })
}

fn derive(root: &SecretKey, salt: &[u8; SALT_LEN]) -> Result<SecretKey, Error> {
    SecretKey::try_init(KEY_LEN, |slot| {
        root.expose(|root| Hkdf::<Sha256>::new(Some(salt), root).expand(INFO, slot))
            .expect("32 bytes are one block of HKDF");
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vectors::key;

    const AAD: &[u8] = b"key 7, version 2";

    #[test]
    fn records_have_the_published_layout() {
        let (root, secret) = (key(&[7; 32]), key(&[9; 32]));
        let record = seal(&root, &secret, AAD).unwrap();
        assert_eq!(record.len(), 1 + 32 + 12 + 32 + 16);
        assert_eq!(record[0], 1);
        assert_ne!(record, seal(&root, &secret, AAD).unwrap());
        assert!(open(&root, &record, AAD).unwrap().ct_eq(&secret));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (root, secret) = (key(&[7; 32]), key(&[9; 32]));
        let record = seal(&root, &secret, AAD).unwrap();
        for bit in 0..record.len() * 8 {
            let mut altered = record.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                open(&root, &altered, AAD).unwrap_err().code(),
                "VMSEAL_SEALED_RECORD_INVALID",
                "bit {bit}"
            );
        }
    }

    #[test]
    fn every_other_length_is_refused() {
        let (root, secret) = (key(&[7; 32]), key(&[9; 32]));
        let record = seal(&root, &secret, AAD).unwrap();
        for len in 0..record.len() {
            assert!(matches!(open(&root, &record[..len], AAD), Err(Error::SealedRecordInvalid)), "{len}");
        }
        for len in [record.len() + 1, OVERHEAD + 4096, OVERHEAD + 4097, 1 << 20] {
            let mut longer = record.clone();
            longer.resize(len, 0);
            assert!(matches!(open(&root, &longer, AAD), Err(Error::SealedRecordInvalid)), "{len}");
        }
    }

    #[test]
    fn a_moved_record_and_another_root_are_refused() {
        let (root, secret) = (key(&[7; 32]), key(&[9; 32]));
        let record = seal(&root, &secret, AAD).unwrap();
        assert!(matches!(open(&root, &record, b"key 7, version 3"), Err(Error::SealedRecordInvalid)));
        assert!(matches!(open(&root, &record, b""), Err(Error::SealedRecordInvalid)));
        assert!(matches!(open(&key(&[8; 32]), &record, AAD), Err(Error::SealedRecordInvalid)));
        for len in [16, 31, 33, 64] {
            assert_eq!(seal(&key(&vec![7; len]), &secret, AAD).unwrap_err().code(), "VMSEAL_KEY_LENGTH");
            assert_eq!(open(&key(&vec![7; len]), &record, AAD).unwrap_err().code(), "VMSEAL_KEY_LENGTH");
        }
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens(root: [u8; 32], bytes in proptest::collection::vec(any::<u8>(), 1..300), aad in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (root, secret) = (key(&root), key(&bytes));
            let record = seal(&root, &secret, &aad).unwrap();
            prop_assert!(open(&root, &record, &aad).unwrap().ct_eq(&secret));
        }

        #[test]
        fn no_record_panics(record in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(open(&key(&[7; 32]), &record, AAD).is_err());
        }
    }
}
