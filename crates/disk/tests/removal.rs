//! What removing takes, and what it leaves alone.

mod fixture;

use std::fs;

use fixture::{DISK, Datastore, binding, code, noise};
use vmseal_disk::descriptor::copy_path;
use vmseal_disk::{Descriptor, open_plain, open_sealed, remove, remove_unfinished};

#[test]
fn unfinished_disks_are_cleared_and_whole_ones_are_not() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(4096, 1), &store.spec());
    assert_eq!(code(remove_unfinished(&sealed)), "VMSEAL_DISK_STATE");
    fs::remove_file(&sealed).expect("removal");
    for left in [".a.vmdk.tmp-1-0", ".a.vmdk.vmseal.tmp-1-1", ".b.vmdk.tmp-1-0"] {
        store.write(left, b"half");
    }
    assert!(remove_unfinished(&sealed).expect("clearing"));
    assert_eq!(store.names(), [".b.vmdk.tmp-1-0", "a.vmdk.source"]);
    assert!(!remove_unfinished(&sealed).expect("clearing nothing"));
    assert_eq!(code(remove(&sealed)), "VMSEAL_NOT_FOUND");
}

#[test]
fn removing_a_disk_never_takes_the_data_of_another() {
    let store = Datastore::new();
    let kept = store.sealed("kept.vmdk", &noise(4096, 1), &store.spec());
    let evil = store.path("evil.vmdk");
    Descriptor::new_flat("kept-flat.vmdk", 8, &DISK).write_atomic(&evil).expect("a descriptor");
    let before = store.names();
    assert_eq!(code(remove(&evil)), "VMSEAL_DISK_STATE");
    assert_eq!(store.names(), before);
    open_sealed(&kept, &store.kek, &binding()).expect("the other disk is whole");
}

#[test]
fn a_disk_that_lost_its_key_lines_can_still_be_removed() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(4096, 1), &store.spec());
    let text = fs::read_to_string(&sealed).expect("a descriptor");
    let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("vmseal.")).collect();
    fs::write(&sealed, kept.join("\n")).expect("a descriptor");
    fs::remove_file(copy_path(&sealed)).expect("removal");
    assert_eq!(code(open_plain(&sealed)), "VMSEAL_DISK_STATE");
    remove(&sealed).expect("removal");
    assert_eq!(store.names(), ["a.vmdk.source"]);
}
