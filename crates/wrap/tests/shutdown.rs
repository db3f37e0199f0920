//! Once the keys are wiped (the process exits), nothing is sealed or opened with the zeros that are left of them.

use vmseal_secret::SecretKey;
use vmseal_wrap::{Error, at_rest, envelope, hpke, key_check_value, key_wrap, stream};

const HEADER: &str = r#"{"vmseal":{"id":"6000c291-35bd-fd2d-e77e-709fb2c53635"}}"#;

#[test]
fn wiped_keys_are_not_used() {
    let (kek, dek) = (SecretKey::generate(32).unwrap(), SecretKey::generate(32).unwrap());
    let host = hpke::HostKey::generate().unwrap();
    let wrapped = key_wrap::wrap(&kek, &dek).unwrap();
    let padded = key_wrap::wrap_padded(&kek, &dek).unwrap();
    let jwe = envelope::seal(&kek, &dek, HEADER).unwrap();
    let text = envelope::seal_text(&dek, HEADER, b"x").unwrap();
    let sealed = hpke::seal(&host.public_key(), b"", &kek).unwrap();
    let record = at_rest::seal(&kek, &dek, b"").unwrap();
    let mut file = Vec::new();
    stream::encrypt(&dek, b"", &mut &b"x"[..], &mut file, &mut |_| Ok(())).unwrap();

    vmseal_secret::wipe_all();

    let mut written = Vec::new();
    let refused: [(&str, Result<(), Error>); 13] = [
        ("wrap", key_wrap::wrap(&kek, &dek).map(drop)),
        ("unwrap", key_wrap::unwrap(&kek, &wrapped).map(drop)),
        ("wrap_padded", key_wrap::wrap_padded(&kek, &dek).map(drop)),
        ("unwrap_padded", key_wrap::unwrap_padded(&kek, &padded).map(drop)),
        ("envelope::seal", envelope::seal(&kek, &dek, HEADER).map(drop)),
        ("envelope::open", envelope::open(&kek, &jwe).map(drop)),
        ("seal_text", envelope::seal_text(&dek, HEADER, b"x").map(drop)),
        ("open_text", envelope::open_text(&dek, &text).map(drop)),
        ("hpke::seal", hpke::seal(&host.public_key(), b"", &kek).map(drop)),
        ("hpke::open", host.open(b"", &sealed).map(drop)),
        ("at_rest::seal", at_rest::seal(&kek, &dek, b"").map(drop)),
        ("at_rest::open", at_rest::open(&kek, &record, b"").map(drop)),
        ("stream", stream::encrypt(&dek, b"", &mut &b"x"[..], &mut written, &mut |_| Ok(())).map(drop)),
    ];
    for (name, result) in refused {
        assert_eq!(result.unwrap_err().code(), "VMSEAL_SHUTTING_DOWN", "{name}");
    }
    let decrypted = stream::decrypt(&dek, b"", &mut &file[..], &mut written, &mut |_| Ok(()));
    assert_eq!(decrypted.unwrap_err().code(), "VMSEAL_SHUTTING_DOWN");
    assert!(written.is_empty());
    assert_eq!(key_check_value(&[1; 16], &dek), [0; 16]);
}
