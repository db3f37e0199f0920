//! Ciphertext that moves as it lies: equal to the last byte and hole, or not there; a copy of a disk opens with its new KEK alone.

mod fixture;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

use fixture::{DISK, Datastore, MIB, SmallVolume, VM, binding, code, flat_of, noise, sparse};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_RDLCK, SEEK_SET, flock};
use sha2::{Digest as _, Sha256};
use vmseal_disk::chain::create_child;
use vmseal_disk::{
    Binding, Control, Holes, SealSpec, copy_verbatim, create_plain, open_sealed, reseal_copy, sum_file,
};
use vmseal_secret::SecretKey;

const OTHER_VM: [u8; 16] = [0x22; 16];
const OTHER_DISK: [u8; 16] = [0x33; 16];

fn copy(source: &Path, target: &Path) -> Result<u64, vmseal_disk::Error> {
    copy_verbatim(source, target, &Control::new())
}

#[test]
fn a_copy_is_equal_and_its_holes_are_holes() {
    let store = Datastore::new();
    let lens = [0, 1, 511, MIB - 1, MIB, MIB + 1, 3 * MIB + 17];
    for (index, len) in lens.into_iter().enumerate() {
        let source = store.write(&format!("s{index}"), &noise(len, index as u64 + 1));
        let target = store.path(&format!("t{index}"));
        let control = Control::new();
        assert_eq!(copy_verbatim(&source, &target, &control).expect("a copy"), len as u64);
        assert_eq!(fs::read(&source).expect("it"), fs::read(&target).expect("it"), "{len}");
        assert_eq!(fs::metadata(&target).expect("it").mode() & 0o777, 0o600);
        assert_eq!(control.progress().total_bytes, 2 * len as u64);
        assert_eq!(control.progress().done_bytes, 2 * len as u64, "{len}");
    }
    let source = store.path("sparse");
    let seen = sparse(&source, 64 * MIB, &[(5 * MIB + 100, 4096), (40 * MIB, MIB)]);
    let target = store.path("copy");
    copy(&source, &target).expect("a copy");
    assert_eq!(fs::read(&target).expect("it"), seen);
    assert!(fs::metadata(&target).expect("it").blocks() * 512 <= 4 * MIB as u64);
}

#[test]
fn what_is_no_file_or_is_there_already_is_refused_and_stays() {
    let store = Datastore::new();
    let source = store.write("source", b"ciphertext");
    let taken = store.write("taken", b"somebody's");
    assert_eq!(code(copy(&source, &taken)), "VMSEAL_ALREADY_EXISTS");
    assert_eq!(fs::read(&taken).expect("it"), b"somebody's");
    assert_eq!(code(copy(&store.path("missing"), &store.path("t"))), "VMSEAL_NOT_FOUND");
    assert_eq!(code(copy(store.folder(), &store.path("t"))), "VMSEAL_IMAGE_INVALID");
    let link = store.path("link");
    symlink(&source, &link).expect("a link");
    assert_eq!(code(copy(&link, &store.path("t"))), "VMSEAL_IMAGE_INVALID");
    assert_eq!(code(copy(&source, &link)), "VMSEAL_ALREADY_EXISTS");
    let pipe = store.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    assert_eq!(code(copy(&pipe, &store.path("t"))), "VMSEAL_IMAGE_INVALID");
    assert_eq!(code(sum_file(&pipe, &Control::new())), "VMSEAL_IMAGE_INVALID");
    assert_eq!(code(copy(&source, &store.path("none/t"))), "VMSEAL_NOT_FOUND");
    assert_eq!(store.names(), ["link", "pipe", "source", "taken"]);
}

#[test]
fn a_file_that_qemu_has_open_for_writing_is_refused() {
    let store = Datastore::new();
    let source = store.write("source", &noise(4096, 1));
    let guest = fs::OpenOptions::new().read(true).write(true).open(&source).expect("the file");
    // The byte by which QEMU says that it writes.
    let written =
        flock { l_type: F_RDLCK as i16, l_whence: SEEK_SET as i16, l_start: 101, l_len: 1, l_pid: 0 };
    fcntl(&guest, FcntlArg::F_OFD_SETLK(&written)).expect("its lock");
    assert_eq!(code(copy(&source, &store.path("t"))), "VMSEAL_FILE_LOCKED");
    assert_eq!(store.names(), ["source"]);
    drop(guest);
    copy(&source, &store.path("t")).expect("nobody writes now");
}

