use base64ct::{Base64UrlUnpadded, Encoding};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::vectors::{bytes, key};

const ID: &str = "6000c291-35bd-fd2d-e77e-709fb2c53635";

fn header() -> String {
    json!({
        "kid": "key-7", "typ": "vmseal-dek", "cty": "jwk+json",
        "vmseal": {"v": 1, "role": "disk", "id": ID, "gen": 1, "cipher": "aes-xts-plain64", "ss": 512, "cap": 16384},
    })
    .to_string()
}

fn xts_key() -> SecretKey {
    key(&(0..64).collect::<Vec<u8>>())
}

/// A JWE as another JOSE library would make it, from any header and payload text.
fn foreign(kek: &SecretKey, header: &str, payload: &str) -> String {
    let protected = Base64UrlUnpadded::encode_string(header.as_bytes());
    let content_key = [0x77; 32];
    let encrypted_key = key_wrap::wrap(kek, &key(&content_key)).unwrap();
    let mut ciphertext = vec![0; payload.len()];
    let tag = gcm::seal(&content_key, &[3; 12], protected.as_bytes(), payload.as_bytes(), &mut ciphertext);
    compact::assemble(&protected, &encrypted_key, &[3; 12], &ciphertext, &tag)
}

fn payload_of(dek: &SecretKey) -> String {
    String::from_utf8(dek.expose(|bytes| payload::write(bytes).to_vec())).unwrap()
}

fn full_header(dek: &SecretKey) -> Value {
    let mut header: Value = serde_json::from_str(&header()).unwrap();
    header["alg"] = "A256KW".into();
    header["enc"] = "A256GCM".into();
    let id = header::Header::parse(&Base64UrlUnpadded::encode_string(header.to_string().as_bytes()))
        .unwrap()
        .id()
        .unwrap();
    header["vmseal"]["kcv"] = Base64UrlUnpadded::encode_string(&key_check_value(&id, dek)).into();
    header
}

fn code(result: Result<(SecretKey, String), Error>) -> &'static str {
    result.map(|_| ()).unwrap_err().code()
}

#[test]
fn both_kinds_of_key_come_back_with_their_header() {
    let kek = key(&[1; 32]);
    for dek in [xts_key(), key(&[2; 32])] {
        let jwe = seal(&kek, &dek, &header()).unwrap();
        let (opened, text) = open(&kek, &jwe).unwrap();
        assert!(opened.ct_eq(&dek));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), full_header(&dek));
        assert_eq!(inspect(&jwe).unwrap(), text);
        assert_ne!(seal(&kek, &dek, &header()).unwrap(), jwe);
    }
}

#[test]
fn the_caller_cannot_choose_the_algorithms_or_the_check_value() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let wanted = format!(r#"{{"alg":"none","enc":"A128GCM","vmseal":{{"id":"{ID}","kcv":"AAAA"}}}}"#);
    let (_, text) = open(&kek, &seal(&kek, &dek, &wanted).unwrap()).unwrap();
    let header: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&header["alg"], &header["enc"]), (&"A256KW".into(), &"A256GCM".into()));
    assert_eq!(header["vmseal"]["kcv"], full_header(&dek)["vmseal"]["kcv"]);
}

/// A flip is one of: another character (the part no longer parses, or another byte), or not base64url at all.
#[test]
fn every_flipped_bit_of_the_text_is_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let jwe = seal(&kek, &dek, &header()).unwrap();
    let (mut unauthentic, mut invalid) = (0, 0);
    for bit in 0..jwe.len() * 8 {
        let mut altered = jwe.clone().into_bytes();
        altered[bit / 8] ^= 1 << (bit % 8);
        // A flip of the highest bit is not UTF-8: no `&str` holds it.
        let Ok(altered) = String::from_utf8(altered) else {
            continue;
        };
        match code(open(&kek, &altered)) {
            "VMSEAL_ENVELOPE_AUTHENTICATION" => unauthentic += 1,
            "VMSEAL_ENVELOPE_INVALID" => invalid += 1,
            other => panic!("bit {bit}: {other}"),
        }
    }
    assert_eq!(unauthentic + invalid, jwe.len() * 7);
    assert!(unauthentic > 100 && invalid > 100);
}

/// The same on the bytes behind the base64url, so that every bit of key, IV, ciphertext and tag is met.
#[test]
fn every_flipped_bit_of_the_parts_is_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let jwe = seal(&kek, &dek, &header()).unwrap();
    let parts: Vec<Vec<u8>> =
        jwe.split('.').map(|part| Base64UrlUnpadded::decode_vec(part).unwrap()).collect();
    for part in 0..5 {
        for bit in 0..parts[part].len() * 8 {
            let mut altered = parts.clone();
            altered[part][bit / 8] ^= 1 << (bit % 8);
            let text: Vec<String> =
                altered.iter().map(|part| Base64UrlUnpadded::encode_string(part)).collect();
            let code = code(open(&kek, &text.join(".")));
            let is_expected =
                code == "VMSEAL_ENVELOPE_AUTHENTICATION" || part == 0 && code == "VMSEAL_ENVELOPE_INVALID";
            assert!(is_expected, "part {part} bit {bit}: {code}");
        }
    }
}

