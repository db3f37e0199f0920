//! The vmseal lines stand twice: what happens when one of the two is lost, old or damaged.

mod fixture;

use std::fs;
use std::path::PathBuf;

use fixture::{Datastore, binding, code, noise};
use vmseal_disk::descriptor::{CopyState, copy_path};
use vmseal_disk::{Descriptor, inspect, open_plain, open_sealed, remove};

struct Disk {
    store: Datastore,
    path: PathBuf,
    text: String,
    copy: String,
}

fn disk() -> Disk {
    let store = Datastore::new();
    let path = store.sealed("web01.vmdk", &noise(4096, 1), &store.spec());
    let text = fs::read_to_string(&path).expect("a descriptor");
    let copy = fs::read_to_string(copy_path(&path)).expect("a second copy");
    Disk { store, path, text, copy }
}

impl Disk {
    fn state(&self) -> CopyState {
        Descriptor::read_with_copy(&self.path).expect("a descriptor").1
    }

    /// The descriptor as a tool that rewrites it from a template leaves it.
    fn lose_lines(&self) {
        let kept: Vec<&str> = self
            .text
            .lines()
            .filter(|line| !line.starts_with("vmseal.") && !line.contains("iofilters"))
            .collect();
        fs::write(&self.path, kept.join("\n")).expect("a descriptor");
    }
}

#[test]
fn both_say_the_same_after_sealing() {
    let disk = disk();
    assert_eq!(disk.state(), CopyState::Same);
    let lines = |text: &str| {
        text.lines().filter(|line| line.starts_with("vmseal.")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&disk.text), lines(&disk.copy));
    assert!(disk.copy.contains("copy.extent=\"web01-flat.vmdk\"\ncopy.sectors=\"8\"\n"), "{}", disk.copy);
}

#[test]
fn lost_lines_come_back_from_the_copy() {
    let disk = disk();
    disk.lose_lines();
    assert_eq!(disk.state(), CopyState::Restored);
    assert_eq!(inspect(&disk.path).expect("inspection").sealed.expect("a seal").copy, CopyState::Restored);
    open_sealed(&disk.path, &disk.store.kek, &binding()).expect("the disk opens");
    Descriptor::read(&disk.path).expect("a descriptor").write_atomic(&disk.path).expect("writing it back");
    assert_eq!(disk.state(), CopyState::Same);
}

#[test]
fn a_copy_of_another_extent_restores_nothing() {
    for (from, to) in [("web01-flat", "web02-flat"), ("copy.sectors=\"8\"", "copy.sectors=\"9\"")] {
        let disk = disk();
        disk.lose_lines();
        fs::write(copy_path(&disk.path), disk.copy.replace(from, to)).expect("a copy");
        assert_eq!(disk.state(), CopyState::Differs);
        assert_eq!(Descriptor::read(&disk.path).expect("a descriptor").sealed, None);
    }
}

#[test]
fn a_sealed_disk_without_its_lines_is_never_plain() {
    let disk = disk();
    let kept: Vec<&str> = disk.text.lines().filter(|line| !line.starts_with("vmseal.")).collect();
    fs::write(&disk.path, kept.join("\n")).expect("a descriptor");
    fs::write(copy_path(&disk.path), disk.copy.replace("vmseal.gen=\"1\"", "vmseal.gen=\"2\""))
        .expect("a damaged copy");
    assert_eq!(code(open_plain(&disk.path)), "VMSEAL_DISK_STATE");
    fs::remove_file(copy_path(&disk.path)).expect("removal");
    assert_eq!(code(open_plain(&disk.path)), "VMSEAL_DISK_STATE");
    assert_eq!(code(inspect(&disk.path)), "VMSEAL_DISK_STATE");
}

