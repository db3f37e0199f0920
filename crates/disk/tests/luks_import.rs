//! Volumes that cryptsetup and QEMU made become disks as they lie.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fixture::{DISK, Datastore, MIB, VM, binding, code, noise, skip};
use tempfile::TempDir;
use vmseal_disk::{
    Binding, Control, Descriptor, Error, LuksImport, SealSpec, ViewKind, decrypt_copy, encrypt_in_place,
    import_luks, open_sealed, recrypt_copy, view,
};
use vmseal_secret::SecretKey;

const PASSPHRASE: &str = "correct horse";

fn passphrase(text: &str) -> SecretKey {
    SecretKey::try_init(text.len(), |slot| -> Result<(), vmseal_secret::Error> {
        slot.copy_from_slice(text.as_bytes());
        Ok(())
    })
    .expect("key memory")
}

/// What the program printed; `None`, said out loud, when it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        // qemu-img measures how fast PBKDF2 is here, and gives up when the kernel's clock saw no time pass.
        Ok(output)
            if String::from_utf8_lossy(&output.stderr).contains("Unable to get accurate CPU usage") =>
        {
            run(program, arguments)
        }
        Ok(output) => {
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Some(output)
        }
        Err(_) => {
            skip(&format!("{program} (Debian packages cryptsetup-bin, qemu-utils)"));
            None
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// cryptsetup with a cheap passphrase function, so that a test takes no seconds.
fn cryptsetup(store: &Datastore, arguments: &[&str]) -> Option<Output> {
    let key_file = store.write("key", PASSPHRASE.as_bytes());
    let mut all = arguments.to_vec();
    all.extend(["--batch-mode", "--key-file", text(&key_file)]);
    run("cryptsetup", &all)
}

const PBKDF2: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
const XTS: [&str; 4] = ["--cipher", "aes-xts-plain64", "--key-size", "512"];

fn import(store: &Datastore, volume: &Path, header: Option<&Path>, name: &str) -> Result<LuksImport, Error> {
    let spec = store.spec();
    import_luks(volume, header, &passphrase(PASSPHRASE), &store.path(name), &spec, &Control::new())
}

fn content(store: &Datastore, descriptor: &Path) -> Vec<u8> {
    let disk = open_sealed(descriptor, &store.kek, &binding()).expect("the disk opens");
    let mut bytes = vec![0; disk.capacity() as usize];
    disk.read_at(0, &mut bytes).expect("reading");
    bytes
}

#[test]
fn luks2_that_cryptsetup_encrypted_is_read_with_either_sector_size_and_every_kdf() {
    let argon = |kind| {
        vec![
            "--pbkdf",
            kind,
            "--pbkdf-memory",
            "8192",
            "--pbkdf-parallel",
            "2",
            "--pbkdf-force-iterations",
            "4",
        ]
    };
    let sha512 = [&PBKDF2[..], &["--hash", "sha512"]].concat();
    for (sector, kdf) in
        [("512", PBKDF2.to_vec()), ("4096", argon("argon2id")), ("512", argon("argon2i")), ("4096", sha512)]
    {
        let (store, plain) = (Datastore::new(), noise(MIB, 11));
        let (volume, header) = (store.write("v.img", &plain), store.path("v.hdr"));
        let mut call = vec!["reencrypt", "--encrypt", "--type", "luks2", "--sector-size", sector];
        call.extend(["--header", text(&header), text(&volume)].into_iter().chain(XTS).chain(kdf));
        let Some(_) = cryptsetup(&store, &call) else { return };
        let ciphertext = fs::read(&volume).expect("the volume");
        assert!(ciphertext != plain);
        let made = import(&store, &volume, Some(&header), "v.vmdk").expect("import");
        assert_eq!((made.version, made.bytes, made.data_offset), (2, MIB as u64, 0));
        assert_eq!(made.sector_size.to_string(), sector);
        assert!(content(&store, &store.path("v.vmdk")) == plain, "{sector}");
        assert!(fs::read(&volume).expect("the volume") == ciphertext, "import writes nothing");
    }
}

#[test]
fn luks2_with_its_header_in_front_is_read_behind_it_and_goes_on_as_every_disk() {
    let (store, plain) = (Datastore::new(), noise(2 * MIB, 12));
    // cryptsetup moves the data back by half of what it takes from the end.
    let mut bytes = plain.clone();
    bytes.resize(34 * MIB, 0);
    let volume = store.write("v.img", &bytes);
    let mut call = vec!["reencrypt", "--encrypt", "--type", "luks2", "--reduce-device-size", "32M"];
    call.extend([text(&volume)].into_iter().chain(XTS).chain(PBKDF2));
    let Some(_) = cryptsetup(&store, &call) else { return };
    let made = import(&store, &volume, None, "v.vmdk").expect("import");
    assert_eq!(made.data_offset, 16 * MIB as u64);
    let disk = store.path("v.vmdk");
    assert!(content(&store, &disk)[..2 * MIB] == plain);

    let folder = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let made = view(&disk, &store.kek, &binding(), ViewKind::Luks2, folder.path()).expect("a view");
    let dump = run("cryptsetup", &["luksDump", text(&made.header)]).expect("cryptsetup");
    assert!(String::from_utf8_lossy(&dump.stdout).contains("offset: 16777216 [bytes]"));

    let copy = store.path("copy.vmdk");
    decrypt_copy(&disk, &copy, &store.kek, &binding(), &Control::new()).expect("decryption");
    assert!(fs::read(store.path("copy-flat.vmdk")).expect("the copy")[..2 * MIB] == plain);
    let (deep, other) = (store.path("deep.vmdk"), SealSpec { disk_id: [9; 16], ..store.spec() });
    recrypt_copy(&disk, &deep, &store.kek, &binding(), &other, &Control::new()).expect("recrypt");
    let binding = Binding { disk_id: [9; 16], ..binding() };
    let disk_again = open_sealed(&deep, &store.kek, &binding).expect("the disk opens");
    let mut head = vec![0; 2 * MIB];
    disk_again.read_at(0, &mut head).expect("reading");
    assert!(head == plain);

    // What lies before the data would be taken for data.
    let refused = encrypt_in_place(&disk, &store.spec(), &Control::new());
    assert!(matches!(code(refused), "VMSEAL_DESCRIPTOR_UNSUPPORTED" | "VMSEAL_DISK_STATE"));
}

#[test]
fn luks1_of_qemu_and_of_cryptsetup_are_read() {
    let (store, plain) = (Datastore::new(), noise(MIB, 13));
    let (raw, volume) = (store.write("plain.raw", &plain), store.path("q.luks"));
    let secret = format!("secret,id=s,data={PASSPHRASE}");
    let options = "key-secret=s,cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,iter-time=200";
    let call =
        ["convert", "-f", "raw", "-O", "luks", "--object", &secret, "-o", options, text(&raw), text(&volume)];
    if run("qemu-img", &call).is_some() {
        let made = import(&store, &volume, None, "q.vmdk").expect("import");
        assert_eq!((made.version, made.sector_size), (1, 512));
        assert!(content(&store, &store.path("q.vmdk"))[..MIB] == plain);
    }
    for hash in ["sha1", "sha256", "sha512"] {
        let (volume, header) = (store.path(&format!("{hash}.img")), store.path(&format!("{hash}.hdr")));
        fs::write(&volume, &plain).expect("a volume");
        let mut call =
            vec!["luksFormat", "--type", "luks1", "--hash", hash, "--header", text(&header), text(&volume)];
        call.extend(XTS.into_iter().chain(["--pbkdf-force-iterations", "1000"]));
        let Some(_) = cryptsetup(&store, &call) else { return };
        let disk = store.path(&format!("{hash}.vmdk"));
        import(&store, &volume, Some(&header), &format!("{hash}.vmdk")).expect("import");
        // Not written by anybody, so it decrypts to noise, and the volume key is what cryptsetup says it is.
        assert!(content(&store, &disk) == through_cryptsetup(&store, &header, &plain), "{hash}");
    }
}

/// `ciphertext` under the volume key that cryptsetup finds.
fn through_cryptsetup(store: &Datastore, header: &Path, ciphertext: &[u8]) -> Vec<u8> {
    let key_file = store.path("volume-key");
    let _ = fs::remove_file(&key_file);
    let dump = ["luksDump", "--dump-volume-key", "--volume-key-file", text(&key_file), text(header)];
    cryptsetup(store, &dump).expect("cryptsetup");
    let key = fs::read(key_file).expect("the volume key");
    let key = SecretKey::try_init(64, |slot| -> Result<(), vmseal_secret::Error> {
        slot.copy_from_slice(&key);
        Ok(())
    });
    let mut data = ciphertext.to_vec();
    vmseal_xts::Xts::new(&key.expect("key memory"), 512, 1)
        .expect("a cipher")
        .decrypt(&mut data, 0)
        .expect("data");
    data
}

/// A volume of ours through its own view, without another program.
struct Own {
    store: Datastore,
    plain: Vec<u8>,
    volume: PathBuf,
    header: PathBuf,
    secret: SecretKey,
    _memory: TempDir,
}

impl Own {
    fn new(kind: ViewKind, sector_size: u32) -> Self {
        let (store, plain) = (Datastore::new(), noise(64 << 10, 14));
        let spec = SealSpec { sector_size, ..store.spec() };
        let disk = store.sealed("own.vmdk", &plain, &spec);
        let memory = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let made = view(&disk, &store.kek, &binding(), kind, memory.path()).expect("a view");
        let secret = passphrase(&fs::read_to_string(&made.secret).expect("the secret"));
        Self {
            volume: store.path("own-flat.vmdk"),
            header: made.header,
            secret,
            store,
            plain,
            _memory: memory,
        }
    }

    fn import(&self, name: &str) -> Result<LuksImport, Error> {
        let (spec, target) = (self.store.spec(), self.store.path(name));
        import_luks(&self.volume, Some(&self.header), &self.secret, &target, &spec, &Control::new())
    }

    /// Overwrites bytes of the header.
    fn put(&self, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.header).expect("the header");
        file.write_all_at(bytes, at).expect("a change");
    }
}