#[test]
fn another_kek_and_mixed_parts_are_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let (one, two) = (seal(&kek, &dek, &header()).unwrap(), seal(&kek, &dek, &header()).unwrap());
    assert_eq!(code(open(&key(&[9; 32]), &one)), "VMSEAL_ENVELOPE_AUTHENTICATION");
    for part in 1..5 {
        let mut mixed: Vec<&str> = one.split('.').collect();
        mixed[part] = two.split('.').nth(part).unwrap();
        assert_eq!(code(open(&kek, &mixed.join("."))), "VMSEAL_ENVELOPE_AUTHENTICATION", "part {part}");
    }
}

#[test]
fn a_sound_envelope_whose_check_value_is_of_another_key_is_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let header = full_header(&key(&[8; 64])).to_string();
    assert_eq!(code(open(&kek, &foreign(&kek, &header, &payload_of(&dek)))), "VMSEAL_ENVELOPE_MISMATCH");
    let mut moved = full_header(&dek);
    moved["vmseal"]["id"] = "00000000-0000-0000-0000-000000000000".into();
    assert_eq!(
        code(open(&kek, &foreign(&kek, &moved.to_string(), &payload_of(&dek)))),
        "VMSEAL_ENVELOPE_MISMATCH"
    );
}

#[test]
fn envelopes_of_other_libraries_open() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let header = format!("{:#}", full_header(&dek));
    let k = Base64UrlUnpadded::encode_string(&bytes(&dek));
    let payload =
        format!("{{ \"use\": \"enc\",\n \"k\": \"{k}\", \"alg\": \"A256XTS\", \"kty\": \"oct\" }}\n");
    let (opened, text) = open(&kek, &foreign(&kek, &header, &payload)).unwrap();
    assert!(opened.ct_eq(&dek));
    assert_eq!(text, header);
}

#[test]
fn headers_of_another_kind_are_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let change = |change: &dyn Fn(&mut Value)| {
        let mut header = full_header(&dek);
        change(&mut header);
        header.to_string()
    };
    let sound = full_header(&dek).to_string();
    for header in [
        change(&|header| header["alg"] = "dir".into()),
        change(&|header| header["alg"] = "A128KW".into()),
        change(&|header| header["alg"] = "a256kw".into()),
        change(&|header| header["alg"] = Value::Null),
        change(&|header| header["alg"] = json!(["A256KW"])),
        change(&|header| header["enc"] = "A128CBC-HS256".into()),
        change(&|header| header["enc"] = "A128GCM".into()),
        change(&|header| header["zip"] = "DEF".into()),
        change(&|header| header["crit"] = json!(["vmseal"])),
        change(&|header| header["vmseal"] = 1.into()),
        change(&|header| header["vmseal"]["id"] = "disk 1".into()),
        change(&|header| header["vmseal"]["kcv"] = Value::Null),
        change(&|header| header["vmseal"]["kcv"] = "AAAA".into()),
        change(&|header| header["vmseal"]["kcv"] = "AAAAAAAAAAAAAAAAAAAAAB".into()),
        change(&|header| header["pad"] = "x".repeat(MAX_HEADER_LEN).into()),
        sound.replacen('{', r#"{"kid":"key-8","#, 1),
        sound.replacen(r#""vmseal":{"#, r#""vmseal":{"id":"00000000-0000-0000-0000-000000000000","#, 1),
        format!("{sound} {{}}"),
        format!("[{sound}]"),
        String::new(),
    ] {
        assert_eq!(
            code(open(&kek, &foreign(&kek, &header, &payload_of(&dek)))),
            "VMSEAL_ENVELOPE_INVALID",
            "{header}"
        );
    }
    assert!(open(&kek, &foreign(&kek, &sound, &payload_of(&dek))).is_ok());
}

#[test]
fn texts_that_are_no_compact_jwe_are_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let jwe = seal(&kek, &dek, &header()).unwrap();
    let parts: Vec<&str> = jwe.split('.').collect();
    let with = |part: usize, text: &str| {
        let mut parts = parts.clone();
        parts[part] = text;
        parts.join(".")
    };
    let too_long_iv = format!("{}AAAA", parts[2]);
    for text in [
        String::new(),
        "....".into(),
        parts[..4].join("."),
        format!("{jwe}."),
        format!("{jwe}.AAAA"),
        format!("{jwe}="),
        format!("{jwe}\n"),
        format!(" {jwe}"),
        jwe.replace('.', ".."),
        jwe.to_ascii_uppercase(),
        with(1, ""),
        with(1, "AAAA"),
        with(2, ""),
        with(2, &too_long_iv),
        with(4, "AAAA"),
        // 16 bytes end in a character whose low four bits are zero; "B" sets one of them.
        with(4, "AAAAAAAAAAAAAAAAAAAAAB"),
        with(4, "AAAAAAAAAAAAAAAAAAAAA+"),
        with(0, "bm90IGpzb24"),
        "x".repeat(MAX_ENVELOPE_LEN + 1),
        "\u{e9}.\u{e9}.\u{e9}.\u{e9}.\u{e9}".into(),
    ] {
        assert_eq!(code(open(&kek, &text)), "VMSEAL_ENVELOPE_INVALID", "{text}");
    }
    assert_eq!(code(open(&kek, &with(3, ""))), "VMSEAL_ENVELOPE_AUTHENTICATION");
}

