//! The payload of a wrapped key: a JWK (RFC 7517) of type `oct`.
//!
//! It is written and read in memory that is wiped; the key goes from and to locked memory by constant-time base64url
//! with no step between. That is why no general JSON library touches it.

mod json;

use base64ct::{Base64UrlUnpadded, Encoding};
use subtle::ConstantTimeEq;
use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use crate::Error;
use crate::guard::guarded;

/// JWK `alg` and key length in bytes.
const ALGORITHMS: [(&str, usize); 2] = [("A256XTS", 64), ("A256GCM", 32)];

/// Refuses a key that is neither an AES-256-XTS nor an AES-256-GCM key.
pub(super) fn check_key(key: &SecretKey) -> Result<(), Error> {
    match key.len() {
        32 => Ok(()),
        64 => guarded(|| {
            let are_equal: bool = key.expose(|bytes| bytes[..32].ct_eq(&bytes[32..])).into();
            if are_equal { Err(Error::KeyWeak) } else { Ok(()) }
        }),
        actual => {
            let expected = "64 bytes (AES-256-XTS) or 32 bytes (AES-256-GCM)";
            Err(Error::KeyLength { what: "the data-encryption key", expected, actual })
        }
    }
}

/// The JWK of a key whose length was checked.
pub(super) fn write(key: &[u8]) -> Zeroizing<Vec<u8>> {
    let alg = ALGORITHMS.iter().find(|(_, len)| *len == key.len()).expect("the key length was checked").0;
    let head = format!(r#"{{"kty":"oct","alg":"{alg}","k":""#);
    let end = head.len() + Base64UrlUnpadded::encoded_len(key);
    // Made at its full size: growing would leave a copy behind.
    let mut jwk = Zeroizing::new(vec![0; end + 2]);
    jwk[..head.len()].copy_from_slice(head.as_bytes());
    Base64UrlUnpadded::encode(key, &mut jwk[head.len()..end]).expect("the room was measured");
    jwk[end..].copy_from_slice(b"\"}");
    jwk
}

/// Reads a JWK of the shape [`write`] makes; order, white space and further members are free.
pub(super) fn read(jwk: &[u8]) -> Result<SecretKey, Error> {
    const SHAPE: Error = Error::EnvelopeInvalid { reason: "the payload is not the JWK of a symmetric key" };
    let members = json::object(jwk).ok_or(SHAPE)?;
    let text = |name: &[u8]| members.iter().find(|member| member.name == name)?.text;
    if text(b"kty") != Some(b"oct") {
        return Err(SHAPE);
    }
    let alg = text(b"alg").ok_or(SHAPE)?;
    let (_, len) = ALGORITHMS
        .iter()
        .find(|(name, _)| name.as_bytes() == alg)
        .ok_or(Error::EnvelopeInvalid { reason: "the payload's alg is neither A256XTS nor A256GCM" })?;
    let k = text(b"k").ok_or(SHAPE)?;
    const UNFIT: Error =
        Error::EnvelopeInvalid { reason: "the payload's k is not the base64url of a key for its alg" };
    // Of this length, base64url without padding can only hold `len` bytes.
    if k.len() != (len * 4).div_ceil(3) {
        return Err(UNFIT);
    }
    SecretKey::try_init(*len, |slot| Base64UrlUnpadded::decode(k, slot).map(|_| ()).map_err(|_| UNFIT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const K32: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn opens(jwk: &str) -> bool {
        match read(jwk.as_bytes()) {
            Ok(key) => key.expose(|bytes| bytes == (0..32).collect::<Vec<u8>>()),
            Err(error) => {
                assert_eq!(error.code(), "VMSEAL_ENVELOPE_INVALID", "{jwk}");
                false
            }
        }
    }

    #[test]
    fn order_white_space_and_further_members_are_free() {
        for jwk in [
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{K32}"}}"#),
            format!(r#"{{"k":"{K32}","alg":"A256GCM","kty":"oct"}}"#),
            format!(" {{\t\"k\" :\n\"{K32}\" ,\r\"alg\":\"A256GCM\",\"kty\":\"oct\" }} "),
            format!(
                r#"{{"kid":"\u00e9\n","key_ops":["encrypt",{{"a":[]}}],"ext":true,"n":-1.5e+3,"kty":"oct","alg":"A256GCM","k":"{K32}"}}"#
            ),
        ] {
            assert!(opens(&jwk), "{jwk}");
        }
    }

    #[test]
    fn refuses_every_other_shape() {
        for jwk in [
            String::new(),
            "{}".into(),
            "[]".into(),
            "null".into(),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{K32}"}}x"#),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{K32}",}}"#),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{K32}""#),
            format!(r#"{{"kty":"oct","alg":"A256GCM" "k":"{K32}"}}"#),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{K32}","k":"{K32}"}}"#),
            format!(r#"{{"kty":"oct","kty":"oct","alg":"A256GCM","k":"{K32}"}}"#),
            format!(r#"{{"x":1,"x":1,"kty":"oct","alg":"A256GCM","k":"{K32}"}}"#),
            format!(r#"{{"kty":"oct","alg":"A256GCM","\u006b":"{K32}"}}"#),
            format!(r#"{{"kty":"RSA","alg":"A256GCM","k":"{K32}"}}"#),
            format!(r#"{{"kty":"oct","k":"{K32}"}}"#),
            format!(r#"{{"alg":"A256GCM","k":"{K32}"}}"#),
            r#"{"kty":"oct","alg":"A256GCM"}"#.into(),
            format!(r#"{{"kty":"oct","alg":"A256XTS","k":"{K32}"}}"#),
            format!(r#"{{"kty":"oct","alg":"A128GCM","k":"{K32}"}}"#),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{K32}="}}"#),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{}9"}}"#, &K32[..42]),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"{}+"}}"#, &K32[..42]),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":"\u0041{}"}}"#, &K32[1..]),
            format!(r#"{{"kty":"oct","alg":"A256GCM","k":["{K32}"]}}"#),
            r#"{"kty":"oct","alg":"A256GCM","k":12}"#.into(),
            format!(
                r#"{{"a":{}{},"kty":"oct","alg":"A256GCM","k":"{K32}"}}"#,
                "[".repeat(99),
                "]".repeat(99)
            ),
        ] {
            assert!(!opens(&jwk), "{jwk}");
        }
        assert!(read(b"{\"kty\":\"oct\",\"x\":\"\xff\"}").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in prop_oneof![proptest::collection::vec(any::<u8>(), 32), proptest::collection::vec(any::<u8>(), 64)]) {
            let key = read(&write(&bytes)).unwrap();
            prop_assert!(key.expose(|read| read == bytes));
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        /// This reader and a general JSON parser call the same texts objects.
        #[test]
        fn agrees_with_serde_json(tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 0..14)) {
            let text = format!("{{\"k\":[{}],\"z\":{}}}", tokens.concat(), tokens.concat());
            let general = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(json::object(text.as_bytes()).is_some(), general, "{}", text);
        }
    }

    const TOKENS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"\\u00e9\\n\"",
        "\"\\x\"",
        "0",
        "01",
        "-1",
        "1.",
        "2.5E-3",
        "true",
        "nul",
        "null",
        " ",
        "\t",
        "\u{b}",
        "[]",
        "{}",
        "\"b\":",
        "1,",
        "",
    ];
}
