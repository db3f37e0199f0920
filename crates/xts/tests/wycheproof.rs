//! Wycheproof aes_xts_test.json: messages of 16 to 136 bytes, tweaks of up to 16 bytes.

mod inputs;
mod vectors;

use inputs::{hex, key};
use serde_json::Value;

#[test]
fn aes_256_vectors() {
    let Some(text) = vectors::read("wycheproof/aes_xts_test.json") else { return };
    let file: Value = serde_json::from_str(&text).expect("a JSON document");
    let groups = file["testGroups"].as_array().expect("test groups");
    let mut checked = 0;
    for group in groups.iter().filter(|group| group["keySize"] == 512) {
        for test in group["tests"].as_array().expect("tests") {
            assert_eq!(test["result"], "valid");
            let field = |name: &str| hex(test[name].as_str().expect("a string"));
            let mut tweak = [0; 16];
            let number = field("iv");
            tweak[..number.len()].copy_from_slice(&number);
            vectors::check(
                &test["tcId"].to_string(),
                &key(&field("key")),
                tweak,
                &field("msg"),
                &field("ct"),
            );
            checked += 1;
        }
    }
    assert_eq!(checked, 41);
}
