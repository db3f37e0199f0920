//! Records of interrupted copies, their unfinished files and what stands beside them, changed at random: refused without a
//! byte written, or ended like a copy that nobody stopped; never a panic, never plaintext where there was to be none.

mod changes;
mod stopped;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use self::changes::{FOLDER, KINDS, change_bytes, change_fields, change_kind};
use self::stopped::{Entry, Folder, Keks, STRETCH, Stage, Stopped, Tree, UNIT};
use super::copy_job_info;
use super::record::record_path;
use crate::error::Error;
use crate::in_place::JobMode;
use crate::in_place::model::crash::Random;
use crate::pipeline::panic_text;

const MODES: [JobMode; 3] = [JobMode::Encrypt, JobMode::Decrypt, JobMode::Recrypt];
const STAGES: [Stage; 3] = [Stage::Begun, Stage::Middle, Stage::Whole];
/// Changes of each kind for each way a copy stopped.
const EACH: usize = 1_200;

const CODES: [&str; 12] = [
    "VMSEAL_ALREADY_EXISTS",
    "VMSEAL_DESCRIPTOR_INVALID",
    "VMSEAL_DESCRIPTOR_UNSUPPORTED",
    "VMSEAL_DISK_STATE",
    "VMSEAL_ENVELOPE_AUTHENTICATION",
    "VMSEAL_ENVELOPE_INVALID",
    "VMSEAL_ENVELOPE_MISMATCH",
    "VMSEAL_EXTENT_INVALID",
    "VMSEAL_IMAGE_INVALID",
    "VMSEAL_JOB_AUTHENTICATION",
    "VMSEAL_JOB_INVALID",
    "VMSEAL_NOT_FOUND",
];

/// What may come of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hope {
    /// A refusal.
    Refused,
    /// A refusal, or what an uninterrupted copy makes.
    RefusedOrWhole,
    /// The data may be another: bytes that were copied already are not looked at again, and who has the key may write
    /// records.
    RefusedOrAny,
}

/// A copy that stopped, as it is and as it would end.
struct Case<'a> {
    stopped: Stopped<'a>,
    keks: &'a Keks,
    before: Tree,
    after: Tree,
}

impl<'a> Case<'a> {
    fn new(folder: &'a Folder, stage: Stage, keks: &'a Keks) -> Self {
        let stopped = folder.stop("t.vmdk", stage, keks);
        let before = folder.tree();
        assert!(copy_job_info(&stopped.target).expect("a record").is_some());
        stopped.resume(keks).expect("resumed");
        let after = folder.tree();
        assert_ne!(before, after);
        folder.restore(&before);
        Self { stopped, keks, before, after }
    }

    fn told(&self) -> String {
        format!("{:?} {:?}", self.stopped.folder.mode, self.stopped.stage)
    }

    /// Whether `outcome` is a success; a failure is one of [`CODES`].
    fn judged<T>(&self, what: &str, outcome: Result<T, Error>) -> bool {
        match outcome {
            Ok(_) => true,
            Err(error) => {
                let code = error.code();
                assert!(CODES.contains(&code), "{}, {what}: {error} ({code})", self.told());
                false
            }
        }
    }

