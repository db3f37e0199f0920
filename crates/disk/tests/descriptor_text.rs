//! Descriptor text: what is read, what is kept, what is refused.

mod fixture;

use fixture::{DISK, Datastore, code, noise};
use proptest::prelude::*;
use vmseal_disk::Descriptor;
use vmseal_disk::descriptor::{Access, ExtentKind, MAX_LEN, NO_PARENT};

/// As ESXi and other tools write it, with lines nobody here knows.
const FOREIGN: &str = "# Disk DescriptorFile\r\nversion=3\r\nencoding=\"UTF-8\"\r\nCID=1234abcd\r\nparentCID=ffffffff\r\n\
isNativeSnapshot=\"no\"\r\ncreateType=\"vmfs\"\r\nsome.tool = \"CID\"\r\n# a note\r\n\r\n# Extent description\r\n\
RW 16384 VMFS \"web 01-flat.vmdk\"\r\nRW 8 ZERO\r\n\r\n# The Disk Data Base \r\n#DDB\r\n\r\nddb.adapterType = \"pvscsi\"\r\n\
# kept\r\nddb.uuid = \"60 00 C2 91 35 bd fd 2d-e7 7e 70 9f b2 c5 36 35\"\r\nodd line\r\n\0\0\0";

fn sealed_text() -> String {
    let store = Datastore::new();
    let path = store.sealed("a.vmdk", &noise(4096, 1), &store.spec());
    std::fs::read_to_string(path).expect("a descriptor")
}

#[test]
fn foreign_text_is_read_and_kept() {
    let descriptor = Descriptor::parse(FOREIGN.as_bytes()).expect("a descriptor");
    assert_eq!((descriptor.version, descriptor.cid, descriptor.parent_cid), (3, 0x1234_abcd, NO_PARENT));
    assert_eq!(descriptor.create_type, "vmfs");
    assert_eq!(descriptor.adapter(), Some("pvscsi"));
    assert_eq!(descriptor.disk_id(), Some(DISK));
    assert_eq!(descriptor.capacity_sectors(), 16392);
    let extent = &descriptor.extents[0];
    assert_eq!((extent.access, extent.kind, extent.offset), (Access::ReadWrite, ExtentKind::Vmfs, 0));
    assert_eq!(extent.file.as_deref(), Some("web 01-flat.vmdk"));
    assert_eq!((descriptor.extents[1].kind, &descriptor.extents[1].file), (ExtentKind::Zero, &None));

    let text = descriptor.to_text();
    let kept = ["isNativeSnapshot=\"no\"", "some.tool = \"CID\"", "# a note", "# kept", "odd line"];
    let places: Vec<usize> = kept.iter().map(|line| text.find(line).expect(line)).collect();
    assert!(places.is_sorted(), "{text}");
    // QEMU takes the first "CID" for the CID line.
    assert!(text.find("CID").is_some_and(|at| text[at..].starts_with("CID=1234abcd")), "{text}");
    assert_eq!(Descriptor::parse(text.as_bytes()).expect("our own text"), descriptor);
}

#[test]
fn our_text_has_the_documented_form() {
    let text = sealed_text();
    assert!(text.len() < 8192, "{} bytes", text.len());
    let keys: Vec<&str> =
        text.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key.trim()).collect();
    assert_eq!(
        keys,
        [
            "version",
            "encoding",
            "CID",
            "parentCID",
            "createType",
            "vmseal.version",
            "vmseal.id",
            "vmseal.state",
            "vmseal.cipher",
            "vmseal.sectorSize",
            "vmseal.holes",
            "vmseal.gen",
            "vmseal.dek.0",
            "vmseal.sum",
            "ddb.adapterType",
            "ddb.geometry.cylinders",
            "ddb.geometry.heads",
            "ddb.geometry.sectors",
            "ddb.uuid",
            "ddb.virtualHWVersion",
            "ddb.iofilters",
        ]
    );
    assert!(text.contains("\nRW 8 FLAT \"a-flat.vmdk\" 0\n"), "{text}");
    assert!(text.contains("vmseal.id=\"6000c291-35bd-fd2d-e77e-709fb2c53635\""), "{text}");
    assert!(text.contains("ddb.iofilters = \"vmseal\""), "{text}");
}

