//! B8: an overwriting of a source that was interrupted is overwritten to its end, and nothing else is.

mod fixture;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use fixture::{DISK, Datastore, MIB, binding, code, flat_of, noise};
use vmseal_disk::{
    Control, DiscardSource, Error, discard_record_path, discard_source, encrypt_copy, finish_discard, import,
    remove, remove_unfinished, unfinished_discard,
};

fn end(source: &Path) -> Result<bool, Error> {
    finish_discard(source, &Control::new())
}

/// A plain disk that a copy was made of, as a crash leaves it that came when a half was overwritten.
struct Left {
    store: Datastore,
    source: PathBuf,
    copy: PathBuf,
}

impl Left {
    fn whole() -> Self {
        let store = Datastore::new();
        let raw = store.write("r.raw", &noise(MIB, 1));
        let (source, copy) = (store.path("s.vmdk"), store.path("t.vmdk"));
        import(&raw, &source, &DISK, &Control::new()).expect("import");
        fs::remove_file(raw).expect("removal");
        encrypt_copy(&source, &copy, &store.spec(), &Control::new()).expect("encryption");
        Self { store, source, copy }
    }

    fn disk() -> Self {
        let left = Self::whole();
        fs::remove_file(&left.source).expect("the descriptor goes first");
        left.overwrite_a_half(&flat_of(&left.source));
        left.put(&record_of(&[&flat_of(&left.source)]));
        left
    }

    fn image() -> Self {
        let left = Self::whole();
        let (flat, image) = (flat_of(&left.source), left.store.path("s.raw"));
        fs::rename(&flat, &image).expect("an image");
        fs::remove_file(&left.source).expect("the descriptor");
        left.overwrite_a_half(&image);
        let left = Self { source: image.clone(), ..left };
        left.put(&record_of(&[&image]));
        left
    }

    fn overwrite_a_half(&self, file: &Path) {
        assert!(file.starts_with(self.store.folder()));
        let file = File::options().write(true).open(file).expect("the data");
        file.write_all_at(&vec![0; MIB / 2], 0).expect("zeros");
    }

    fn put(&self, record: &str) {
        fs::write(discard_record_path(&self.source), record).expect("a record");
    }

    fn names(&self) -> BTreeMap<String, Vec<u8>> {
        let names = self.store.names().into_iter();
        let told = names.map(|name| {
            let bytes = fs::read(self.store.path(&name)).unwrap_or_default();
            (name, bytes)
        });
        told.collect()
    }

    /// The code of the refusal, which writes nothing.
    #[track_caller]
    fn refused(&self) -> &'static str {
        let before = self.names();
        let told = code(end(&self.source));
        assert!(self.names() == before, "a refusal wrote");
        told
    }
}

fn entry(file: &Path) -> String {
    let metadata = fs::symlink_metadata(file).expect("a file");
    let name = file.file_name().expect("a name").to_string_lossy();
    format!("{{\"name\":\"{name}\",\"file\":{},\"len\":{}}}", metadata.ino(), metadata.len())
}

fn record_of(files: &[&Path]) -> String {
    let entries: Vec<String> = files.iter().map(|file| entry(file)).collect();
    format!("{{\"v\":1,\"overwritten\":[{}]}}\n", entries.join(","))
}

fn is_zero(witness: &File) -> bool {
    let mut bytes = vec![1; MIB];
    witness.read_exact_at(&mut bytes, 0).expect("reading");
    bytes.iter().all(|&byte| byte == 0)
}

#[test]
fn b8_what_was_left_of_a_disk_or_image_is_overwritten_and_goes() {
    type Finish = fn(&Path) -> Result<bool, Error>;
    let cases: [(fn() -> Left, Finish); 3] =
        [(Left::disk, end), (Left::disk, remove_unfinished), (Left::image, end)];
    for (make, finish) in cases {
        let left = make();
        let file = if left.source.ends_with("s.raw") { left.source.clone() } else { flat_of(&left.source) };
        fs::write(left.store.path("s.vmdk.vmseal"), "lines").expect("a second copy that a crash left");
        // An open file shows what became of the data.
        let witness = File::open(&file).expect("the data");
        let told = unfinished_discard(&left.source).expect("a record").expect("a discard");
        assert_eq!((told.files, told.bytes), (vec![file], MIB as u64));
        assert!(finish(&left.source).expect("ended"));
        assert!(is_zero(&witness), "data was left in blocks that are free");
        let mut names = left.store.names();
        names.retain(|name| !name.starts_with('t') && name != "s.vmdk.vmseal");
        assert_eq!(names, [] as [&str; 0]);
        assert!(!end(&left.source).expect("nothing more"));
        assert_eq!(unfinished_discard(&left.source).expect("no record"), None);
    }
}

