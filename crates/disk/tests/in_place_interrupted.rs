//! Jobs on real files that are stopped and go on, and sidecars that are not what they should be.

mod fixture;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use fixture::{DISK, Datastore, MIB, SmallVolume, binding, cancelled, code, flat_of, noise, skip, sparse};
use vmseal_disk::descriptor::CopyState;
use vmseal_disk::{
    Binding, Control, Descriptor, Error, Holes, JobMode, JobPhase, NewKek, Outcome, SealSpec, decrypt_copy,
    decrypt_in_place, encrypt_copy, encrypt_in_place, import, job_info, job_path, open_plain, open_sealed,
    recrypt_in_place, repair, resume, verify_job,
};
use vmseal_secret::SecretKey;

/// Enough zones that a cancel comes in between.
const LARGE: usize = 64 * MIB;
const MODES: [JobMode; 3] = [JobMode::Encrypt, JobMode::Decrypt, JobMode::Recrypt];

struct Stopped {
    store: Datastore,
    path: PathBuf,
    new_kek: SecretKey,
    plain: Vec<u8>,
    mode: JobMode,
}

fn plain_disk(store: &Datastore, plain: &[u8]) -> PathBuf {
    let source = store.write("s.raw", plain);
    let path = store.path("d.vmdk");
    import(&source, &path, &DISK, &Control::new()).expect("import");
    fs::remove_file(source).expect("removal");
    path
}

/// A disk whose job was cancelled half way.
fn stopped(mode: JobMode, holes: Holes) -> Stopped {
    for _ in 0..20 {
        let store = Datastore::new();
        let plain = noise(LARGE, 5);
        let path = plain_disk(&store, &plain);
        let spec = SealSpec { holes: Some(holes), ..store.spec() };
        let new_kek = SecretKey::generate(32).expect("a key");
        if mode != JobMode::Encrypt {
            encrypt_in_place(&path, &spec, &Control::new()).expect("encryption");
        }
        let new = NewKek { kek: &new_kek, kek_id: "kek-2", provider_id: "kms-2" };
        let outcome = cancelled(|control| match mode {
            JobMode::Encrypt => encrypt_in_place(&path, &spec, control),
            JobMode::Decrypt => decrypt_in_place(&path, &store.kek, &binding(), control),
            JobMode::Recrypt => recrypt_in_place(&path, &store.kek, &binding(), &new, control),
        });
        match outcome {
            Err(Error::Cancelled) => return Stopped { store, path, new_kek, plain, mode },
            Err(error) => panic!("{error}"),
            Ok(_) => {}
        }
    }
    panic!("the job was always faster than its cancel");
}

impl Stopped {
    fn resume(&self) -> Result<Outcome, Error> {
        let binding = Binding { provider_id: None, ..binding() };
        resume(&self.path, &[&self.new_kek, &self.store.kek], &binding, &Control::new())
    }

    /// That the disk is whole in its new form and nothing else is left.
    fn check_done(&self) {
        let plain = match self.mode {
            JobMode::Decrypt => fs::read(flat_of(&self.path)).expect("the data"),
            _ => {
                let kek = if self.mode == JobMode::Encrypt { &self.store.kek } else { &self.new_kek };
                let binding = Binding { provider_id: None, ..binding() };
                let disk = open_sealed(&self.path, kek, &binding).expect("the disk opens");
                let mut bytes = vec![0; LARGE];
                disk.read_at(0, &mut bytes).expect("reading");
                assert_eq!(Descriptor::read_with_copy(&self.path).expect("a descriptor").1, CopyState::Same);
                bytes
            }
        };
        assert!(plain == self.plain, "bytes were lost");
        assert!(job_info(&self.path).expect("no job").is_none());
        let expected: &[&str] = match self.mode {
            JobMode::Decrypt => &["d-flat.vmdk", "d.vmdk"],
            _ => &["d-flat.vmdk", "d.vmdk", "d.vmdk.vmseal"],
        };
        assert_eq!(self.store.names(), expected);
    }
}

