//! Every power cut and every failing call of a copy, of the one that goes on with it, and of taking its source away.
//!
//! A copy only reads its source, so its crashes concern the target; taking the source away only begins when the target is
//! durable, so its crashes concern the source. That nothing is lost over both is: when a copy has ended well, no power cut takes
//! anything of the target any more ([`CopyWorld::check_done`]), and until then nobody touches the source.

mod source_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use vmseal_secret::SecretKey;

use super::discard::DiscardSource;
use super::engine::{Copying, clear, clear_all, tidy};
use super::record::Record;
use crate::control::Control;
use crate::descriptor::Holes;
use crate::error::{Error, Result};
use crate::in_place::lifecycle::Texts;
use crate::in_place::model::crash::{Choices, Random, images};
use crate::in_place::model::explore::{ALL, Count, Explored, explore, fail_every_call, tell, wander};
use crate::in_place::model::world::{ModelForms, UNIT};
use crate::in_place::model::{Fault, Forms as _, Image, Lie, ModelDisk, Rule};
use crate::in_place::storage::{Name, Storage as _, failed, read_exact, write_all};
use crate::in_place::{JobMode, MacKey};
use source_world::{Kind, SourceWorld};

const MODES: [JobMode; 3] = [JobMode::Encrypt, JobMode::Decrypt, JobMode::Recrypt];

#[derive(Debug, Clone, Copy)]
struct Shape {
    mode: JobMode,
    holes: Holes,
    units: usize,
    /// Units between two records.
    stretch: usize,
    lie: Option<Lie>,
}

const SMALL: Shape = Shape { mode: JobMode::Encrypt, holes: Holes::Dense, units: 5, stretch: 2, lie: None };

impl Shape {
    /// Bytes before and after the copy.
    fn forms(self) -> (Vec<u8>, Vec<u8>) {
        let mut random = Random::new(self.units as u64);
        let mut old: Vec<u8> = (0..self.units * UNIT).map(|_| random.next() as u8 | 1).collect();
        for unit in old.chunks_mut(UNIT) {
            if self.holes == Holes::Zero && random.below(3) == 0 {
                unit.fill(0);
            }
        }
        let mut new = old.clone();
        ModelForms::new(self.mode, self.holes).convert(&mut new, 0).expect("a cipher");
        (old, new)
    }

    fn texts(self) -> Texts {
        let sealed = self.mode != JobMode::Decrypt;
        Texts { descriptor: b"descriptor".to_vec(), copy: sealed.then(|| b"second copy".to_vec()) }
    }
}

/// A copy from a source that nobody changes.
struct CopyWorld {
    shape: Shape,
    old: Vec<u8>,
    new: Vec<u8>,
    texts: Texts,
    key: MacKey,
    control: Control,
    rule: Rule,
    violated: Arc<AtomicBool>,
}

impl CopyWorld {
    fn new(shape: Shape) -> Self {
        let (old, new) = shape.forms();
        let violated = Arc::new(AtomicBool::new(false));
        let rule = rule(new.clone(), if shape.mode == JobMode::Decrypt { &[] } else { &old }, &violated);
        let key = SecretKey::try_init(64, |bytes| -> Result<(), vmseal_secret::Error> {
            bytes.copy_from_slice(&std::array::from_fn::<u8, 64, _>(|at| at as u8));
            Ok(())
        });
        let key = MacKey::derive(&key.expect("key memory"), &[7; 16], &[8; 16]).expect("a key");
        Self { shape, old, new, texts: shape.texts(), key, control: Control::new(), rule, violated }
    }

    fn create(&self, disk: &mut ModelDisk) -> Result<()> {
        disk.create(Name::Flat).map_err(failed(disk, "create", Name::Flat))?;
        let grown = disk.reserve(Name::Flat, 0, self.new.len() as u64);
        grown.map_err(failed(disk, "extend", Name::Flat)).inspect_err(|_| {
            let _ = disk.unlink(Name::Flat);
        })
    }

    /// What the pipeline does: one write for each data unit.
    fn copy(&self, disk: &ModelDisk, from: usize, to: usize) -> Result<()> {
        let forms = ModelForms::new(self.shape.mode, self.shape.holes);
        for at in (from..to).step_by(UNIT) {
            let mut unit = self.old[at..at + UNIT].to_vec();
            if self.shape.holes == Holes::Zero && unit.iter().all(|&byte| byte == 0) {
                continue;
            }
            forms.convert(&mut unit, at as u64)?;
            write_all(disk, Name::Flat, &unit, at as u64)?;
        }
        Ok(())
    }

