//! Descriptors, second copies, records and journals with bytes changed at random: refused or repaired, never a panic, and
//! never a byte of plaintext where there was none.

use std::fs;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use vmseal_secret::SecretKey;

use super::super::engine::{Engine, Settings};
use super::super::file_storage::FileStorage;
use super::super::lifecycle::start;
use super::super::model::crash::Random;
use super::super::plan::{Plan, texts};
use super::super::record::{Record, Slot};
use super::super::sidecar::{LAYOUT, read_slot};
use super::super::suite::{DiskForms, Sha, Sum as _};
use super::super::zone::Zone;
use super::super::{JobMode, job_info, job_path, repair, resume, verify_job};
use super::crashes::MODES;
use crate::control::Control;
use crate::descriptor::{Descriptor, Holes, copy_path};
use crate::error::Error;
use crate::lock::Changes;
use crate::seal::{self, Binding, SealSpec};

const ZONE: usize = 4096;
const CAPACITY: usize = 4 * ZONE;
const UNIT: usize = 512;
const SPEC_IDS: ([u8; 16], [u8; 16]) = ([1; 16], [2; 16]);

/// A disk whose job stands after its first zone, with the journal of the second whole.
struct Stopped {
    folder: TempDir,
    path: PathBuf,
    kek: SecretKey,
    files: [(PathBuf, Vec<u8>); 4],
    plain: Vec<u8>,
    old: Vec<u8>,
    new: Vec<u8>,
}

fn binding() -> Binding<'static> {
    Binding { vm_id: SPEC_IDS.0, disk_id: SPEC_IDS.1, provider_id: None }
}

impl Stopped {
    fn new(mode: JobMode) -> Self {
        // In memory where there is such a folder: this file is about bytes, not about a disk.
        let folder = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a folder");
        let path = folder.path().join("d.vmdk");
        let kek = SecretKey::generate(32).expect("a key");
        let seal_as = |generation| {
            let (vm_id, disk_id) = SPEC_IDS;
            let spec = SealSpec {
                kek: &kek,
                kek_id: "kek",
                provider_id: "kms",
                vm_id,
                disk_id,
                generation,
                sector_size: UNIT as u32,
                holes: Some(Holes::Dense),
            };
            seal::seal_key(&spec, CAPACITY as u64, Holes::Dense).expect("a data key")
        };
        let (one, two) = (seal_as(1), seal_as(2));
        let (old, new) = match mode {
            JobMode::Encrypt => (None, Some(&two)),
            JobMode::Decrypt => (Some(&one), None),
            JobMode::Recrypt => (Some(&one), Some(&two)),
        };
        let descriptor = |side: Option<&(SecretKey, crate::descriptor::Sealed)>| {
            Descriptor::new_flat("d-flat.vmdk", CAPACITY as u64 / 512, &SPEC_IDS.1).retargeted(
                "d-flat.vmdk",
                &SPEC_IDS.1,
                side.map(|(_, sealed)| sealed.clone()),
            )
        };
        let mut random = Random::new(9);
        let plain: Vec<u8> = (0..CAPACITY).map(|_| random.next() as u8).collect();
        let form = |side: Option<&(SecretKey, _)>| {
            let mut bytes = plain.clone();
            if let Some((key, _)) = side {
                let xts = vmseal_xts::Xts::new(key, UNIT as u32, 1).expect("a cipher");
                xts.encrypt(&mut bytes, 0).expect("the disk");
            }
            bytes
        };
        let (before, after) = (descriptor(old), descriptor(new));
        before.write_new(&path).expect("a descriptor");
        fs::write(folder.path().join("d-flat.vmdk"), form(old)).expect("the data");
        let plan = Plan::new(before, after).expect("a plan");
        let bytes = plan.to_bytes().expect("its bytes");
        let record = Record {
            mode,
            holes: Holes::Dense,
            unit: UNIT as u32,
            job: [7; 16],
            disk: SPEC_IDS.1,
            capacity: CAPACITY as u64,
            zone: ZONE as u32,
            plan_len: bytes.len() as u32,
            plan_sum: Sha::sum(&bytes),
        };
        let keys = [old, new].map(|side| side.map(|(key, _)| key));
        let forms = DiskForms::new(keys[0], keys[1], record.unit, record.holes, &record.job, &record.disk);
        let forms = forms.expect("keys").expect("a key");
        let mut storage =
            FileStorage::lock(&path, "d-flat.vmdk", CAPACITY as u64, Changes::Data).expect("a disk");
        let descriptors = (&texts(&plan.before).expect("text"), &texts(&plan.during).expect("text"));
        let slot = start::<_, _, Sha>(&mut storage, LAYOUT, &forms, (&record, &bytes), descriptors, |_| true)
            .expect("a job");
        let control = Control::new();
        control.cancel();
        let stopped = Engine::<_, _, Sha>::new(&storage, &forms, Settings::real(), &control).run(slot);
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
        assert_eq!(read_slot::<_, Sha>(&storage, LAYOUT).expect("a slot").0.frontier, ZONE as u64);
        drop(storage);
        let paths = [path.clone(), copy_path(&path), job_path(&path), folder.path().join("d-flat.vmdk")];
        let files = paths.map(|path| {
            let bytes = fs::read(&path).expect("a file of the job");
            (path, bytes)
        });
        let (old, new) = (form(old), form(new));
        Self { folder, path, kek, files, plain, old, new }
    }

