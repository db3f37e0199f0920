//! Damaged messages through the framing, without libFuzzer: `mutations [COUNT [SEED]]`.

#![forbid(unsafe_code)]

use std::time::Instant;

use vmseal_fuzz::{check_cut, check_message_length, check_splice};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let count = arguments.next().unwrap_or(1_000_000);
    let seed = arguments.next().unwrap_or(1).max(1);
    let seeds = seeds();
    let mut chance = Chance(seed);
    let (mut headers, mut cuts, mut splices) = (0u64, 0u64, 0u64);
    let begin = Instant::now();
    for _ in 0..count {
        let message = damaged(&seeds, &mut chance);
        headers += u64::from(check_message_length(&message));
        cuts += u64::from(check_cut(&message));
        splices += u64::from(check_splice(&message));
    }
    println!(
        "Rust framing: {count} damaged messages (seed {seed}), {headers} headers, {cuts} cuts and {splices} \
         splices were lawful, 0 crashes, {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    assert!(cuts > count / 100 && splices > count / 1000, "too few messages were lawful to prove anything");
}

/// xorshift64*: the same numbers for the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

const EDGES: [u8; 12] = [0, 1, 4, 7, 8, 9, 0x0B, 0x42, 0x54, 0x7F, 0x80, 0xFF];

/// One of `seeds` with one to four changes.
fn damaged(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        if bytes.is_empty() {
            break;
        }
        let place = chance.below(bytes.len());
        let aligned = place & !7;
        let length = 1 + chance.below(24);
        let byte =
            if chance.below(2) == 0 { EDGES[chance.below(EDGES.len())] } else { chance.below(256) as u8 };
        match chance.below(8) {
            0 => bytes[place] = byte,
            1 => bytes[place] ^= 1 << (byte & 7),
            2 => drop(bytes.drain(place..(place + length).min(bytes.len()))),
            3 => {
                let copy = bytes[place..(place + length).min(bytes.len())].to_vec();
                drop(bytes.splice(place..place, copy));
            }
            4 => drop(bytes.splice(place..place, vec![byte; length])),
            5 => {
                let field = aligned + if chance.below(2) == 0 { 3 } else { 7 };
                let last = bytes.len() - 1;
                bytes[field.min(last)] = byte;
            }
            6 => {
                let other = &seeds[chance.below(seeds.len())];
                let from = chance.below(other.len()) & !7;
                bytes.truncate(aligned);
                bytes.extend_from_slice(&other[from..(from + 8 * length).min(other.len())]);
            }
            _ => {
                let claim = (chance.below(1 << 31) as u32).to_be_bytes();
                if let Some(field) = bytes.get_mut(aligned + 4..aligned + 8) {
                    field.copy_from_slice(&claim);
                }
            }
        }
    }
    bytes
}

const REQUEST: u32 = 0x42_0078;
const RESPONSE: u32 = 0x42_007B;

/// Requests and responses with raw, transparent, wrapped and cut-out keys, and without any.
fn seeds() -> Vec<Vec<u8>> {
    let block = |fields: &[Vec<u8>]| structure(0x42_0040, fields);
    let value = |fields: &[Vec<u8>]| structure(0x42_0045, fields);
    let raw = |key: &[u8]| block(&[enumeration(0x42_0042, 1), value(&[item(0x42_0043, 8, key)])]);
    let transparent = block(&[value(&[structure(
        0x42_0043,
        &[item(0x42_003F, 8, &[3; 32]), item(0x42_0052, 4, &[1; 16])],
    )])]);
    let wrapping = |method| structure(0x42_0046, &[enumeration(0x42_009E, method)]);
    let wrapped = block(&[item(0x42_0045, 8, &[5; 40]), wrapping(1)]);
    let wrapped_inside = block(&[value(&[item(0x42_0043, 8, &[5; 40])]), wrapping(1)]);
    let signed = block(&[value(&[item(0x42_0043, 8, &[6; 32])]), wrapping(2)]);
    let text = item(0x42_0094, 7, b"7f6c0a1e-0000-4000-8000-000000000001");
    let plain =
        [text.clone(), enumeration(0x42_005C, 10), item(0x42_0092, 9, &[0; 8]), item(0x42_0093, 8, &[1])];
    let bodies: [&[Vec<u8>]; 7] = [
        &plain,
        &[raw(&[1; 32])],
        &[raw(&[1; 16]), text.clone(), raw(&[2; 24])],
        &[raw(&[])],
        std::slice::from_ref(&transparent),
        &[wrapped.clone(), wrapped_inside.clone(), raw(&[4; 5])],
        &[signed, text],
    ];
    let message =
        |tag, body: &[Vec<u8>]| structure(tag, &[structure(0x42_000F, &[structure(0x42_007C, body)])]);
    bodies.iter().flat_map(|body| [message(REQUEST, body), message(RESPONSE, body)]).collect()
}

fn item(tag: u32, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = tag.to_be_bytes()[1..].to_vec();
    bytes.push(kind);
    bytes.extend((value.len() as u32).to_be_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn structure(tag: u32, children: &[Vec<u8>]) -> Vec<u8> {
    item(tag, 1, &children.concat())
}

fn enumeration(tag: u32, value: u32) -> Vec<u8> {
    item(tag, 5, &value.to_be_bytes())
}
