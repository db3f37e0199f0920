//! B8: a copy that was stopped goes on where it stood; the source goes when the copy was read back, and not before.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fixture::{DISK, Datastore, MIB, SmallVolume, binding, code, flat_of, noise, skip};
use vmseal_disk::{
    Binding, Control, DiscardSource, Error, Holes, Outcome, SealSpec, copy_job_info, copy_job_path,
    decrypt_copy, discard_source, encrypt_copy, encrypt_in_place, import, open_plain, open_sealed,
    overwrite_file, recrypt_copy, remove_unfinished, resume_copy, verify_copy,
};
use vmseal_secret::SecretKey;

/// Three stretches and a bit.
const LARGE: usize = 200 * MIB;
const STRETCH: u64 = 64 << 20;

/// Bytes per second: so slow that whoever watches sees the second stretch.
const PACE: u64 = 160 << 20;

/// Cancels once the first stretch is behind.
fn cancelled(job: impl Fn(&Control) -> Result<Outcome, Error> + Sync, again: impl Fn()) {
    for _ in 0..20 {
        let control = Control::new();
        control.limit(PACE);
        let outcome = std::thread::scope(|scope| {
            let job = scope.spawn(|| job(&control));
            while control.progress().done_bytes < STRETCH + 8 * MIB as u64 && !job.is_finished() {
                std::thread::yield_now();
            }
            control.cancel();
            job.join().expect("no panic")
        });
        match outcome {
            Err(Error::Cancelled) => return,
            Err(error) => panic!("{error}"),
            Ok(_) => again(),
        }
    }
    panic!("the job was always faster than its cancel");
}

struct Interrupted {
    store: Datastore,
    source: PathBuf,
    target: PathBuf,
    plain: Vec<u8>,
}

impl Interrupted {
    fn encryption(holes: Holes) -> Self {
        let store = Datastore::new();
        let plain = noise(LARGE, 4);
        let source = store.write("s.raw", &plain);
        let target = store.path("t.vmdk");
        let spec = SealSpec { holes: Some(holes), ..store.spec() };
        let job = |control: &Control| encrypt_copy(&source, &target, &spec, control);
        cancelled(job, || vmseal_disk::remove(&target).expect("removal"));
        Self { store, source, target, plain }
    }

    fn decryption() -> Self {
        let store = Datastore::new();
        let plain = noise(LARGE, 6);
        let source = store.sealed("s.vmdk", &plain, &store.spec());
        fs::remove_file(store.path("s.vmdk.source")).expect("removal");
        let target = store.path("t.vmdk");
        let job = |control: &Control| decrypt_copy(&source, &target, &store.kek, &binding(), control);
        cancelled(job, || vmseal_disk::remove(&target).expect("removal"));
        Self { store, source, target, plain }
    }

    fn resume(&self, control: &Control) -> Result<Outcome, Error> {
        resume_copy(&self.target, &[&self.store.kek], &binding(), control)
    }

    fn check_sealed(&self) {
        let disk = open_sealed(&self.target, &self.store.kek, &binding()).expect("the disk opens");
        let mut bytes = vec![0; LARGE];
        disk.read_at(0, &mut bytes).expect("reading");
        assert!(bytes == self.plain, "bytes were lost");
        assert!(!copy_job_path(&self.target).exists());
    }
}

#[test]
fn b8_a_cancelled_encryption_goes_on_where_it_stood() {
    for holes in [Holes::Dense, Holes::Zero] {
        let disk = Interrupted::encryption(holes);
        assert!(!disk.target.exists() && copy_job_path(&disk.target).exists());
        // What was copied before is not copied again: a mark in it stays.
        let flat = File::options().write(true).open(flat_of(&disk.target)).expect("the flat file");
        let mut first = vec![0; 512];
        File::open(flat_of(&disk.target))
            .and_then(|file| file.read_exact_at(&mut first, 0))
            .expect("reading");
        flat.write_all_at(&[0xee; 512], 0).expect("a mark");
        let control = Control::new();
        let outcome = disk.resume(&control).expect("resumed");
        assert_eq!((outcome.bytes, outcome.holes), (LARGE as u64, Some(holes)));
        assert_eq!(control.progress().done_bytes, LARGE as u64);
        let mut marked = vec![0; 512];
        File::open(flat_of(&disk.target))
            .and_then(|file| file.read_exact_at(&mut marked, 0))
            .expect("reading");
        assert_eq!(marked, [0xee; 512], "the copy began anew");
        flat.write_all_at(&first, 0).expect("the mark taken back");
        disk.check_sealed();
    }
}