#[test]
fn payloads_of_another_kind_are_refused() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    let header = full_header(&dek).to_string();
    for payload in ["", "{}", "x", r#"{"kty":"oct","alg":"A256XTS","k":"AAAA"}"#] {
        assert_eq!(
            code(open(&kek, &foreign(&kek, &header, payload))),
            "VMSEAL_ENVELOPE_INVALID",
            "{payload}"
        );
    }
    let twice = payload_of(&dek).replacen('{', r#"{"k":"","#, 1);
    assert_eq!(code(open(&kek, &foreign(&kek, &header, &twice))), "VMSEAL_ENVELOPE_INVALID");
}

#[test]
fn weak_keys_and_other_lengths_are_refused() {
    let (kek, weak) = (key(&[1; 32]), key(&[7; 64]));
    assert_eq!(seal(&kek, &weak, &header()).unwrap_err().code(), "VMSEAL_KEY_WEAK");
    let envelope = foreign(&kek, &full_header(&weak).to_string(), &payload_of(&weak));
    assert_eq!(code(open(&kek, &envelope)), "VMSEAL_KEY_WEAK");
    for len in [16, 31, 33, 48, 63, 65, 128] {
        assert_eq!(seal(&kek, &key(&vec![2; len]), &header()).unwrap_err().code(), "VMSEAL_KEY_LENGTH");
    }
    for len in [16, 24, 64] {
        assert_eq!(seal(&key(&vec![1; len]), &xts_key(), &header()).unwrap_err().code(), "VMSEAL_KEY_LENGTH");
        assert_eq!(code(open(&key(&vec![1; len]), &envelope)), "VMSEAL_KEY_LENGTH");
    }
}

#[test]
fn headers_that_cannot_be_sealed_are_the_callers_fault() {
    let (kek, dek) = (key(&[1; 32]), xts_key());
    for header in [
        "",
        "[]",
        "{}",
        r#"{"vmseal":{}}"#,
        r#"{"vmseal":{"id":"disk 1"}}"#,
        r#"{"vmseal":"6000c291-35bd-fd2d-e77e-709fb2c53635"}"#,
        r#"{"kid":1,"kid":1,"vmseal":{"id":"6000c291-35bd-fd2d-e77e-709fb2c53635"}}"#,
        r#"{"crit":["vmseal"],"vmseal":{"id":"6000c291-35bd-fd2d-e77e-709fb2c53635"}}"#,
        r#"{"zip":"DEF","vmseal":{"id":"6000c291-35bd-fd2d-e77e-709fb2c53635"}}"#,
    ] {
        assert_eq!(seal(&kek, &dek, header).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT", "{header}");
    }
    let long = format!(r#"{{"a":"{}","vmseal":{{"id":"{ID}"}}}}"#, "x".repeat(MAX_HEADER_LEN));
    assert_eq!(seal(&kek, &dek, &long).unwrap_err().code(), "VMSEAL_INVALID_ARGUMENT");
}

#[test]
fn text_and_wrapped_keys_do_not_open_as_each_other() {
    let dek = key(&[2; 32]);
    let wrapped = seal(&dek, &xts_key(), &header()).unwrap();
    let text = seal_text(&dek, &header(), b"annotation = \"x\"").unwrap();
    assert_eq!(open_text(&dek, &wrapped).unwrap_err().code(), "VMSEAL_ENVELOPE_INVALID");
    assert_eq!(code(open(&dek, &text)), "VMSEAL_ENVELOPE_INVALID");
    assert_eq!(inspect(&text).unwrap(), open_text(&dek, &text).unwrap().1);
    let mut parts: Vec<&str> = text.split('.').collect();
    parts[1] = wrapped.split('.').nth(1).unwrap();
    assert_eq!(open_text(&dek, &parts.join(".")).unwrap_err().code(), "VMSEAL_ENVELOPE_INVALID");
}

proptest! {
    #[test]
    fn what_is_sealed_opens(kek: [u8; 32], dek: [u8; 32], id: [u8; 16], kid in ".{0,40}") {
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let header = json!({"kid": kid, "vmseal": {"id": id}}).to_string();
        let jwe = seal(&key(&kek), &key(&dek), &header).unwrap();
        let (opened, text) = open(&key(&kek), &jwe).unwrap();
        prop_assert!(opened.ct_eq(&key(&dek)));
        prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap()["kid"], &Value::from(kid));
    }

    #[test]
    fn no_text_panics(text in r"[A-Za-z0-9_.=-]{0,120}", any in ".{0,60}") {
        for text in [text, any] {
            prop_assert!(open(&key(&[1; 32]), &text).is_err());
            prop_assert!(open_text(&key(&[1; 32]), &text).is_err());
            prop_assert!(inspect(&text).is_err());
        }
    }
}
