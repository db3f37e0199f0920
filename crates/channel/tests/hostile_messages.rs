//! Messages made to break the parser: every one gets an error or a result, quickly and in bounded memory.

mod fixture;

use fixture::*;
use vmseal_channel::PlainMessage;
use vmseal_channel::ttlv::{Limits, cut, splice};

fn code(message: Vec<u8>, limits: &Limits) -> Result<usize, &'static str> {
    cut(PlainMessage::take(message), limits).map(|(_, keys)| keys.len()).map_err(|error| error.code())
}

const MALFORMED: Result<usize, &str> = Err("VMSEAL_KMIP_MALFORMED");
const TOO_LARGE: Result<usize, &str> = Err("VMSEAL_KMIP_TOO_LARGE");

#[test]
fn what_is_cut_short_is_malformed() {
    let whole = message(RESPONSE, &[raw_key(&[1; 32]), query()]);
    for length in 0..whole.len() {
        assert_eq!(code(whole[..length].to_vec(), &Limits::default()), MALFORMED, "{length} bytes");
    }
}

#[test]
fn bytes_after_the_message_are_malformed() {
    let mut whole = query();
    whole.extend([0; 8]);
    assert_eq!(code(whole, &Limits::default()), MALFORMED);
}

#[test]
fn a_message_that_is_no_structure_is_malformed() {
    assert_eq!(code(item(RESPONSE, BYTES, &[0; 16]), &Limits::default()), MALFORMED);
}

#[test]
fn a_child_beyond_its_parent_is_malformed() {
    for length in [17u32, 24, 0x7FFF_FFFF, 0xFFFF_FFF8, 0xFFFF_FFFF] {
        let mut child = item(UNIQUE_IDENTIFIER, BYTES, &[0; 16]);
        child[4..8].copy_from_slice(&length.to_be_bytes());
        // The next item must not be taken for the rest of the child.
        let whole = structure(RESPONSE, &[structure(BATCH_ITEM, &[child]), query()]);
        assert_eq!(code(whole, &Limits::default()), MALFORMED, "{length}");
    }
}

#[test]
fn fixed_lengths_are_checked() {
    let lawful = [(2u8, 4usize), (3, 8), (4, 8), (5, 4), (6, 8), (9, 8), (10, 4), (11, 8)];
    for (kind, right) in lawful {
        for length in 0..=24 {
            let result =
                code(structure(RESPONSE, &[item(0x42_0069, kind, &vec![0; length])]), &Limits::default());
            let fits = length == right || kind == BIG_INTEGER && length > 0 && length % 8 == 0;
            assert_eq!(result, if fits { Ok(0) } else { MALFORMED }, "type {kind}, {length} bytes");
        }
    }
}

#[test]
fn unknown_types_and_tags_are_malformed() {
    for kind in [0u8, 15, 16, 0x80, 0xFF] {
        assert_eq!(
            code(structure(RESPONSE, &[item(0x42_0069, kind, &[0; 8])]), &Limits::default()),
            MALFORMED
        );
    }
    assert_eq!(code(structure(RESPONSE, &[item(0x41_0069, BYTES, &[0; 8])]), &Limits::default()), MALFORMED);
    assert_eq!(code(structure(RESPONSE, &[item(0x54_0069, BYTES, &[0; 8])]), &Limits::default()), Ok(0));
}

#[test]
fn depth_is_limited() {
    let nested = |depth: usize| {
        (1..depth).fold(structure(BATCH_ITEM, &[]), |inner, _| structure(BATCH_ITEM, &[inner]))
    };
    assert_eq!(code(nested(32), &Limits::default()), Ok(0));
    assert_eq!(code(nested(33), &Limits::default()), TOO_LARGE);
    assert_eq!(code(nested(5_000), &Limits::default()), TOO_LARGE);
}

#[test]
fn items_are_limited() {
    let many = |count: usize| item(RESPONSE, STRUCTURE, &item(0x42_0069, BYTES, &[]).repeat(count));
    assert_eq!(code(many(65_535), &Limits::default()), Ok(0));
    assert_eq!(code(many(65_536), &Limits::default()), TOO_LARGE);
}

#[test]
fn size_is_limited() {
    let limits = Limits { max_message: 64, ..Limits::default() };
    assert_eq!(code(item(RESPONSE, STRUCTURE, &item(0x42_0069, BYTES, &[0; 48])), &limits), Ok(0));
    assert_eq!(code(item(RESPONSE, STRUCTURE, &item(0x42_0069, BYTES, &[0; 49])), &limits), TOO_LARGE);
}

/// A small generator (xorshift64*), so that a failure can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

#[test]
fn two_hundred_thousand_mutated_messages() {
    let wrapped = structure(
        KEY_BLOCK,
        &[
            item(KEY_VALUE, BYTES, &[2; 40]),
            structure(KEY_WRAPPING_DATA, &[item(WRAPPING_METHOD, ENUMERATION, &[0, 0, 0, 1])]),
        ],
    );
    let transparent = structure(KEY_MATERIAL, &[item(KEY, BYTES, &[5; 32])]);
    let seeds = [
        message(RESPONSE, &[raw_key(&[1; 32]), wrapped.clone(), transparent]),
        message(REQUEST, &[raw_key(&[]), wrapped, raw_key(&[])]),
        query(),
    ];
    // Bytes that mean something in TTLV.
    let telling = [
        0x00, 0x01, 0x04, 0x05, 0x08, 0x3F, 0x40, 0x42, 0x43, 0x45, 0x46, 0x54, 0x78, 0x7B, 0x7F, 0x80, 0xFF,
    ];
    let limits = Limits { max_depth: 8, max_items: 64, max_keys: 8, ..Limits::default() };
    let mut chance = Chance(0x9E37_79B9_7F4A_7C15);
    let (mut accepted, mut refused) = (0u32, 0u32);
    for round in 0..200_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=chance.below(4) {
            let place = chance.below(bytes.len());
            match chance.below(5) {
                0 => bytes[place] = telling[chance.below(telling.len())],
                1 => bytes[place] ^= 1 << chance.below(8),
                2 => bytes.truncate(place.max(1)),
                3 => {
                    let piece = bytes[place..].to_vec();
                    bytes.extend(piece.into_iter().take(chance.below(64)));
                }
                // The outer length is made right again, so that damage further in is reached.
                _ => {
                    let body = (bytes.len().saturating_sub(8) as u32).to_be_bytes();
                    if let Some(length) = bytes.get_mut(4..8) {
                        length.copy_from_slice(&body);
                    }
                }
            }
        }
        match cut(PlainMessage::take(bytes.clone()), &limits) {
            Ok((rest, keys)) => {
                accepted += 1;
                let whole = splice(&rest, &keys, &limits).expect("what was cut can be spliced");
                assert_eq!(whole.len(), bytes.len());
            }
            Err(error) => {
                refused += 1;
                assert!(error.code().starts_with("VMSEAL_K"), "{error}");
            }
        }
        // The same bytes as if they came from the caller: never a panic either.
        let _ = splice(&bytes, &[key(&[1; 16]), key(&[2; 16])], &limits);
    }
    assert!(accepted > 1_000 && refused > 100_000, "{accepted} accepted, {refused} refused");
}