#[test]
fn a_view_of_ours_leads_back_to_a_disk() {
    for (kind, sector_size) in [(ViewKind::Luks1, 512), (ViewKind::Luks2, 512), (ViewKind::Luks2, 4096)] {
        let own = Own::new(kind, sector_size);
        if kind == ViewKind::Luks1 {
            // The view's data follows its header; here it stands in a file of its own.
            own.put(104, &[0; 4]);
        }
        assert_eq!(own.import("again.vmdk").expect("import").sector_size, sector_size);
        assert!(content(&own.store, &own.store.path("again.vmdk")) == own.plain);
        let sealed = Descriptor::read(&own.store.path("again.vmdk")).expect("a descriptor").sealed;
        assert_eq!(sealed.expect("vmseal lines").id, DISK);
        let stranger = Binding { vm_id: [3; 16], ..binding() };
        assert_ne!(VM, stranger.vm_id);
        let opened = open_sealed(&own.store.path("again.vmdk"), &own.store.kek, &stranger);
        assert_eq!(opened.err().map(|error| error.code()), Some("VMSEAL_ENVELOPE_MISMATCH"));
    }
}

/// Two TiB and more: the tweak needs more than 32 bits.
#[test]
fn sectors_beyond_32_bits_are_the_same_to_us_and_to_qemu() {
    const SECTOR: u64 = (1 << 32) + 8;
    let (own, at) = (Own::new(ViewKind::Luks2, 512), SECTOR * 512);
    let volume = own.store.path("large.img");
    let file = File::create(&volume).expect("a volume");
    file.set_len(at + MIB as u64).expect("its length");
    let (spec, disk) = (own.store.spec(), own.store.path("large.vmdk"));
    import_luks(&volume, Some(&own.header), &own.secret, &disk, &spec, &Control::new()).expect("import");
    let memory = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let made = view(&disk, &own.store.kek, &binding(), ViewKind::Luks1, memory.path()).expect("a view");
    let vmdk = made.vmdk.expect("a descriptor for QEMU");
    let (secret, image) = (
        format!("secret,id=s,file={}", text(&made.secret)),
        format!("driver=luks,key-secret=s,file.driver=vmdk,file.file.filename={}", text(&vmdk)),
    );
    let qemu_io = |command: &str| {
        let output = run("qemu-io", &["--object", &secret, "--image-opts", &image, "-c", command])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("verification failed"), "{said}");
        Some(said)
    };
    let Some(_) = qemu_io(&format!("write -P 0x5a {at} 8192")) else { return };
    let open = open_sealed(&disk, &own.store.kek, &binding()).expect("the disk opens");
    let mut bytes = vec![0; 8192];
    open.read_at(at, &mut bytes).expect("reading");
    assert!(bytes.iter().all(|&byte| byte == 0x5a));

    // And what we encrypt there, with the key that cryptsetup finds in the header.
    let key_file = own.store.path("volume-key");
    let secret_file = own.header.with_file_name("again");
    own.secret.expose(|secret| fs::write(&secret_file, secret)).expect("the secret");
    let dump = ["luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", text(&key_file)];
    let Some(_) =
        run("cryptsetup", &[&dump[..], &["--key-file", text(&secret_file), text(&own.header)]].concat())
    else {
        return;
    };
    let mut ours = vec![0xa5; 8192];
    let key = fs::read(key_file).expect("the volume key");
    let key = SecretKey::try_init(64, |slot| -> Result<(), vmseal_secret::Error> {
        slot.copy_from_slice(&key);
        Ok(())
    });
    let xts = vmseal_xts::Xts::new(&key.expect("key memory"), 512, 1).expect("a cipher");
    xts.encrypt(&mut ours, SECTOR + 64).expect("encryption");
    file.write_all_at(&ours, at + 64 * 512).expect("writing");
    qemu_io(&format!("read -P 0xa5 {} 8192", at + 64 * 512)).expect("QEMU");
}

