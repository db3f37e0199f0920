//! Published test vectors, which stand outside the project, and how every implementation is run on one.

#![allow(dead_code, reason = "every test file uses a part")]

use std::path::PathBuf;

use vmseal_secret::SecretKey;
use vmseal_xts::{Xts, data_unit};

use crate::inputs::kernels;

/// The text of a vector file; `None`, said out loud, when the vectors are not here.
pub fn read(name: &str) -> Option<String> {
    let directory = std::env::var_os("VMSEAL_VECTORS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
        PathBuf::from,
    );
    match std::fs::read_to_string(directory.join(name)) {
        Ok(text) => Some(text),
        Err(error) if std::env::var_os("VMSEAL_REQUIRE_PEERS").is_some_and(|value| value == "1") => {
            panic!("test vectors {name} not found (set VMSEAL_VECTORS): {error}")
        }
        Err(_) => {
            println!("skipped: test vectors not found (set VMSEAL_VECTORS)");
            None
        }
    }
}

/// Checks one data unit in both directions, by the data-unit functions and, where its tweak is a sector number, by
/// every kernel.
pub fn check(name: &str, key: &SecretKey, tweak: [u8; 16], plaintext: &[u8], ciphertext: &[u8]) {
    let mut data = plaintext.to_vec();
    data_unit::encrypt(key, &tweak, &mut data).expect("encrypt");
    assert_eq!(data, ciphertext, "{name}: encryption");
    data_unit::decrypt(key, &tweak, &mut data).expect("decrypt");
    assert_eq!(data, plaintext, "{name}: decryption");

    let number = u128::from_le_bytes(tweak);
    if let Ok(sector) = u64::try_from(number) {
        check_kernels(name, key, sector, plaintext, ciphertext);
    }
}

/// Before the blocks that take part in ciphertext stealing, a block depends on nothing behind it: so a vector shorter
/// than a sector is the beginning of one.
fn check_kernels(name: &str, key: &SecretKey, sector: u64, plaintext: &[u8], ciphertext: &[u8]) {
    let stolen = usize::from(!plaintext.len().is_multiple_of(16));
    let whole = (plaintext.len() / 16 - stolen) * 16;
    if whole == 0 {
        return;
    }
    let size = whole.next_power_of_two().max(512);
    let Ok(sector_size) = u32::try_from(size) else { return };
    for kernel in kernels() {
        let xts = Xts::with_kernel(key, sector_size, 1, kernel).expect("cipher");
        let mut data = plaintext[..whole].to_vec();
        data.resize(size, 0xa5);
        xts.encrypt(&mut data, sector).expect("encrypt");
        assert_eq!(data[..whole], ciphertext[..whole], "{name}: encryption by {kernel}");
        data[whole..].fill(0x5a);
        xts.decrypt(&mut data, sector).expect("decrypt");
        assert_eq!(data[..whole], plaintext[..whole], "{name}: decryption by {kernel}");
    }
}
