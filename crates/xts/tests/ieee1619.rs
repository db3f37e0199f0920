//! IEEE Std 1619-2007 annex B, AES-256 vectors, and the stealing vectors beside them in Botan's file.

mod inputs;
mod vectors;

use inputs::{hex, key};
use vmseal_xts::Xts;

#[test]
fn vectors_of_the_standard() {
    let Some(text) = vectors::read("botan/xts.vec") else { return };
    let mut checked = 0;
    let mut of_the_standard = 0;
    for vector in parse(&text, "[AES-256/XTS]") {
        vectors::check(&vector.name, &key(&vector.key), vector.tweak, &vector.plaintext, &vector.ciphertext);
        checked += 1;
        of_the_standard += usize::from(vector.name.contains("IEEE 1619-2007 VECTOR 1"));
    }
    assert_eq!(of_the_standard, 5, "vectors 10 to 14 are the AES-256 ones");
    assert_eq!(checked, 51);
}

/// Vector 1 of the standard has an all-zero key, so two equal halves.
#[test]
fn vector_with_equal_halves_is_refused() {
    let Some(text) = vectors::read("botan/xts.vec") else { return };
    let vector = parse(&text, "[AES-128/XTS]").into_iter().next().expect("vector 1 comes first");
    assert!(vector.name.ends_with("VECTOR 1"));
    let error = Xts::new(&key(&vector.key), 512, 1).expect_err("an AES-128 key");
    assert_eq!(error.code(), "VMSEAL_KEY_LENGTH");
    let (halves, _) = vector.key.as_chunks::<16>();
    let as_256: Vec<u8> = halves.iter().flat_map(|half| [*half, *half].concat()).collect();
    let error = Xts::new(&key(&as_256), 512, 1).expect_err("equal halves");
    assert_eq!(error.code(), "VMSEAL_KEY_WEAK");
}

struct Vector {
    name: String,
    key: Vec<u8>,
    tweak: [u8; 16],
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}

fn parse(text: &str, section: &str) -> Vec<Vector> {
    let lines =
        text.lines().skip_while(|line| *line != section).skip(1).take_while(|line| !line.starts_with('['));
    let mut name = String::new();
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut vectors = Vec::new();
    for line in lines {
        if let Some(comment) = line.strip_prefix("# ") {
            comment.clone_into(&mut name);
        } else if let Some((_, value)) = line.split_once(" = ") {
            fields.push(hex(value));
            if let [key, tweak, plaintext, ciphertext] = fields.as_slice() {
                let mut padded = [0; 16];
                padded[..tweak.len()].copy_from_slice(tweak);
                vectors.push(Vector {
                    name: name.clone(),
                    key: key.clone(),
                    tweak: padded,
                    plaintext: plaintext.clone(),
                    ciphertext: ciphertext.clone(),
                });
                fields.clear();
            }
        }
    }
    vectors
}
