//! SHA-256 (FIPS 180-4) of two messages of one length.
//!
//! A round waits for the one before it, so one message leaves the SHA unit idle half of the time. A second message in the
//! gaps makes both done in little more than the time of one.

use sha2::{Digest as _, Sha256};

pub(crate) const BLOCK: usize = 64;
#[cfg(target_arch = "x86_64")]
pub(crate) const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The SHA-256 of each message, side by side where the processor can and the lengths are equal.
pub fn sha256_two(one: &[u8], two: &[u8]) -> [[u8; 32]; 2] {
    #[cfg(target_arch = "x86_64")]
    if one.len() == two.len() && crate::x86::is_supported() {
        return side_by_side(one, two);
    }
    [one, two].map(|message| Sha256::digest(message).into())
}

#[cfg(target_arch = "x86_64")]
fn side_by_side(one: &[u8], two: &[u8]) -> [[u8; 32]; 2] {
    let whole = one.len() / BLOCK * BLOCK;
    let mut states = [INITIAL; 2];
    crate::x86::compress(&mut states, &one[..whole], &two[..whole]);
    let [last_one, last_two] = [one, two].map(|message| padded(&message[whole..], message.len()));
    // The lengths are equal, so both ends take one block or both take two.
    let end = if one.len() % BLOCK < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
    crate::x86::compress(&mut states, &last_one[2 * BLOCK - end..], &last_two[2 * BLOCK - end..]);
    states.map(|state| {
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        digest
    })
}

/// The end of a message of `len` bytes with its padding, at the end of two blocks.
#[cfg(target_arch = "x86_64")]
fn padded(rest: &[u8], len: usize) -> [u8; 2 * BLOCK] {
    let mut blocks = [0; 2 * BLOCK];
    let start = if rest.len() < BLOCK - 8 { BLOCK } else { 0 };
    blocks[start..start + rest.len()].copy_from_slice(rest);
    blocks[start + rest.len()] = 0x80;
    blocks[2 * BLOCK - 8..].copy_from_slice(&(len as u64 * 8).to_be_bytes());
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn each(one: &[u8], two: &[u8]) -> [[u8; 32]; 2] {
        [one, two].map(|message| Sha256::digest(message).into())
    }

    #[test]
    fn every_length_around_the_blocks_gives_what_one_by_one_gives() {
        let bytes: Vec<u8> = (0..2 * 4 * BLOCK + 1).map(|at| (at * 31 / 7) as u8).collect();
        for len in 0..=4 * BLOCK {
            let (one, two) = (&bytes[..len], &bytes[bytes.len() - len..]);
            assert_eq!(sha256_two(one, two), each(one, two), "{len} bytes");
        }
    }

    #[test]
    fn messages_of_different_lengths_are_hashed_too() {
        assert_eq!(sha256_two(b"abc", b""), each(b"abc", b""));
    }

    #[test]
    fn the_example_of_the_standard() {
        let [one, two] = sha256_two(b"abc", b"abd");
        assert_eq!(one[..4], [0xba, 0x78, 0x16, 0xbf]);
        assert_eq!(one[28..], [0xf2, 0x00, 0x15, 0xad]);
        assert_ne!(one, two);
    }

    proptest! {
        #[test]
        fn any_two_messages_give_what_one_by_one_gives(
            pairs in prop::collection::vec((any::<u8>(), any::<u8>()), 0..3000)
        ) {
            let (one, two): (Vec<u8>, Vec<u8>) = pairs.into_iter().unzip();
            prop_assert_eq!(sha256_two(&one, &two), each(&one, &two));
        }
    }
}