    fn without_panic<T>(&self, what: &str, record: &str, call: impl FnOnce() -> T) -> T {
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
            let text = panic_text(panic.as_ref());
            panic!("{}, {what}: {text}; the record: {record}", self.told())
        })
    }

    /// Looks at what was changed, goes on with it, and puts the good files back. Whether it went on.
    fn try_out(&self, what: &str, hope: Hope) -> bool {
        let Stopped { folder, target, .. } = &self.stopped;
        let changed = folder.tree();
        let record = self.record(&changed);
        self.judged(what, self.without_panic(what, &record, || copy_job_info(target)));
        assert!(folder.tree() == changed, "{}, {what}: looking wrote", self.told());
        let ended = self.judged(what, self.without_panic(what, &record, || self.stopped.resume(self.keks)));
        let now = folder.tree();
        let of_target = |name: &OsStr| name.as_encoded_bytes().starts_with(b"t");
        let differ = |expected: &Tree, is_asked: &dyn Fn(&OsStr) -> bool| {
            let names: BTreeSet<_> =
                expected.keys().chain(now.keys()).filter(|name| is_asked(name)).collect();
            let differing = names.into_iter().filter(|name| expected.get(*name) != now.get(*name));
            differing.map(|name| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let none: [String; 0] = [];
        if !ended {
            assert_eq!(differ(&changed, &|_| true), none, "{}, {what}: a refusal wrote", self.told());
        } else if hope == Hope::Refused {
            panic!("{}, {what}: it was believed; the record: {record}", self.told());
        } else if hope == Hope::RefusedOrWhole {
            assert_eq!(differ(&self.after, &of_target), none, "{}, {what}: another end", self.told());
        }
        assert_eq!(differ(&changed, &|name| !of_target(name)), none, "{}, {what}: written", self.told());
        if folder.mode != JobMode::Decrypt {
            let units: Vec<&[u8]> = folder.plain.chunks(UNIT).collect();
            for (name, entry) in now.iter().filter(|(name, _)| of_target(name)) {
                let Entry::File(bytes) = entry else { continue };
                let shown = bytes.chunks(UNIT).any(|unit| units.contains(&unit));
                assert!(!shown, "{}, {what}: plaintext in {}", self.told(), name.display());
            }
        }
        folder.restore(&self.before);
        ended
    }

    fn record(&self, tree: &Tree) -> String {
        let path = record_path(&self.stopped.target);
        match tree.get(path.file_name().unwrap_or_default()) {
            Some(Entry::File(bytes)) => String::from_utf8_lossy(bytes).chars().take(3000).collect(),
            other => format!("{other:?}"),
        }
    }

    fn put(&self, record: impl AsRef<[u8]>) {
        fs::write(record_path(&self.stopped.target), record).expect("a changed record");
    }
}

fn every_case(mode: JobMode, mut work: impl FnMut(&Case<'_>)) {
    let keks = Keks::new();
    for stage in STAGES {
        let folder = Folder::new(mode, &keks);
        work(&Case::new(&folder, stage, &keks));
    }
}

fn changed_records(mode: JobMode, seed: u64) {
    let mut random = Random::new(seed);
    every_case(mode, |case| {
        let mut ended = 0;
        for _ in 0..EACH {
            let mut bytes = case.stopped.record.clone().into_bytes();
            change_bytes(&mut bytes, &mut random);
            case.put(&bytes);
            ended += u32::from(case.try_out("changed bytes", Hope::RefusedOrWhole));
            let json = change_fields(&case.stopped, &mut random);
            let mac = case.stopped.record.lines().last().expect("a signature");
            case.put(format!("{json}\n{mac}\n"));
            let same = json == case.stopped.json();
            case.try_out("changed fields", if same { Hope::RefusedOrWhole } else { Hope::Refused });
            // By a holder of the key, who may say anything and gets no panic for it.
            case.put(Stopped::signed(&json, &case.stopped.mac));
            case.try_out("changed fields, signed", Hope::RefusedOrAny);
            case.put(Stopped::signed(&json, &case.stopped.of_another));
            case.try_out("changed fields, signed for another disk", Hope::Refused);
        }
        assert!(ended < EACH as u32 / 4, "{}: {ended} changes changed nothing", case.told());
    });
}

#[test]
fn changed_records_of_an_encryption_are_refused_or_mean_the_same() {
    changed_records(JobMode::Encrypt, 21);
}

#[test]
fn changed_records_of_a_decryption_are_refused_or_mean_the_same() {
    changed_records(JobMode::Decrypt, 22);
}

#[test]
fn changed_records_of_a_deep_recrypt_are_refused_or_mean_the_same() {
    changed_records(JobMode::Recrypt, 23);
}

#[test]
fn a_record_that_is_not_of_this_copy_is_refused() {
    for mode in MODES {
        every_case(mode, |case| {
            let Stopped { folder, .. } = case.stopped;
            case.put(Stopped::signed(case.stopped.json(), &case.stopped.of_another));
            case.try_out("signed for another disk", Hope::Refused);
            // Of the same source under the same KEKs, to another name: of a decryption even under the same data key.
            for stage in STAGES {
                let other = folder.stop("u.vmdk", stage, case.keks);
                let record = other.record;
                folder.restore(&case.before);
                case.put(record);
                case.try_out("the record of another copy", Hope::Refused);
            }
        });
    }
}

#[test]
fn what_is_no_file_of_its_own_is_refused_in_every_place() {
    for mode in MODES {
        every_case(mode, |case| {
            let Stopped { folder, target, .. } = &case.stopped;
            let places = [
                record_path(target),
                case.stopped.beside("-flat.vmdk"),
                target.clone(),
                folder.path("t.vmdk.vmseal"),
            ];
            for (place, path) in places.iter().enumerate() {
                for kind in 0..KINDS {
                    for victim in ["victim", "aside"] {
                        let victim = folder.path(victim);
                        // The good file under another name, or somebody else's.
                        if victim.ends_with("aside") {
                            let Ok(bytes) = fs::read(path) else { continue };
                            fs::write(&victim, bytes).expect("a file");
                        }
                        change_kind(path, &victim, kind);
                        if (place, kind) == (3, FOLDER) {
                            // Only the system says no to that.
                            let before = folder.tree();
                            let error = case.stopped.resume(case.keks).expect_err("a folder");
                            assert_eq!(
                                (error.code(), folder.tree() == before),
                                ("VMSEAL_IO", true),
                                "{error}"
                            );
                            folder.restore(&case.before);
                            continue;
                        }
                        let what = format!("{} of kind {kind}", path.display());
                        let second = kind == 5 && victim.ends_with("aside");
                        let hope = match (place, case.stopped.stage) {
                            (0, _) if second => Hope::RefusedOrAny,
                            // Nothing in it is durable, so the file is made anew.
                            (1, Stage::Begun) => Hope::RefusedOrWhole,
                            (0 | 1, _) => Hope::Refused,
                            _ => Hope::RefusedOrAny,
                        };
                        case.try_out(&what, hope);
                    }
                }
            }
        });
    }
}

#[test]
fn changed_files_of_the_target_are_refused_or_made_whole() {
    let mut random = Random::new(24);
    for mode in MODES {
        every_case(mode, |case| {
            let Stopped { folder, target, stage, .. } = &case.stopped;
            let flat = case.stopped.beside("-flat.vmdk");
            for _ in 0..EACH / 4 {
                // Not yet copied, so written again.
                if let (Stage::Middle, Some(Entry::File(good))) =
                    (stage, case.before.get(OsStr::new("t-flat.vmdk")))
                {
                    let mut bytes = good.clone();
                    let at = 2 * STRETCH + random.below(2 * STRETCH);
                    bytes[at] ^= 1 << random.below(8);
                    fs::write(&flat, &bytes).expect("the data");
                    case.try_out("data behind the frontier", Hope::RefusedOrWhole);
                }
                let mut bytes = fs::read(&flat).expect("the data");
                change_bytes(&mut bytes, &mut random);
                fs::write(&flat, &bytes).expect("the data");
                let begins_anew = *stage == Stage::Begun;
                let hope = if begins_anew { Hope::RefusedOrWhole } else { Hope::RefusedOrAny };
                case.try_out("data", hope);
                for (name, path) in [("t.vmdk", target), ("t.vmdk.vmseal", &folder.path("t.vmdk.vmseal"))] {
                    let text = match case.after.get(OsStr::new(name)) {
                        Some(Entry::File(bytes)) => bytes.clone(),
                        _ => continue,
                    };
                    let mut bytes = text;
                    change_bytes(&mut bytes, &mut random);
                    fs::write(path, &bytes).expect("a text");
                    let is_anothers = name == "t.vmdk" && *stage != Stage::Whole;
                    let hope = if is_anothers { Hope::RefusedOrAny } else { Hope::RefusedOrWhole };
                    case.try_out(name, hope);
                }
            }
        });
    }
}

#[test]
fn a_descriptor_of_another_disk_in_the_targets_place_is_left_alone() {
    for mode in MODES {
        every_case(mode, |case| {
            let folder = case.stopped.folder;
            let other = folder.stop("u.vmdk", Stage::Whole, case.keks);
            let text = fs::read(&other.target).expect("a descriptor");
            folder.restore(&case.before);
            fs::write(&case.stopped.target, text).expect("another disk's descriptor");
            case.try_out("another disk's descriptor", Hope::Refused);
        });
    }
}
