//! Shallow recrypt (another KEK, the data untouched) and deep recrypt to a copy (another KEK and data key).

mod fixture;

use std::fs::{self, File};
use std::path::PathBuf;

use fixture::{DISK, Datastore, MIB, VM, code, flat_of, holes_of, noise, sparse};
use rustix::fs::{FlockOperation, flock};
use vmseal_disk::descriptor::{CopyState, copy_path};
use vmseal_disk::{
    Binding, Control, Descriptor, Holes, NewKek, Result, SealSpec, encrypt_copy, import, open_sealed,
    recrypt_copy, shallow_recrypt,
};
use vmseal_secret::SecretKey;

const ANYWHERE: Binding<'static> = Binding { vm_id: VM, disk_id: DISK, provider_id: None };

struct Disk {
    store: Datastore,
    new: SecretKey,
    path: PathBuf,
    plain: Vec<u8>,
}

impl Disk {
    fn new() -> Self {
        let (store, plain) = (Datastore::new(), noise(3 * MIB + 512, 1));
        let path = store.sealed("web01.vmdk", &plain, &store.spec());
        Self { path, store, new: key(), plain }
    }

    fn new_kek(&self) -> NewKek<'_> {
        NewKek { kek: &self.new, kek_id: "kek-2", provider_id: "kms-2" }
    }

    fn shallow(&self, kek: &SecretKey) -> Result<bool> {
        shallow_recrypt(&self.path, kek, &ANYWHERE, &self.new_kek())
    }

    /// What a deep recrypt is given.
    fn deep_spec(&self) -> SealSpec<'_> {
        SealSpec { kek: &self.new, kek_id: "kek-2", provider_id: "kms-2", generation: 2, ..self.store.spec() }
    }

    fn deep(&self, target: &str, spec: &SealSpec<'_>) -> Result<PathBuf> {
        let target = self.store.path(target);
        recrypt_copy(&self.path, &target, &self.store.kek, &ANYWHERE, spec, &Control::new()).map(|_| target)
    }

    fn wraps(&self) -> Vec<String> {
        Descriptor::read(&self.path).expect("a descriptor").sealed.expect("sealed").wraps
    }

    fn set_wraps(&self, wraps: Vec<String>) {
        let mut descriptor = Descriptor::read(&self.path).expect("a descriptor");
        descriptor.sealed.as_mut().expect("sealed").wraps = wraps;
        descriptor.write_atomic(&self.path).expect("a descriptor");
    }
}

fn key() -> SecretKey {
    SecretKey::generate(32).expect("key memory")
}

fn read(path: &std::path::Path, kek: &SecretKey) -> Vec<u8> {
    let disk = open_sealed(path, kek, &ANYWHERE).expect("the disk opens");
    let mut bytes = vec![0; disk.capacity() as usize];
    disk.read_at(0, &mut bytes).expect("reading");
    bytes
}

#[test]
fn d1_shallow_changes_the_wrap_and_no_data_byte() {
    let disk = Disk::new();
    let before = (fs::read(flat_of(&disk.path)).expect("data"), disk.wraps());
    let written = fs::metadata(flat_of(&disk.path)).expect("data").modified().expect("a time");
    assert!(disk.shallow(&disk.store.kek).expect("a recrypt"));
    assert_eq!(fs::read(flat_of(&disk.path)).expect("data"), before.0);
    assert_eq!(fs::metadata(flat_of(&disk.path)).expect("data").modified().expect("a time"), written);
    assert_ne!(disk.wraps(), before.1);
    assert_eq!(disk.wraps().len(), 1);
    assert_eq!(read(&disk.path, &disk.new), disk.plain);
    assert_eq!(
        code(open_sealed(&disk.path, &disk.store.kek, &ANYWHERE)),
        "VMSEAL_ENVELOPE_AUTHENTICATION",
        "the old KEK still opens it"
    );
    assert_eq!(Descriptor::read_with_copy(&disk.path).expect("a descriptor").1, CopyState::Same);
    let names = ["web01-flat.vmdk", "web01.vmdk", "web01.vmdk.source", "web01.vmdk.vmseal"];
    assert_eq!(disk.store.names(), names);
}

