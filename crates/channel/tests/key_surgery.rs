//! Cutting keys out of messages and splicing them back in.

mod fixture;

use fixture::*;
use proptest::prelude::*;
use vmseal_channel::ttlv::{Limits, cut, splice};
use vmseal_channel::{Error, PlainMessage};
use vmseal_secret::SecretKey;

fn cut_default(message: &[u8]) -> Result<(Vec<u8>, Vec<SecretKey>), Error> {
    cut(PlainMessage::take(message.to_vec()), &Limits::default())
}

fn splice_default(message: &[u8], keys: &[SecretKey]) -> Result<PlainMessage, Error> {
    splice(message, keys, &Limits::default())
}

/// Cuts `message`, expects `keys` and the message `rest`, and that splicing brings the message back.
fn check(message: &[u8], keys: &[&[u8]], rest: &[u8]) {
    let (cut, found) = cut_default(message).unwrap();
    assert_eq!(found.len(), keys.len());
    for (found, expected) in found.iter().zip(keys) {
        assert!(holds(found, expected));
    }
    assert_eq!(cut, rest);
    assert_eq!(&*splice_default(&cut, &found).unwrap(), message);
}

fn wrapping_data(method: u32) -> Vec<u8> {
    structure(KEY_WRAPPING_DATA, &[item(WRAPPING_METHOD, ENUMERATION, &method.to_be_bytes())])
}

#[test]
fn a_raw_key_leaves_an_empty_byte_string() {
    check(&message(RESPONSE, &[raw_key(&[0xA5; 32])]), &[&[0xA5; 32]], &message(RESPONSE, &[raw_key(&[])]));
}

#[test]
fn keys_keep_their_order_and_odd_lengths() {
    let keys: [&[u8]; 3] = [b"first key", b"2", &[3; 64]];
    check(&message(REQUEST, &keys.map(raw_key)), &keys, &message(REQUEST, &[&[][..]; 3].map(raw_key)));
}

#[test]
fn a_message_without_keys_stays_as_it_is() {
    check(&query(), &[], &query());
}

#[test]
fn a_transparent_key_is_a_secret_too() {
    let block = |material: &[u8]| {
        let key = structure(KEY_MATERIAL, &[item(KEY, BYTES, material)]);
        structure(KEY_BLOCK, &[structure(KEY_VALUE, &[key])])
    };
    check(&message(RESPONSE, &[block(&[7; 32])]), &[&[7; 32]], &message(RESPONSE, &[block(&[])]));
}

#[test]
fn big_integers_of_a_transparent_private_key_are_secrets_too() {
    const PRIVATE_EXPONENT: u32 = 0x42_0063;
    let block = |exponent: &[u8]| {
        let material = structure(KEY_MATERIAL, &[item(PRIVATE_EXPONENT, BIG_INTEGER, exponent)]);
        structure(KEY_BLOCK, &[structure(KEY_VALUE, &[material])])
    };
    check(&message(RESPONSE, &[block(&[9; 128])]), &[&[9; 128]], &message(RESPONSE, &[block(&[])]));
}

#[test]
fn a_wrapped_key_is_left_alone() {
    for method in [1, 3, 4, 5] {
        let block = structure(
            KEY_BLOCK,
            &[structure(KEY_VALUE, &[item(KEY_MATERIAL, BYTES, &[1; 40])]), wrapping_data(method)],
        );
        let with_encoded_value =
            structure(KEY_BLOCK, &[item(KEY_VALUE, BYTES, &[2; 40]), wrapping_data(method)]);
        let whole = message(RESPONSE, &[block, with_encoded_value]);
        check(&whole, &[], &whole);
    }
}

#[test]
fn a_key_that_is_only_signed_is_a_secret() {
    // Wrapping method 2, MAC/sign, does not encrypt; nor does one that is missing or unknown.
    let silent = structure(KEY_WRAPPING_DATA, &[]);
    for data in [wrapping_data(2), wrapping_data(6), wrapping_data(0x0100_0001), silent] {
        let block = |material: &[u8]| structure(KEY_BLOCK, &[item(KEY_VALUE, BYTES, material), data.clone()]);
        check(&message(RESPONSE, &[block(&[1; 32])]), &[&[1; 32]], &message(RESPONSE, &[block(&[])]));
    }
}

#[test]
fn a_key_value_of_bytes_without_wrapping_is_a_secret() {
    let block = |value: &[u8]| structure(KEY_BLOCK, &[item(KEY_VALUE, BYTES, value)]);
    check(&message(RESPONSE, &[block(&[8; 24])]), &[&[8; 24]], &message(RESPONSE, &[block(&[])]));
}

#[test]
fn wrapping_protects_only_its_own_key_block() {
    let wrapped = structure(
        KEY_BLOCK,
        &[structure(KEY_VALUE, &[item(KEY_MATERIAL, BYTES, &[1; 40]), raw_key(&[2; 32])]), wrapping_data(1)],
    );
    let rest = structure(
        KEY_BLOCK,
        &[structure(KEY_VALUE, &[item(KEY_MATERIAL, BYTES, &[1; 40]), raw_key(&[])]), wrapping_data(1)],
    );
    check(
        &message(RESPONSE, &[wrapped, raw_key(&[3; 32])]),
        &[&[2; 32], &[3; 32]],
        &message(RESPONSE, &[rest, raw_key(&[])]),
    );
}

#[test]
fn key_material_outside_a_key_block_is_a_secret() {
    let loose = |bytes: &[u8]| message(RESPONSE, &[item(KEY_MATERIAL, BYTES, bytes), wrapping_data(1)]);
    check(&loose(&[4; 16]), &[&[4; 16]], &loose(&[]));
}