#[test]
fn b8_a_cancelled_decryption_goes_on_where_it_stood() {
    let disk = Interrupted::decryption();
    disk.resume(&Control::new()).expect("resumed");
    assert!(fs::read(flat_of(&disk.target)).expect("the data") == disk.plain);
    open_plain(&disk.target).expect("a plain disk");
    assert_eq!(code(disk.resume(&Control::new())), "VMSEAL_NOT_FOUND");
}

#[test]
fn b8_a_cancelled_recrypt_goes_on_under_both_keys() {
    for other_id in [false, true] {
        let store = Datastore::new();
        let plain = noise(LARGE, 8);
        let source = store.sealed("s.vmdk", &plain, &store.spec());
        let (target, new_kek) = (store.path("t.vmdk"), SecretKey::generate(32).expect("a key"));
        // A copy beside its source is another disk; the sector size may change on the way.
        let disk_id = if other_id { [9; 16] } else { DISK };
        let spec = SealSpec { kek: &new_kek, kek_id: "new", disk_id, sector_size: 4096, ..store.spec() };
        let job = |control: &Control| recrypt_copy(&source, &target, &store.kek, &binding(), &spec, control);
        cancelled(job, || vmseal_disk::remove(&target).expect("removal"));
        let info = copy_job_info(&target).expect("a record").expect("an interrupted copy");
        assert_eq!((info.total_bytes, info.disk_id), (LARGE as u64, disk_id));
        assert!(info.done_bytes >= STRETCH && info.keks[0].key_id == "new");
        let (place, control) = (Binding { disk_id, ..binding() }, Control::new());
        for missing in [&[&new_kek][..], &[&store.kek], &[]] {
            resume_copy(&target, missing, &place, &control).expect_err("a key is missing");
        }
        assert!(!target.exists());
        let keks = [&store.kek, &new_kek];
        resume_copy(&target, &keks, &place, &control).expect("resumed");
        let mut bytes = vec![0; LARGE];
        let disk = open_sealed(&target, &new_kek, &place).expect("the disk opens");
        disk.read_at(0, &mut bytes).expect("reading");
        assert!(bytes == plain, "bytes were lost");
        assert_eq!(copy_job_info(&target).expect("no record"), None);
        drop(disk);
        verify_copy(&source, &target, &keks, &place, &control).expect("the same plaintext");
        discard_source(&source, &target, &keks, &place, DiscardSource::Unlink, &control).expect("discarded");
        assert!(!source.exists() && target.exists());
    }
}

#[test]
fn b8_b10_a_copy_that_filled_its_file_system_goes_on_when_there_is_room() {
    let store = Datastore::new();
    let folder = store.path("small");
    fs::create_dir(&folder).expect("a folder");
    let Some(_volume) = SmallVolume::mount(&folder, "224m") else {
        return skip("mounting a tmpfs needs root");
    };
    let plain = noise(LARGE, 1);
    let (source, target) = (store.write("s.raw", &plain), folder.join("t.vmdk"));
    let (spec, control) = (store.spec(), Control::new());
    let job = |control: &Control| encrypt_copy(&source, &target, &spec, control);
    cancelled(job, || vmseal_disk::remove(&target).expect("removal"));
    // Somebody takes all of the room.
    let filler = File::create(folder.join("filler")).expect("a file");
    let block = vec![0xaa; MIB];
    let mut offset = 0;
    while filler.write_all_at(&block, offset).is_ok() {
        offset += MIB as u64;
    }
    let resume = || resume_copy(&target, &[&store.kek], &binding(), &control);
    assert_eq!(code(resume()), "VMSEAL_NO_SPACE");
    assert!(!target.exists() && copy_job_info(&target).expect("a record").is_some());
    drop(filler);
    fs::remove_file(folder.join("filler")).expect("removal");
    resume().expect("resumed");
    let disk = open_sealed(&target, &store.kek, &binding()).expect("the disk opens");
    let mut bytes = vec![0; LARGE];
    disk.read_at(0, &mut bytes).expect("reading");
    assert!(bytes == plain, "bytes were lost");
}

