//! A file system that is really full: a small tmpfs of its own.

mod fixture;

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use fixture::{DISK, Datastore, MIB, binding, code, flat_of, noise};
use tempfile::TempDir;
use vmseal_disk::{
    Control, Error, Holes, SealSpec, describe_raw, encrypt_copy, encrypt_in_place, import, inspect, job_path,
    open_sealed, resume,
};

/// A mounted tmpfs that goes with the value.
struct Small {
    folder: TempDir,
}

impl Small {
    /// `None` where this process may not mount.
    fn mount(mebibytes: usize) -> Option<Self> {
        let folder = TempDir::new().expect("a temporary folder");
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "vmseal-test"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this process may not mount a tmpfs");
        }
        mounted.then_some(Self { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Takes every free byte.
    fn fill(&self) -> PathBuf {
        let path = self.path("filler");
        let mut file = File::create(&path).expect("a file");
        for len in [MIB, 4096, 1] {
            while file.write_all(&vec![1; len]).is_ok() {}
        }
        path
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.folder.path()).output();
    }
}

fn plain_disk(store: &Datastore, small: &Small, plain: &[u8]) -> PathBuf {
    let path = small.path("d.vmdk");
    import(&store.write("source.raw", plain), &path, &DISK, &Control::new()).expect("import");
    path
}

fn reads(store: &Datastore, path: &Path, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let disk = open_sealed(path, &store.kek, &binding()).expect("the disk opens");
    disk.read_at(0, &mut bytes).expect("reading");
    bytes
}

#[test]
fn b10_without_room_nothing_is_changed_and_nothing_is_left() {
    let Some(small) = Small::mount(12) else { return };
    let store = Datastore::new();
    let plain = noise(8 * MIB, 1);
    let path = plain_disk(&store, &small, &plain);
    let names = small.names();
    // The journal takes a zone, as large as this disk.
    assert_eq!(code(encrypt_in_place(&path, &store.spec(), &Control::new())), "VMSEAL_NO_SPACE");
    let copy = small.path("copy.vmdk");
    assert_eq!(code(encrypt_copy(&path, &copy, &store.spec(), &Control::new())), "VMSEAL_NO_SPACE");
    assert_eq!(small.names(), names);
    assert!(fs::read(flat_of(&path)).expect("the flat file") == plain);
}

#[test]
fn b10_holes_that_would_be_filled_count_too() {
    let Some(small) = Small::mount(12) else { return };
    let store = Datastore::new();
    let image = small.path("d.raw");
    File::create(&image).expect("an image").set_len(16 * MIB as u64).expect("its length");
    let path = describe_raw(&image, &DISK).expect("a descriptor");
    let dense = SealSpec { holes: Some(Holes::Dense), ..store.spec() };
    assert_eq!(code(encrypt_in_place(&path, &dense, &Control::new())), "VMSEAL_NO_SPACE");
    assert!(inspect(&path).expect("a plain disk").sealed.is_none());
    assert!(!job_path(&path).exists());
}

/// The file system fills up in the middle: the job has its room, and only the small file at its end may have to wait.
#[test]
fn b10_a_file_system_that_fills_up_meanwhile_loses_nothing() {
    let Some(small) = Small::mount(96) else { return };
    let store = Datastore::new();
    let plain = noise(48 * MIB, 2);
    let path = plain_disk(&store, &small, &plain);
    let control = Control::new();
    let stopped = thread::scope(|scope| {
        scope.spawn(|| {
            while control.progress().done_bytes == 0 {
                thread::yield_now();
            }
            control.cancel();
        });
        encrypt_in_place(&path, &store.spec(), &control)
    });
    assert_eq!(code(stopped), "VMSEAL_CANCELLED");
    let filler = small.fill();
    let again = || resume(&path, &[&store.kek], &binding(), &Control::new());
    match again() {
        Ok(_) => {}
        Err(Error::NoSpace { .. }) => {
            fs::remove_file(filler).expect("removal");
            again().expect("resume with room");
        }
        Err(error) => panic!("{error}"),
    }
    assert!(reads(&store, &path, plain.len()) == plain);
    assert!(!job_path(&path).exists());
}
