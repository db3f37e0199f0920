//! Encrypt, look at the ciphertext by another route, decrypt, compare.

mod fixture;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use fixture::{DISK, Datastore, MIB, VM, binding, flat_of, holes_of, noise, sparse};
use proptest::prelude::*;
use vmseal_disk::{
    Control, Descriptor, Holes, SealSpec, create_plain, create_sealed, decrypt_copy, encrypt_copy, import,
    open_plain, open_sealed, remove,
};

/// Decrypts the flat file unit by unit with the single-unit cipher, tweaks counted by hand.
fn decrypt_apart(store: &Datastore, descriptor: &Path) -> Vec<u8> {
    let sealed = Descriptor::read(descriptor).expect("a descriptor").sealed.expect("a sealed disk");
    let (dek, _) = vmseal_wrap::envelope::open(&store.kek, &sealed.wraps[0]).expect("our wrap");
    let mut data = fs::read(flat_of(descriptor)).expect("the flat file");
    let unit = sealed.sector_size as usize;
    for (index, sector) in data.chunks_mut(unit).enumerate() {
        if sealed.holes == Holes::Zero && sector.iter().all(|&byte| byte == 0) {
            continue;
        }
        let mut tweak = [0; 16];
        tweak[..8].copy_from_slice(&((index * unit / 512) as u64).to_le_bytes());
        vmseal_xts::data_unit::decrypt(&dek, &tweak, sector).expect("one unit");
    }
    data
}

#[track_caller]
fn there_and_back(store: &Datastore, source: &Path, plain: &[u8], spec: &SealSpec<'_>) {
    let (sealed, back) = (store.path("t.vmdk"), store.path("b.vmdk"));
    let control = Control::new();
    let outcome = encrypt_copy(source, &sealed, spec, &control).expect("encryption");
    assert_eq!(outcome.bytes, plain.len() as u64);
    assert_eq!(control.progress().done_bytes, control.progress().total_bytes);
    assert_eq!(control.progress().total_bytes, plain.len() as u64);
    assert!(decrypt_apart(store, &sealed) == plain, "the ciphertext is not what IEEE 1619 says");

    let control = Control::new();
    decrypt_copy(&sealed, &back, &store.kek, &binding(), &control).expect("decryption");
    assert_eq!(control.progress().done_bytes, plain.len() as u64);
    assert!(
        fs::read(flat_of(&back)).expect("the plain file") == plain,
        "decryption does not give the source back"
    );
    let descriptor = Descriptor::read(&back).expect("a plain descriptor");
    assert!(descriptor.sealed.is_none() && !descriptor.has_io_filter("vmseal"));
    assert!(fs::read(source).expect("the source") == plain, "the source was changed");
    remove(&sealed).expect("removal");
    remove(&back).expect("removal");
}

#[test]
fn sizes_around_sector_and_chunk_edges() {
    let store = Datastore::new();
    for (len, sector_size) in [
        (512, 512),
        (1024, 512),
        (4096, 512),
        (4096, 4096),
        (MIB - 512, 512),
        (MIB, 4096),
        (MIB + 512, 512),
        (2 * MIB + 4096, 4096),
        (5 * MIB + 3 * 512, 512),
    ] {
        let plain = noise(len, len as u64);
        let source = store.write("s.raw", &plain);
        for holes in [None, Some(Holes::Dense), Some(Holes::Zero)] {
            there_and_back(&store, &source, &plain, &SealSpec { sector_size, holes, ..store.spec() });
        }
    }
}

#[test]
fn hole_patterns_in_both_modes() {
    let store = Datastore::new();
    let source = store.path("s.raw");
    let patterns: [(usize, &[(usize, usize)]); 6] = [
        (4 * MIB, &[]),
        (4 * MIB, &[(0, 4096)]),
        (4 * MIB, &[(4 * MIB - 4096, 4096)]),
        (6 * MIB, &[(MIB - 4096, 8192), (3 * MIB + 512, 512), (5 * MIB, MIB)]),
        (3 * MIB + 512, &[(MIB, MIB)]),
        (3 * MIB + 1536, &[(3 * MIB + 1024, 512)]),
    ];
    for (len, ranges) in patterns {
        let plain = sparse(&source, len, ranges);
        for holes in [None, Some(Holes::Dense), Some(Holes::Zero)] {
            there_and_back(&store, &source, &plain, &SealSpec { holes, ..store.spec() });
        }
        if len % 4096 == 0 {
            there_and_back(&store, &source, &plain, &SealSpec { sector_size: 4096, ..store.spec() });
        }
    }
}