    /// What a target that is a disk must hold.
    fn check_target(&self, file: impl Fn(Name) -> Option<Vec<u8>>) -> Result<(), String> {
        let expected = [
            (Name::Descriptor, Some(&self.texts.descriptor)),
            (Name::Copy, self.texts.copy.as_ref()),
            (Name::Flat, Some(&self.new)),
        ];
        for (name, bytes) in expected {
            if file(name).as_ref() != bytes {
                return Err(format!("{name:?} is not what it should be"));
            }
        }
        Ok(())
    }
}

impl Explored for CopyWorld {
    fn seed(&self) -> u64 {
        self.shape.units as u64 * 31 + self.shape.mode as u64
    }

    fn untouched(&self) -> Image {
        Image::default()
    }

    fn disk(&self, image: &Image, record: bool) -> ModelDisk {
        let disk = ModelDisk::new(image, Some(Arc::clone(&self.rule)), record);
        disk.lie(self.shape.lie);
        disk
    }

    fn go_on(&self, disk: &mut ModelDisk) -> Result<()> {
        let capacity = self.new.len() as u64;
        let copying = Copying { key: &self.key, texts: &self.texts, capacity, control: &self.control };
        let is_disk = exists(disk, Name::Descriptor)?;
        let mut record = match text(disk, Name::CopyRecord)? {
            Some(text) => {
                let path = disk.path(Name::CopyRecord).to_owned();
                let record = Record::parse(&text).ok_or_else(|| Error::job(&path, "it is damaged"))?;
                record.verify(&self.key, &path)?;
                record
            }
            None if is_disk => return Ok(()),
            None => Record::new([7; 16], "/source".to_owned(), Vec::new(), "descriptor".to_owned()),
        };
        if is_disk {
            return tidy(disk, &self.texts);
        }
        if record.frontier() == 0 {
            clear_all(disk)?;
            self.create(disk)?;
            copying.begin(disk, &mut record)?;
        } else {
            disk.open(Name::Flat).map_err(failed(disk, "open", Name::Flat))?;
            let len = disk.len(Name::Flat).map_err(failed(disk, "examine", Name::Flat))?;
            if len != capacity {
                return Err(Error::extent(disk.path(Name::Flat), "it is not the unfinished file"));
            }
            clear(disk)?;
        }
        let stretch = |from: u64| Ok((from + (self.shape.stretch * UNIT) as u64).min(capacity));
        copying.run(disk, &mut record, stretch, |disk, range| {
            self.copy(disk, range.start as usize, range.end as usize)
        })
    }

    /// A disk that is whole, or none and a record that promises nothing that is not there.
    fn check_at_rest(&self, image: &Image) -> Result<(), String> {
        let file = |name: Name| image.files[name as usize].clone();
        if file(Name::Descriptor).is_some() {
            return self.check_target(file);
        }
        let Some(bytes) = file(Name::CopyRecord) else { return Ok(()) };
        let record = String::from_utf8(bytes).ok().and_then(|text| Record::parse(&text));
        let record = record.ok_or("a torn record")?;
        record.verify(&self.key, "record".as_ref()).map_err(|error| error.to_string())?;
        let frontier = record.frontier() as usize;
        let flat = file(Name::Flat).unwrap_or_default();
        if frontier > 0 && (flat.len() != self.new.len() || flat[..frontier] != self.new[..frontier]) {
            return Err(format!("bytes below the frontier {frontier} are lost"));
        }
        Ok(())
    }

    /// The target is a disk, whatever the power does from here on.
    fn check_done(&self, disk: &ModelDisk) -> Result<(), String> {
        self.check_target(|name| disk.content(name))?;
        if disk.content(Name::CopyRecord).is_some() || self.violated.load(Ordering::Relaxed) {
            return Err("the record stayed, or plaintext was written".to_owned());
        }
        let mut outcome = Ok(());
        images(
            &disk.now(),
            Choices { pieces: 2, all_below: 10, samples: 40 },
            &mut Random::new(1),
            |image| {
                if outcome.is_ok() {
                    outcome = self.check_target(|name| image.files[name as usize].clone());
                }
            },
        );
        outcome.map_err(|error| format!("a copy that ended is not durable: {error}"))
    }
}

/// In the flat file its new form alone; nowhere a piece of `secret`.
fn rule(new: Vec<u8>, secret: &[u8], violated: &Arc<AtomicBool>) -> Rule {
    let halves: Vec<Vec<u8>> = secret
        .chunks(UNIT / 2)
        .filter(|half| half.iter().any(|&byte| byte != 0))
        .map(<[u8]>::to_vec)
        .collect();
    let violated = Arc::clone(violated);
    Arc::new(move |name, bytes, offset| {
        let at = offset as usize;
        let is_new = name != Name::Flat || new.get(at..at + bytes.len()) == Some(bytes);
        if !is_new || bytes.windows(UNIT / 2).any(|part| halves.iter().any(|half| half == part)) {
            violated.store(true, Ordering::Relaxed);
        }
    })
}

