//! What neither form may accept, and round trips.

use proptest::prelude::*;

use vmseal_secret::SecretKey;

use super::every_kernel::{unwrap, wrap};
use super::{unwrap_padded, wrap_padded};
use crate::Error;
use crate::vectors::{bytes, key};

#[test]
fn lengths_outside_the_limits_are_refused() {
    let kek = key(&[1; 32]);
    for len in [1, 8, 15, 17, 31, 63, 4095] {
        assert_eq!(wrap(&kek, &key(&vec![2; len])).unwrap_err().code(), "VMSEAL_KEY_LENGTH", "{len}");
    }
    for len in [1, 8, 15] {
        assert_eq!(wrap_padded(&kek, &key(&vec![2; len])).unwrap_err().code(), "VMSEAL_KEY_LENGTH", "{len}");
    }
    for len in [0, 1, 7, 8, 15, 16, 23, 25, 39, 4097, 4105, 4112, 1 << 20] {
        assert_eq!(unwrap(&kek, &vec![2; len]).unwrap_err().code(), "VMSEAL_UNWRAP_FAILED", "{len}");
        assert_eq!(unwrap_padded(&kek, &vec![2; len]).unwrap_err().code(), "VMSEAL_UNWRAP_FAILED", "{len}");
    }
    for len in [1, 15, 20, 31, 33, 64] {
        let (kek, dek) = (key(&vec![1; len]), key(&[2; 32]));
        assert_eq!(wrap(&kek, &dek).unwrap_err().code(), "VMSEAL_KEY_LENGTH", "{len}");
        assert_eq!(wrap_padded(&kek, &dek).unwrap_err().code(), "VMSEAL_KEY_LENGTH", "{len}");
        assert_eq!(unwrap(&kek, &[2; 40]).unwrap_err().code(), "VMSEAL_KEY_LENGTH", "{len}");
        assert_eq!(unwrap_padded(&kek, &[2; 40]).unwrap_err().code(), "VMSEAL_KEY_LENGTH", "{len}");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let (kek, dek) = (key(&[1; 32]), key(&[2; 64]));
    type Unwrap = fn(&SecretKey, &[u8]) -> Result<SecretKey, Error>;
    for (wrapped, open) in [(wrap(&kek, &dek), unwrap as Unwrap), (wrap_padded(&kek, &dek), unwrap_padded)] {
        let wrapped = wrapped.unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut altered = wrapped.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&kek, &altered), Err(Error::UnwrapFailed)), "bit {bit}");
        }
    }
}

#[test]
fn the_two_forms_do_not_open_each_other() {
    let (kek, dek) = (key(&[1; 32]), key(&[2; 32]));
    assert!(matches!(unwrap_padded(&kek, &wrap(&kek, &dek).unwrap()), Err(Error::UnwrapFailed)));
    assert!(matches!(unwrap(&kek, &wrap_padded(&kek, &dek).unwrap()), Err(Error::UnwrapFailed)));
}

proptest! {
    #[test]
    fn what_is_wrapped_unwraps(kek: [u8; 32], semiblocks in 2usize..=512, seed: u8) {
        let plain: Vec<u8> = (0..semiblocks * 8).map(|at| (at as u8).wrapping_mul(seed)).collect();
        let wrapped = wrap(&key(&kek), &key(&plain)).unwrap();
        prop_assert_eq!(wrapped.len(), plain.len() + 8);
        prop_assert_eq!(bytes(&unwrap(&key(&kek), &wrapped).unwrap()), plain);
    }

    #[test]
    fn what_is_wrapped_padded_unwraps(kek: [u8; 32], plain in proptest::collection::vec(any::<u8>(), 16..600)) {
        let wrapped = wrap_padded(&key(&kek), &key(&plain)).unwrap();
        prop_assert_eq!(bytes(&unwrap_padded(&key(&kek), &wrapped).unwrap()), plain);
    }

    #[test]
    fn no_input_unwraps_by_chance(wrapped in proptest::collection::vec(any::<u8>(), 0..200), other: [u8; 32]) {
        prop_assume!(other != [2; 32]);
        prop_assert!(unwrap(&key(&[1; 32]), &wrapped).is_err());
        prop_assert!(unwrap_padded(&key(&[1; 32]), &wrapped).is_err());
        let sound = wrap(&key(&[2; 32]), &key(&[3; 32])).unwrap();
        prop_assert!(unwrap(&key(&other), &sound).is_err());
    }
}
