//! Views opened by the programs they are made for: cryptsetup and QEMU.

mod fixture;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use fixture::{Datastore, MIB, binding, code, flat_of, noise, skip, sparse};
use tempfile::TempDir;
use vmseal_disk::{Control, Holes, SealSpec, View, ViewKind, encrypt_copy, view};
use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

fn memory() -> TempDir {
    TempDir::new_in("/dev/shm").expect("a folder in memory")
}

fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) => Some(output),
        Err(_) => {
            skip(&format!("{program} (Debian packages cryptsetup-bin, qemu-utils)"));
            None
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Whether cryptsetup opens the header with the secret.
fn opens(view: &View) -> Option<bool> {
    let (header, secret, extent) = (text(&view.header), text(&view.secret), text(&view.extent));
    let open = ["open", "--test-passphrase", "--header", header, "--key-file", secret, extent];
    run("cryptsetup", &open).map(|output| output.status.success())
}

/// What the extent holds under the key that cryptsetup finds in the header.
fn through_cryptsetup(view: &View, folder: &Path) -> Option<Vec<u8>> {
    let key_file = folder.join("volume-key");
    let dump = [
        "luksDump",
        "--batch-mode",
        "--dump-volume-key",
        "--volume-key-file",
        text(&key_file),
        "--key-file",
        text(&view.secret),
        text(&view.header),
    ];
    let output = run("cryptsetup", &dump)?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = fs::read(key_file).expect("the volume key");
    let key = SecretKey::try_init(64, |slot| -> Result<(), vmseal_secret::Error> {
        slot.copy_from_slice(&bytes);
        Ok(())
    });
    let unit = view.sector_size;
    let xts = Xts::new(&key.expect("key memory"), unit, u64::from(unit / 512)).expect("a cipher");
    let mut data = fs::read(&view.extent).expect("the extent");
    xts.decrypt(&mut data, 0).expect("decryption");
    Some(data)
}

fn dense(store: &Datastore, sector_size: u32) -> SealSpec<'_> {
    SealSpec { sector_size, holes: Some(Holes::Dense), ..store.spec() }
}

#[test]
fn cryptsetup_opens_luks2_and_luks1_views_of_the_very_extent() {
    let (store, plain) = (Datastore::new(), noise(MIB, 1));
    for (sector_size, kind) in [(512, ViewKind::Luks2), (4096, ViewKind::Luks2), (512, ViewKind::Luks1)] {
        let disk = store.sealed(&format!("{kind:?}-{sector_size}.vmdk"), &plain, &dense(&store, sector_size));
        let folder = memory();
        let made = view(&disk, &store.kek, &binding(), kind, folder.path()).expect("a view");
        let length = if kind == ViewKind::Luks2 { 290_816 } else { 2 * MIB as u64 };
        assert_eq!(fs::metadata(&made.header).expect("the header").len(), length);
        assert_eq!(made.extent, flat_of(&disk).canonicalize().expect("the extent"));
        for file in [&made.header, &made.secret] {
            assert_eq!(fs::metadata(file).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        let Some(opened) = opens(&made) else { return };
        assert!(opened, "{kind:?} {sector_size}");
        assert!(through_cryptsetup(&made, folder.path()).is_some_and(|data| data == plain));
        fs::write(&made.secret, "0".repeat(64)).expect("another secret");
        assert_eq!(opens(&made), Some(false), "any secret opens it");
    }
}

#[test]
fn qemu_reads_and_writes_through_a_luks1_view() {
    let (store, plain) = (Datastore::new(), noise(MIB, 2));
    let disk = store.sealed("q.vmdk", &plain, &dense(&store, 512));
    let folder = memory();
    let made = view(&disk, &store.kek, &binding(), ViewKind::Luks1, folder.path()).expect("a view");
    let vmdk = made.vmdk.as_deref().expect("a descriptor for QEMU");
    let secret = format!("secret,id=s,file={}", text(&made.secret));
    let image = format!("driver=luks,key-secret=s,file.driver=vmdk,file.file.filename={}", text(vmdk));
    let read = folder.path().join("read.raw");
    let convert = ["convert", "--object", &secret, "--image-opts", &image, "-O", "raw", text(&read)];
    let Some(output) = run("qemu-img", &convert) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&read).expect("what QEMU reads") == plain);

    let write = ["--object", &secret, "--image-opts", &image, "-c", "write -P 0x5a 4096 8192"];
    let Some(output) = run("qemu-io", &write) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let open = vmseal_disk::open_sealed(&disk, &store.kek, &binding()).expect("the disk opens");
    let mut bytes = vec![0; plain.len()];
    open.read_at(0, &mut bytes).expect("reading");
    assert!(bytes[4096..12_288].iter().all(|&byte| byte == 0x5a));
    assert!(bytes[..4096] == plain[..4096] && bytes[12_288..] == plain[12_288..]);
}

#[test]
fn what_has_no_view_is_refused_and_leaves_no_file() {
    let (store, folder) = (Datastore::new(), memory());
    let make = |disk: &Path, kind, folder: &Path| view(disk, &store.kek, &binding(), kind, folder);
    let names = || fs::read_dir(folder.path()).expect("the folder").count();
    let disk = store.sealed("a.vmdk", &noise(8192, 3), &dense(&store, 4096));
    assert_eq!(code(make(&disk, ViewKind::Luks1, folder.path())), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(code(make(&disk, ViewKind::Luks2, &folder.path().join("none"))), "VMSEAL_NOT_FOUND");
    let other = SecretKey::generate(32).expect("key memory");
    let wrong = view(&disk, &other, &binding(), ViewKind::Luks2, folder.path());
    assert_eq!(code(wrong), "VMSEAL_ENVELOPE_AUTHENTICATION");
    // Where secrets would reach a disk.
    assert_eq!(code(make(&disk, ViewKind::Luks2, Path::new("/proc"))), "VMSEAL_INVALID_ARGUMENT");

    let source = store.path("sparse.raw");
    sparse(&source, MIB, &[(0, 4096)]);
    let thin = store.path("thin.vmdk");
    encrypt_copy(&source, &thin, &store.spec(), &Control::new()).expect("a thin disk");
    assert_eq!(code(make(&thin, ViewKind::Luks2, folder.path())), "VMSEAL_DISK_STATE");
    assert_eq!(names(), 0);

    make(&disk, ViewKind::Luks2, folder.path()).expect("a view");
    assert_eq!(code(make(&disk, ViewKind::Luks2, folder.path())), "VMSEAL_ALREADY_EXISTS");
    assert_eq!(names(), 2, "the first one stays");
}
