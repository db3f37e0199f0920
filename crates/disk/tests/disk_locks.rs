//! D3: one job at a time, and none on a disk that QEMU has open.

mod fixture;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fixture::{DISK, Datastore, MIB, binding, code, flat_of, noise, skip};
use tempfile::TempDir;
use vmseal_disk::{
    Control, Error, Holes, NewKek, SealSpec, ViewKind, decrypt_in_place, encrypt_copy, encrypt_in_place,
    import, recrypt_in_place, repair, resume, shallow_recrypt, view,
};

/// A QEMU tool that has `path` open until dropped.
struct QemuIo(Child);

impl QemuIo {
    /// `None` when the tools are not installed.
    fn open(path: &Path, options: &[&str]) -> Option<Self> {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]).args(options).arg(path);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = spawned else {
            skip("qemu-utils not installed");
            return None;
        };
        let mut input = child.stdin.take().expect("its input");
        input.write_all(b"length\n").expect("a command");
        child.stdin = Some(input);
        // It answers once it has the image, and so its locks.
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("an answer");
        assert!(!line.trim().is_empty(), "qemu-io did not open the disk");
        Some(Self(child))
    }
}

impl Drop for QemuIo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn plain_disk(store: &Datastore) -> PathBuf {
    let source = store.write("s.raw", &noise(MIB, 1));
    let path = store.path("p.vmdk");
    import(&source, &path, &DISK, &Control::new()).expect("import");
    path
}

fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("a refusal");
    assert_eq!(error.code(), "VMSEAL_FILE_LOCKED", "{error}");
    error.to_string()
}

#[test]
fn a_disk_that_qemu_has_open_for_writing_is_refused_by_name() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    let before = fs::read(flat_of(&path)).expect("the data");
    let names = store.names();
    let Some(qemu) = QemuIo::open(&flat_of(&path), &[]) else { return };
    let text = refusal(encrypt_in_place(&path, &store.spec(), &Control::new()));
    assert!(text.contains("QEMU"), "{text}");
    let text = refusal(encrypt_copy(&path, &store.path("t.vmdk"), &store.spec(), &Control::new()));
    assert!(text.contains("QEMU"), "{text}");
    assert_eq!(store.names(), names);
    assert!(fs::read(flat_of(&path)).expect("the data") == before);
    drop(qemu);
    encrypt_in_place(&path, &store.spec(), &Control::new()).expect("QEMU is gone");
}

#[test]
fn a_sealed_disk_in_use_is_neither_decrypted_nor_recrypted() {
    let store = Datastore::new();
    let path = store.sealed("d.vmdk", &noise(MIB, 2), &store.spec());
    let new = NewKek { kek: &store.kek, kek_id: "kek-2", provider_id: "kms-1" };
    // A reader too would see the disk in two forms.
    for options in [[].as_slice(), &["-r"]] {
        let Some(_qemu) = QemuIo::open(&flat_of(&path), options) else { return };
        refusal(decrypt_in_place(&path, &store.kek, &binding(), &Control::new()));
        refusal(recrypt_in_place(&path, &store.kek, &binding(), &new, &Control::new()));
        refusal(resume(&path, &[&store.kek], &binding(), &Control::new()));
        refusal(repair(&path));
    }
}

#[test]
fn d1_a_shallow_recrypt_leaves_qemu_alone() {
    let store = Datastore::new();
    let path = store.sealed("d.vmdk", &noise(MIB, 2), &store.spec());
    let new = NewKek { kek: &store.kek, kek_id: "kek-2", provider_id: "kms-1" };
    let Some(_qemu) = QemuIo::open(&flat_of(&path), &[]) else { return };
    assert!(shallow_recrypt(&path, &store.kek, &binding(), &new).expect("no byte of data is touched"));
}

#[test]
fn a_disk_that_qemu_only_reads_is_copied() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    let Some(_qemu) = QemuIo::open(&flat_of(&path), &["-r"]) else { return };
    encrypt_copy(&path, &store.path("t.vmdk"), &store.spec(), &Control::new()).expect("two may read");
}