#[test]
fn a_cancelled_copy_is_gone() {
    let store = Datastore::new();
    let source = store.write("source", &noise(MIB, 1));
    let control = Control::new();
    control.cancel();
    assert_eq!(code(copy_verbatim(&source, &store.path("t"), &control)), "VMSEAL_CANCELLED");
    assert_eq!(code(sum_file(&source, &control)), "VMSEAL_CANCELLED");
    let large = store.write("large", &noise(32 * MIB, 1));
    if let Err(error) = fixture::cancelled(|control| copy_verbatim(&large, &store.path("t"), control)) {
        assert_eq!(error.code(), "VMSEAL_CANCELLED");
        assert_eq!(store.names(), ["large", "source"]);
    }
}

#[test]
fn a_full_file_system_is_told_before_the_first_byte() {
    let store = Datastore::new();
    let source = store.write("source", &noise(3 * MIB, 1));
    let folder = store.path("small");
    fs::create_dir(&folder).expect("a folder");
    let Some(_volume) = SmallVolume::mount(&folder, "2m") else {
        return fixture::skip("the right to mount a tmpfs");
    };
    assert_eq!(code(copy(&source, &folder.join("t"))), "VMSEAL_NO_SPACE");
    assert_eq!(fs::read_dir(&folder).expect("it").count(), 0);
    let filler = folder.join("filler");
    fs::write(&filler, vec![1; MIB]).expect("a filler");
    let half = store.write("half", &noise(MIB + 65536, 2));
    assert_eq!(code(copy(&half, &folder.join("t"))), "VMSEAL_NO_SPACE");
    assert_eq!(fs::read_dir(&folder).expect("it").count(), 1);
    fs::remove_file(filler).expect("room");
    copy(&half, &folder.join("t")).expect("room now");
}

#[test]
fn a_sum_is_that_of_sha256sum() {
    let store = Datastore::new();
    for len in [0, 1, MIB, 2 * MIB + 5] {
        let bytes = noise(len, 9);
        let file = store.write("file", &bytes);
        let (sum, counted) = sum_file(&file, &Control::new()).expect("a sum");
        assert_eq!(counted, len as u64);
        assert_eq!(sum, <[u8; 32]>::from(Sha256::digest(&bytes)));
    }
    let file = store.path("holes");
    let seen = sparse(&file, 8 * MIB, &[(MIB + 3, 700)]);
    assert_eq!(sum_file(&file, &Control::new()).expect("a sum").0, <[u8; 32]>::from(Sha256::digest(&seen)));
}

fn plaintext(disk: &Path, kek: &SecretKey, binding: &Binding<'_>) -> Result<[u8; 32], vmseal_disk::Error> {
    open_sealed(disk, kek, binding)?.digest(&Control::new())
}

struct Recipient {
    kek: SecretKey,
}

impl Recipient {
    fn new() -> Self {
        Self { kek: SecretKey::generate(32).expect("key memory") }
    }

    fn spec(&self, sector_size: u32) -> SealSpec<'_> {
        SealSpec {
            kek: &self.kek,
            kek_id: "kek-2",
            provider_id: "kms-2",
            vm_id: OTHER_VM,
            disk_id: OTHER_DISK,
            generation: 1,
            sector_size,
            holes: None,
        }
    }

    fn binding() -> Binding<'static> {
        Binding { vm_id: OTHER_VM, disk_id: OTHER_DISK, provider_id: Some("kms-2") }
    }
}

