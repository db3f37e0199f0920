//! Sectors with numbers beyond 32 bits, ciphered by cryptsetup itself.
//!
//! Without a device mapper cryptsetup only ciphers when it reencrypts, which of two TiB nobody waits for. But it begins at
//! the end: there it is stopped, when what lies beyond sector 2^32 is behind it.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fixture::{Datastore, MIB, binding, noise, skip};
use tempfile::TempDir;
use vmseal_disk::chain::{ChainDisk, Link};
use vmseal_disk::{Control, ViewKind, import_luks, open_sealed, view};
use vmseal_secret::SecretKey;

const PASSPHRASE: &str = "correct horse";
const PBKDF2: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
const XTS: [&str; 4] = ["--cipher", "aes-xts-plain64", "--key-size", "512"];
/// Sector 2^32 and some before it; data goes as far behind it.
const DATA: u64 = (1 << 41) - MIB as u64;
const LEN: usize = 4 * MIB;
const END: u64 = DATA + LEN as u64;
/// What cryptsetup ciphers before it is stopped.
const ENOUGH: u64 = 64 * MIB as u64;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn secret() -> SecretKey {
    let key = SecretKey::try_init(PASSPHRASE.len(), |slot| -> Result<(), vmseal_secret::Error> {
        slot.copy_from_slice(PASSPHRASE.as_bytes());
        Ok(())
    });
    key.expect("key memory")
}

fn command(store: &Datastore, arguments: &[&str]) -> Command {
    let key_file = store.write("key", PASSPHRASE.as_bytes());
    let mut command = Command::new("cryptsetup");
    command.args(arguments).args(["--batch-mode", "--key-file", text(&key_file)]);
    command
}

fn cryptsetup(store: &Datastore, arguments: &[&str]) -> Output {
    let output = command(store, arguments).output().expect("cryptsetup");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn is_installed() -> bool {
    let found = Command::new("cryptsetup").arg("--version").output().is_ok();
    if !found {
        skip("cryptsetup (Debian package cryptsetup-bin)");
    }
    found
}

/// Begins a reencryption of the sparse `volume` and stops it when it has filled enough of it.
fn reencrypt_the_end(store: &Datastore, arguments: &[&str], volume: &Path) {
    let mut all = vec!["reencrypt"];
    all.extend(arguments);
    let mut child =
        command(store, &all).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("cryptsetup");
    let begun = Instant::now();
    while fs::metadata(volume).expect("the volume").blocks() * 512 < ENOUGH {
        if child.try_wait().expect("its state").is_some() || begun.elapsed() > Duration::from_secs(120) {
            let _ = child.kill();
            let output = child.wait_with_output().expect("its end");
            panic!("{arguments:?} ended or hangs: {}", String::from_utf8_lossy(&output.stderr));
        }
        sleep(Duration::from_millis(5));
    }
    child.kill().expect("a signal");
    child.wait().expect("its end");
}

/// A detached header that cryptsetup makes for `volume` under the volume key in `key`.
fn header_under(store: &Datastore, key: &Path, sector_size: &str, offset: &str, volume: &Path) -> PathBuf {
    let header = store.path("detached.hdr");
    let mut call = vec!["luksFormat", "--type", "luks2", "--sector-size", sector_size, "--offset", offset];
    call.extend(["--volume-key-file", text(key), "--header", text(&header), text(volume)]);
    cryptsetup(store, &[&call[..], &XTS, &PBKDF2].concat());
    header
}

/// A sparse file with the data where sector numbers reach 2^32.
fn large(store: &Datastore, len: u64, data: Option<&[u8]>) -> PathBuf {
    let path = store.path("large.img");
    let file = File::create(&path).expect("a volume");
    file.set_len(len).expect("its length");
    if let Some(data) = data {
        file.write_all_at(data, DATA).expect("its data");
    }
    path
}

#[test]
fn what_cryptsetup_encrypts_beyond_32_bits_is_read() {
    if !is_installed() {
        return;
    }
    for sector in ["512", "4096"] {
        let (store, plain) = (Datastore::new(), noise(LEN, 15));
        // Of the 32 MiB that cryptsetup takes from the end it needs a half, before the data.
        let volume = large(&store, END + 32 * MIB as u64, Some(&plain));
        let mut call = vec!["--encrypt", "--type", "luks2", "--reduce-device-size", "32M"];
        call.extend(["--sector-size", sector, text(&volume)].into_iter().chain(XTS).chain(PBKDF2));
        reencrypt_the_end(&store, &call, &volume);
        let key = store.path("volume-key");
        cryptsetup(
            &store,
            &["luksDump", "--dump-volume-key", "--volume-key-file", text(&key), text(&volume)],
        );
        // A volume that is half done is no disk; the same key and the same place in a header of its own is one.
        let header = header_under(&store, &key, sector, "32768", &volume);
        let (disk, secret) = (store.path("large.vmdk"), secret());
        let made = import_luks(&volume, Some(&header), &secret, &disk, &store.spec(), &Control::new());
        let made = made.expect("import");
        assert_eq!((made.data_offset, made.sector_size.to_string()), (16 * MIB as u64, sector.to_owned()));
        let open = open_sealed(&disk, &store.kek, &binding()).expect("the disk opens");
        let mut bytes = vec![0; LEN];
        open.read_at(DATA, &mut bytes).expect("reading");
        assert!(bytes == plain, "{sector}: another plaintext");
        let mut raw = vec![0; LEN];
        let file = File::open(&volume).expect("the volume");
        file.read_exact_at(&mut raw, DATA + 16 * MIB as u64).expect("reading");
        assert!(raw != plain, "{sector}: nothing was encrypted");
    }
}

#[test]
fn what_we_write_beyond_32_bits_cryptsetup_decrypts() {
    if !is_installed() {
        return;
    }
    for sector in ["512", "4096"] {
        let (store, plain) = (Datastore::new(), noise(LEN, 16));
        let volume = large(&store, END, None);
        // A disk of that size is made of a volume of zeros as it lies: encryption would write two TiB.
        let key = store.write("some-key", &noise(64, 17));
        let header = header_under(&store, &key, sector, "0", &volume);
        let (disk, secret) = (store.path("large.vmdk"), secret());
        import_luks(&volume, Some(&header), &secret, &disk, &store.spec(), &Control::new()).expect("import");
        let link = Link { descriptor: &disk, key: Some((&store.kek, binding())) };
        let open = ChainDisk::open(&[link], true).expect("the disk opens");
        open.write_at(DATA, &plain).expect("writing");
        open.flush().expect("a barrier");
        drop(open);

        let memory = TempDir::new_in("/dev/shm").expect("a folder in memory");
        let made = view(&disk, &store.kek, &binding(), ViewKind::Luks2, memory.path()).expect("a view");
        let key = store.path("volume-key");
        let mut dump = Command::new("cryptsetup");
        dump.args(["luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", text(&key)]);
        let dumped = dump.args(["--key-file", text(&made.secret), text(&made.header)]).output();
        assert!(dumped.expect("cryptsetup").status.success());
        // The view has no room for the notes of a reencryption.
        fs::remove_file(&header).expect("removal");
        let header = header_under(&store, &key, sector, "0", &made.extent);
        let call = ["--decrypt", "--force-offline-reencrypt", "--header", text(&header), text(&made.extent)];
        reencrypt_the_end(&store, &call, &made.extent);
        let mut raw = vec![0; LEN];
        let file = File::open(&made.extent).expect("the extent");
        file.read_exact_at(&mut raw, DATA).expect("reading");
        assert!(raw == plain, "{sector}: cryptsetup reads another plaintext");
    }
}
