//! Disks, keys and images that must be refused, before any target file appears. The ignored test is the body of another one, which
//! starts this program again as a user who may not read.

mod fixture;

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use fixture::{DISK, Datastore, MIB, VM, binding, code, flat_of, noise};
use vmseal_disk::descriptor::{SealState, copy_path};
use vmseal_disk::{
    Binding, Control, Descriptor, Error, Holes, SealSpec, create_plain, create_sealed, decrypt_copy,
    encrypt_copy, import, inspect, open_plain, open_sealed, remove,
};
use vmseal_secret::SecretKey;

#[track_caller]
fn refused(store: &Datastore, sealed: &Path, binding: &Binding<'_>, expected: &str) {
    let before = store.names();
    let target = store.path("never.vmdk");
    assert_eq!(code(decrypt_copy(sealed, &target, &store.kek, binding, &Control::new())), expected);
    assert_eq!(code(open_sealed(sealed, &store.kek, binding)), expected);
    assert_eq!(store.names(), before, "a refusal left files behind");
}

#[test]
fn every_flipped_bit_of_the_vmseal_lines_is_refused() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(4096, 1), &store.spec());
    let text = fs::read(&sealed).expect("a descriptor");
    let find = |what: &str| String::from_utf8_lossy(&text).find(what).expect(what);
    let (start, end) = (find("vmseal.version"), find("\n# Extent description") - 1);
    let before = store.names();
    // Written in place: truncating ten thousand times would wait for the disk each time.
    let file = fs::File::options().write(true).open(&sealed).expect("the descriptor");
    for at in start..=end {
        for bit in 0..8 {
            let mut damaged = text.clone();
            damaged[at] ^= 1 << bit;
            file.write_all_at(&damaged, 0).expect("a damaged descriptor");
            let result =
                decrypt_copy(&sealed, &store.path("never.vmdk"), &store.kek, &binding(), &Control::new());
            let error = result
                .map(|_| format!("byte {at} bit {bit}: {}", String::from_utf8_lossy(&damaged[start..=end])));
            let code = code(error);
            assert!(
                ["VMSEAL_DESCRIPTOR_INVALID", "VMSEAL_DESCRIPTOR_UNSUPPORTED"].contains(&code),
                "byte {at} bit {bit}: {code}"
            );
        }
    }
    assert_eq!(store.names(), before);
}

#[test]
fn an_altered_wrap_under_a_right_sum_is_refused() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(4096, 1), &store.spec());
    let original = Descriptor::read(&sealed).expect("a descriptor");
    let wrap = original.sealed.as_ref().expect("sealed").wraps[0].clone();
    for at in 0..wrap.len() {
        for replacement in [b'A', b'Q', b'.', b'_'] {
            let mut bytes = wrap.clone().into_bytes();
            if bytes[at] == replacement {
                continue;
            }
            bytes[at] = replacement;
            let mut descriptor = original.clone();
            let seal = descriptor.sealed.as_mut().expect("sealed");
            seal.wraps[0] = String::from_utf8(bytes).expect("ASCII");
            fs::write(&sealed, descriptor.to_text()).expect("a descriptor");
            let code = code(open_sealed(&sealed, &store.kek, &binding()));
            assert!(code.starts_with("VMSEAL_ENVELOPE_"), "character {at}: {code}");
        }
    }
}

#[test]
fn vmseal_lines_that_differ_from_the_wrap_are_refused() {
    let store = Datastore::new();
    let plain = noise(8192, 1);
    type Change = fn(&mut Descriptor);
    let changes: [(Change, &str); 6] = [
        (|d| seal(d).generation += 1, "VMSEAL_ENVELOPE_MISMATCH"),
        (|d| seal(d).sector_size = 4096, "VMSEAL_ENVELOPE_MISMATCH"),
        (|d| seal(d).holes = Holes::Zero, "VMSEAL_ENVELOPE_MISMATCH"),
        (|d| seal(d).id[0] ^= 1, "VMSEAL_ENVELOPE_MISMATCH"),
        (|d| seal(d).state = SealState::Resealing, "VMSEAL_DISK_IN_CONVERSION"),
        (|d| d.parent_cid = 1, "VMSEAL_DESCRIPTOR_UNSUPPORTED"),
    ];
    for (change, expected) in changes {
        let sealed = store.sealed("a.vmdk", &plain, &store.spec());
        let mut descriptor = Descriptor::read(&sealed).expect("a descriptor");
        change(&mut descriptor);
        descriptor.write_atomic(&sealed).expect("a descriptor");
        refused(&store, &sealed, &binding(), expected);
        remove(&sealed).expect("removal");
    }
    // The size is bound too: descriptor and file may agree on another one.
    let sealed = store.sealed("a.vmdk", &plain, &store.spec());
    let mut descriptor = Descriptor::read(&sealed).expect("a descriptor");
    descriptor.extents[0].sectors += 1;
    descriptor.write_atomic(&sealed).expect("a descriptor");
    fs::File::options()
        .write(true)
        .open(flat_of(&sealed))
        .and_then(|file| file.set_len(8704))
        .expect("a longer file");
    refused(&store, &sealed, &binding(), "VMSEAL_ENVELOPE_MISMATCH");
}

