//! Wycheproof, NIST CAVP and Botan's vectors.

use super::every_kernel::{unwrap, wrap};
use super::padded::{unwrap_from, wrap_from};
use super::{Error, MIN_KEY_LEN, unwrap_padded, wrap_padded};
use crate::vectors::{bytes, file, hex, key};

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wycheproof {
    test_groups: Vec<Group>,
}

#[derive(serde::Deserialize)]
struct Group {
    tests: Vec<Case>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u32,
    key: String,
    msg: String,
    ct: String,
    result: String,
}

fn wycheproof(name: &str) -> Option<Vec<Case>> {
    let parsed: Wycheproof = serde_json::from_str(&file(name)?).unwrap();
    Some(parsed.test_groups.into_iter().flat_map(|group| group.tests).collect())
}

/// The blocks of a CAVP or Botan file: `NAME = VALUE` lines up to an empty line; a lone word stands for itself.
fn records(text: &str) -> Vec<Vec<(&str, &str)>> {
    let mut blocks = vec![Vec::new()];
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            blocks.push(Vec::new());
        } else if !line.starts_with('#') && !line.starts_with('[') {
            blocks.last_mut().unwrap().push(line.split_once(" = ").unwrap_or((line, "")));
        } else if line.starts_with("[KW") {
            blocks.last_mut().unwrap().push(("section", line));
            blocks.push(Vec::new());
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

fn field<'a>(block: &[(&'a str, &'a str)], name: &str) -> Option<&'a str> {
    block.iter().find(|(found, _)| *found == name).map(|(_, value)| *value)
}

#[test]
fn wycheproof_rfc_3394() {
    let Some(cases) = wycheproof("wycheproof/aes_wrap_test.json") else {
        return;
    };
    let (mut accepted, mut refused) = (0, 0);
    for case in cases {
        let (kek, plain, wrapped) = (key(&hex(&case.key)), hex(&case.msg), hex(&case.ct));
        // "acceptable" are the wraps of 8-byte keys, which RFC 3394 itself does not have.
        if case.result == "valid" {
            assert_eq!(wrap(&kek, &key(&plain)).unwrap(), wrapped, "{}", case.tc_id);
            assert_eq!(bytes(&unwrap(&kek, &wrapped).unwrap()), plain, "{}", case.tc_id);
            accepted += 1;
        } else {
            assert_eq!(unwrap(&kek, &wrapped).unwrap_err().code(), "VMSEAL_UNWRAP_FAILED", "{}", case.tc_id);
            refused += 1;
        }
    }
    assert_eq!((accepted, refused), (36, 126 + 3));
}

#[test]
fn wycheproof_rfc_5649() {
    let Some(cases) = wycheproof("wycheproof/aes_kwp_test.json") else {
        return;
    };
    let (mut accepted, mut too_short, mut refused) = (0, 0, 0);
    for case in cases {
        let (kek, plain, wrapped) = (key(&hex(&case.key)), hex(&case.msg), hex(&case.ct));
        if case.result != "valid" {
            assert_eq!(
                unwrap_padded(&kek, &wrapped).unwrap_err().code(),
                "VMSEAL_UNWRAP_FAILED",
                "{}",
                case.tc_id
            );
            assert!(unwrap_from(1, &kek, &wrapped).is_err(), "{}", case.tc_id);
            refused += 1;
            continue;
        }
        assert_eq!(wrap_from(1, &kek, &key(&plain)).unwrap(), wrapped, "{}", case.tc_id);
        assert_eq!(bytes(&unwrap_from(1, &kek, &wrapped).unwrap()), plain, "{}", case.tc_id);
        if plain.len() >= MIN_KEY_LEN {
            assert_eq!(bytes(&unwrap_padded(&kek, &wrapped).unwrap()), plain, "{}", case.tc_id);
            accepted += 1;
        } else {
            assert!(
                matches!(wrap_padded(&kek, &key(&plain)), Err(Error::KeyLength { .. })),
                "{}",
                case.tc_id
            );
            assert!(matches!(unwrap_padded(&kek, &wrapped), Err(Error::UnwrapFailed)), "{}", case.tc_id);
            too_short += 1;
        }
    }
    assert_eq!((accepted + too_short, refused), (77, 177));
}

#[test]
fn nist_cavp_wraps() {
    for (name, is_padded) in [("nist-cavp/KW_AE_256.txt", false), ("nist-cavp/KWP_AE_256.txt", true)] {
        let Some(text) = file(name) else { return };
        let mut count = 0;
        for block in records(&text) {
            let Some(c) = field(&block, "C") else {
                continue;
            };
            let (kek, plain) = (key(&hex(field(&block, "K").unwrap())), hex(field(&block, "P").unwrap()));
            let wrapped = if is_padded { wrap_from(1, &kek, &key(&plain)) } else { wrap(&kek, &key(&plain)) };
            assert_eq!(wrapped.unwrap(), hex(c));
            count += 1;
        }
        assert_eq!(count, 500, "{name}");
    }
}

#[test]
fn nist_cavp_unwraps() {
    for (name, is_padded) in [("nist-cavp/KW_AD_256.txt", false), ("nist-cavp/KWP_AD_256.txt", true)] {
        let Some(text) = file(name) else { return };
        let (mut accepted, mut refused) = (0, 0);
        for block in records(&text) {
            let Some(c) = field(&block, "C") else {
                continue;
            };
            let (kek, wrapped) = (key(&hex(field(&block, "K").unwrap())), hex(c));
            let opened = if is_padded { unwrap_from(1, &kek, &wrapped) } else { unwrap(&kek, &wrapped) };
            match field(&block, "P") {
                Some(plain) => {
                    assert_eq!(bytes(&opened.unwrap()), hex(plain));
                    accepted += 1;
                }
                None => {
                    assert!(block.iter().any(|(name, _)| *name == "FAIL"));
                    assert!(matches!(opened, Err(Error::UnwrapFailed)));
                    refused += 1;
                }
            }
        }
        assert_eq!((accepted, refused), (400, 100), "{name}");
    }
}

#[test]
fn botan_valid() {
    let Some(rfc) = file("botan/rfc3394.vec") else {
        return;
    };
    let mut count = 0;
    for block in records(&rfc) {
        let (kek, plain) = (key(&hex(field(&block, "KEK").unwrap())), hex(field(&block, "Key").unwrap()));
        let wrapped = hex(field(&block, "Output").unwrap());
        assert_eq!(wrap(&kek, &key(&plain)).unwrap(), wrapped);
        assert_eq!(bytes(&unwrap(&kek, &wrapped).unwrap()), plain);
        count += 1;
    }
    assert_eq!(count, 6);

    let Some(nist) = file("botan/nist_key_wrap.vec") else {
        return;
    };
    let (mut is_padded, mut wrapped_count) = (false, 0);
    for block in records(&nist) {
        if let Some(section) = field(&block, "section") {
            is_padded = section == "[KWP]";
            continue;
        }
        let (kek, plain) = (key(&hex(field(&block, "Key").unwrap())), hex(field(&block, "Input").unwrap()));
        let wrapped = hex(field(&block, "Output").unwrap());
        if is_padded {
            assert_eq!(wrap_from(1, &kek, &key(&plain)).unwrap(), wrapped);
            assert_eq!(bytes(&unwrap_from(1, &kek, &wrapped).unwrap()), plain);
        } else if plain.len() >= MIN_KEY_LEN {
            assert_eq!(wrap(&kek, &key(&plain)).unwrap(), wrapped);
            assert_eq!(bytes(&unwrap(&kek, &wrapped).unwrap()), plain);
        } else {
            assert!(matches!(unwrap(&kek, &wrapped), Err(Error::UnwrapFailed)));
        }
        wrapped_count += 1;
    }
    assert!(is_padded && wrapped_count > 40, "{wrapped_count}");
}

#[test]
fn botan_invalid() {
    let Some(text) = file("botan/nist_key_wrap_invalid.vec") else {
        return;
    };
    let (mut is_padded, mut refused) = (false, 0);
    for block in records(&text) {
        if let Some(section) = field(&block, "section") {
            is_padded = section == "[KWP]";
            continue;
        }
        let (kek, wrapped) = (key(&hex(field(&block, "Key").unwrap())), hex(field(&block, "Input").unwrap()));
        let opened = if is_padded { unwrap_from(1, &kek, &wrapped) } else { unwrap(&kek, &wrapped) };
        assert!(matches!(opened, Err(Error::UnwrapFailed)));
        refused += 1;
    }
    assert_eq!(refused, 10);
}
