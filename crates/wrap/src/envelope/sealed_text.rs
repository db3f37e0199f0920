use vmseal_secret::SecretKey;

use super::compact::{self, Compact};
use super::header::{self, Header, Kind};
use crate::guard::{guarded, random};
use crate::{Error, gcm};

/// The longest text that is sealed or opened, in bytes.
pub const MAX_TEXT_LEN: usize = 256 * 1024;

/// Base64url of the text, of a header of 8 KiB, of IV and tag, and four dots.
pub(super) const MAX_JWE_LEN: usize = (MAX_TEXT_LEN + header::MAX_LEN).div_ceil(3) * 4 + 64;

/// Seals text under a data-encryption key of 32 bytes: `alg` dir, `enc` A256GCM, whatever the caller wrote there.
///
/// `header_json` is an object; all of it is bound. The IV is 96 random bits under the key itself, which is what stock
/// JOSE opens, so **one key may seal at most 2^32 texts** (SP 800-38D section 8.3): no VM rewrites its configuration that
/// often, and a deep recrypt starts anew.
///
/// Errors: [`Error::KeyLength`], [`Error::InvalidArgument`] (header, or a text over 256 KiB).
pub fn seal_text(dek: &SecretKey, header_json: &str, text: &[u8]) -> Result<String, Error> {
    gcm::check_key("the data-encryption key", dek)?;
    if text.len() > MAX_TEXT_LEN {
        return Err(Error::InvalidArgument {
            reason: "the text is longer than 256 KiB; it does not belong in a configuration",
        });
    }
    let protected = header::build(header_json, Kind::SealedText, None)?;
    let iv = random()?;
    guarded(|| {
        let mut ciphertext = vec![0; text.len()];
        let tag = dek.expose(|key| gcm::seal(key, &iv, protected.as_bytes(), text, &mut ciphertext));
        Ok(compact::assemble(&protected, &[], &iv, &ciphertext, &tag))
    })
}

/// Opens what [`seal_text`] made: the text and the protected header.
///
/// Errors: [`Error::EnvelopeInvalid`], [`Error::EnvelopeAuthentication`].
pub fn open_text(dek: &SecretKey, jwe: &str) -> Result<(Vec<u8>, String), Error> {
    gcm::check_key("the data-encryption key", dek)?;
    let Compact { protected, encrypted_key, iv, ciphertext, tag } = compact::parse(jwe, MAX_JWE_LEN)?;
    let header = Header::parse(protected)?;
    header.require(Kind::SealedText)?;
    if !encrypted_key.is_empty() {
        return Err(Error::EnvelopeInvalid { reason: "with alg dir the second part is empty" });
    }
    guarded(|| {
        let mut text = vec![0; ciphertext.len()];
        dek.expose(|key| gcm::open(key, &iv, protected.as_bytes(), &ciphertext, &tag, &mut text))
            .map_err(|_| Error::EnvelopeAuthentication)?;
        Ok((text, header.text))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::MAX_HEADER_LEN;
    use crate::vectors::key;

    #[test]
    fn every_flipped_bit_of_a_sealed_text_is_refused() {
        let dek = key(&[2; 32]);
        let jwe = seal_text(&dek, r#"{"typ":"vmseal-config"}"#, b"guestinfo.secret = \"1\"").unwrap();
        for bit in 0..jwe.len() * 8 {
            let mut altered = jwe.clone().into_bytes();
            altered[bit / 8] ^= 1 << (bit % 8);
            let Ok(altered) = String::from_utf8(altered) else {
                continue;
            };
            let code = open_text(&dek, &altered).unwrap_err().code();
            assert!(
                matches!(code, "VMSEAL_ENVELOPE_AUTHENTICATION" | "VMSEAL_ENVELOPE_INVALID"),
                "bit {bit}: {code}"
            );
        }
        assert_eq!(open_text(&key(&[3; 32]), &jwe).unwrap_err().code(), "VMSEAL_ENVELOPE_AUTHENTICATION");
    }

    #[test]
    fn texts_up_to_the_limit() {
        let dek = key(&[2; 32]);
        for len in [0, 1, MAX_TEXT_LEN] {
            let text = vec![b'x'; len];
            let jwe = seal_text(&dek, "{}", &text).unwrap();
            assert_eq!(open_text(&dek, &jwe).unwrap().0, text);
        }
        let header = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_HEADER_LEN - 40));
        let longest = seal_text(&dek, &header, &vec![b'x'; MAX_TEXT_LEN]).unwrap();
        assert!(open_text(&dek, &longest).is_ok());
        assert_eq!(
            seal_text(&dek, "{}", &vec![0; MAX_TEXT_LEN + 1]).unwrap_err().code(),
            "VMSEAL_INVALID_ARGUMENT"
        );
        assert_eq!(seal_text(&key(&[2; 64]), "{}", b"").unwrap_err().code(), "VMSEAL_KEY_LENGTH");
        assert_eq!(open_text(&dek, &"x".repeat(1 << 20)).unwrap_err().code(), "VMSEAL_ENVELOPE_INVALID");
    }

    proptest! {
        #[test]
        fn texts_come_back(text in proptest::collection::vec(any::<u8>(), 0..500)) {
            let dek = key(&[4; 32]);
            let (opened, _) = open_text(&dek, &seal_text(&dek, "{}", &text).unwrap()).unwrap();
            prop_assert_eq!(opened, text);
        }
    }
}