#[test]
fn holes_stay_holes_and_dense_disks_have_none() {
    let store = Datastore::new();
    let source = store.path("s.raw");
    sparse(&source, 16 * MIB, &[(MIB, 8192)]);
    if fs::metadata(&source).expect("the source").blocks() * 512 > MIB as u64 {
        return fixture::skip("the file system of the temporary folder keeps no holes");
    }
    let (thin, dense, back) = (store.path("thin.vmdk"), store.path("dense.vmdk"), store.path("back.vmdk"));
    let outcome = encrypt_copy(&source, &thin, &store.spec(), &Control::new()).expect("encryption");
    assert_eq!((outcome.holes, holes_of(&thin)), (Some(Holes::Zero), Some(Holes::Zero)));
    assert!(outcome.allocated_bytes <= MIB as u64, "{outcome:?}");
    let spec = SealSpec { holes: Some(Holes::Dense), ..store.spec() };
    let outcome = encrypt_copy(&source, &dense, &spec, &Control::new()).expect("encryption");
    assert!(outcome.allocated_bytes >= 16 * MIB as u64, "{outcome:?}");
    let outcome = decrypt_copy(&thin, &back, &store.kek, &binding(), &Control::new()).expect("decryption");
    assert!(outcome.allocated_bytes <= MIB as u64, "{outcome:?}");
}

#[test]
fn written_zeros_of_a_zero_disk_read_as_zeros() {
    let store = Datastore::new();
    let mut plain = noise(2 * MIB, 3);
    plain[4096..MIB + 512].fill(0);
    let source = store.write("s.raw", &plain);
    let spec = SealSpec { holes: Some(Holes::Zero), ..store.spec() };
    there_and_back(&store, &source, &plain, &spec);
    // A unit zeroed in the ciphertext, as a guest's discard leaves it, is zeros in the plaintext.
    let sealed = store.sealed("z.vmdk", &plain, &spec);
    let mut cipher = fs::read(flat_of(&sealed)).expect("the flat file");
    cipher[512..1536].fill(0);
    plain[512..1536].fill(0);
    fs::write(flat_of(&sealed), &cipher).expect("the flat file");
    let disk = open_sealed(&sealed, &store.kek, &binding()).expect("the disk opens");
    let mut read = vec![0xff; plain.len()];
    disk.read_at(0, &mut read).expect("reading");
    assert!(read == plain);
}

#[test]
fn equal_sectors_look_different_and_equal_disks_too() {
    let store = Datastore::new();
    let plain = vec![0x5a; 8192];
    let (one, two) =
        (store.sealed("1.vmdk", &plain, &store.spec()), store.sealed("2.vmdk", &plain, &store.spec()));
    let (one, two) = (fs::read(flat_of(&one)).expect("one"), fs::read(flat_of(&two)).expect("two"));
    let mut sectors: Vec<&[u8]> = one.chunks(512).chain(two.chunks(512)).collect();
    sectors.sort();
    sectors.dedup();
    assert_eq!(sectors.len(), 32);
}