#[test]
fn what_does_not_fit_any_more_is_not_gone_on_with() {
    let disk = Interrupted::encryption(Holes::Dense);
    let (record, control) = (copy_job_path(&disk.target), Control::new());
    let good = fs::read(&record).expect("a record");
    let wrong = SecretKey::generate(32).expect("a key");
    assert_eq!(
        code(resume_copy(&disk.target, &[&wrong], &binding(), &control)),
        "VMSEAL_ENVELOPE_AUTHENTICATION"
    );
    // Another frontier, another source: not authentic. Half a record: damaged.
    let text = String::from_utf8(good.clone()).expect("text");
    for forged in [text.replace("\"frontier\":", "\"frontier\":1"), text.replace("s.raw", "x.raw")] {
        assert_ne!(forged, text);
        fs::write(&record, forged).expect("a forged record");
        assert_eq!(code(disk.resume(&control)), "VMSEAL_JOB_AUTHENTICATION");
    }
    for damaged in [&good[..good.len() / 2], b"", b"{}\n00\n", &[0xff, 0xfe]] {
        fs::write(&record, damaged).expect("a damaged record");
        assert_eq!(code(disk.resume(&control)), "VMSEAL_JOB_INVALID");
    }
    fs::write(&record, &good).expect("the record");
    let file = File::options().write(true).open(&disk.source).expect("the source");
    file.write_all_at(b"changed", 0).expect("a change");
    file.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(2))
        .expect("another time");
    assert_eq!(code(disk.resume(&control)), "VMSEAL_IMAGE_INVALID");
    assert!(!disk.target.exists());
    assert!(remove_unfinished(&disk.target).expect("removal"));
    assert_eq!(disk.store.names(), ["s.raw"]);
}

#[test]
fn a_finished_copy_whose_record_is_left_is_only_tidied_up() {
    let disk = Interrupted::encryption(Holes::Dense);
    let record = fs::read(copy_job_path(&disk.target)).expect("a record");
    disk.resume(&Control::new()).expect("resumed");
    fs::write(copy_job_path(&disk.target), record).expect("as a crash before the removal leaves it");
    disk.resume(&Control::new()).expect("nothing to copy");
    disk.check_sealed();
}

#[test]
fn a_size_that_the_sectors_do_not_fit_is_refused_alike_by_every_way_to_seal() {
    let store = Datastore::new();
    let raw = store.write("s.raw", &noise(4096 + 512, 1));
    let plain = store.path("p.vmdk");
    import(&raw, &plain, &DISK, &Control::new()).expect("import");
    let (target, control) = (store.path("t.vmdk"), Control::new());
    let spec = SealSpec { sector_size: 4096, ..store.spec() };
    let before = store.names();
    for outcome in [encrypt_copy(&plain, &target, &spec, &control), encrypt_in_place(&plain, &spec, &control)]
    {
        let error = outcome.expect_err("a refusal");
        assert_eq!(error.code(), "VMSEAL_IMAGE_INVALID");
        assert!(error.to_string().contains("use sector size 512"), "{error}");
    }
    assert_eq!(store.names(), before, "a refusal left files behind");
}

fn small(store: &Datastore) -> (PathBuf, PathBuf) {
    let raw = store.write("s.raw", &noise(2 * MIB, 1));
    let source = store.path("p.vmdk");
    import(&raw, &source, &DISK, &Control::new()).expect("import");
    let target = store.path("t.vmdk");
    encrypt_copy(&source, &target, &store.spec(), &Control::new()).expect("encryption");
    (source, target)
}

fn discard(store: &Datastore, source: &Path, copy: &Path, how: DiscardSource) -> Result<(), Error> {
    discard_source(source, copy, &[&store.kek], &binding(), how, &Control::new())
}