#[test]
fn a_disk_that_somebody_writes_or_converts_gets_no_view() {
    let store = Datastore::new();
    let spec = SealSpec { holes: Some(Holes::Dense), ..store.spec() };
    // More than a zone: a job that is held back stops after the first.
    let path = store.sealed("d.vmdk", &noise(17 * MIB, 2), &spec);
    let memory = TempDir::new_in("/dev/shm").expect("a folder in memory");
    let make = || view(&path, &store.kek, &binding(), ViewKind::Luks2, memory.path());
    let empty = || fs::read_dir(memory.path()).expect("the folder").next().is_none();
    let lock = store.write("d.vmx.lck", VM_LOCK.as_bytes());
    assert!(refusal(make()).contains("virtual machine"));
    fs::remove_file(lock).expect("removal");
    if let Some(_qemu) = QemuIo::open(&flat_of(&path), &[]) {
        refusal(make());
    }
    let control = Control::new();
    control.limit(1);
    std::thread::scope(|scope| {
        let job = scope.spawn(|| decrypt_in_place(&path, &store.kek, &binding(), &control));
        while vmseal_disk::job_info(&path).is_ok_and(|info| info.is_none()) && !job.is_finished() {
            std::thread::yield_now();
        }
        control.cancel();
        job.join().expect("no panic").map(drop)
    })
    .map_or_else(|error| assert_eq!(error.code(), "VMSEAL_CANCELLED"), |()| panic!("it was not stopped"));
    assert_eq!(code(make()), "VMSEAL_DISK_IN_CONVERSION");
    assert!(empty(), "a refusal leaves no secret");
}

const VM_LOCK: &str =
    r#"{"hostId":"esx-7","bootId":"b","token":"t","pid":1,"started":"1","pidSpace":"b pid:[1]"}"#;

fn lock_text(store: &Datastore, host: &str, boot: &str) -> PathBuf {
    let text = format!(
        r#"{{"hostId":"{host}","bootId":"{boot}","token":"t","pid":1,"started":"1","pidSpace":"{boot} pid:[1]"}}"#
    );
    store.write("p.vmdk.lck", text.as_bytes())
}

#[test]
fn the_lock_of_another_host_is_kept_and_told() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    let lock = lock_text(&store, "esx-7", "another-boot");
    let text = refusal(encrypt_in_place(&path, &store.spec(), &Control::new()));
    assert!(text.contains("esx-7") && text.contains("p.vmdk.lck"), "{text}");
    assert!(lock.exists());
}

#[test]
fn a_damaged_lock_is_never_taken_for_void() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    for text in ["", "{", "null", r#"{"hostId":"x"}"#, "\u{0}\u{1}"] {
        store.write("p.vmdk.lck", text.as_bytes());
        let told = refusal(encrypt_in_place(&path, &store.spec(), &Control::new()));
        assert!(told.contains("damaged"), "{told}");
    }
    store.write("p.vmdk.lck", &[0xff; 5000]);
    refusal(encrypt_in_place(&path, &store.spec(), &Control::new()));
}

#[test]
fn a_lock_that_a_crash_of_this_machine_left_is_void() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("/proc");
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let earlier_boot = (!machine.trim().is_empty()).then_some((machine.trim(), "an-earlier-boot"));
    for (host, boot) in [Some(("whoever", boot.trim())), earlier_boot].into_iter().flatten() {
        let store = Datastore::new();
        let path = plain_disk(&store);
        let lock = lock_text(&store, host, boot);
        encrypt_in_place(&path, &store.spec(), &Control::new()).expect("a void lock");
        assert!(!lock.exists());
        assert_eq!(store.names(), ["p-flat.vmdk", "p.vmdk", "p.vmdk.vmseal", "s.raw"]);
    }
}

#[test]
fn the_lock_of_the_virtual_machine_is_obeyed() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    let lock = store.write("p.vmx.lck", VM_LOCK.as_bytes());
    let told = refusal(encrypt_in_place(&path, &store.spec(), &Control::new()));
    assert!(told.contains("esx-7") && told.contains("virtual machine"), "{told}");
    fs::rename(lock, store.path("other.vmx.lck")).expect("a lock of another machine");
    encrypt_in_place(&path, &store.spec(), &Control::new()).expect("not this disk's machine");
}

#[test]
fn two_jobs_on_one_disk_are_refused() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    let file = File::options().read(true).write(true).open(flat_of(&path)).expect("the data");
    file.lock().expect("as another job has it");
    assert_eq!(code(encrypt_in_place(&path, &store.spec(), &Control::new())), "VMSEAL_FILE_LOCKED");
}

#[test]
fn a_disk_with_a_second_name_is_not_changed_under_it() {
    let store = Datastore::new();
    let path = plain_disk(&store);
    fs::hard_link(flat_of(&path), store.path("backup")).expect("a hard link");
    assert_eq!(code(encrypt_in_place(&path, &store.spec(), &Control::new())), "VMSEAL_EXTENT_INVALID");
    encrypt_copy(&path, &store.path("t.vmdk"), &store.spec(), &Control::new())
        .expect("a copy changes nothing");
}
