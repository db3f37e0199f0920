//! Every kernel this CPU can run, alone and side by side, against every other.

use proptest::prelude::*;
use vmseal_secret::SecretKey;

use super::many::{WrapJob, unwrap_jobs, unwrap_row_with, wrap_jobs};
use super::{
    Kernel, SEMIBLOCK, unwrap_many, unwrap_row, unwrap_with, wrap_into, wrap_many, wrap_many_into, wrap_with,
};
use crate::Error;
use crate::vectors::{bytes, key};

/// Numbers of keys around the widths of the kernels.
const COUNTS: [usize; 4] = [1, 2, 9, 33];

/// [`super::wrap`], in which all kernels must agree.
pub(super) fn wrap(kek: &SecretKey, dek: &SecretKey) -> Result<Vec<u8>, Error> {
    let wrapped = super::wrap(kek, dek)?;
    for kernel in supported() {
        let mut alone = vec![0; wrapped.len()];
        wrap_with(kernel, kek, dek, &mut alone)?;
        assert_eq!(alone, wrapped, "{kernel}");
        for count in COUNTS {
            for side_by_side in wrap_with_kernel(kernel, kek, &vec![dek; count])? {
                assert_eq!(side_by_side, wrapped, "{kernel} x {count}");
            }
        }
    }
    Ok(wrapped)
}

