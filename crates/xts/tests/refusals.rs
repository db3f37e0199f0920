//! What the cipher refuses, with which code, and that it then leaves the data alone.

mod inputs;

use inputs::{Bytes, key, numbered_key};
use vmseal_xts::{Kernel, SECTOR_SIZES, Xts, data_unit};

#[test]
fn keys_of_other_lengths() {
    for length in [1, 16, 32, 48, 63, 65, 96, 128] {
        let short = key(&Bytes::new(length).take(length as usize));
        assert_eq!(Xts::new(&short, 512, 1).expect_err("length").code(), "VMSEAL_KEY_LENGTH", "{length}");
        let mut data = [0; 16];
        let error = data_unit::encrypt(&short, &[0; 16], &mut data).expect_err("length");
        assert_eq!(error.code(), "VMSEAL_KEY_LENGTH");
        assert_eq!(data, [0; 16]);
    }
}

#[test]
fn equal_halves_under_every_kernel() {
    let half = Bytes::new(1).take(32);
    let weak = key(&[half.clone(), half].concat());
    for kernel in inputs::kernels() {
        let error = Xts::with_kernel(&weak, 512, 1, kernel).expect_err("equal halves");
        assert_eq!(error.code(), "VMSEAL_KEY_WEAK");
    }
    assert_eq!(
        data_unit::decrypt(&weak, &[0; 16], &mut [0; 16]).expect_err("equal halves").code(),
        "VMSEAL_KEY_WEAK"
    );
}

#[test]
fn halves_that_differ_in_one_bit_are_accepted() {
    let half = Bytes::new(1).take(32);
    for bit in 0..256 {
        let mut other = half.clone();
        other[bit / 8] ^= 1 << (bit % 8);
        Xts::new(&key(&[half.clone(), other].concat()), 512, 1).expect("different halves");
    }
}

#[test]
fn other_sector_sizes() {
    let key = numbered_key(1);
    for size in [0, 1, 16, 256, 511, 513, 520, 768, 4097, 8192, 65536, u32::MAX] {
        let error = Xts::new(&key, size, 1).expect_err("sector size");
        assert_eq!(error.code(), "VMSEAL_INVALID_ARGUMENT");
        assert!(error.to_string().contains(&size.to_string()));
    }
}

#[test]
fn tweak_step_zero() {
    assert_eq!(Xts::new(&numbered_key(1), 512, 0).expect_err("step").code(), "VMSEAL_INVALID_ARGUMENT");
}

#[test]
fn parts_of_sectors() {
    for sector_size in SECTOR_SIZES {
        let size = sector_size as usize;
        let xts = Xts::new(&numbered_key(1), sector_size, 1).expect("cipher");
        for length in [1, 15, 16, size - 1, size + 1, size + 16, 3 * size - 512 + 1, 300 * size + 16] {
            let original = Bytes::new(2).take(length);
            let mut data = original.clone();
            assert_eq!(xts.encrypt(&mut data, 0).expect_err("part").code(), "VMSEAL_SECTOR_ALIGNMENT");
            assert_eq!(xts.decrypt(&mut data, 0).expect_err("part").code(), "VMSEAL_SECTOR_ALIGNMENT");
            let mut copy = vec![0; length];
            assert_eq!(
                xts.encrypt_to(&data, &mut copy, 0).expect_err("part").code(),
                "VMSEAL_SECTOR_ALIGNMENT"
            );
            assert_eq!(
                xts.decrypt_to(&data, &mut copy, 0).expect_err("part").code(),
                "VMSEAL_SECTOR_ALIGNMENT"
            );
            assert_eq!(data, original);
            assert!(copy.iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn buffers_of_different_lengths() {
    let xts = Xts::new(&numbered_key(1), 512, 1).expect("cipher");
    let source = [1; 1024];
    for length in [0, 512, 1023, 1025, 2048] {
        let mut destination = vec![7; length];
        let error = xts.encrypt_to(&source, &mut destination, 0).expect_err("lengths");
        assert_eq!(error.code(), "VMSEAL_INVALID_ARGUMENT");
        let error = xts.decrypt_to(&source, &mut destination, 0).expect_err("lengths");
        assert_eq!(error.code(), "VMSEAL_INVALID_ARGUMENT");
        assert!(destination.iter().all(|byte| *byte == 7));
    }
}

#[test]
fn data_units_too_short_or_too_long() {
    let key = numbered_key(1);
    for length in [0, 1, 15, data_unit::MAX_LENGTH + 1] {
        let mut data = vec![3; length];
        let error = data_unit::encrypt(&key, &[0; 16], &mut data).expect_err("length");
        assert_eq!(error.code(), "VMSEAL_INVALID_ARGUMENT");
        let error = data_unit::decrypt(&key, &[0; 16], &mut data).expect_err("length");
        assert_eq!(error.code(), "VMSEAL_INVALID_ARGUMENT");
        assert!(data.iter().all(|byte| *byte == 3));
    }
}

#[test]
fn kernels_the_cpu_lacks() {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !kernel.is_supported()) {
        let error = Xts::with_kernel(&numbered_key(1), 512, 1, kernel).expect_err("unsupported");
        assert_eq!(error.code(), "VMSEAL_INVALID_ARGUMENT");
    }
}

#[test]
fn no_sectors_are_no_work() {
    let xts = Xts::new(&numbered_key(1), 4096, 8).expect("cipher");
    xts.encrypt(&mut [], u64::MAX).expect("empty");
    xts.decrypt_to(&[], &mut [], 7).expect("empty");
}

#[test]
fn debug_output_names_no_key() {
    let bytes = Bytes::new(9).take(64);
    let text = format!("{:?}", Xts::new(&key(&bytes), 512, 1).expect("cipher"));
    assert!(text.starts_with("Xts { sector_size: 512, tweak_step: 1, kernel: "), "{text}");
    assert!(text.len() < 80, "{text}");
}