fn seal(descriptor: &mut Descriptor) -> &mut vmseal_disk::descriptor::Sealed {
    descriptor.sealed.as_mut().expect("sealed")
}

#[test]
fn wraps_of_other_disks_and_machines_are_refused() {
    let store = Datastore::new();
    let (other_disk, other_vm) = ([0x33; 16], [0x44; 16]);
    let sealed = store.sealed("a.vmdk", &noise(8192, 1), &store.spec());
    let second = store.sealed("b.vmdk", &noise(8192, 2), &SealSpec { disk_id: other_disk, ..store.spec() });
    let foreign = store.sealed("c.vmdk", &noise(8192, 3), &SealSpec { vm_id: other_vm, ..store.spec() });

    let mismatch = "VMSEAL_ENVELOPE_MISMATCH";
    refused(&store, &second, &binding(), mismatch);
    refused(&store, &foreign, &binding(), mismatch);
    refused(&store, &sealed, &Binding { vm_id: other_vm, ..binding() }, mismatch);
    refused(&store, &sealed, &Binding { disk_id: other_disk, ..binding() }, mismatch);
    refused(&store, &sealed, &Binding { provider_id: Some("kms-2"), ..binding() }, mismatch);

    // The sound wrap of another disk of the same VM and size under the same KEK, put into this descriptor.
    let stolen = Descriptor::read(&second).expect("a descriptor").sealed.expect("sealed").wraps;
    let mut descriptor = Descriptor::read(&sealed).expect("a descriptor");
    let own = std::mem::replace(&mut seal(&mut descriptor).wraps, stolen.clone());
    descriptor.write_atomic(&sealed).expect("a descriptor");
    refused(&store, &sealed, &binding(), mismatch);

    // With both, the right one is found.
    seal(&mut descriptor).wraps = stolen.into_iter().chain(own).collect();
    descriptor.write_atomic(&sealed).expect("a descriptor");
    open_sealed(&sealed, &store.kek, &Binding { provider_id: None, ..binding() })
        .expect("the second wrap opens");
}

#[test]
fn another_kek_opens_nothing() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(8192, 1), &store.spec());
    let other = SecretKey::generate(32).expect("a key");
    assert_eq!(code(open_sealed(&sealed, &other, &binding())), "VMSEAL_ENVELOPE_AUTHENTICATION");
    let short = SecretKey::generate(16).expect("a key");
    assert_eq!(code(open_sealed(&sealed, &short, &binding())), "VMSEAL_KEY_LENGTH");
    let target = store.path("b.vmdk");
    let source = store.path("a.vmdk.source");
    let result = encrypt_copy(&source, &target, &SealSpec { kek: &short, ..store.spec() }, &Control::new());
    assert_eq!(code(result), "VMSEAL_KEY_LENGTH");
    assert!(!flat_of(&target).exists());
}

#[test]
fn extents_of_the_wrong_size_or_kind_are_refused() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(8192, 1), &store.spec());
    let flat = flat_of(&sealed);
    let data = fs::read(&flat).expect("the flat file");
    let invalid = "VMSEAL_EXTENT_INVALID";
    for wrong in [&data[..8191], &data[..512], &[], &[&data[..], &[0]].concat()] {
        fs::write(&flat, wrong).expect("a wrong flat file");
        refused(&store, &sealed, &binding(), invalid);
        assert_eq!(code(inspect(&sealed)), invalid);
    }
    fs::remove_file(&flat).expect("removal");
    refused(&store, &sealed, &binding(), invalid);
    std::os::unix::fs::symlink(store.write("elsewhere", &data), &flat).expect("a link");
    refused(&store, &sealed, &binding(), invalid);
    fs::remove_file(&flat).expect("removal");
    fs::create_dir(&flat).expect("a folder");
    refused(&store, &sealed, &binding(), invalid);
    fs::remove_dir(&flat).expect("removal");
    assert!(Command::new("mkfifo").arg(&flat).status().expect("mkfifo").success());
    refused(&store, &sealed, &binding(), invalid);
}