    fn restore(&self, all: bool) {
        for (path, bytes) in &self.files[..if all { 4 } else { 3 }] {
            fs::write(path, bytes).expect("a file");
        }
    }

    fn flat(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("d-flat.vmdk")).expect("the data")
    }

    fn go_on(&self) -> Result<(), Error> {
        resume(&self.path, &[&self.kek], &binding(), &Control::new()).map(drop)
    }

    /// One history: a file is changed, everything is tried, then the good files come back and the job must end well.
    fn mutate(&self, mode: JobMode, random: &mut Random) {
        self.restore(true);
        let which = random.below(3);
        let mut bytes = self.files[which].1.clone();
        change(&mut bytes, random);
        // Put right by somebody who wants the change to be believed; repair without a key would believe it too.
        let forged = which == 2 && random.below(2) == 0;
        if forged {
            sum_again(&mut bytes);
        }
        fs::write(&self.files[which].0, &bytes).expect("a changed file");
        let judged = |result: Result<(), Error>| match result {
            Ok(()) => true,
            Err(error) => {
                let code = error.code();
                assert!(CODES.contains(&code), "{mode:?}: {error} ({code})");
                false
            }
        };
        judged(job_info(&self.path).map(drop));
        judged(verify_job(&self.path, &[&self.kek], &binding()).map(drop));
        if !forged && random.below(2) == 0 {
            judged(repair(&self.path).map(drop));
        }
        if judged(self.go_on()) {
            assert!(self.flat() == self.new, "{mode:?}: a job that ended well left another form");
            return;
        }
        let places = self.flat();
        for (index, unit) in places.chunks(UNIT).enumerate() {
            let at = index * UNIT..(index + 1) * UNIT;
            let known = unit == &self.old[at.clone()] || unit == &self.new[at.clone()];
            assert!(known, "{mode:?}: unit {index} is in no form");
            let was_plain = self.files[3].1[at.clone()] == self.plain[at.clone()];
            assert!(was_plain || unit != &self.plain[at], "{mode:?}: plaintext was written at unit {index}");
        }
        self.restore(false);
        self.go_on().expect("with the good files the job goes on");
        assert!(self.flat() == self.new, "{mode:?}: bytes were lost");
    }
}

const CODES: [&str; 10] = [
    "VMSEAL_DESCRIPTOR_INVALID",
    "VMSEAL_DESCRIPTOR_UNSUPPORTED",
    "VMSEAL_DISK_STATE",
    "VMSEAL_ENVELOPE_AUTHENTICATION",
    "VMSEAL_ENVELOPE_INVALID",
    "VMSEAL_ENVELOPE_MISMATCH",
    "VMSEAL_EXTENT_INVALID",
    "VMSEAL_JOB_AUTHENTICATION",
    "VMSEAL_JOB_INVALID",
    "VMSEAL_NOT_FOUND",
];