#[test]
fn b8_a_cancelled_job_is_resumed_and_ends_as_if_never_stopped() {
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            let disk = stopped(mode, holes);
            let info = job_info(&disk.path).expect("a record").expect("a job");
            assert_eq!((info.mode, info.phase, info.disk_id), (mode, JobPhase::Converting, DISK));
            assert!(info.done_bytes > 0 && info.done_bytes < info.total_bytes, "{info:?}");
            let keks = [&disk.store.kek, &disk.new_kek];
            let anywhere = Binding { provider_id: None, ..binding() };
            assert_eq!(verify_job(&disk.path, &keks, &anywhere).expect("an authentic record"), info);
            let control = Control::new();
            let outcome = resume(&disk.path, &keks, &anywhere, &control).expect("resumed");
            assert_eq!((outcome.bytes, outcome.holes), (LARGE as u64, Some(holes)));
            assert_eq!(control.progress().done_bytes, LARGE as u64);
            disk.check_done();
        }
    }
}

#[test]
fn b8_repair_needs_no_key_and_may_be_done_again() {
    for mode in MODES {
        let disk = stopped(mode, Holes::Dense);
        let first = repair(&disk.path).expect("repair");
        assert!(first.rewritten_bytes > 0 && first.done_bytes > 0, "{first:?}");
        let data = fs::read(flat_of(&disk.path)).expect("the data");
        assert_eq!(repair(&disk.path).expect("repair again"), first);
        assert!(fs::read(flat_of(&disk.path)).expect("the data") == data);
        disk.resume().expect("resumed");
        disk.check_done();
        assert_eq!(code(repair(&disk.path)), "VMSEAL_DISK_STATE");
        assert_eq!(code(disk.resume()), "VMSEAL_DISK_STATE");
    }
}

#[test]
fn b8_a_disk_between_states_is_refused_by_everything_else() {
    for mode in MODES {
        let disk = stopped(mode, Holes::Dense);
        let (path, kek, control) = (&disk.path, &disk.store.kek, Control::new());
        let target = disk.store.path("t.vmdk");
        let spec = disk.store.spec();
        let new = NewKek { kek, kek_id: "kek-2", provider_id: "kms-1" };
        for code in [
            code(open_sealed(path, kek, &binding())),
            code(open_plain(path)),
            code(encrypt_copy(path, &target, &spec, &control)),
            code(decrypt_copy(path, &target, kek, &binding(), &control)),
            code(import(path, &target, &DISK, &control)),
            code(encrypt_in_place(path, &spec, &control)),
            code(decrypt_in_place(path, kek, &binding(), &control)),
            code(recrypt_in_place(path, kek, &binding(), &new, &control)),
        ] {
            assert_eq!(code, "VMSEAL_DISK_IN_CONVERSION");
        }
        assert!(!target.exists());
        disk.resume().expect("nothing was harmed");
        disk.check_done();
    }
}

