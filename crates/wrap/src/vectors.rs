//! Reading published test vectors; they are not part of the project.

use std::path::PathBuf;

use vmseal_secret::SecretKey;

/// A key with known bytes.
pub(crate) fn key(bytes: &[u8]) -> SecretKey {
    SecretKey::try_init(bytes.len(), |slot| {
        slot.copy_from_slice(bytes);
        Ok::<(), vmseal_secret::Error>(())
    })
    .unwrap()
}

/// The bytes of a key, to compare with published ones.
pub(crate) fn bytes(key: &SecretKey) -> Vec<u8> {
    key.expose(<[u8]>::to_vec)
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A file of the vector folder; without it the test is skipped out loud, or fails if VMSEAL_REQUIRE_PEERS is 1.
pub(crate) fn file(name: &str) -> Option<String> {
    let folder = std::env::var_os("VMSEAL_VECTORS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors"),
        PathBuf::from,
    );
    match std::fs::read_to_string(folder.join(name)) {
        Ok(text) => Some(text),
        Err(error) => {
            let required = std::env::var("VMSEAL_REQUIRE_PEERS").is_ok_and(|value| value == "1");
            assert!(!required, "test vectors {name} not found (set VMSEAL_VECTORS): {error}");
            println!("skipped: test vectors not found (set VMSEAL_VECTORS)");
            None
        }
    }
}
