//! What a LUKS2 header may say that makes its volume none to be taken as it lies: each by itself, with its code and its word,
//! and nothing is made or changed. Headers of other programs are in `luks_import.rs`.

mod fixture;

use std::fs;
use std::path::PathBuf;

use fixture::{Datastore, binding, noise};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use vmseal_disk::{Control, Error, LuksImport, ViewKind, import_luks, open_sealed, view};
use vmseal_secret::SecretKey;

/// Bytes of one copy of the header, and where its JSON begins.
const COPY: usize = 16 << 10;
const JSON: usize = 4096;

/// A volume with a detached LUKS2 header that was right until somebody edits it.
struct Volume {
    store: Datastore,
    plain: Vec<u8>,
    data: PathBuf,
    header: PathBuf,
    secret: SecretKey,
    sound: Vec<u8>,
    _memory: TempDir,
}

impl Volume {
    fn new() -> Self {
        let (store, plain) = (Datastore::new(), noise(64 << 10, 21));
        let disk = store.sealed("own.vmdk", &plain, &store.spec());
        let memory = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let made = view(&disk, &store.kek, &binding(), ViewKind::Luks2, memory.path()).expect("a view");
        let secret = fs::read(&made.secret).expect("the secret");
        let secret = SecretKey::try_init(secret.len(), |slot| -> Result<(), vmseal_secret::Error> {
            slot.copy_from_slice(&secret);
            Ok(())
        });
        let sound = fs::read(&made.header).expect("the header");
        let (data, header) = (store.path("own-flat.vmdk"), made.header);
        Self { data, header, secret: secret.expect("key memory"), sound, store, plain, _memory: memory }
    }

    /// Writes the header with other metadata in both copies, each with a right sum.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let end = self.sound[JSON..COPY].iter().position(|&byte| byte == 0).expect("its end");
        let mut value: Value = serde_json::from_slice(&self.sound[JSON..JSON + end]).expect("JSON");
        change(&mut value);
        let text = value.to_string();
        let mut header = self.sound.clone();
        for copy in header[..2 * COPY].chunks_mut(COPY) {
            copy[JSON..].fill(0);
            copy[JSON..JSON + text.len()].copy_from_slice(text.as_bytes());
            copy[448..512].fill(0);
            let sum = Sha256::digest(&*copy);
            copy[448..480].copy_from_slice(&sum);
        }
        fs::write(&self.header, header).expect("the header");
    }

    fn import(&self) -> Result<LuksImport, Error> {
        let (target, spec) = (self.store.path("new.vmdk"), self.store.spec());
        import_luks(&self.data, Some(&self.header), &self.secret, &target, &spec, &Control::new())
    }

    /// That the import is refused so, and leaves everything as it is.
    fn refuses(&self, code: &str, word: &str) {
        let before = (
            self.store.names(),
            fs::read(&self.data).expect("data"),
            fs::read(&self.header).expect("header"),
        );
        let error = self.import().expect_err(word);
        assert_eq!(error.code(), code, "{word}: {error}");
        assert!(error.to_string().contains(word), "{word}: {error}");
        let after = (
            self.store.names(),
            fs::read(&self.data).expect("data"),
            fs::read(&self.header).expect("header"),
        );
        assert!(before == after, "{word}: something was changed");
    }

    /// That an otherwise right header with this change is refused so.
    fn refuses_with(&self, code: &str, word: &str, change: impl FnOnce(&mut Value)) {
        self.edit(change);
        self.refuses(code, word);
    }

    fn is_imported(&self) {
        self.import().expect("import");
        let disk = self.store.path("new.vmdk");
        let open = open_sealed(&disk, &self.store.kek, &binding()).expect("the disk opens");
        let mut bytes = vec![0; self.plain.len()];
        open.read_at(0, &mut bytes).expect("reading");
        assert!(bytes == self.plain);
        drop(open);
        for name in ["new.vmdk", "new.vmdk.vmseal"] {
            fs::remove_file(self.store.path(name)).expect("removal");
        }
    }
}

const UNSUPPORTED: &str = "VMSEAL_LUKS_UNSUPPORTED";
const INVALID: &str = "VMSEAL_LUKS_INVALID";
const PASSPHRASE: &str = "VMSEAL_LUKS_PASSPHRASE";

#[test]
fn what_lies_elsewhere_or_in_another_form_is_refused() {
    let volume = Volume::new();
    volume.is_imported();
    let with = |word: &str, field: &str, value: Value| {
        volume.refuses_with(UNSUPPORTED, word, |header| header["segments"]["0"][field] = value);
    };
    let integrity =
        json!({ "type": "hmac(sha256)", "journal_encryption": "none", "journal_integrity": "none" });
    with("integrity", "integrity", integrity);
    for tweak in ["8", "1", "18446744073709551615", "-1"] {
        with("iv_tweak", "iv_tweak", json!(tweak));
    }
    with("kind linear", "type", json!("linear"));
    for size in [0, 256, 1024, 2048, 8192] {
        with("only 512 or 4096", "sector_size", json!(size));
    }
    for cipher in
        ["serpent-xts-plain64", "aes-cbc-essiv:sha256", "aes-xts-plain", "aes-xts-plain64be", "null", ""]
    {
        with("can be taken as it lies", "encryption", json!(cipher));
    }
    with("does not reach to the end", "size", json!("4096"));
    volume.refuses_with(UNSUPPORTED, "several segments", |header| {
        let mut second = header["segments"]["0"].clone();
        second["offset"] = json!("32768");
        header["segments"]["0"]["size"] = json!("32768");
        header["segments"]["1"] = second;
    });
    volume.refuses_with(UNSUPPORTED, "several segments", |header| header["segments"] = json!({}));
    for (offset, code, word) in [
        ("1048576", INVALID, "end of the file"),
        ("65536", INVALID, "end of the file"),
        ("100", UNSUPPORTED, "whole number of sectors"),
        ("9223372036854775808", INVALID, "no number"),
        ("one", INVALID, "no number"),
    ] {
        volume.refuses_with(code, word, |header| header["segments"]["0"]["offset"] = json!(offset));
    }
    fs::write(&volume.header, &volume.sound).expect("the header");
    volume.is_imported();
}