/// A bit, a byte, a range, the length, or a block from elsewhere.
fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        // Heads are denser than payloads.
        let end = if random.below(2) == 0 { bytes.len() } else { bytes.len().min(128) };
        let at = random.below(end);
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let to = (at + random.below(600)).min(bytes.len());
                bytes[at..to].fill(0);
            }
            4 => bytes.insert(at, random.next() as u8),
            5 => {
                let number = [0, 1, u64::MAX, i64::MAX as u64, random.next()][random.below(5)].to_le_bytes();
                let to = (at + 8).min(bytes.len());
                bytes[at..to].copy_from_slice(&number[..to - at]);
            }
            _ => {
                let from = random.below(bytes.len());
                let len = random.below(4096).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + len, at);
            }
        }
    }
}

/// Makes the unkeyed sums of slots and journal headers right.
fn sum_again(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(4096) {
        if block.starts_with(b"VMSEALJ1") || block.starts_with(b"VMSEALZ1") {
            let digest = Sha256::digest(&block[..4096 - 32]);
            block[4096 - 32..].copy_from_slice(&digest);
        }
    }
}

fn whole_disks(mode: JobMode, seed: u64) {
    let disk = Stopped::new(mode);
    let mut random = Random::new(seed);
    for _ in 0..7_000 {
        disk.mutate(mode, &mut random);
    }
}

#[test]
fn changed_files_of_an_encryption_are_refused_or_repaired() {
    whole_disks(JobMode::Encrypt, 11);
}

#[test]
fn changed_files_of_a_decryption_are_refused_or_repaired() {
    whole_disks(JobMode::Decrypt, 12);
}

#[test]
fn changed_files_of_a_deep_recrypt_are_refused_or_repaired() {
    whole_disks(JobMode::Recrypt, 13);
}

/// What reads the parts, with sums put right so that the fields themselves are met: a number in range or a refusal.
#[test]
fn changed_records_headers_plans_and_texts_never_panic() {
    for mode in MODES {
        let disk = Stopped::new(mode);
        let mut random = Random::new(14);
        let sidecar = &disk.files[2].1;
        let (slot, _) = [0, 4096]
            .into_iter()
            .zip(0..)
            .filter_map(|(at, index)| Slot::decode::<Sha>(&sidecar[at..at + 4096], index))
            .max_by_key(|(slot, _)| slot.sequence)
            .expect("a slot");
        let index = slot.sequence % 2;
        let slot_at = index as usize * 4096;
        let header_at = LAYOUT.area(&slot.record, slot.sequence) as usize;
        let plan = &sidecar[8192..8192 + slot.record.plan_len as usize];
        for _ in 0..7_000 {
            let mut bytes = sidecar[slot_at..slot_at + 4096].to_vec();
            change(&mut bytes, &mut random);
            sum_again(&mut bytes);
            if let Some((slot, _)) = Slot::decode::<Sha>(&bytes, index) {
                assert!(slot.record.zone <= 64 << 20 && slot.frontier <= slot.record.capacity);
            }
            let mut bytes = sidecar[header_at..header_at + 4096].to_vec();
            change(&mut bytes, &mut random);
            sum_again(&mut bytes);
            if let Some((zone, _)) = Zone::decode::<Sha>(&bytes, &slot) {
                assert!(zone.payload_len() <= ZONE && zone.to <= CAPACITY as u64);
            }
            let mut bytes = plan.to_vec();
            change(&mut bytes, &mut random);
            let _ = Plan::parse(&bytes, &slot.record);
            let mut bytes = disk.files[0].1.clone();
            change(&mut bytes, &mut random);
            if let Ok(descriptor) = Descriptor::parse(&bytes) {
                assert!(descriptor.capacity_sectors() <= i64::MAX as u64 / 512);
            }
        }
    }
}