#[test]
fn damaged_or_absent_copies_do_not_stop_the_disk() {
    let disk = disk();
    for damaged in [
        String::new(),
        disk.copy.replace("dek", "dec"),
        disk.copy.replacen('#', "x", 1),
        disk.copy[..200].to_owned(),
    ] {
        fs::write(copy_path(&disk.path), damaged).expect("a damaged copy");
        assert_eq!(disk.state(), CopyState::Damaged);
        open_sealed(&disk.path, &disk.store.kek, &binding()).expect("the disk opens");
    }
    fs::remove_file(copy_path(&disk.path)).expect("removal");
    assert_eq!(disk.state(), CopyState::Absent);
    fs::create_dir(copy_path(&disk.path)).expect("a folder");
    assert_eq!(disk.state(), CopyState::Damaged);
}

#[test]
fn the_higher_generation_wins_and_equal_ones_leave_the_descriptor() {
    let disk = disk();
    let mut newer = Descriptor::read(&disk.path).expect("a descriptor");
    newer.sealed.as_mut().expect("sealed").generation = 2;
    newer.write_atomic(&disk.path).expect("a descriptor");
    fs::write(&disk.path, &disk.text).expect("the older descriptor");
    let (read, state) = Descriptor::read_with_copy(&disk.path).expect("a descriptor");
    assert_eq!((read.sealed.expect("sealed").generation, state), (2, CopyState::Newer));

    newer.sealed.as_mut().expect("sealed").id[3] ^= 1;
    newer.write_atomic(&disk.path).expect("a descriptor");
    fs::write(&disk.path, &disk.text).expect("the older descriptor");
    let (read, state) = Descriptor::read_with_copy(&disk.path).expect("a descriptor");
    assert_eq!(
        (read.sealed.expect("sealed").generation, state),
        (1, CopyState::Differs),
        "the copy of another disk won"
    );

    let mut other = Descriptor::parse(disk.text.as_bytes()).expect("a descriptor");
    other.sealed.as_mut().expect("sealed").wraps.push("second".to_owned());
    other.write_atomic(&disk.path).expect("a descriptor");
    fs::write(&disk.path, &disk.text).expect("the first descriptor");
    let (read, state) = Descriptor::read_with_copy(&disk.path).expect("a descriptor");
    assert_eq!((read.sealed.expect("sealed").wraps.len(), state), (1, CopyState::Differs));
}

#[test]
fn damaged_descriptor_lines_are_not_papered_over() {
    let disk = disk();
    fs::write(&disk.path, disk.text.replace("vmseal.gen=\"1\"", "vmseal.gen=\"3\""))
        .expect("a damaged descriptor");
    assert_eq!(code(Descriptor::read(&disk.path)), "VMSEAL_DESCRIPTOR_INVALID");
}

#[test]
fn unsealing_and_removing_take_the_copy_along() {
    let disk = disk();
    let mut plain = Descriptor::read(&disk.path).expect("a descriptor");
    plain.sealed = None;
    plain.remove_ddb("ddb.iofilters");
    plain.write_atomic(&disk.path).expect("a descriptor");
    assert!(!copy_path(&disk.path).exists());
    assert_eq!(disk.state(), CopyState::Absent);
    remove(&disk.path).expect("removal");
    assert_eq!(disk.store.names(), ["web01.vmdk.source"]);
}

#[test]
fn replacing_leaves_no_temporary_file() {
    let disk = disk();
    let descriptor = Descriptor::read(&disk.path).expect("a descriptor");
    let before = disk.store.names();
    for _ in 0..3 {
        descriptor.write_atomic(&disk.path).expect("a descriptor");
    }
    assert_eq!(disk.store.names(), before);
    assert_eq!(code(descriptor.write_atomic(&disk.store.path("absent/a.vmdk"))), "VMSEAL_NOT_FOUND");
    fs::create_dir(disk.store.path("folder.vmdk")).expect("a folder");
    assert_eq!(code(descriptor.write_atomic(&disk.store.path("folder.vmdk"))), "VMSEAL_IO");
}
