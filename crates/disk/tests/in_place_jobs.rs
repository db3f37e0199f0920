//! Whole jobs on real files: in place gives what a copy gives, and back.

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};

use fixture::{DISK, Datastore, MIB, binding, code, flat_of, noise};
use vmseal_disk::descriptor::CopyState;
use vmseal_disk::{
    Control, Descriptor, Holes, NewKek, SealSpec, decrypt_in_place, encrypt_in_place, import, job_path,
    open_sealed, recrypt_in_place,
};
use vmseal_secret::SecretKey;

const MODES: [Option<Holes>; 3] = [None, Some(Holes::Dense), Some(Holes::Zero)];

/// A plain disk with the content of `source`.
fn plain_disk(store: &Datastore, name: &str, source: &Path) -> PathBuf {
    let path = store.path(name);
    import(source, &path, &DISK, &Control::new()).expect("import");
    path
}

fn data(path: &Path) -> Vec<u8> {
    fs::read(flat_of(path)).expect("the flat file")
}

fn reads(store: &Datastore, path: &Path, len: usize) -> Vec<u8> {
    reads_with(&store.kek, path, len)
}

fn reads_with(kek: &SecretKey, path: &Path, len: usize) -> Vec<u8> {
    let disk = open_sealed(path, kek, &vmseal_disk::Binding { provider_id: None, ..binding() })
        .expect("the disk opens");
    let mut bytes = vec![0; len];
    disk.read_at(0, &mut bytes).expect("reading");
    bytes
}

fn there_and_back(store: &Datastore, source: &Path, plain: &[u8], spec: &SealSpec<'_>) {
    let path = plain_disk(store, "p.vmdk", source);
    let before = fs::read_to_string(&path).expect("a descriptor");
    let names = store.names();
    let control = Control::new();
    let outcome = encrypt_in_place(&path, spec, &control).expect("encryption in place");
    assert_eq!(outcome.bytes, plain.len() as u64);
    assert_eq!(control.progress().done_bytes, plain.len() as u64);
    assert!(reads(store, &path, plain.len()) == plain, "the sealed disk reads otherwise");
    assert_eq!(Descriptor::read_with_copy(&path).expect("a descriptor").1, CopyState::Same);
    assert!(!job_path(&path).exists());

    let first = data(&path);
    let kek = SecretKey::generate(32).expect("key memory");
    let new = NewKek { kek: &kek, kek_id: "kek-2", provider_id: "kms-2" };
    recrypt_in_place(&path, &store.kek, &binding(), &new, &Control::new()).expect("deep recrypt in place");
    assert!(reads_with(&kek, &path, plain.len()) == plain, "the recrypted disk reads otherwise");
    let sealed = Descriptor::read(&path).expect("a descriptor").sealed.expect("sealed");
    assert_eq!((sealed.generation, sealed.wraps.len()), (spec.generation + 1, 1));
    assert_eq!(code(open_sealed(&path, &store.kek, &binding())), "VMSEAL_ENVELOPE_AUTHENTICATION");
    let unit = spec.sector_size as usize;
    for (old, new) in first.chunks(unit).zip(data(&path).chunks(unit)) {
        assert!(old != new || (sealed.holes == Holes::Zero && old.iter().all(|&byte| byte == 0)));
    }

    let binding = vmseal_disk::Binding { provider_id: Some("kms-2"), ..binding() };
    decrypt_in_place(&path, &kek, &binding, &Control::new()).expect("decryption in place");
    assert!(data(&path) == plain, "decryption does not give the source back");
    assert_eq!(fs::read_to_string(&path).expect("a descriptor"), before);
    assert_eq!(store.names(), names);
    vmseal_disk::remove(&path).expect("removal");
}

#[test]
fn sizes_around_sector_piece_and_zone_edges() {
    let store = Datastore::new();
    for (len, sector_size) in [
        (512, 512),
        (1024, 512),
        (4096, 4096),
        (MIB - 512, 512),
        (MIB + 512, 512),
        (8 * MIB, 512),
        (8 * MIB + 4096, 4096),
        (17 * MIB + 3 * 512, 512),
    ] {
        let plain = noise(len, len as u64);
        let source = store.write("s.raw", &plain);
        for holes in MODES {
            there_and_back(&store, &source, &plain, &SealSpec { sector_size, holes, ..store.spec() });
        }
    }
}