/// [`super::unwrap`], in which all kernels must agree.
pub(super) fn unwrap(kek: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, Error> {
    let opened = super::unwrap(kek, wrapped);
    if let Err(Error::KeyLength { .. }) = opened {
        return opened;
    }
    for kernel in supported() {
        if opened.is_ok() {
            assert_same(&unwrap_with(kernel, kek, wrapped), &opened);
        }
        for count in COUNTS {
            let all = unwrap_jobs(kernel, kek, &vec![wrapped; count])?;
            assert_eq!(all.len(), count);
            all.iter().for_each(|one| assert_same(one, &opened));
            // Longer keys are left to the other way.
            if let Some(row) = unwrap_row_with(kernel, kek, &wrapped.repeat(count), wrapped.len())? {
                assert_eq!(row.len(), count);
                row.into_iter().for_each(|one| assert_same(&Ok(one), &opened));
            }
        }
    }
    opened
}

fn assert_same(one: &Result<SecretKey, Error>, other: &Result<SecretKey, Error>) {
    match (one, other) {
        (Ok(one), Ok(other)) => assert!(one.ct_eq(other)),
        (Err(one), Err(other)) => assert_eq!(one.code(), other.code()),
        _ => panic!("one kernel opens what another refuses"),
    }
}

fn supported() -> impl Iterator<Item = Kernel> {
    Kernel::ALL.into_iter().filter(|kernel| {
        let supported = kernel.is_supported();
        if !supported {
            println!("skipped: this CPU has no {kernel}");
        }
        supported
    })
}

fn wrap_with_kernel(kernel: Kernel, kek: &SecretKey, keys: &[&SecretKey]) -> Result<Vec<Vec<u8>>, Error> {
    let mut wrapped: Vec<Vec<u8>> = keys.iter().map(|key| vec![0; key.len() + SEMIBLOCK]).collect();
    let outputs = wrapped.iter_mut().map(Vec::as_mut_slice);
    wrap_jobs(kernel, kek, keys.iter().zip(outputs).map(|(key, wrapped)| WrapJob { key, wrapped }))?;
    Ok(wrapped)
}

fn random_key(len: usize) -> SecretKey {
    SecretKey::generate(len).unwrap()
}

#[test]
fn nothing_is_wrapped_or_opened_in_nothing() {
    let kek = random_key(32);
    assert!(wrap_many(&kek, &[]).unwrap().is_empty());
    assert!(unwrap_many(&kek, &[]).unwrap().is_empty());
    wrap_many_into(&kek, &[], &mut []).unwrap();
}

#[test]
fn one_bad_key_fails_the_call_before_anything_is_written() {
    let (kek, dek, odd) = (random_key(32), random_key(64), random_key(33));
    assert!(matches!(wrap_many(&kek, &[&dek, &odd]), Err(Error::KeyLength { actual: 33, .. })));
    let mut packed = [0x5a; 72 + 41];
    assert!(matches!(wrap_many_into(&kek, &[&dek, &odd], &mut packed), Err(Error::KeyLength { .. })));
    assert!(packed.iter().all(|byte| *byte == 0x5a));
}

#[test]
fn buffers_of_another_length_are_refused() {
    let (kek, dek) = (random_key(32), random_key(64));
    for len in [0, 64, 71, 73, 144] {
        let refused = |result| assert!(matches!(result, Err(Error::InvalidArgument { .. })), "{len}");
        refused(wrap_into(&kek, &dek, &mut vec![0; len]));
        refused(wrap_many_into(&kek, &[&dek], &mut vec![0; len]));
    }
}

#[test]
fn keks_of_other_lengths_are_refused() {
    for len in [1, 15, 31, 33, 64] {
        let (kek, dek) = (random_key(len), random_key(64));
        assert!(matches!(wrap_many(&kek, &[&dek]), Err(Error::KeyLength { .. })));
        assert!(matches!(unwrap_many(&kek, &[&[0; 72]]), Err(Error::KeyLength { .. })));
    }
}

#[test]
fn one_bad_wrap_spoils_no_other() {
    let kek = random_key(32);
    let keys: Vec<SecretKey> = (0..40).map(|at| random_key(if at % 5 == 0 { 32 } else { 64 })).collect();
    let wrapped = wrap_many(&kek, &keys.iter().collect::<Vec<_>>()).unwrap();
    for kernel in supported() {
        for bad in 0..wrapped.len() {
            let mut altered = wrapped.clone();
            altered[bad][bad % 40] ^= 1 << (bad % 8);
            if bad % 3 == 0 {
                altered[bad].truncate(bad);
            }
            let slices: Vec<&[u8]> = altered.iter().map(Vec::as_slice).collect();
            for (at, opened) in unwrap_jobs(kernel, &kek, &slices).unwrap().into_iter().enumerate() {
                if at == bad {
                    assert!(matches!(opened, Err(Error::UnwrapFailed)), "{kernel} {at}");
                } else {
                    assert!(opened.unwrap().ct_eq(&keys[at]), "{kernel} {at} beside {bad}");
                }
            }
        }
    }
}

#[test]
fn every_length_through_every_kernel() {
    let kek = random_key(32);
    let keys: Vec<SecretKey> = (2..=512).map(|semiblocks| random_key(semiblocks * SEMIBLOCK)).collect();
    for dek in &keys {
        let mut expected = vec![0; dek.len() + SEMIBLOCK];
        wrap_with(Kernel::Portable, &kek, dek, &mut expected).unwrap();
        for kernel in supported() {
            let mut wrapped = vec![0; expected.len()];
            wrap_with(kernel, &kek, dek, &mut wrapped).unwrap();
            assert_eq!(wrapped, expected, "{kernel}");
            assert!(unwrap_with(kernel, &kek, &wrapped).unwrap().ct_eq(dek), "{kernel}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn mixed_lengths_side_by_side_equal_one_after_the_other(
        kek: [u8; 32],
        lengths in prop::collection::vec(prop_oneof![Just(8usize), Just(4), 2usize..=40, 2usize..=512], 0..80),
        seed: u8,
    ) {
        let kek = key(&kek);
        let keys: Vec<SecretKey> = lengths
            .iter()
            .zip(seed..=u8::MAX)
            .map(|(semiblocks, start)| {
                let plain: Vec<u8> = (0..semiblocks * SEMIBLOCK).map(|at| (at as u8).wrapping_mul(start)).collect();
                key(&plain)
            })
            .collect();
        let keys: Vec<&SecretKey> = keys.iter().collect();
        let expected = wrap_with_kernel(Kernel::Portable, &kek, &keys).unwrap();
        let mut packed = vec![0; expected.iter().map(Vec::len).sum()];
        wrap_many_into(&kek, &keys, &mut packed).unwrap();
        prop_assert_eq!(packed, expected.concat());
        let slices: Vec<&[u8]> = expected.iter().map(Vec::as_slice).collect();
        for kernel in supported() {
            prop_assert_eq!(&wrap_with_kernel(kernel, &kek, &keys).unwrap(), &expected, "{}", kernel);
            for (opened, key) in unwrap_jobs(kernel, &kek, &slices).unwrap().into_iter().zip(&keys) {
                prop_assert_eq!(bytes(&opened.unwrap()), bytes(key), "{}", kernel);
            }
        }
    }
}

#[test]
fn a_row_opens_in_order_and_only_as_a_whole() {
    let kek = SecretKey::generate(32).unwrap();
    for kernel in supported() {
        for (length, count) in
            [16, 24, 32, 64].into_iter().flat_map(|length| [1, 7, 32, 70].map(|n| (length, n)))
        {
            let keys: Vec<_> = (0..count).map(|_| SecretKey::generate(length).unwrap()).collect();
            let mut packed =
                wrap_with_kernel(kernel, &kek, &keys.iter().collect::<Vec<_>>()).unwrap().concat();
            let row = unwrap_row_with(kernel, &kek, &packed, length + 8).unwrap();
            if kernel == Kernel::Portable {
                assert!(row.is_none());
                continue;
            }
            let row = row.expect("all of them open");
            assert_eq!(row.len(), keys.len());
            assert!(
                row.iter().zip(&keys).all(|(opened, key)| opened.ct_eq(key)),
                "{kernel}: {count} x {length}"
            );
            for spoilt in [0, count as usize / 2, count as usize - 1] {
                packed[spoilt * (length + 8)] ^= 1;
                assert!(
                    unwrap_row_with(kernel, &kek, &packed, length + 8).unwrap().is_none(),
                    "{kernel}: {spoilt}"
                );
                packed[spoilt * (length + 8)] ^= 1;
            }
        }
    }
}

#[test]
fn a_row_that_is_none_is_left_to_the_other_way() {
    let kek = SecretKey::generate(32).unwrap();
    for (bytes, length) in [(72, 0), (72, 7), (71, 72), (73, 72), (72, 16), (16, 16), (80, 80), (72, 71)] {
        assert!(unwrap_row(&kek, &vec![0; bytes], length).unwrap().is_none(), "{bytes} by {length}");
    }
    for kernel in supported().filter(|kernel| *kernel != Kernel::Portable) {
        assert!(unwrap_row_with(kernel, &kek, &[], 72).unwrap().expect("nothing to open").is_empty());
    }
    assert!(matches!(unwrap_row(&key(&[0; 31]), &[0; 72], 72), Err(Error::KeyLength { .. })));
}