#[test]
fn files_that_are_gone_already_do_not_matter_and_the_record_goes_last() {
    let left = Left::disk();
    fs::remove_file(flat_of(&left.source)).expect("as a crash before the record's end leaves it");
    fs::write(left.store.path("s.vmdk.lck"), "{}").expect("a lock that a crash left");
    assert!(end(&left.source).expect("ended"));
    assert_eq!(left.store.names(), ["t-flat.vmdk", "t.vmdk", "t.vmdk.vmseal"]);
    // As a crash leaves it while a removal is made durable once more.
    for make in [Left::disk, Left::image] {
        let left = make();
        if !left.source.exists() {
            fs::write(&left.source, "").expect("an empty descriptor");
        }
        let files = unfinished_discard(&left.source).expect("a record").expect("a discard").files;
        fs::write(&files[0], "").expect("an empty file");
        assert!(end(&left.source).expect("ended"));
        assert_eq!(left.store.names(), ["t-flat.vmdk", "t.vmdk", "t.vmdk.vmseal"]);
    }
}

#[test]
fn a_source_that_is_whole_is_not_overwritten_by_a_record() {
    let left = Left::whole();
    left.put(&record_of(&[&flat_of(&left.source)]));
    let before = left.names();
    assert_eq!(unfinished_discard(&left.source).expect("a record"), None);
    assert!(!end(&left.source).expect("nothing to do"));
    assert_eq!(code(remove_unfinished(&left.source)), "VMSEAL_DISK_STATE");
    assert!(left.names() == before);
    let discard = |how| {
        let (store, control) = (&left.store, Control::new());
        discard_source(&left.source, &left.copy, &[&store.kek], &binding(), how, &control)
    };
    discard(DiscardSource::Unlink).expect("discarded");
    assert_eq!(left.store.names(), ["t-flat.vmdk", "t.vmdk", "t.vmdk.vmseal"], "the record is of no use");
    let left = Left::whole();
    left.put(&record_of(&[&flat_of(&left.source)]));
    remove(&left.source).expect("removed");
    assert_eq!(left.store.names(), ["t-flat.vmdk", "t.vmdk", "t.vmdk.vmseal"]);
}

#[test]
fn what_is_being_overwritten_is_no_image_and_its_name_is_taken() {
    let (left, control) = (Left::image(), Control::new());
    let again = left.store.path("again.vmdk");
    assert_eq!(code(encrypt_copy(&left.source, &again, &left.store.spec(), &control)), "VMSEAL_DISK_STATE");
    assert_eq!(code(import(&left.source, &again, &DISK, &control)), "VMSEAL_DISK_STATE");
    let left = Left::disk();
    fs::remove_file(flat_of(&left.source)).expect("removal");
    let raw = left.store.write("new.raw", &noise(MIB, 2));
    let taken = encrypt_copy(&raw, &left.source, &left.store.spec(), &control);
    assert_eq!(code(taken), "VMSEAL_ALREADY_EXISTS");
}

