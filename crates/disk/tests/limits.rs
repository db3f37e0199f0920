//! Memory and space run out in the environment, not in the job: what a conversion needs and what it leaves.

mod fixture;

use std::fs::{self, File};

use fixture::{DISK, Datastore, MIB, SmallVolume, binding, code, flat_of, in_own_process, noise, skip};
use vmseal_disk::{
    Control, Holes, SealSpec, create_plain, decrypt_copy, encrypt_copy, import, open_sealed, resume_copy,
};

#[test]
fn memory_does_not_grow_with_the_disk() {
    let output = in_own_process("one_gibibyte_in_little_memory", |_| {});
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by memory_does_not_grow_with_the_disk in a process of its own"]
fn one_gibibyte_in_little_memory() {
    let store = Datastore::new();
    let source = store.path("s.raw");
    File::create(&source).and_then(|file| file.set_len(1 << 30)).expect("a sparse file");
    let spec = SealSpec { holes: Some(Holes::Dense), ..store.spec() };
    let before = peak_kib();
    encrypt_copy(&source, &store.path("t.vmdk"), &spec, &Control::new()).expect("encryption");
    let grown = peak_kib() - before;
    println!("peak memory grew by {grown} KiB");
    assert!(grown < 64 * 1024, "{grown} KiB");
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn no_byte_is_written_under_wiped_keys() {
    let output = in_own_process("keys_wiped_under_a_running_job", |_| {});
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by no_byte_is_written_under_wiped_keys in a process of its own"]
fn keys_wiped_under_a_running_job() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &vec![0x5a; 384 * MIB], &store.spec());
    let open = open_sealed(&sealed, &store.kek, &binding()).expect("the disk opens");
    let before = store.names();
    let (target, control) = (store.path("t.vmdk"), Control::new());
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while control.progress().done_bytes == 0 {
                std::hint::spin_loop();
            }
            vmseal_secret::wipe_all();
        });
        decrypt_copy(&sealed, &target, &store.kek, &binding(), &control)
    });
    assert_eq!(code(result), "VMSEAL_SHUTTING_DOWN");
    let written = fs::read(flat_of(&target)).expect("the unfinished file");
    let (plain, hole) = (vec![0x5a; MIB], vec![0; MIB]);
    assert!(written.chunks(MIB).any(|chunk| chunk == plain));
    assert!(written.chunks(MIB).any(|chunk| chunk == hole));
    assert!(written.chunks(MIB).all(|chunk| chunk == plain || chunk == hole), "written with a wiped key");
    assert!(vmseal_disk::remove_unfinished(&target).expect("removal"));
    assert_eq!(store.names(), before);

    let mut buffer = vec![0; 512];
    assert_eq!(code(open.read_at(0, &mut buffer)), "VMSEAL_SHUTTING_DOWN");
    assert_eq!(code(open.digest(&Control::new())), "VMSEAL_SHUTTING_DOWN");
    assert_eq!(code(open_sealed(&sealed, &store.kek, &binding())), "VMSEAL_SHUTTING_DOWN");
}

#[test]
fn a_full_volume_is_noticed_before_the_first_byte() {
    let store = Datastore::new();
    let folder = store.path("small");
    fs::create_dir(&folder).expect("a folder");
    let Some(_volume) = SmallVolume::mount(&folder, "4m") else {
        return skip("mounting a tmpfs needs root");
    };
    let plain = noise(8 * MIB, 1);
    let source = store.write("s.raw", &plain);
    let sealed = store.sealed("a.vmdk", &plain, &store.spec());
    let (target, control) = (folder.join("t.vmdk"), Control::new());
    assert_eq!(code(encrypt_copy(&source, &target, &store.spec(), &control)), "VMSEAL_NO_SPACE");
    assert_eq!(code(decrypt_copy(&sealed, &target, &store.kek, &binding(), &control)), "VMSEAL_NO_SPACE");
    assert_eq!(code(import(&source, &target, &DISK, &control)), "VMSEAL_NO_SPACE");
    assert_eq!(fs::read_dir(&folder).expect("the volume").count(), 0);
    assert_eq!(control.progress().done_bytes, 0);
    create_plain(&target, 1 << 30, &DISK).expect("a hole file has room");
}

#[test]
fn a_volume_that_fills_up_meanwhile_leaves_the_source_and_what_resume_goes_on_with() {
    let store = Datastore::new();
    let folder = store.path("small");
    fs::create_dir(&folder).expect("a folder");
    let Some(_volume) = SmallVolume::mount(&folder, "200m") else {
        return skip("mounting a tmpfs needs root");
    };
    let plain = noise(160 * MIB, 1);
    let source = store.write("s.raw", &plain);
    let target = folder.join("t.vmdk");
    // Another writer takes the room once the job runs; the job may win the race, so it gets several tries.
    for _ in 0..10 {
        let filler = File::create(folder.join("filler")).expect("a file");
        let control = Control::new();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while control.progress().done_bytes == 0 && control.progress().total_bytes == 0 {
                    std::thread::yield_now();
                }
                while control.progress().done_bytes == 0 {
                    std::hint::spin_loop();
                }
                let _ =
                    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, 150 * MIB as u64);
                for step in 1..150 {
                    let _ = rustix::fs::fallocate(
                        &filler,
                        rustix::fs::FallocateFlags::empty(),
                        0,
                        step * MIB as u64,
                    );
                }
            });
            encrypt_copy(&source, &target, &store.spec(), &control)
        });
        drop(filler);
        fs::remove_file(folder.join("filler")).expect("removal");
        if result.is_ok() {
            vmseal_disk::remove(&target).expect("removal");
            continue;
        }
        assert_eq!(code(result), "VMSEAL_NO_SPACE");
        assert!(!target.exists(), "an unfinished disk has no descriptor");
        assert!(fs::read(&source).expect("the source") == plain);
        resume_copy(&target, &[&store.kek], &binding(), &Control::new()).expect("resumed with room");
        assert_eq!(fs::read_dir(&folder).expect("the volume").count(), 3, "files were left behind");
        let disk = open_sealed(&target, &store.kek, &binding()).expect("the disk opens");
        let mut bytes = vec![0; plain.len()];
        disk.read_at(0, &mut bytes).expect("reading");
        assert!(bytes == plain);
        return;
    }
    panic!("the volume never filled up in time");
}