#[test]
fn b8_the_source_goes_after_the_copy_was_read_back() {
    for how in [DiscardSource::Unlink, DiscardSource::Overwrite] {
        let store = Datastore::new();
        let (source, target) = small(&store);
        // An open file shows what became of the data.
        let witness = File::open(flat_of(&source)).expect("the data");
        discard(&store, &source, &target, how).expect("discarded");
        assert_eq!(store.names(), ["s.raw", "t-flat.vmdk", "t.vmdk", "t.vmdk.vmseal"]);
        let mut bytes = vec![1; 2 * MIB];
        witness.read_exact_at(&mut bytes, 0).expect("reading");
        assert_eq!(bytes.iter().all(|&byte| byte == 0), how == DiscardSource::Overwrite);
        // A raw image, by the same copy.
        discard(&store, &store.path("s.raw"), &target, how).expect("discarded");
        assert_eq!(store.names(), ["t-flat.vmdk", "t.vmdk", "t.vmdk.vmseal"]);
    }
}

#[test]
fn a_copy_is_compared_to_its_last_byte_and_holes_cost_nothing() {
    let store = Datastore::new();
    let image = store.path("thin.raw");
    // Beyond what could be read in the time of a test.
    let len = (3_u64 << 40) + 512;
    let file = File::create(&image).expect("an image");
    file.set_len(len).expect("its length");
    for at in [0, 5 << 20, len - 512] {
        file.write_all_at(&noise(512, 3), at).expect("data");
    }
    let target = store.path("t.vmdk");
    encrypt_copy(&image, &target, &store.spec(), &Control::new()).expect("encryption");
    let control = Control::new();
    let verify = || verify_copy(&image, &target, &[&store.kek], &binding(), &control);
    verify().expect("the same");
    assert_eq!(control.progress().done_bytes, len);
    let flat = File::options().read(true).write(true).open(flat_of(&target)).expect("the data");
    for at in [len - 1, 2 << 40] {
        let mut byte = [0];
        flat.read_exact_at(&mut byte, at).expect("reading");
        flat.write_all_at(&[byte[0] ^ 1], at).expect("damage");
        assert_eq!(code(verify()), "VMSEAL_DISK_STATE", "at {at}");
        flat.write_all_at(&byte, at).expect("the byte");
    }
}

#[test]
fn a_file_that_is_overwritten_keeps_its_holes_and_nothing_of_another() {
    let store = Datastore::new();
    let path = store.write("old-flat.vmdk", &noise(MIB, 3));
    fs::hard_link(&path, store.path("second")).expect("a second name");
    assert_eq!(code(overwrite_file(&path)), "VMSEAL_EXTENT_INVALID");
    assert!(fs::read(&path).expect("the data") == noise(MIB, 3));
    fs::remove_file(store.path("second")).expect("removal");
    File::options().write(true).open(&path).and_then(|file| file.set_len(1 << 40)).expect("a hole");
    overwrite_file(&path).expect("overwritten");
    let mut bytes = vec![1; MIB];
    File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0)).expect("reading");
    assert!(bytes.iter().all(|&byte| byte == 0));
    assert_eq!(code(overwrite_file(&store.path("none"))), "VMSEAL_NOT_FOUND");
}

#[test]
fn b8_the_sealed_source_of_a_decryption_goes_too() {
    let store = Datastore::new();
    let (source, target) = small(&store);
    discard(&store, &target, &source, DiscardSource::Overwrite).expect("discarded");
    assert_eq!(store.names(), ["p-flat.vmdk", "p.vmdk", "s.raw"]);
}

#[test]
fn b8_a_source_without_a_sound_copy_stays() {
    let store = Datastore::new();
    let (source, target) = small(&store);
    let names = store.names();
    assert_eq!(code(discard(&store, &source, &source, DiscardSource::Unlink)), "VMSEAL_DISK_STATE");
    assert_eq!(
        code(discard(&store, &source, &store.path("none.vmdk"), DiscardSource::Unlink)),
        "VMSEAL_NOT_FOUND"
    );
    let flat = File::options().write(true).open(flat_of(&target)).expect("the data");
    flat.write_all_at(&[1], MIB as u64).expect("damage");
    assert_eq!(code(discard(&store, &source, &target, DiscardSource::Overwrite)), "VMSEAL_DISK_STATE");
    assert_eq!(store.names(), names);
    fs::hard_link(flat_of(&source), store.path("second")).expect("a second name");
    let (_, good) = (flat, store.path("u.vmdk"));
    encrypt_copy(&source, &good, &store.spec(), &Control::new()).expect("encryption");
    assert_eq!(code(discard(&store, &source, &good, DiscardSource::Overwrite)), "VMSEAL_EXTENT_INVALID");
    assert!(source.exists());
}