#[test]
fn images_that_are_no_disks_are_refused() {
    let store = Datastore::new();
    let fifo = store.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let socket = store.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    let image = "VMSEAL_IMAGE_INVALID";
    let cases = [
        (store.write("empty", b""), image),
        (store.write("odd", &[1; 1000]), image),
        (store.write("one", b"x"), image),
        (store.folder().to_owned(), image),
        (fifo, image),
        (socket, image),
        (Path::new("/dev/null").to_owned(), image),
        (store.path("absent"), "VMSEAL_NOT_FOUND"),
        (store.write("text", b"# Disk DescriptorFile\nversion=1\n"), "VMSEAL_DESCRIPTOR_INVALID"),
    ];
    let before = store.names();
    let target = store.path("t.vmdk");
    for (source, expected) in cases {
        let name = source.display().to_string();
        assert_eq!(code(encrypt_copy(&source, &target, &store.spec(), &Control::new())), expected, "{name}");
        assert_eq!(code(import(&source, &target, &DISK, &Control::new())), expected, "{name}");
    }
    let odd = store.write("a.raw", &noise(4608, 1));
    let spec = SealSpec { sector_size: 4096, ..store.spec() };
    assert_eq!(code(encrypt_copy(&odd, &target, &spec, &Control::new())), image);
    let qcow = store.write("q.img", &[b"QFI\xfb\0\0\0\x03".as_slice(), &[0; 504]].concat());
    assert_eq!(code(encrypt_copy(&qcow, &target, &store.spec(), &Control::new())), image);
    fs::remove_file(odd).and_then(|()| fs::remove_file(qcow)).expect("removal");
    assert_eq!(store.names(), before);
}

#[test]
fn unreadable_sources_are_refused() {
    // Root reads everything, so this needs a user: the test binary runs again as nobody.
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(std::env::current_exe().expect("the test binary"))
        .args(["--exact", "--ignored", "--nocapture", "unreadable_sources_as_nobody"])
        .output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            assert!(!text.contains("panicked"), "{text}");
            println!("skipped: this process cannot run a test as another user");
        }
        Err(_) => println!("skipped: setpriv (util-linux) not found"),
    }
}

#[test]
#[ignore = "run by unreadable_sources_are_refused as another user"]
fn unreadable_sources_as_nobody() {
    use std::os::unix::fs::PermissionsExt as _;
    let store = Datastore::new();
    let source = store.write("s.raw", &[1; 512]);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o000)).expect("permissions");
    let denied = "VMSEAL_PERMISSION_DENIED";
    assert_eq!(code(encrypt_copy(&source, &store.path("t.vmdk"), &store.spec(), &Control::new())), denied);
    fs::set_permissions(&source, fs::Permissions::from_mode(0o600)).expect("permissions");
    fs::set_permissions(store.folder(), fs::Permissions::from_mode(0o500)).expect("permissions");
    assert_eq!(code(encrypt_copy(&source, &store.path("t.vmdk"), &store.spec(), &Control::new())), denied);
    fs::set_permissions(store.folder(), fs::Permissions::from_mode(0o700)).expect("permissions");
}

#[test]
fn taken_names_are_not_overwritten() {
    let store = Datastore::new();
    let source = store.write("s.raw", &noise(4096, 1));
    let sealed = store.sealed("a.vmdk", &noise(4096, 2), &store.spec());
    let target = store.path("t.vmdk");
    let exists = "VMSEAL_ALREADY_EXISTS";
    for taken in [target.clone(), flat_of(&target), copy_path(&target)] {
        fs::write(&taken, b"precious").expect("a file");
        let before = store.names();
        let control = Control::new();
        assert_eq!(code(encrypt_copy(&source, &target, &store.spec(), &control)), exists);
        assert_eq!(code(decrypt_copy(&sealed, &target, &store.kek, &binding(), &control)), exists);
        assert_eq!(code(import(&source, &target, &DISK, &control)), exists);
        assert_eq!(code(create_plain(&target, 512, &DISK)), exists);
        assert_eq!(code(create_sealed(&target, 512, &store.spec(), &control)), exists);
        assert_eq!(store.names(), before);
        assert_eq!(fs::read(&taken).expect("the file"), b"precious");
        fs::remove_file(&taken).expect("removal");
    }
    std::os::unix::fs::symlink("nowhere", flat_of(&target)).expect("a dangling link");
    assert_eq!(code(create_plain(&target, 512, &DISK)), exists);
}

