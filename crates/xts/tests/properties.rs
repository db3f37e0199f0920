//! Properties of the cipher on generated runs.

mod inputs;

use inputs::{Bytes, kernels, numbered_key};
use proptest::prelude::*;
use vmseal_xts::{SECTOR_SIZES, Xts, data_unit};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// A run encrypted in pieces is the run encrypted at once.
    #[test]
    fn split_invariance(
        seed: u64,
        size in prop::sample::select(&SECTOR_SIZES),
        step in prop_oneof![Just(1), Just(8), any::<u64>().prop_filter("not 0", |step| *step != 0)],
        first: u64,
        count in 2..80_usize,
        cut in any::<prop::sample::Index>(),
    ) {
        let key = numbered_key(seed);
        let plaintext = Bytes::new(seed).take(count * size as usize);
        for kernel in kernels() {
            let xts = Xts::with_kernel(&key, size, step, kernel)?;
            let mut at_once = plaintext.clone();
            xts.encrypt(&mut at_once, first)?;
            let sectors = cut.index(count + 1);
            let mut in_pieces = plaintext.clone();
            let (head, tail) = in_pieces.split_at_mut(sectors * size as usize);
            xts.encrypt(tail, first.wrapping_add(sectors as u64))?;
            xts.encrypt(head, first)?;
            prop_assert!(at_once == in_pieces);
        }
    }

    /// Decryption by any kernel undoes encryption by any other.
    #[test]
    fn round_trip(
        seed: u64,
        size in prop::sample::select(&SECTOR_SIZES),
        first: u64,
        count in 1..40_usize,
    ) {
        let key = numbered_key(seed);
        let plaintext = Bytes::new(seed).take(count * size as usize);
        for encrypting in kernels() {
            let mut ciphertext = vec![0; plaintext.len()];
            Xts::with_kernel(&key, size, 1, encrypting)?.encrypt_to(&plaintext, &mut ciphertext, first)?;
            prop_assert!(ciphertext != plaintext);
            for decrypting in kernels() {
                let mut data = ciphertext.clone();
                Xts::with_kernel(&key, size, 1, decrypting)?.decrypt(&mut data, first)?;
                prop_assert!(data == plaintext);
            }
        }
    }

    /// A changed ciphertext block changes that block of the plaintext and no other.
    #[test]
    fn blocks_are_independent(seed: u64, count in 1..9_usize, bit in any::<prop::sample::Index>()) {
        let key = numbered_key(seed);
        let plaintext = Bytes::new(seed).take(count * 4096);
        let bit = bit.index(plaintext.len() * 8);
        for kernel in kernels() {
            let xts = Xts::with_kernel(&key, 4096, 8, kernel)?;
            let mut data = plaintext.clone();
            xts.encrypt(&mut data, 3)?;
            data[bit / 8] ^= 1 << (bit % 8);
            xts.decrypt(&mut data, 3)?;
            for (index, (block, original)) in data.chunks(16).zip(plaintext.chunks(16)).enumerate() {
                prop_assert_eq!(block != original, index == bit / 128);
            }
        }
    }

    /// Data units of any length and tweak come back, and another tweak does not decrypt them.
    #[test]
    fn data_unit_round_trip(seed: u64, tweak: [u8; 16], length in 16..600_usize) {
        let key = numbered_key(seed);
        let plaintext = Bytes::new(seed).take(length);
        let mut data = plaintext.clone();
        data_unit::encrypt(&key, &tweak, &mut data)?;
        prop_assert!(data != plaintext);
        let mut other = data.clone();
        data_unit::decrypt(&key, &(u128::from_le_bytes(tweak) ^ 1).to_le_bytes(), &mut other)?;
        prop_assert!(other != plaintext);
        data_unit::decrypt(&key, &tweak, &mut data)?;
        prop_assert!(data == plaintext);
    }
}
