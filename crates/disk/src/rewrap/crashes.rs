//! Every power cut and every failing call of a shallow recrypt, and of the one that heals it. What is left is given to the
//! functions users have: the disk must open with the old KEK or the new one, and afterwards with the new one alone.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use rustix::io::Errno;
use tempfile::TempDir;
use vmseal_secret::SecretKey;

use super::{rewrap, shallow_recrypt};
use crate::copy_job::encrypt_copy;
use crate::descriptor::{CopyState, copy_path};
use crate::in_place::NewKek;
use crate::in_place::model::crash::{Choices, Random, fingerprint, images};
use crate::in_place::model::{Fault, FaultPlan, Image, ModelDisk};
use crate::in_place::storage::{NAMES, Name, Storage as _};
use crate::open::open_sealed;
use crate::seal::{Binding, SealSpec};
use crate::{Control, Descriptor};

const BYTES: usize = 4096;
const BINDING: Binding<'static> = Binding { vm_id: [1; 16], disk_id: [2; 16], provider_id: None };
/// A write tears into up to three parts; what has more than 2^10 combinations is sampled.
const CHOICES: Choices = Choices { pieces: 3, all_below: 10, samples: 200 };

struct Disk {
    folder: TempDir,
    old: SecretKey,
    new: SecretKey,
    plain: Vec<u8>,
    flat: Vec<u8>,
}

impl Disk {
    fn new() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let old = SecretKey::generate(32).expect("key memory");
        let plain: Vec<u8> = (0..BYTES).map(|at| (at * 7 % 251) as u8).collect();
        let source = folder.path().join("source");
        fs::write(&source, &plain).expect("a source");
        let spec = SealSpec {
            kek: &old,
            kek_id: "old",
            provider_id: "kms-1",
            vm_id: BINDING.vm_id,
            disk_id: BINDING.disk_id,
            generation: 3,
            sector_size: 512,
            holes: None,
        };
        encrypt_copy(&source, &folder.path().join("web01.vmdk"), &spec, &Control::new()).expect("sealing");
        let flat = fs::read(folder.path().join("web01-flat.vmdk")).expect("the extent");
        Self { folder, new: SecretKey::generate(32).expect("key memory"), old, plain, flat }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("web01.vmdk")
    }

    fn new_kek(&self) -> NewKek<'_> {
        NewKek { kek: &self.new, kek_id: "new", provider_id: "kms-2" }
    }

    fn image(&self) -> Image {
        let mut files = [const { None }; NAMES];
        let read = |path: PathBuf| Some(fs::read(path).expect("a file of the disk"));
        files[Name::Descriptor as usize] = read(self.path());
        files[Name::Copy as usize] = read(copy_path(&self.path()));
        files[Name::Flat as usize] = Some(self.flat.clone());
        Image { files }
    }

    fn put(&self, image: &Image) {
        let file = |name: Name| image.files[name as usize].as_deref();
        assert_eq!(file(Name::Flat), Some(&*self.flat), "a data byte changed");
        fs::write(self.path(), file(Name::Descriptor).expect("a descriptor")).expect("the descriptor");
        match file(Name::Copy) {
            Some(bytes) => fs::write(copy_path(&self.path()), bytes).expect("the copy"),
            None => fs::remove_file(copy_path(&self.path())).expect("no copy"),
        }
    }

    fn opens(&self, kek: &SecretKey) -> bool {
        let Ok(disk) = open_sealed(&self.path(), kek, &BINDING) else { return false };
        let mut read = vec![0; BYTES];
        disk.read_at(0, &mut read).expect("reading");
        read == self.plain
    }

    /// The KEK that opens what stands there; the new one when both do.
    fn usable(&self, image: &Image) -> &SecretKey {
        self.put(image);
        let new = self.opens(&self.new);
        assert!(new || self.opens(&self.old), "the disk opens with neither KEK");
        if new { &self.new } else { &self.old }
    }

    fn check_done(&self) {
        assert!(self.opens(&self.new) && !self.opens(&self.old), "the old KEK still opens the disk");
        let (descriptor, copy) = Descriptor::read_with_copy(&self.path()).expect("a descriptor");
        assert_eq!((descriptor.sealed.expect("sealed").wraps.len(), copy), (1, CopyState::Same));
    }

    fn heal(&self, image: &Image) {
        let kek = self.usable(image);
        shallow_recrypt(&self.path(), kek, &BINDING, &self.new_kek()).expect("doing it again");
        self.check_done();
    }

    fn model(&self, image: &Image) -> ModelDisk {
        let mut disk = ModelDisk::new(image, None, true);
        disk.open(Name::Flat).expect("the flat file");
        disk
    }
}

/// What every crash of one run leaves, each once.
fn left_by(disk: &ModelDisk, random: &mut Random) -> Vec<Image> {
    let mut left = HashMap::new();
    for moment in disk.moments() {
        images(&moment, CHOICES, random, |image| {
            left.entry(fingerprint(image)).or_insert_with(|| image.clone());
        });
    }
    let mut left: Vec<(u128, Image)> = left.into_iter().collect();
    left.sort_by_key(|(name, _)| *name);
    left.into_iter().map(|(_, image)| image).collect()
}

#[test]
fn d3_any_crash_leaves_a_disk_that_opens_and_doing_it_again_heals() {
    let world = Disk::new();
    let mut random = Random::new(5);
    let before = world.image();
    let mut disk = world.model(&before);
    assert!(rewrap(&mut disk, &world.old, &BINDING, &world.new_kek()).expect("a recrypt"));
    let first = left_by(&disk, &mut random);
    let mut seen = 0;
    for image in &first {
        world.heal(image);
        // And a second crash, while the first one is healed.
        let kek = world.usable(image);
        let mut disk = world.model(image);
        rewrap(&mut disk, kek, &BINDING, &world.new_kek()).expect("doing it again");
        for second in left_by(&disk, &mut random) {
            world.heal(&second);
            seen += 1;
        }
    }
    assert!(first.len() >= 8 && seen >= 50, "only {} and {seen} crashes were met", first.len());
}

#[test]
fn d3_any_failing_call_leaves_a_disk_that_opens() {
    let world = Disk::new();
    let mut random = Random::new(6);
    let before = world.image();
    let mut counting = world.model(&before);
    let never = FaultPlan { fault: Fault::Error(Errno::IO), at: u64::MAX, forever: true };
    counting.fail(Some(never));
    rewrap(&mut counting, &world.old, &BINDING, &world.new_kek()).expect("a recrypt");
    let calls = counting.calls();
    assert!(calls > 20, "{calls} calls");
    for fault in [Fault::Error(Errno::IO), Fault::Error(Errno::NOSPC), Fault::Sync(Errno::IO), Fault::Short] {
        for at in 0..calls {
            for forever in [false, true] {
                let mut disk = world.model(&before);
                disk.fail(Some(FaultPlan { fault, at, forever }));
                let outcome = rewrap(&mut disk, &world.old, &BINDING, &world.new_kek());
                disk.fail(None);
                if fault == Fault::Short {
                    assert!(outcome.is_ok(), "a short write is no failure: {outcome:?}");
                }
                for image in left_by(&disk, &mut random).iter().take(40) {
                    world.usable(image);
                }
                let files = [Name::Descriptor, Name::Copy, Name::Flat];
                let mut live = Image::default();
                for name in files {
                    live.files[name as usize] = disk.content(name);
                }
                world.heal(&live);
            }
        }
    }
}