#[test]
fn wrong_arguments_are_refused() {
    let store = Datastore::new();
    let argument = "VMSEAL_INVALID_ARGUMENT";
    let control = Control::new();
    for name in ["t", "t.raw", ".vmdk", "t.vmdk ", "a\"b.vmdk", "a\nb.vmdk"] {
        assert_eq!(code(create_plain(&store.path(name), 512, &DISK)), argument, "{name:?}");
    }
    for capacity in [0, 1, 511, 513, u64::MAX, u64::MAX - 511] {
        assert_eq!(code(create_plain(&store.path("t.vmdk"), capacity, &DISK)), argument, "{capacity}");
        assert_eq!(code(create_sealed(&store.path("t.vmdk"), capacity, &store.spec(), &control)), argument);
    }
    for spec in [
        SealSpec { sector_size: 1024, ..store.spec() },
        SealSpec { sector_size: 0, ..store.spec() },
        SealSpec { sector_size: 4096, ..store.spec() },
        SealSpec { kek_id: "", ..store.spec() },
        SealSpec { provider_id: "", ..store.spec() },
    ] {
        assert_eq!(code(create_sealed(&store.path("t.vmdk"), 512, &spec, &control)), argument);
    }
    assert_eq!(code(create_plain(&store.path("absent/t.vmdk"), 512, &DISK)), "VMSEAL_NOT_FOUND");
    assert_eq!(
        code(create_sealed(
            &store.path("t.vmdk"),
            1 << 60,
            &SealSpec { holes: Some(Holes::Dense), ..store.spec() },
            &control
        )),
        "VMSEAL_NO_SPACE"
    );
    assert!(store.names().is_empty(), "{:?}", store.names());
}

#[test]
fn the_wrong_state_is_named() {
    let store = Datastore::new();
    let sealed = store.sealed("a.vmdk", &noise(4096, 1), &store.spec());
    let plain = store.path("p.vmdk");
    create_plain(&plain, 4096, &DISK).expect("a plain disk");
    let (target, control, state) = (store.path("t.vmdk"), Control::new(), "VMSEAL_DISK_STATE");
    assert_eq!(code(encrypt_copy(&sealed, &target, &store.spec(), &control)), state);
    assert_eq!(code(import(&sealed, &target, &DISK, &control)), state);
    assert_eq!(code(open_plain(&sealed)), state);
    assert_eq!(code(open_sealed(&plain, &store.kek, &binding())), state);
    assert_eq!(code(decrypt_copy(&plain, &target, &store.kek, &binding(), &control)), state);

    let text = fs::read_to_string(&plain).expect("a descriptor");
    for line in [
        "encryptionKeys=\"vmware:key/list/(pair/(fqid/<VMWARE-NULL>/kms/id,HMAC%2dSHA%2d256,x))\"",
        "ddb.iofilters = \"vmwarevmcrypt\"",
    ] {
        fs::write(&plain, format!("{text}{line}\n")).expect("a descriptor");
        let Err(error @ Error::DiskState { .. }) = open_plain(&plain) else { panic!("not refused: {line}") };
        assert!(error.to_string().contains("sealed by vSphere"), "{error}");
        assert_eq!(code(encrypt_copy(&plain, &target, &store.spec(), &control)), state);
    }
    assert!(!flat_of(&target).exists());
}

#[test]
fn cancelled_jobs_leave_nothing() {
    let store = Datastore::new();
    let source = store.write("s.raw", &noise(MIB, 1));
    let sealed = store.sealed("a.vmdk", &noise(MIB, 1), &store.spec());
    let before = store.names();
    let (target, control) = (store.path("t.vmdk"), Control::new());
    control.cancel();
    let cancelled = "VMSEAL_CANCELLED";
    assert_eq!(code(encrypt_copy(&source, &target, &store.spec(), &control)), cancelled);
    assert_eq!(code(decrypt_copy(&sealed, &target, &store.kek, &binding(), &control)), cancelled);
    assert_eq!(code(import(&source, &target, &DISK, &control)), cancelled);

    let control = Control::new();
    let spec = SealSpec { holes: Some(Holes::Dense), vm_id: VM, ..store.spec() };
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while control.progress().done_bytes == 0 {
                std::thread::yield_now();
            }
            control.cancel();
        });
        create_sealed(&target, 4 << 30, &spec, &control)
    });
    assert_eq!(code(result), cancelled);
    assert!(control.progress().done_bytes < 4 << 30);
    assert_eq!(store.names(), before);
}