#[test]
fn moved_lines_crlf_and_padding_still_open() {
    let text = sealed_text();
    let original = Descriptor::parse(text.as_bytes()).expect("our own text");
    let (first, rest) = text.split_once('\n').expect("lines");
    let mut lines: Vec<&str> = rest.lines().collect();
    lines.reverse();
    let moved = format!("{first}\r\n{}\r\n\0\0\0\0", lines.join("\r\n"));
    let moved = Descriptor::parse(moved.as_bytes()).expect("lines in another order");
    assert_eq!(moved.sealed, original.sealed);
    assert_eq!(moved.extents, original.extents);
}

#[test]
fn later_optional_vmseal_lines_are_kept_and_covered_by_the_sum() {
    use sha2::{Digest as _, Sha256};
    let text = sealed_text();
    let own = Descriptor::parse(text.as_bytes()).expect("our own text");
    for before in ["vmseal.sum=", "vmseal.state="] {
        let longer = text.replacen(before, &format!("vmseal.note=\"later\"\n{before}"), 1);
        assert_eq!(code(Descriptor::parse(longer.as_bytes())), "VMSEAL_DESCRIPTOR_INVALID");
        let covered = |line: &&str| line.starts_with("vmseal.") && !line.starts_with("vmseal.sum");
        let lines: String = longer.lines().filter(covered).map(|line| line.replace('"', "") + "\n").collect();
        let sum: String = Sha256::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect();
        let (head, tail) = longer.split_once("sha256:").expect("a sum");
        let summed = format!("{head}sha256:{sum}{}", &tail[64..]);
        let descriptor = Descriptor::parse(summed.as_bytes()).expect("a later writer's lines");
        assert!(descriptor.to_text().contains("vmseal.note=\"later\""));
        assert_ne!(descriptor, own);
        assert_eq!(Descriptor::parse(descriptor.to_text().as_bytes()).expect("our own text"), descriptor);
    }
}

#[test]
fn newer_formats_are_refused_as_unsupported() {
    for (from, to) in [
        ("vmseal.version=\"1\"", "vmseal.version=\"2\""),
        ("aes-xts-plain64", "aes-xts-plain128"),
        ("vmseal.state=\"sealed\"", "vmseal.state=\"dreaming\""),
        ("vmseal.holes=\"dense\"", "vmseal.holes=\"mapped\""),
        ("sectorSize=\"512\"", "sectorSize=\"1024\""),
        ("version=1\n", "version=4\n"),
    ] {
        let text = sealed_text();
        assert!(text.contains(from), "{from}");
        assert_eq!(
            code(Descriptor::parse(text.replacen(from, to, 1).as_bytes())),
            "VMSEAL_DESCRIPTOR_UNSUPPORTED",
            "{to}"
        );
    }
}

#[test]
fn broken_header_lines_are_refused() {
    let text = sealed_text();
    for (from, to) in [
        ("# Disk DescriptorFile", "# Disk Descriptor"),
        ("version=1\n", ""),
        ("CID=fffffffe\n", ""),
        ("CID=fffffffe\n", "CID=fffffffe\nCID=fffffffe\n"),
        ("CID=fffffffe\n", "CID=1fffffffe\n"),
        ("CID=fffffffe\n", "CID=+1\n"),
        ("CID=fffffffe\n", "CID=\n"),
        ("createType=\"monolithicFlat\"\n", ""),
        ("createType=\"monolithicFlat\"\n", "createType=\"a\"\ncreateType=\"b\"\n"),
        ("createType=\"monolithicFlat\"", "createType=\"monolithic\"Flat\""),
        ("createType=\"monolithicFlat\"", "createType=\"xCIDx\""),
        ("vmseal.gen=\"1\"", "vmseal.gen=\"01\""),
        ("vmseal.gen=\"1\"", "vmseal.gen=\"4294967296\""),
        ("vmseal.gen=\"1\"", "vmseal.gen=\"2\""),
        ("vmseal.gen=\"1\"", "vmseal.gen=1\""),
        ("vmseal.gen=\"1\"\n", ""),
        ("vmseal.gen=\"1\"\n", "vmseal.gen=\"1\"\nvmseal.gen=\"1\"\n"),
        ("vmseal.dek.0", "vmseal.dek.1"),
        ("vmseal.dek.0", "vmseal.dek.00"),
        ("vmseal.sum=\"sha256:", "vmseal.sum=\"sha1:"),
        ("vmseal.id=\"6000c291-", "vmseal.id=\"6000c291"),
        ("vmseal.version=\"1\"", "vmseal.version=\"0\""),
        ("vmseal.state=\"sealed\"", "vmseal.state=\"se\0led\""),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = text.replacen(from, to, 1);
        assert_eq!(
            code(Descriptor::parse(changed.as_bytes())),
            "VMSEAL_DESCRIPTOR_INVALID",
            "{from:?} -> {to:?}"
        );
    }
}