#[test]
fn d1_shallow_goes_on_under_an_open_disk() {
    let disk = Disk::new();
    let open = open_sealed(&disk.path, &disk.store.kek, &ANYWHERE).expect("the disk opens");
    assert!(disk.shallow(&disk.store.kek).expect("a recrypt"));
    let mut bytes = vec![0; disk.plain.len()];
    open.read_at(0, &mut bytes).expect("reading goes on");
    assert_eq!(bytes, disk.plain);
}

#[test]
fn d3_doing_it_again_does_nothing_or_heals() {
    let disk = Disk::new();
    let old = disk.wraps();
    assert!(disk.shallow(&disk.store.kek).expect("a recrypt"));
    let new = disk.wraps();
    let inode = fs::metadata(&disk.path).expect("a descriptor");
    assert!(!disk.shallow(&disk.new).expect("again"));
    assert_eq!(fs::metadata(&disk.path).expect("a descriptor").modified().ok(), inode.modified().ok());

    // Both wraps stand, as an interrupted call leaves them, in either order and with either key at hand.
    for kek in [&disk.store.kek, &disk.new] {
        for wraps in [[&new[..], &old[..]].concat(), [&old[..], &new[..]].concat()] {
            disk.set_wraps(wraps);
            assert!(disk.shallow(kek).expect("healing"));
            assert_eq!(disk.wraps(), new);
        }
    }
    // The second copy alone lags behind.
    let text = fs::read(&disk.path).expect("a descriptor");
    disk.set_wraps([&new[..], &old[..]].concat());
    fs::write(&disk.path, &text).expect("a descriptor");
    assert!(disk.shallow(&disk.new).expect("healing"));
    assert_eq!(Descriptor::read_with_copy(&disk.path).expect("a descriptor").1, CopyState::Same);
    fs::remove_file(copy_path(&disk.path)).expect("removal");
    assert!(disk.shallow(&disk.new).expect("healing"));
    assert_eq!(Descriptor::read_with_copy(&disk.path).expect("a descriptor").1, CopyState::Same);
}

#[test]
fn a_wrap_that_claims_the_new_kek_and_does_not_open_is_not_believed() {
    let disk = Disk::new();
    let stranger = key();
    let other = disk.store.path("other.vmdk");
    let spec = SealSpec { kek: &stranger, ..disk.deep_spec() };
    encrypt_copy(&disk.store.path("web01.vmdk.source"), &other, &spec, &Control::new()).expect("sealing");
    let foreign = Descriptor::read(&other).expect("a descriptor").sealed.expect("sealed").wraps;
    disk.set_wraps([&foreign[..], &disk.wraps()[..]].concat());
    assert!(disk.shallow(&disk.store.kek).expect("a recrypt"));
    assert_eq!(read(&disk.path, &disk.new), disk.plain);
    assert!(!disk.wraps().contains(&foreign[0]));
}

#[test]
fn shallow_makes_room_among_sixteen_wraps() {
    let disk = Disk::new();
    let one = disk.wraps().remove(0);
    disk.set_wraps(vec![one; 16]);
    assert!(disk.shallow(&disk.store.kek).expect("a recrypt"));
    assert_eq!((disk.wraps().len(), read(&disk.path, &disk.new)), (1, disk.plain.clone()));
}