#[test]
fn the_second_copy_of_a_luks2_header_stands_in_for_the_first() {
    let own = Own::new(ViewKind::Luks2, 512);
    own.put(0, &[0; 4096]);
    own.import("again.vmdk").expect("import");
    assert!(content(&own.store, &own.store.path("again.vmdk")) == own.plain);
    own.put(16 << 10, &[0; 4096]);
    assert_eq!(code(own.import("third.vmdk")), "VMSEAL_LUKS_INVALID");
}

#[test]
fn what_cannot_be_taken_is_refused_by_name_and_leaves_no_file() {
    let own = Own::new(ViewKind::Luks1, 512);
    own.put(104, &[0; 4]);
    let names = own.store.names();
    let refused = |expected: &str, word: &str| {
        let error = own.import("no.vmdk").expect_err("a refusal");
        assert_eq!(error.code(), expected, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    };
    let iterations = fs::read(&own.header).expect("the header")[212..216].to_vec();
    for (at, bytes, code, word) in [
        (4, &b"\xde\xad"[..], "VMSEAL_LUKS_UNSUPPORTED", "reencryption"),
        (0, b"KLUS", "VMSEAL_LUKS_INVALID", "no LUKS header"),
        (8, b"serpent", "VMSEAL_LUKS_UNSUPPORTED", "serpent"),
        (40, b"cbc-essiv:sha256", "VMSEAL_LUKS_UNSUPPORTED", "cbc-essiv"),
        (72, b"ripemd160", "VMSEAL_LUKS_UNSUPPORTED", "ripemd160"),
        (108, &32u32.to_be_bytes(), "VMSEAL_LUKS_UNSUPPORTED", "256 bits"),
        (104, &u32::MAX.to_be_bytes(), "VMSEAL_LUKS_INVALID", "end of the file"),
        (208, &7u32.to_be_bytes(), "VMSEAL_LUKS_INVALID", "key slot"),
        (212, &u32::MAX.to_be_bytes(), "VMSEAL_LUKS_UNSUPPORTED", "computation"),
        (212, &0u32.to_be_bytes(), "VMSEAL_LUKS_INVALID", "impossible"),
        (248, &u32::MAX.to_be_bytes(), "VMSEAL_LUKS_INVALID", "ends inside"),
        (252, &u32::MAX.to_be_bytes(), "VMSEAL_LUKS_INVALID", "impossible"),
        (112, &[0; 20], "VMSEAL_LUKS_PASSPHRASE", "no key slot"),
    ] {
        let before = fs::read(&own.header).expect("the header")[at..at + bytes.len()].to_vec();
        own.put(at as u64, bytes);
        refused(code, word);
        own.put(at as u64, &before);
    }
    assert_eq!(iterations, 1000u32.to_be_bytes());
    let wrong = passphrase("another");
    let (target, spec, control) = (own.store.path("no.vmdk"), own.store.spec(), Control::new());
    let with = |volume: &Path, header: Option<&Path>, secret, target: &Path| {
        code(import_luks(volume, header, secret, target, &spec, &control))
    };
    let header = Some(own.header.as_path());
    assert_eq!(with(&own.volume, header, &wrong, &target), "VMSEAL_LUKS_PASSPHRASE");
    assert_eq!(with(&own.volume, None, &own.secret, &target), "VMSEAL_LUKS_INVALID");
    assert_eq!(with(&own.volume, header, &own.secret, &own.store.path("own.vmdk")), "VMSEAL_ALREADY_EXISTS");
    assert_eq!(with(&own.volume, header, &own.secret, &own.store.path("no.img")), "VMSEAL_INVALID_ARGUMENT");
    let elsewhere = own.header.with_file_name("no.vmdk");
    assert_eq!(with(&own.volume, header, &own.secret, &elsewhere), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(with(&own.store.path("none"), header, &own.secret, &target), "VMSEAL_NOT_FOUND");
    let cancelled = Control::new();
    cancelled.cancel();
    let stopped = import_luks(&own.volume, header, &own.secret, &target, &spec, &cancelled);
    assert_eq!(code(stopped), "VMSEAL_CANCELLED");
    assert_eq!(own.store.names(), names);
}

#[test]
fn luks2_of_cryptsetup_with_other_forms_is_refused_by_name() {
    let store = Datastore::new();
    let volume = store.write("v.img", &[0; 20 * MIB]);
    let cases: [(&[&str], &str); 4] = [
        (&["--cipher", "aes-xts-plain64", "--key-size", "256"], "256 bits"),
        (&["--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"], "aes-cbc-essiv"),
        (&["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "1024"], "1024"),
        (&["--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "2048"], "2048"),
    ];
    for (form, word) in cases {
        let call = [&["luksFormat", "--type", "luks2"], form, &PBKDF2, &[text(&volume)]].concat();
        let Some(_) = cryptsetup(&store, &call) else { return };
        let error = import(&store, &volume, None, "v.vmdk").expect_err("a refusal");
        assert_eq!(error.code(), "VMSEAL_LUKS_UNSUPPORTED", "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    // Begun and not gone on with: cryptsetup leaves the requirement in the header.
    fs::write(&volume, vec![0; MIB]).expect("a plain volume");
    let header = store.path("v.hdr");
    let mut call =
        vec!["reencrypt", "--encrypt", "--init-only", "--type", "luks2", "--header", text(&header)];
    call.extend([text(&volume)].into_iter().chain(XTS).chain(PBKDF2));
    cryptsetup(&store, &call).expect("cryptsetup");
    let error = import(&store, &volume, Some(&header), "v.vmdk").expect_err("a refusal");
    assert_eq!(error.code(), "VMSEAL_LUKS_UNSUPPORTED", "{error}");
    assert!(error.to_string().contains("reencrypt"), "{error}");
}