#[test]
fn b8_other_keys_and_other_places_resume_nothing() {
    let disk = stopped(JobMode::Recrypt, Holes::Dense);
    let wrong = SecretKey::generate(32).expect("a key");
    let anywhere = Binding { provider_id: None, ..binding() };
    let elsewhere = Binding { disk_id: [9; 16], ..anywhere };
    let data = fs::read(flat_of(&disk.path)).expect("the data");
    let (old, new) = (&disk.store.kek, &disk.new_kek);
    let try_with = |keks: &[&SecretKey], binding| code(resume(&disk.path, keks, binding, &Control::new()));
    assert_eq!(try_with(&[&wrong], &anywhere), "VMSEAL_ENVELOPE_AUTHENTICATION");
    assert_eq!(try_with(&[old], &anywhere), "VMSEAL_ENVELOPE_AUTHENTICATION");
    assert_eq!(try_with(&[new], &anywhere), "VMSEAL_ENVELOPE_AUTHENTICATION");
    assert_eq!(try_with(&[], &anywhere), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(try_with(&[old, new], &elsewhere), "VMSEAL_ENVELOPE_MISMATCH");
    assert!(fs::read(flat_of(&disk.path)).expect("the data") == data);
    disk.resume().expect("resumed");
    disk.check_done();
}

/// Sets bytes of the sidecar, with the unkeyed sum of a slot or header put right where `sum` says.
fn forge(path: &Path, at: usize, bytes: &[u8], sum: Option<usize>) {
    use sha2::{Digest as _, Sha256};
    let mut sidecar = fs::read(job_path(path)).expect("a sidecar");
    sidecar[at..at + bytes.len()].copy_from_slice(bytes);
    if let Some(start) = sum {
        let digest = Sha256::digest(&sidecar[start..start + 4096 - 32]);
        sidecar[start + 4096 - 32..start + 4096].copy_from_slice(&digest);
    }
    fs::write(job_path(path), sidecar).expect("a forged sidecar");
}

#[test]
fn b8_a_forged_record_decrypts_nothing() {
    // CVE-2021-4122: an encryption or recrypt under way, told to be a decryption; a frontier that was moved.
    for mode in [JobMode::Encrypt, JobMode::Recrypt] {
        for (field, bytes) in [(10, vec![2]), (56, vec![0; 8]), (56, (LARGE as u64).to_le_bytes().to_vec())] {
            let disk = stopped(mode, Holes::Dense);
            let data = fs::read(flat_of(&disk.path)).expect("the data");
            for slot in [0, 4096] {
                forge(&disk.path, slot + field, &bytes, Some(slot));
            }
            let code = code(disk.resume());
            assert!(["VMSEAL_JOB_AUTHENTICATION", "VMSEAL_JOB_INVALID"].contains(&code), "{code}");
            assert!(fs::read(flat_of(&disk.path)).expect("the data") == data, "the disk was written");
        }
    }
}

#[test]
fn b8_a_forged_journal_cannot_pass_plaintext_over_as_a_hole() {
    for mode in [JobMode::Encrypt, JobMode::Recrypt] {
        let disk = stopped(mode, Holes::Zero);
        let sidecar = fs::read(job_path(&disk.path)).expect("a sidecar");
        let headers =
            (8192..sidecar.len()).step_by(4096).filter(|&at| sidecar[at..].starts_with(b"VMSEALZ1"));
        let headers: Vec<usize> = headers.collect();
        assert_eq!(headers.len(), 2);
        for at in headers {
            // Up to the end of the disk, nothing to convert on the way: no payload, no runs, the sum of nothing.
            use sha2::{Digest as _, Sha256};
            let mut header = sidecar[at..at + 4096].to_vec();
            header[40..48].copy_from_slice(&(LARGE as u64).to_le_bytes());
            header[48..56].fill(0);
            header[56..88].copy_from_slice(&Sha256::digest(b""));
            header[88..4096 - 64].fill(0);
            forge(&disk.path, at, &header, Some(at));
        }
        let data = fs::read(flat_of(&disk.path)).expect("the data");
        assert_eq!(code(disk.resume()), "VMSEAL_JOB_AUTHENTICATION");
        assert!(fs::read(flat_of(&disk.path)).expect("the data") == data, "the disk was written");
    }
}

#[test]
fn a_missing_sidecar_stops_everything_and_loses_nothing() {
    let disk = stopped(JobMode::Encrypt, Holes::Dense);
    let kept = disk.store.path("kept");
    fs::rename(job_path(&disk.path), &kept).expect("put aside");
    assert_eq!(code(disk.resume()), "VMSEAL_JOB_INVALID");
    assert_eq!(code(repair(&disk.path)), "VMSEAL_JOB_INVALID");
    assert_eq!(code(job_info(&disk.path)), "VMSEAL_JOB_INVALID");
    fs::rename(kept, job_path(&disk.path)).expect("put back");
    disk.resume().expect("resumed");
    disk.check_done();
}

#[test]
fn b10_a_full_volume_is_met_before_the_first_byte() {
    let store = Datastore::new();
    let folder = store.path("small");
    fs::create_dir(&folder).expect("a folder");
    // Room for the disk, not for its journal; then for the journal, not for the holes.
    for (size, ranges) in [("34m", vec![(0, 32 * MIB)]), ("24m", vec![(0, MIB), (31 * MIB, MIB)])] {
        let Some(_volume) = SmallVolume::mount(&folder, size) else {
            return skip("mounting a tmpfs needs root");
        };
        let source = store.path("s.raw");
        let plain = sparse(&source, 32 * MIB, &ranges);
        let path = folder.join("d.vmdk");
        import(&source, &path, &DISK, &Control::new()).expect("import");
        let text = fs::read(&path).expect("a descriptor");
        let spec = SealSpec { holes: Some(Holes::Dense), ..store.spec() };
        assert_eq!(code(encrypt_in_place(&path, &spec, &Control::new())), "VMSEAL_NO_SPACE");
        assert!(fs::read(flat_of(&path)).expect("the data") == plain);
        assert_eq!(fs::read(&path).expect("a descriptor"), text);
        assert_eq!(fs::read_dir(&folder).expect("the volume").count(), 2, "files were left behind");
    }
}

#[test]
fn a_disk_with_holes_needs_no_room_for_them() {
    let store = Datastore::new();
    let folder = store.path("small");
    fs::create_dir(&folder).expect("a folder");
    let Some(_volume) = SmallVolume::mount(&folder, "40m") else {
        return skip("mounting a tmpfs needs root");
    };
    let path = folder.join("d.vmdk");
    let source = store.path("s.raw");
    sparse(&source, 100 * MIB, &[(512, 1024), (70 * MIB - 512, MIB)]);
    import(&source, &path, &DISK, &Control::new()).expect("import");
    let outcome = encrypt_in_place(&path, &store.spec(), &Control::new()).expect("encryption");
    assert_eq!(outcome.holes, Some(Holes::Zero));
    assert!(outcome.allocated_bytes < 2 * MIB as u64, "{outcome:?}");
}

#[test]
fn sectors_beyond_two_to_the_32_are_converted_in_place() {
    let store = Datastore::new();
    let capacity: u64 = 4 << 40 | 64 << 20;
    let path = store.path("d.vmdk");
    vmseal_disk::create_plain(&path, capacity, &DISK).expect("a hole file");
    let file = File::options().write(true).open(flat_of(&path)).expect("the data");
    let data = noise(MIB, 3);
    let places = [0, (2 << 40) - 512, (2 << 40) + 8 * 4096, capacity - MIB as u64];
    for place in places {
        file.write_all_at(&data, place).expect("data far out");
    }
    drop(file);
    encrypt_in_place(&path, &store.spec(), &Control::new()).expect("encryption");
    let new = NewKek { kek: &store.kek, kek_id: "kek-2", provider_id: "kms-1" };
    recrypt_in_place(&path, &store.kek, &binding(), &new, &Control::new()).expect("recrypt");
    let disk = open_sealed(&path, &store.kek, &binding()).expect("the disk opens");
    let mut bytes = vec![0; MIB];
    for place in [places[0], places[3]] {
        disk.read_at(place, &mut bytes).expect("reading");
        assert!(bytes == data, "at {place}");
    }
    decrypt_in_place(&path, &store.kek, &binding(), &Control::new()).expect("decryption");
    let file = File::open(flat_of(&path)).expect("the data");
    for place in [places[0], places[2], places[3]] {
        file.read_exact_at(&mut bytes, place).expect("reading");
        assert!(bytes == data, "at {place}");
    }
}