#[test]
fn a_volume_that_is_at_work_or_asks_for_what_is_not_known_is_refused() {
    let volume = Volume::new();
    for requirement in
        ["online-reencrypt", "online-reencrypt-v2", "offline-reencrypt", "inline-hw-tags", "from-the-future"]
    {
        volume.refuses_with(UNSUPPORTED, requirement, |header| {
            header["config"]["requirements"] = json!({ "mandatory": [requirement] });
        });
    }
    for flag in ["in-reencryption", "backup-previous", "backup-final"] {
        volume.refuses_with(UNSUPPORTED, "reencryption", |header| {
            header["segments"]["0"]["flags"] = json!([flag]);
        });
    }
}

#[test]
fn key_slots_of_other_kinds_and_damaged_ones_are_refused() {
    let volume = Volume::new();
    let slot = |code: &str, word: &str, path: &[&str], value: Value| {
        volume.refuses_with(code, word, |header| {
            let mut at = &mut header["keyslots"]["0"];
            for name in path {
                at = &mut at[*name];
            }
            *at = value;
        });
    };
    slot(UNSUPPORTED, "256 bits", &["key_size"], json!(32));
    slot(UNSUPPORTED, "256 bits", &["area", "key_size"], json!(32));
    slot(UNSUPPORTED, "serpent", &["area", "encryption"], json!("serpent-xts-plain64"));
    slot(UNSUPPORTED, "unknown kind", &["kdf", "type"], json!("scrypt"));
    slot(UNSUPPORTED, "whirlpool", &["kdf", "hash"], json!("whirlpool"));
    slot(UNSUPPORTED, "stored in a way", &["af", "stripes"], json!(1));
    slot(UNSUPPORTED, "stored in a way", &["area", "type"], json!("journal"));
    slot(INVALID, "no base64", &["kdf", "salt"], json!("*"));
    slot(INVALID, "impossible", &["kdf", "iterations"], json!(0));
    slot(INVALID, "impossible", &["area", "size"], json!("4096"));
    slot(INVALID, "impossible", &["area", "offset"], json!("0"));
    slot(INVALID, "ends inside", &["area", "offset"], json!("1073741824"));
    slot(INVALID, "no number", &["area", "offset"], json!("-5"));
    // Of a reencryption whose requirement somebody took away.
    let job = json!({ "type": "reencrypt", "key_size": 1, "mode": "encrypt", "direction": "forward",
        "area": { "type": "none", "offset": "32768", "size": "4096" } });
    volume.refuses_with(UNSUPPORTED, "reencryption", |header| {
        header["keyslots"]["1"] = job;
        header["digests"]["0"]["keyslots"] = json!(["0", "1"]);
    });
    volume.refuses_with(PASSPHRASE, "no key slot", |header| header["keyslots"] = json!({}));
    volume
        .refuses_with(PASSPHRASE, "no key slot", |header| header["digests"]["0"]["segments"] = json!(["7"]));
    volume.refuses_with(PASSPHRASE, "no key slot", |header| {
        header["digests"]["0"]["digest"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    });
    // One bit of the key material, which 4000 stripes spread over the whole key.
    for at in [2 * COPY, 2 * COPY + 100_000, 2 * COPY + 64 * 4000 - 1] {
        let mut header = volume.sound.clone();
        header[at] ^= 1;
        fs::write(&volume.header, header).expect("the header");
        volume.refuses(PASSPHRASE, "no key slot");
    }
    fs::write(&volume.header, &volume.sound[..2 * COPY + 4096]).expect("the header");
    volume.refuses(INVALID, "ends inside");
}

#[test]
fn a_detached_header_that_is_none_is_refused_and_tokens_are_passed_over() {
    let volume = Volume::new();
    fs::write(&volume.header, b"").expect("an empty header");
    volume.refuses(INVALID, "ends inside");
    fs::write(&volume.header, noise(volume.sound.len(), 5)).expect("noise");
    volume.refuses(INVALID, "no LUKS header");
    let mut header = volume.sound.clone();
    header[JSON + 3] ^= 1;
    header[COPY + JSON + 3] ^= 1;
    fs::write(&volume.header, header).expect("both copies torn");
    volume.refuses(INVALID, "no LUKS header");
    // Who unlocks by a token has no passphrase; the token says nothing of the data.
    for token in [
        json!({ "type": "systemd-tpm2", "keyslots": ["0"], "tpm2-blob": "AAAA" }),
        json!({ "type": "vmseal", "keyslots": ["0"], "vmseal": { "kid": "someone's" } }),
        json!({ "type": "luks2-keyring", "keyslots": ["0"], "key_description": "x" }),
    ] {
        volume.edit(|header| header["tokens"] = json!({ "0": token }));
        volume.is_imported();
    }
}