#[test]
fn an_empty_key_from_the_peer_is_malformed() {
    let error = cut_default(&message(RESPONSE, &[raw_key(&[1; 32]), raw_key(&[])])).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KMIP_MALFORMED");
}

#[test]
fn key_material_of_another_type_is_malformed() {
    for kind in [TEXT, BIG_INTEGER] {
        let block = structure(KEY_BLOCK, &[structure(KEY_VALUE, &[item(KEY_MATERIAL, kind, &[1; 32])])]);
        assert_eq!(cut_default(&message(RESPONSE, &[block])).unwrap_err().code(), "VMSEAL_KMIP_MALFORMED");
    }
}

#[test]
fn two_wrappings_of_one_key_are_malformed() {
    let block = structure(KEY_BLOCK, &[item(KEY_VALUE, BYTES, &[1; 32]), wrapping_data(2), wrapping_data(1)]);
    assert_eq!(cut_default(&message(RESPONSE, &[block])).unwrap_err().code(), "VMSEAL_KMIP_MALFORMED");
}

#[test]
fn a_key_longer_than_key_memory_takes_is_refused() {
    let error =
        cut_default(&message(RESPONSE, &[raw_key(&vec![1; vmseal_secret::MAX_LEN + 1])])).unwrap_err();
    assert_eq!(error.code(), "VMSEAL_KEY_LENGTH");
}

#[test]
fn more_keys_than_the_limit_are_refused_before_any_is_made() {
    let limits = Limits { max_keys: 3, ..Limits::default() };
    let whole = message(RESPONSE, &[&[1u8; 16][..]; 4].map(raw_key));
    let error = cut(PlainMessage::take(whole), &limits).unwrap_err();
    assert!(matches!(error, Error::TooLarge { what: "keys", actual: 4, limit: 3 }), "{error}");
}

#[test]
fn key_bytes_from_the_caller_are_refused() {
    let error = splice_default(&message(REQUEST, &[raw_key(&[1; 32])]), &[]).unwrap_err();
    assert!(matches!(error, Error::KeyBytesInMessage { .. }), "{error}");
    assert!(!error.to_string().contains("1, 1"));
}

#[test]
fn the_number_of_keys_must_match() {
    let two = message(REQUEST, &[raw_key(&[]), raw_key(&[])]);
    for keys in [vec![], vec![key(b"one")], vec![key(b"one"), key(b"two"), key(b"three")]] {
        assert!(matches!(splice_default(&two, &keys), Err(Error::KeyCount { places: 2, .. })));
    }
}

#[test]
fn a_spliced_message_over_the_limit_is_refused() {
    let empty = message(REQUEST, &[raw_key(&[])]);
    let limits = Limits { max_message: empty.len() + 31, ..Limits::default() };
    assert!(matches!(splice(&empty, &[key(&[1; 32])], &limits), Err(Error::TooLarge { what: "bytes", .. })));
    let limits = Limits { max_message: empty.len() + 32, ..Limits::default() };
    assert_eq!(splice(&empty, &[key(&[1; 32])], &limits).unwrap().len(), empty.len() + 32);
}

/// A tree of items, with keys of all kinds at any depth; its own byte strings carry a marker no key has.
fn tree() -> impl Strategy<Value = Vec<u8>> {
    let key_bytes = || prop::collection::vec(any::<u8>(), 1..80);
    let leaf = prop_oneof![
        any::<i32>().prop_map(|n| item(0x42_0069, 2, &n.to_be_bytes())),
        any::<i64>().prop_map(|n| item(0x42_0039, 9, &n.to_be_bytes())),
        "[a-z]{0,20}".prop_map(|text| item(UNIQUE_IDENTIFIER, TEXT, text.as_bytes())),
        key_bytes().prop_map(|bytes| item(0x54_0001, BYTES, &bytes)),
        key_bytes().prop_map(|bytes| raw_key(&bytes)),
        key_bytes()
            .prop_map(|bytes| structure(KEY_BLOCK, &[item(KEY_VALUE, BYTES, &bytes), wrapping_data(1)])),
        key_bytes()
            .prop_map(|bytes| structure(KEY_BLOCK, &[item(KEY_VALUE, BYTES, &bytes), wrapping_data(2)])),
        (key_bytes(), key_bytes()).prop_map(|(a, b)| structure(
            KEY_MATERIAL,
            &[item(KEY, BYTES, &a), item(0x42_0069, 2, &[0; 4]), item(0x42_0069, BYTES, &b)]
        )),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        (
            prop::sample::select(vec![BATCH_ITEM, KEY_BLOCK, KEY_VALUE, 0x42_0091]),
            prop::collection::vec(inner, 0..6),
        )
            .prop_map(|(tag, children)| structure(tag, &children))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn splicing_undoes_cutting(children in prop::collection::vec(tree(), 0..6)) {
        let whole = structure(RESPONSE, &children);
        let (rest, keys) = cut_default(&whole).unwrap();
        let removed: usize = keys.iter().map(|key| key.len().next_multiple_of(8)).sum();
        prop_assert_eq!(rest.len() + removed, whole.len());
        let spliced = splice_default(&rest, &keys).unwrap();
        prop_assert_eq!(&*spliced, &*whole);
        // What was cut once has nothing left to give.
        prop_assert!(keys.is_empty() || cut_default(&rest).is_err());
    }

    #[test]
    fn no_key_stays_in_what_is_cut(material in prop::collection::vec(any::<u8>(), 16..64)) {
        let (rest, _) = cut_default(&message(RESPONSE, &[raw_key(&material), query()])).unwrap();
        prop_assert!(!rest.windows(8).any(|window| window == &material[..8]));
    }
}