#[test]
fn extent_lines_out_of_range_or_out_of_the_folder_are_refused() {
    let text = sealed_text();
    for line in [
        "RW 0 FLAT \"a-flat.vmdk\" 0",
        "RW 18446744073709551615 FLAT \"a-flat.vmdk\" 0",
        "RW 18446744073709551616 FLAT \"a-flat.vmdk\" 0",
        "RW 99999999999999999999999999999999 FLAT \"a-flat.vmdk\" 0",
        "RW 18014398509481983 FLAT \"a-flat.vmdk\" 18014398509481983",
        "RW 18014398509481983 ZERO\nRW 1 ZERO",
        "RW -8 FLAT \"a-flat.vmdk\" 0",
        "RW 8 FLAT",
        "RW 8 FLAT a-flat.vmdk 0",
        "RW 8 FLAT \"a-flat.vmdk 0",
        "RW 8 FLAT \"a-flat.vmdk\"0",
        "RW 8 FLAT \"a-flat.vmdk\" x",
        "RW 8 FLAT \"\" 0",
        "RW 8 FLAT \".\" 0",
        "RW 8 FLAT \"..\" 0",
        "RW 8 FLAT \"../a-flat.vmdk\" 0",
        "RW 8 FLAT \"/etc/shadow\" 0",
        "RW 8 FLAT \"b/a-flat.vmdk\" 0",
        "RW 8 FLAT \"a\u{7}-flat.vmdk\" 0",
    ] {
        let changed = text.replace("RW 8 FLAT \"a-flat.vmdk\" 0", line);
        assert_eq!(code(Descriptor::parse(changed.as_bytes())), "VMSEAL_DESCRIPTOR_INVALID", "{line}");
    }
    let long = format!("RW 8 FLAT \"{}\" 0", "x".repeat(256));
    let changed = text.replace("RW 8 FLAT \"a-flat.vmdk\" 0", &long);
    assert_eq!(code(Descriptor::parse(changed.as_bytes())), "VMSEAL_DESCRIPTOR_INVALID");
    let unknown = text.replace("RW 8 FLAT", "RW 8 HOLOGRAM");
    assert_eq!(code(Descriptor::parse(unknown.as_bytes())), "VMSEAL_DESCRIPTOR_UNSUPPORTED");
}

#[test]
fn long_binary_and_other_text_is_refused() {
    let mut long = sealed_text().into_bytes();
    long.resize(MAX_LEN + 1, b' ');
    assert_eq!(code(Descriptor::parse(&long)), "VMSEAL_DESCRIPTOR_INVALID");
    assert_eq!(code(Descriptor::parse(b"")), "VMSEAL_DESCRIPTOR_INVALID");
    assert_eq!(code(Descriptor::parse(&[0; 512])), "VMSEAL_DESCRIPTOR_INVALID");
    assert_eq!(code(Descriptor::parse(b"KDMV\x01\x00\x00\x00")), "VMSEAL_DESCRIPTOR_INVALID");
    let latin =
        [b"# Disk DescriptorFile\nversion=1\nencoding=\"windows-1252\"\n# \xe4\n".as_slice()].concat();
    assert_eq!(code(Descriptor::parse(&latin)), "VMSEAL_DESCRIPTOR_UNSUPPORTED");
}