fn exists(disk: &mut ModelDisk, name: Name) -> Result<bool> {
    match disk.open(name).map_err(failed(disk, "open", name)) {
        Ok(()) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn text(disk: &mut ModelDisk, name: Name) -> Result<Option<String>> {
    if !exists(disk, name)? {
        return Ok(None);
    }
    let len = disk.len(name).map_err(failed(disk, "examine", name))?;
    let mut bytes = vec![0; len as usize];
    read_exact(disk, name, &mut bytes, 0)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn sources(lie: Option<Lie>) -> Vec<SourceWorld> {
    let data = SMALL.forms().0;
    let kinds = [Kind::Plain, Kind::Sealed, Kind::Image];
    let of = |(how, kind)| SourceWorld { how, data: data.clone(), kind, lie, promises: true };
    [DiscardSource::Unlink, DiscardSource::Overwrite]
        .into_iter()
        .flat_map(|how| kinds.map(|kind| of((how, kind))))
        .collect()
}

#[test]
fn every_crash_of_a_copy_leaves_the_source_or_a_durable_target() {
    for mode in MODES {
        let mut total = Count::default();
        for holes in [Holes::Dense, Holes::Zero] {
            for (units, stretch) in [(1, 1), (3, 1), (5, 2), (6, 3)] {
                let shape = Shape { mode, holes, units, stretch, lie: None };
                let count = explore(&CopyWorld::new(shape), ALL, ALL);
                let count = count.unwrap_or_else(|error| panic!("{shape:?}: {error}"));
                println!("{shape:?}: {count:?}");
                total.add(count);
            }
        }
        tell(&format!("{} to a copy", mode.as_str()), total);
        assert!(total.histories >= 380_000, "{mode:?}: {total:?}");
    }
}

#[test]
fn every_crash_of_taking_a_source_away_leaves_it_whole_or_no_disk() {
    let mut total = Count::default();
    for world in sources(None) {
        let torn = Choices { pieces: 7, ..ALL };
        total.add(explore(&world, torn, torn).unwrap_or_else(|error| panic!("{:?}: {error}", world.how)));
    }
    tell("taking a source away", total);
    assert!(total.histories >= 2000, "{total:?}");
}

#[test]
fn random_crashes_of_larger_copies_lose_nothing() {
    for mode in MODES {
        for holes in [Holes::Dense, Holes::Zero] {
            for (units, stretch) in [(40, 7), (64, 16), (33, 1)] {
                let shape = Shape { mode, holes, units, stretch, lie: None };
                let walked = wander(&CopyWorld::new(shape), 1000);
                walked.unwrap_or_else(|error| panic!("{shape:?}: {error}"));
            }
        }
    }
}

#[test]
fn any_failing_call_of_a_copy_or_of_taking_its_source_away_loses_nothing() {
    let faults = [
        (Fault::Error(Errno::IO), true),
        (Fault::Error(Errno::NOSPC), true),
        (Fault::Sync(Errno::IO), true),
        (Fault::Error(Errno::INTR), false),
        (Fault::Short, true),
    ];
    for (fault, may_last) in faults {
        for forever in [false, true] {
            if forever && !may_last {
                continue;
            }
            for mode in MODES {
                let shape = Shape { mode, ..SMALL };
                let tried = fail_every_call(&CopyWorld::new(shape), fault, forever);
                let tried = tried.unwrap_or_else(|error| panic!("{shape:?}: {error}"));
                assert!(tried >= 10, "{shape:?} {fault:?}: {tried}");
            }
            for world in sources(None) {
                let tried = fail_every_call(&world, fault, forever);
                tried.unwrap_or_else(|error| panic!("{:?} {fault:?}: {error}", world.how));
            }
        }
    }
}

#[test]
fn a_barrier_that_is_left_out_is_found() {
    for mode in MODES {
        for lie in [Lie::Sync(Name::Flat), Lie::Sync(Name::Temporary), Lie::SyncFolder] {
            let shape = Shape { mode, lie: Some(lie), ..SMALL };
            let found = explore(&CopyWorld::new(shape), ALL, ALL);
            assert!(found.is_err(), "{shape:?}: {found:?}");
        }
    }
    let overwritten = |lie| sources(lie).into_iter().filter(|world| world.how == DiscardSource::Overwrite);
    for lie in [Lie::SyncFolder, Lie::Sync(Name::Flat), Lie::Sync(Name::Temporary)] {
        for world in overwritten(Some(lie)) {
            let found = explore(&world, ALL, ALL);
            assert!(found.is_err(), "{lie:?} {:?}: {found:?}", world.kind);
        }
    }
    for world in overwritten(None) {
        let found = explore(&SourceWorld { promises: false, ..world }, ALL, ALL);
        assert!(found.is_err(), "a wish that nobody remembers: {found:?}");
    }
}