#[test]
fn shallow_refuses_and_changes_nothing() {
    let disk = Disk::new();
    let before = fs::read(&disk.path).expect("a descriptor");
    assert_eq!(code(disk.shallow(&key())), "VMSEAL_ENVELOPE_AUTHENTICATION");
    let elsewhere = Binding { disk_id: [9; 16], ..ANYWHERE };
    let outcome = shallow_recrypt(&disk.path, &disk.store.kek, &elsewhere, &disk.new_kek());
    assert_eq!(code(outcome), "VMSEAL_ENVELOPE_MISMATCH");
    for name in [("", "kms-2"), ("kek-2", "")] {
        let new = NewKek { kek: &disk.new, kek_id: name.0, provider_id: name.1 };
        let outcome = shallow_recrypt(&disk.path, &disk.store.kek, &ANYWHERE, &new);
        assert_eq!(code(outcome), "VMSEAL_INVALID_ARGUMENT");
    }
    let flat = File::open(flat_of(&disk.path)).expect("data");
    flock(&flat, FlockOperation::NonBlockingLockExclusive).expect("the lock of a conversion");
    assert_eq!(code(disk.shallow(&disk.store.kek)), "VMSEAL_FILE_LOCKED");
    drop(flat);
    assert_eq!(fs::read(&disk.path).expect("a descriptor"), before);

    let plain = disk.store.path("plain.vmdk");
    import(&disk.store.path("web01.vmdk.source"), &plain, &DISK, &Control::new()).expect("a plain disk");
    let outcome = shallow_recrypt(&plain, &disk.store.kek, &ANYWHERE, &disk.new_kek());
    assert_eq!(code(outcome), "VMSEAL_DISK_STATE");
    fs::write(&disk.path, String::from_utf8_lossy(&before).replace("\"sealed\"", "\"resealing\""))
        .expect("a descriptor");
    fs::remove_file(copy_path(&disk.path)).expect("removal");
    let refused = code(disk.shallow(&disk.store.kek));
    assert!(["VMSEAL_DESCRIPTOR_INVALID", "VMSEAL_DISK_IN_CONVERSION"].contains(&refused), "{refused}");
}

#[test]
fn d2_deep_changes_every_unit_and_no_plaintext() {
    let disk = Disk::new();
    let target = disk.deep("a.vmdk", &disk.deep_spec()).expect("a recrypt");
    assert_eq!(read(&target, &disk.new), disk.plain);
    assert_eq!(code(open_sealed(&target, &disk.store.kek, &ANYWHERE)), "VMSEAL_ENVELOPE_AUTHENTICATION");
    let data = |path| fs::read(flat_of(path)).expect("data");
    let (before, after) = (data(&disk.path), data(&target));
    let units = before.chunks(16).zip(after.chunks(16));
    assert_eq!(units.filter(|(before, after)| before == after).count(), 0);
    let sealed = Descriptor::read(&target).expect("a descriptor").sealed.expect("sealed");
    assert_eq!((sealed.generation, sealed.wraps.len()), (2, 1));
    assert_eq!(read(&disk.path, &disk.store.kek), disk.plain, "the source changed");
}

#[test]
fn d2_deep_keeps_holes_and_may_change_the_data_unit() {
    let store = Datastore::new();
    let source = store.path("thin.raw");
    let plain = sparse(&source, 8 * MIB, &[(MIB, 70_000), (5 * MIB + 4096, 512)]);
    let path = store.path("web01.vmdk");
    encrypt_copy(&source, &path, &store.spec(), &Control::new()).expect("sealing");
    let disk = Disk { path, store, new: key(), plain };
    let spec = SealSpec { sector_size: 4096, ..disk.deep_spec() };
    let target = disk.deep("thin.vmdk", &spec).expect("a recrypt");
    assert_eq!(read(&target, &disk.new), disk.plain);
    assert_eq!(holes_of(&target), Some(Holes::Zero));
    assert_eq!(
        code(disk.deep("dense.vmdk", &SealSpec { holes: Some(Holes::Dense), ..spec })),
        "VMSEAL_INVALID_ARGUMENT"
    );
}

#[test]
fn deep_refuses_before_it_makes_a_file() {
    let disk = Disk::new();
    let names = disk.store.names();
    let wrong = key();
    let spec = disk.deep_spec();
    let target = disk.store.path("a.vmdk");
    let control = Control::new();
    assert_eq!(
        code(recrypt_copy(&disk.path, &target, &wrong, &ANYWHERE, &spec, &control)),
        "VMSEAL_ENVELOPE_AUTHENTICATION"
    );
    assert_eq!(code(disk.deep("a.vmdk", &SealSpec { sector_size: 4096, ..spec })), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(code(disk.deep("web01.vmdk", &spec)), "VMSEAL_ALREADY_EXISTS");
    control.cancel();
    let outcome = recrypt_copy(&disk.path, &target, &disk.store.kek, &ANYWHERE, &spec, &control);
    assert_eq!(code(outcome), "VMSEAL_CANCELLED");
    assert_eq!(disk.store.names(), names);
}