#[test]
fn vsphere_key_lines_are_shown() {
    let text = FOREIGN.replace(
        "some.tool = \"CID\"",
        "encryptionKeys=\"vmware:key/list/(pair/(fqid/<VMWARE-NULL>/lo%63al/ASEA%3d,HMAC%2dSHA%2d256,kIc7z%2f))\"",
    );
    let descriptor = Descriptor::parse(text.as_bytes()).expect("a descriptor");
    let foreign = descriptor.foreign.clone().expect("a vSphere seal");
    assert_eq!((foreign.provider_id.as_deref(), foreign.key_id.as_deref()), (Some("local"), Some("ASEA=")));
    assert!(descriptor.to_text().contains("encryptionKeys="), "the line is kept");
    let odd = FOREIGN.replace("some.tool = \"CID\"", "keyID=\"x\"\r\nencryptionKeys=\"fqid/%%%/\u{e4}%f");
    assert!(Descriptor::parse(odd.as_bytes()).expect("a descriptor").foreign.is_some());
}

#[test]
fn fields_that_the_grammar_cannot_carry_are_not_written() {
    let store = Datastore::new();
    let path = store.path("a.vmdk");
    let good = Descriptor::new_flat("a-flat.vmdk", 8, &DISK);
    for break_it in [
        (|d: &mut Descriptor| d.create_type = "x\"\nvmseal.gen=\"1".to_owned()) as fn(&mut Descriptor),
        |d| d.create_type.clear(),
        |d| d.version = 9,
        |d| d.extents[0].file = Some("../x".to_owned()),
        |d| d.extents[0].sectors = u64::MAX,
        |d| d.set_ddb("ddb.x", "a\nb"),
        |d| d.set_ddb("x", "not a ddb key"),
    ] {
        let mut descriptor = good.clone();
        break_it(&mut descriptor);
        assert_eq!(code(descriptor.write_atomic(&path)), "VMSEAL_INVALID_ARGUMENT");
    }
    assert!(store.names().is_empty());
    good.write_atomic(&path).expect("a sound descriptor is written");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Descriptor::parse(&bytes);
    }

    #[test]
    fn lines_of_descriptor_words_are_answered_and_round_trip(
        lines in proptest::collection::vec("(RW|RDONLY|vmseal\\.(gen|dek\\.[0-9]|x)|ddb\\.[a-z]{1,3}|keyID|CID|#|[a-z\"]{0,6})[ =\"0-9a-z./%-]{0,24}", 0..30)
    ) {
        let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\ncreateType=\"x\"\n{}", lines.join("\n"));
        if let Ok(descriptor) = Descriptor::parse(text.as_bytes()) {
            prop_assert_eq!(Descriptor::parse(descriptor.to_text().as_bytes()).expect("our own text"), descriptor);
        }
    }

    #[test]
    fn damaged_text_is_answered_and_round_trips(at in any::<prop::sample::Index>(), bit in 0..8u32, cut in any::<prop::sample::Index>(), shorten: bool) {
        let mut bytes = FOREIGN.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1u8 << bit;
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(descriptor) = Descriptor::parse(&bytes) {
            prop_assert_eq!(Descriptor::parse(descriptor.to_text().as_bytes()).expect("our own text"), descriptor);
        }
    }

    #[test]
    fn new_descriptors_round_trip(sectors in 1u64..(1 << 54), id: [u8; 16], name in "[a-zA-Z0-9 _.()+äß-]{1,40}") {
        let descriptor = Descriptor::new_flat(&format!("{name}-flat.vmdk"), sectors, &id);
        let again = Descriptor::parse(descriptor.to_text().as_bytes()).expect("our own text");
        prop_assert_eq!(again.disk_id(), Some(id));
        prop_assert_eq!(again, descriptor);
    }
}
