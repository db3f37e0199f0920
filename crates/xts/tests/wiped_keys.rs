//! A cipher whose key was wiped refuses. One test in this file: the wipe is for the whole process, and for good.

mod inputs;

use inputs::{Bytes, kernels, numbered_key};
use vmseal_xts::{Xts, data_unit};

#[test]
fn ciphers_refuse_once_the_keys_are_wiped() {
    let key = numbered_key(1);
    let ciphers: Vec<Xts> =
        kernels().map(|kernel| Xts::with_kernel(&key, 512, 1, kernel).expect("cipher")).collect();
    let original = Bytes::new(2).take(4096);
    let mut data = original.clone();
    let mut copy = vec![0; data.len()];
    vmseal_secret::wipe_all();
    for xts in ciphers {
        for error in [
            xts.encrypt(&mut data, 0).expect_err("wiped"),
            xts.decrypt(&mut data, 0).expect_err("wiped"),
            xts.encrypt_to(&original, &mut copy, 0).expect_err("wiped"),
            xts.decrypt_to(&original, &mut copy, 0).expect_err("wiped"),
        ] {
            assert_eq!(error.code(), "VMSEAL_SHUTTING_DOWN", "{}", xts.kernel());
        }
        assert!(data == original && copy.iter().all(|byte| *byte == 0));
    }
    assert_eq!(Xts::new(&key, 512, 1).expect_err("wiped").code(), "VMSEAL_SHUTTING_DOWN");
    assert_eq!(
        data_unit::encrypt(&key, &[0; 16], &mut data).expect_err("wiped").code(),
        "VMSEAL_SHUTTING_DOWN"
    );
    assert!(data == original);
}