#[test]
fn files_are_for_the_owner_only() {
    let store = Datastore::new();
    let sealed = store.sealed("o.vmdk", &noise(4096, 1), &store.spec());
    for path in [sealed.clone(), flat_of(&sealed), store.path("o.vmdk.vmseal")] {
        let mode = fs::metadata(&path).expect("a file of the disk").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    assert_eq!(store.names(), ["o-flat.vmdk", "o.vmdk", "o.vmdk.source", "o.vmdk.vmseal"]);
}

#[test]
fn a_flat_vmdk_keeps_its_hardware_lines() {
    let store = Datastore::new();
    let plain = noise(MIB + 512, 9);
    let (flat, copy) = (store.path("a.vmdk"), store.path("b.vmdk"));
    import(&store.write("s.raw", &plain), &flat, &[7; 16], &Control::new()).expect("import");
    let text = fs::read_to_string(&flat).expect("a descriptor").replace("lsilogic", "pvscsi");
    fs::write(&flat, format!("{text}ddb.toolsVersion = \"1\"\n")).expect("a descriptor");
    encrypt_copy(&flat, &copy, &store.spec(), &Control::new()).expect("encryption");
    let descriptor = Descriptor::read(&copy).expect("a descriptor");
    assert_eq!((descriptor.adapter(), descriptor.ddb("ddb.toolsVersion")), (Some("pvscsi"), Some("1")));
    assert_eq!(descriptor.disk_id(), Some(DISK));
    assert!(decrypt_apart(&store, &copy) == plain);
}

#[test]
fn split_and_zero_extents_are_read_as_one_disk() {
    let store = Datastore::new();
    let plain = noise(3 * MIB, 4);
    store.write("p-f001.vmdk", &plain[..MIB + 512]);
    store.write("p-f002.vmdk", &[&[0xee; 1024], &plain[MIB + 512..]].concat());
    let mut descriptor = Descriptor::new_flat("p-f001.vmdk", (MIB as u64 + 512) / 512, &[1; 16]);
    let mut second = descriptor.extents[0].clone();
    (second.file, second.sectors, second.offset) =
        (Some("p-f002.vmdk".to_owned()), (plain.len() - MIB - 512) as u64 / 512, 2);
    let mut zero = second.clone();
    (zero.kind, zero.file, zero.sectors, zero.offset) =
        (vmseal_disk::descriptor::ExtentKind::Zero, None, 9, 0);
    descriptor.extents.extend([second, zero]);
    descriptor.create_type = "twoGbMaxExtentFlat".to_owned();
    let path = store.path("p.vmdk");
    descriptor.write_atomic(&path).expect("a descriptor");
    let seen = [plain, vec![0; 9 * 512]].concat();
    let sealed = store.path("q.vmdk");
    for holes in [Holes::Dense, Holes::Zero] {
        let spec = SealSpec { holes: Some(holes), ..store.spec() };
        encrypt_copy(&path, &sealed, &spec, &Control::new()).expect("encryption");
        assert!(decrypt_apart(&store, &sealed) == seen);
        remove(&sealed).expect("removal");
    }
    let mut read = vec![0; 2048];
    open_plain(&path)
        .expect("the disk opens")
        .read_at(MIB as u64 - 512, &mut read)
        .expect("reading over the seam");
    assert!(read == seen[MIB - 512..MIB + 1536]);
}

#[test]
fn new_disks_read_as_zeros() {
    let store = Datastore::new();
    let zeros = vec![0; 3 * MIB];
    for holes in [None, Some(Holes::Zero), Some(Holes::Dense)] {
        let path = store.path("n.vmdk");
        let spec = SealSpec { holes, ..store.spec() };
        create_sealed(&path, zeros.len() as u64, &spec, &Control::new()).expect("a new disk");
        assert!(decrypt_apart(&store, &path) == zeros);
        let cipher = fs::read(flat_of(&path)).expect("the flat file");
        assert_eq!(cipher == zeros, holes != Some(Holes::Dense));
        remove(&path).expect("removal");
    }
    let path = store.path("p.vmdk");
    create_plain(&path, 1 << 40, &DISK).expect("a new disk");
    assert_eq!(open_plain(&path).expect("the disk opens").capacity(), 1 << 40);
    assert_eq!(Descriptor::read(&path).expect("a descriptor").disk_id(), Some(DISK));
}

#[test]
fn sealed_and_plain_disks_have_one_digest() {
    use sha2::{Digest as _, Sha256};
    let store = Datastore::new();
    let source = store.path("s.raw");
    let plain = sparse(&source, 5 * MIB + 512, &[(512, 1024), (2 * MIB - 512, MIB)]);
    let expected: [u8; 32] = Sha256::digest(&plain).into();
    let flat = store.path("plain.vmdk");
    import(&source, &flat, &DISK, &Control::new()).expect("import");
    let control = Control::new();
    assert_eq!(open_plain(&flat).expect("plain").digest(&control).expect("digest"), expected);
    assert_eq!(control.progress().done_bytes, plain.len() as u64);
    for holes in [Holes::Dense, Holes::Zero] {
        let sealed = store.path(&format!("{}.vmdk", holes.as_str()));
        let spec = SealSpec { holes: Some(holes), ..store.spec() };
        encrypt_copy(&source, &sealed, &spec, &Control::new()).expect("encryption");
        let disk = open_sealed(&sealed, &store.kek, &binding()).expect("sealed");
        assert_eq!(disk.digest(&Control::new()).expect("digest"), expected);
        control.cancel();
        assert_eq!(fixture::code(disk.digest(&control)), "VMSEAL_CANCELLED");
    }
}

#[test]
fn the_wrap_names_what_it_is_bound_to() {
    let store = Datastore::new();
    let sealed = store.sealed(
        "h.vmdk",
        &noise(8192, 2),
        &SealSpec { sector_size: 4096, generation: 7, ..store.spec() },
    );
    let wrap = Descriptor::read(&sealed).expect("a descriptor").sealed.expect("sealed").wraps.remove(0);
    let header: serde_json::Value =
        serde_json::from_str(&vmseal_wrap::envelope::inspect(&wrap).expect("a JWE")).expect("JSON");
    let mut bound = header["vmseal"].clone();
    assert!(bound["kcv"].take().is_string());
    let expected = serde_json::json!({
        "v": 1, "role": "disk", "id": vmseal_disk::uuid::format(&DISK), "vm": vmseal_disk::uuid::format(&VM), "prov": "kms-1",
        "gen": 7, "cipher": "aes-xts-plain64", "ss": 4096, "iv0": 0, "cap": 16, "holes": "dense", "kcv": null,
    });
    assert_eq!(bound, expected);
    for (key, value) in
        [("typ", "vmseal-dek"), ("cty", "jwk+json"), ("kid", "kek-1"), ("alg", "A256KW"), ("enc", "A256GCM")]
    {
        assert_eq!(header[key], value);
    }
    let info = vmseal_disk::inspect(&sealed).expect("inspection");
    let seal = info.sealed.expect("a seal");
    assert_eq!((seal.keks[0].key_id.as_str(), seal.keks[0].provider_id.as_str()), ("kek-1", "kms-1"));
    assert_eq!((info.capacity_bytes, seal.generation, info.needs_qemu_img), (Some(8192), 7, false));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn any_range_of_a_disk_reads_as_written(
        sectors in 1usize..40,
        large: bool,
        zero: bool,
        ranges in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..9000), 1..20),
    ) {
        let unit = if large { 4096 } else { 512 };
        let mut plain = noise(sectors * unit, sectors as u64);
        plain[..unit].fill(0);
        let store = Datastore::new();
        let holes = Some(if zero { Holes::Zero } else { Holes::Dense });
        let spec = SealSpec { sector_size: unit as u32, holes, ..store.spec() };
        let sealed = store.sealed("r.vmdk", &plain, &spec);
        let disk = open_sealed(&sealed, &store.kek, &binding()).expect("the disk opens");
        for (start, len) in ranges {
            let start = start.index(plain.len());
            let len = len.min(plain.len() - start);
            let mut read = vec![0xaa; len];
            disk.read_at(start as u64, &mut read).expect("reading");
            prop_assert!(read == plain[start..start + len], "{start} + {len}");
        }
        let end = plain.len() as u64;
        for (start, len) in [(end, 1), (end - 1, 2), (u64::MAX, 1), (u64::MAX, 0)] {
            prop_assert_eq!(disk.read_at(start, &mut vec![0; len]).expect_err("outside").code(), "VMSEAL_INVALID_ARGUMENT");
        }
    }
}