#[test]
fn a_damaged_or_foreign_record_overwrites_nothing() {
    let left = Left::disk();
    let flat = flat_of(&left.source);
    let good = record_of(&[&flat]);
    let outside = entry(&flat).replace("s-flat.vmdk", "../s-flat.vmdk");
    for record in [
        String::new(),
        "{}\n".to_owned(),
        good.trim_end().to_owned(),
        good.replace("\"v\":1", "\"v\":2"),
        good.replace("\"v\":1", "\"v\":1,\"x\":1"),
        good.replace("s-flat.vmdk", ""),
        good.replace("s-flat.vmdk", ".."),
        good.replace("s-flat.vmdk", "/etc/passwd"),
        good.replace("s-flat.vmdk", "sub/s-flat.vmdk"),
        format!("{{\"v\":1,\"overwritten\":[{outside}]}}\n"),
        record_of(&[]),
        record_of(&[&flat, &flat]),
        // The same name, another file.
        good.replace("\"len\":1048576", "\"len\":1048575"),
        good.replace("\"file\":", "\"file\":1"),
    ] {
        left.put(&record);
        assert_eq!(left.refused(), "VMSEAL_JOB_INVALID", "{record}");
    }
    let (path, aside) = (discard_record_path(&left.source), left.store.path("aside"));
    left.put(&good);
    fs::rename(&path, &aside).expect("aside");
    symlink(&aside, &path).expect("a link");
    assert_eq!(left.refused(), "VMSEAL_JOB_INVALID");
    fs::remove_file(&path).expect("removal");
    fs::create_dir(&path).expect("a folder");
    assert_eq!(left.refused(), "VMSEAL_JOB_INVALID");
    assert_eq!(code(remove_unfinished(&left.source)), "VMSEAL_JOB_INVALID", "the wish is not forgotten");
    fs::remove_dir(&path).expect("removal");
    fs::rename(&aside, &path).expect("the good one");
    assert!(end(&left.source).expect("ended"));
}

#[test]
fn a_record_reaches_no_file_that_a_disk_needs_or_that_has_another_name() {
    let left = Left::disk();
    let (store, flat) = (&left.store, flat_of(&left.source));
    // A live disk beside it, by the name of its file and by what its descriptor says.
    left.put(&record_of(&[&flat, &flat_of(&left.copy)]));
    assert_eq!(left.refused(), "VMSEAL_DISK_STATE");
    fs::rename(flat_of(&left.copy), store.path("odd.img")).expect("another name");
    let text = fs::read_to_string(&left.copy).expect("text");
    fs::write(&left.copy, text.replace("t-flat.vmdk", "odd.img")).expect("a descriptor");
    left.put(&record_of(&[&store.path("odd.img")]));
    assert_eq!(left.refused(), "VMSEAL_DISK_STATE");
    // Descriptors themselves, one of them named as an image is.
    left.put(&record_of(&[&left.copy]));
    assert_eq!(left.refused(), "VMSEAL_DISK_STATE");
    let of_copy = Left { source: left.copy.clone(), store: Datastore::new(), copy: left.copy.clone() };
    of_copy.put(&record_of(&[&left.copy]));
    assert_eq!(code(end(&left.copy)), "VMSEAL_DISK_STATE");
    // The unfinished file of a copy, the disk of a conversion.
    for ending in [".vmseal-copy", ".vmseal-job"] {
        let other = store.write("u-flat.vmdk", &noise(4096, 1));
        store.write(&format!("u.vmdk{ending}"), b"record");
        left.put(&record_of(&[&flat, &other]));
        assert_eq!(left.refused(), "VMSEAL_DISK_STATE");
        fs::remove_file(store.path(&format!("u.vmdk{ending}"))).expect("removal");
    }
    // Another name, and what is no file.
    let good = record_of(&[&flat]);
    left.put(&good);
    fs::hard_link(&flat, store.path("second")).expect("a second name");
    assert_eq!(left.refused(), "VMSEAL_EXTENT_INVALID");
    fs::remove_file(&flat).expect("removal");
    symlink(store.path("second"), &flat).expect("a link");
    assert_eq!(left.refused(), "VMSEAL_EXTENT_INVALID");
    fs::remove_file(&flat).expect("removal");
    fs::create_dir(&flat).expect("a folder");
    assert_eq!(left.refused(), "VMSEAL_EXTENT_INVALID");
}

#[test]
fn progress_is_told_and_a_cancel_leaves_what_the_next_call_ends() {
    let left = Left::disk();
    let control = Control::new();
    control.cancel();
    assert_eq!(code(finish_discard(&left.source, &control)), "VMSEAL_CANCELLED");
    assert!(flat_of(&left.source).exists() && discard_record_path(&left.source).exists());
    let control = Control::new();
    assert!(finish_discard(&left.source, &control).expect("ended"));
    let progress = control.progress();
    assert_eq!((progress.done_bytes, progress.total_bytes), (MIB as u64, MIB as u64));
    assert!(!flat_of(&left.source).exists() && !discard_record_path(&left.source).exists());
}