#[test]
fn a_resealed_copy_opens_with_the_new_kek_in_its_new_place_and_with_nothing_else() {
    for (sector_size, holes) in [(512, None), (4096, Some(Holes::Dense)), (4096, Some(Holes::Zero))] {
        let store = Datastore::new();
        let spec = SealSpec { sector_size, holes, generation: 7, ..store.spec() };
        let bytes = noise(MIB, 3);
        let source = store.sealed("a.vmdk", &bytes, &spec);
        let target = store.path("b.vmdk");
        copy(&flat_of(&source), &flat_of(&target)).expect("its extent");
        let recipient = Recipient::new();
        reseal_copy(&source, &target, &store.kek, &binding(), &recipient.spec(sector_size)).expect("a copy");
        let expected = <[u8; 32]>::from(Sha256::digest(&bytes));
        assert_eq!(plaintext(&target, &recipient.kek, &Recipient::binding()).expect("it opens"), expected);
        assert_eq!(plaintext(&source, &store.kek, &binding()).expect("it opens"), expected);
        assert_eq!(
            fs::read(flat_of(&source)).expect("ciphertext"),
            fs::read(flat_of(&target)).expect("ciphertext")
        );
        assert_eq!(fixture::holes_of(&source), fixture::holes_of(&target));
        let unknown = Binding { provider_id: None, ..Recipient::binding() };
        assert_eq!(code(plaintext(&target, &store.kek, &unknown)), "VMSEAL_ENVELOPE_AUTHENTICATION");
        for elsewhere in [Binding { vm_id: VM, ..unknown }, Binding { disk_id: DISK, ..unknown }] {
            assert_eq!(code(plaintext(&target, &recipient.kek, &elsewhere)), "VMSEAL_ENVELOPE_MISMATCH");
        }
        for name in ["b.vmdk", "b.vmdk.vmseal"] {
            let text = fs::read_to_string(store.path(name)).expect("its lines");
            assert!(!text.contains("kek-1") && !text.contains("a-flat"), "{text}");
        }
    }
}

#[test]
fn what_cannot_be_resealed_is_refused_and_no_descriptor_is_made() {
    let store = Datastore::new();
    let source = store.sealed("a.vmdk", &noise(65536, 4), &store.spec());
    let target = store.path("b.vmdk");
    let recipient = Recipient::new();
    let spec = recipient.spec(512);
    let reseal = |kek: &SecretKey, binding: &Binding<'_>, spec: &SealSpec<'_>| {
        code(reseal_copy(&source, &target, kek, binding, spec))
    };
    assert_eq!(reseal(&store.kek, &binding(), &spec), "VMSEAL_NOT_FOUND", "no extent yet");
    copy(&flat_of(&source), &flat_of(&target)).expect("its extent");
    assert_eq!(reseal(&recipient.kek, &binding(), &spec), "VMSEAL_ENVELOPE_AUTHENTICATION");
    let elsewhere = Binding { vm_id: OTHER_VM, ..binding() };
    assert_eq!(reseal(&store.kek, &elsewhere, &spec), "VMSEAL_ENVELOPE_MISMATCH");
    assert_eq!(reseal(&store.kek, &binding(), &recipient.spec(4096)), "VMSEAL_INVALID_ARGUMENT");
    let nobody = SealSpec { kek_id: "", ..spec };
    assert_eq!(reseal(&store.kek, &binding(), &nobody), "VMSEAL_INVALID_ARGUMENT");
    fs::write(flat_of(&target), [0; 512]).expect("another extent");
    assert_eq!(reseal(&store.kek, &binding(), &spec), "VMSEAL_EXTENT_INVALID");
    assert!(!target.exists() && !store.path("b.vmdk.vmseal").exists());

    let plain = store.path("plain.vmdk");
    create_plain(&plain, 65536, &DISK).expect("a plain disk");
    assert_eq!(code(reseal_copy(&plain, &target, &store.kek, &binding(), &spec)), "VMSEAL_DISK_STATE");
    let child = store.path("a-000001.vmdk");
    let own = SealSpec { disk_id: OTHER_DISK, ..store.spec() };
    create_child(&child, &source, "a.vmdk", &OTHER_DISK, Some(&own)).expect("a child");
    let place = Binding { disk_id: OTHER_DISK, ..binding() };
    assert_eq!(
        code(reseal_copy(&child, &target, &store.kek, &place, &spec)),
        "VMSEAL_DESCRIPTOR_UNSUPPORTED"
    );
    fs::remove_file(flat_of(&target)).expect("room");
    copy(&flat_of(&source), &flat_of(&target)).expect("its extent");
    fs::write(&target, "somebody's").expect("a file in the way");
    assert_eq!(reseal(&store.kek, &binding(), &spec), "VMSEAL_ALREADY_EXISTS");
    assert_eq!(fs::read(&target).expect("it"), b"somebody's");
}
