//! Disk chains: what the guest reads through them, what a crash leaves, what is refused.

mod fixture;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use fixture::{DISK, Datastore, MIB, VM, binding, cancelled, code, flat_of, noise, sparse};
use proptest::prelude::*;
use vmseal_disk::chain::{ChainDisk, Link, create_child, flatten, set_parent};
use vmseal_disk::{
    Binding, Control, Descriptor, Error, Holes, NewKek, SealSpec, import, open_sealed, shallow_recrypt,
};
use vmseal_secret::SecretKey;

/// A chain on a datastore, sealed or plain, with one file for each link.
struct Chain {
    store: Datastore,
    links: Vec<PathBuf>,
    sealed: bool,
    sector_size: u32,
    made: u32,
}

impl Chain {
    fn new(bytes: &[u8], sealed: bool, sector_size: u32, holes: Option<Holes>) -> Self {
        let store = Datastore::new();
        let base = if sealed {
            store.sealed("web.vmdk", bytes, &SealSpec { sector_size, holes, ..store.spec() })
        } else {
            let (source, target) = (store.write("web.raw", bytes), store.path("web.vmdk"));
            import(&source, &target, &DISK, &Control::new()).expect("a plain disk");
            target
        };
        Self { store, links: vec![base], sealed, sector_size, made: 0 }
    }

    fn link<'a>(&'a self, descriptor: &'a Path) -> Link<'a> {
        Link { descriptor, key: self.sealed.then(|| (&self.store.kek, binding())) }
    }

    fn open(&self) -> ChainDisk {
        let links: Vec<Link<'_>> = self.links.iter().map(|path| self.link(path)).collect();
        ChainDisk::open(&links, true).expect("the chain opens")
    }

    /// Makes a child of the top.
    fn child(&mut self) -> PathBuf {
        self.made += 1;
        let path = self.store.path(&format!("web-{:06}.vmdk", self.made));
        let parent = self.links.last().expect("a link");
        let hint = parent.file_name().expect("a name").to_string_lossy().into_owned();
        let spec = SealSpec { generation: self.made + 1, sector_size: self.sector_size, ..self.store.spec() };
        create_child(&path, parent, &hint, &DISK, self.sealed.then_some(&spec)).expect("a child");
        self.links.push(path.clone());
        path
    }

    fn push(&mut self, disk: &ChainDisk) {
        let path = self.child();
        disk.push(&self.link(&path)).expect("the child goes on top");
    }
}

fn all(disk: &ChainDisk) -> Vec<u8> {
    let mut bytes = vec![0; disk.capacity() as usize];
    disk.read_at(0, &mut bytes).expect("the disk reads");
    bytes
}

fn delta_of(descriptor: &Path) -> PathBuf {
    let name = descriptor.file_name().expect("a name").to_string_lossy().into_owned();
    descriptor.with_file_name(name.replace(".vmdk", "-delta.vmdk"))
}

#[derive(Debug, Clone)]
enum Step {
    Write { at: usize, len: usize, zeros: bool },
    Snapshot,
    Merge(usize),
    Cancelled(usize),
    Reopen,
}

fn steps(len: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..len, 1..len / 2, any::<bool>()).prop_map(move |(at, count, zeros)| Step::Write {
            at, len: count.min(len - at), zeros
        }),
        2 => Just(Step::Snapshot),
        2 => (1usize..8).prop_map(Step::Merge),
        1 => (1usize..8).prop_map(Step::Cancelled),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// J3: whatever is written, snapshotted and merged in whatever order, the guest reads what it wrote, and every frozen
    /// link below reads what it read when it was frozen until it is merged.
    #[test]
    fn the_guest_reads_what_it_wrote(
        (sealed, sector_size) in prop_oneof![Just((true, 512)), Just((true, 4096)), Just((false, 512))],
        holes in prop_oneof![Just(Some(Holes::Dense)), Just(Some(Holes::Zero))],
        steps in steps(96 * 1024),
    ) {
        let mut model = noise(96 * 1024, 3);
        model[20_480..61_440].fill(0);
        let mut chain = Chain::new(&model, sealed, sector_size, holes);
        let mut disk = chain.open();
        for (index, step) in steps.iter().enumerate() {
            match *step {
                Step::Write { at, len, zeros } => {
                    let bytes = if zeros { vec![0; len] } else { noise(len, index as u64 + 50) };
                    disk.write_at(at as u64, &bytes).expect("a write");
                    model[at..at + len].copy_from_slice(&bytes);
                }
                Step::Snapshot => chain.push(&disk),
                Step::Merge(at) | Step::Cancelled(at) if chain.links.len() > 1 => {
                    let at = 1 + at % (chain.links.len() - 1);
                    let control = Control::new();
                    if matches!(step, Step::Cancelled(_)) {
                        control.cancel();
                        prop_assert!(matches!(disk.merge(at, &control), Err(Error::Cancelled)));
                    } else {
                        disk.merge(at, &control).expect("a merge");
                        disk.sync_merge().expect("durable");
                        disk.end_merge(at, true).expect("its end");
                        chain.links.remove(at);
                    }
                }
                Step::Merge(_) | Step::Cancelled(_) => {}
                Step::Reopen => {
                    disk.flush().expect("durable");
                    disk = chain.open();
                }
            }
            prop_assert_eq!(all(&disk), model.clone(), "after step {}", index);
        }
        let copy = chain.store.path("copy.vmdk");
        flatten(&chain.open(), &copy, &DISK, Some(&chain.store.spec()), &Control::new()).expect("a flat copy");
        let flat = open_sealed(&copy, &chain.store.kek, &binding()).expect("the copy");
        let mut bytes = vec![0; model.len()];
        flat.read_at(0, &mut bytes).expect("its bytes");
        prop_assert_eq!(&bytes, &model);
        prop_assert_eq!(chain.open().digest(&Control::new()).expect("a digest"), flat.digest(&Control::new()).expect("a digest"));
    }
}

#[test]
fn a_child_is_ciphertext_under_its_own_key_and_as_small_as_what_was_written() {
    let mut chain = Chain::new(&vec![0x41; 4 * MIB], true, 512, None);
    chain.child();
    let disk = chain.open();
    let text = b"in plain sight, in plain sight. ".repeat(16);
    disk.write_at(MIB as u64, &text).expect("a write");
    // The same bytes at the same place as in the base: equal ciphertext would show a shared key.
    disk.write_at(0, &[0x41; 512]).expect("a write");
    disk.flush().expect("durable");
    let (delta, base) = (delta_of(&chain.links[1]), flat_of(&chain.links[0]));
    let (delta, base) = (fs::read(&delta).expect("the child"), fs::read(&base).expect("the base"));
    assert!(!delta.windows(15).any(|window| window == b"in plain sight,"));
    assert_eq!(delta.len(), base.len());
    assert_ne!(delta[..512], base[..512]);
    assert!(delta[512..MIB].iter().all(|&byte| byte == 0), "what was not written is a hole");
    let headers: Vec<Descriptor> =
        chain.links.iter().map(|path| Descriptor::read(path).expect("lines")).collect();
    assert_eq!(headers[1].create_type, "vmsealDelta");
    assert_ne!(
        headers[1].sealed.as_ref().expect("sealed").wraps,
        headers[0].sealed.as_ref().expect("sealed").wraps
    );
}

/// Every byte at every instant: a crash in the middle of a merge leaves any subset of its sectors in the parent.
#[test]
fn j3_any_part_of_a_merge_that_reached_the_disk_changes_nothing_that_is_read() {
    for sector_size in [512, 4096] {
        let mut chain = Chain::new(&noise(64 * 1024, 1), true, sector_size, Some(Holes::Dense));
        chain.child();
        let disk = chain.open();
        for (index, at) in [0usize, 5000, 17_000, 40_960].into_iter().enumerate() {
            disk.write_at(at as u64, &noise(3000, index as u64 + 9)).expect("a write");
        }
        disk.flush().expect("durable");
        let expected = all(&disk);
        let base = flat_of(&chain.links[0]);
        let before = fs::read(&base).expect("the base");
        disk.merge(1, &Control::new()).expect("a merge");
        let after = fs::read(&base).expect("the base");
        assert_ne!(before, after);
        drop(disk);
        for seed in 0..200 {
            let choice = noise(before.len() / 512, seed);
            let torn: Vec<u8> = before
                .chunks(512)
                .zip(after.chunks(512))
                .zip(&choice)
                .flat_map(|((old, new), choice)| if choice % 2 == 0 { old } else { new })
                .copied()
                .collect();
            fs::write(&base, &torn).expect("a torn base");
            let disk = chain.open();
            assert_eq!(all(&disk), expected, "seed {seed}");
            if seed % 20 == 0 {
                // Begun again it ends, and the base alone is the disk.
                disk.merge(1, &Control::new()).expect("the merge again");
                disk.end_merge(1, true).expect("its end");
                assert_eq!(all(&disk), expected);
                let alone = open_sealed(&chain.links[0], &chain.store.kek, &binding()).expect("the base");
                let mut bytes = vec![0; expected.len()];
                alone.read_at(0, &mut bytes).expect("its bytes");
                assert_eq!(bytes, expected);
            }
        }
    }
}

#[test]
fn a_write_that_tears_leaves_each_sector_old_or_new() {
    for (sealed, sector_size) in [(true, 512), (true, 4096), (false, 512)] {
        let old = noise(32 * 1024, 4);
        let mut chain = Chain::new(&old, sealed, sector_size, Some(Holes::Dense));
        chain.child();
        let delta = delta_of(&chain.links[1]);
        let before = fs::read(&delta).expect("the child");
        let mut new = old.clone();
        new[4608..14_848].copy_from_slice(&noise(10_240, 5));
        let disk = chain.open();
        disk.write_at(4608, &new[4608..14_848]).expect("a write");
        disk.flush().expect("durable");
        drop(disk);
        let after = fs::read(&delta).expect("the child");
        for seed in 0..50 {
            let choice = noise(before.len() / 512, seed);
            let mut torn = before.clone();
            for (sector, choice) in choice.iter().enumerate() {
                if choice % 2 == 0 {
                    torn[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
                }
            }
            fs::write(&delta, &torn).expect("a torn child");
            let seen = all(&chain.open());
            for (at, sector) in seen.chunks(512).enumerate() {
                let range = at * 512..at * 512 + 512;
                assert!(sector == &old[range.clone()] || sector == &new[range], "sector {at}, seed {seed}");
            }
        }
    }
}

#[test]
fn the_guest_writes_on_while_the_top_is_merged() {
    let mut chain = Chain::new(&noise(8 * MIB, 6), true, 512, None);
    let mut model = noise(8 * MIB, 6);
    chain.child();
    let disk = chain.open();
    for at in (0..8 * MIB).step_by(MIB / 2) {
        model[at..at + 4096].copy_from_slice(&noise(4096, at as u64));
        disk.write_at(at as u64, &model[at..at + 4096]).expect("a write");
    }
    let merged = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let merge = scope.spawn(|| {
            disk.merge(1, &Control::new()).expect("a merge");
            merged.store(true, Ordering::Release);
        });
        let mut round = 0u64;
        while !merged.load(Ordering::Acquire) || round < 200 {
            let at = (noise(8, round)[0] as usize * 32_771) % (8 * MIB - 700);
            model[at..at + 700].copy_from_slice(&noise(700, round + 1000));
            disk.write_at(at as u64, &model[at..at + 700]).expect("a write");
            round += 1;
        }
        merge.join().expect("no panic");
    });
    disk.sync_merge().expect("durable");
    disk.end_merge(1, true).expect("its end");
    assert_eq!(disk.depth(), 1);
    disk.write_at(100, b"after it").expect("a write");
    model[100..108].copy_from_slice(b"after it");
    disk.flush().expect("durable");
    assert!(all(&disk) == model);
    let alone = open_sealed(&chain.links[0], &chain.store.kek, &binding()).expect("the base");
    let mut bytes = vec![0; model.len()];
    alone.read_at(0, &mut bytes).expect("its bytes");
    assert!(bytes == model);
}

#[test]
fn d4_a_child_takes_another_kek_like_any_disk_and_needs_the_right_one() {
    let mut chain = Chain::new(&noise(64 * 1024, 2), true, 512, None);
    chain.child();
    let disk = chain.open();
    disk.write_at(700, b"kept").expect("a write");
    let expected = all(&disk);
    let delta = fs::read(delta_of(&chain.links[1])).expect("the child");
    let kek = SecretKey::generate(32).expect("a key");
    let new = NewKek { kek: &kek, kek_id: "kek-2", provider_id: "kms-1" };
    assert!(shallow_recrypt(&chain.links[1], &chain.store.kek, &binding(), &new).expect("another KEK"));
    assert!(!shallow_recrypt(&chain.links[1], &kek, &binding(), &new).expect("nothing to do"));
    assert_eq!(fs::read(delta_of(&chain.links[1])).expect("the child"), delta, "no byte of data changed");
    assert_eq!(Descriptor::read(&chain.links[1]).expect("lines").create_type, "vmsealDelta");
    let links =
        [chain.link(&chain.links[0]), Link { descriptor: &chain.links[1], key: Some((&kek, binding())) }];
    assert_eq!(all(&ChainDisk::open(&links, false).expect("the chain")), expected);
    let old: Vec<Link<'_>> = chain.links.iter().map(|path| chain.link(path)).collect();
    assert_eq!(code(ChainDisk::open(&old, false)), "VMSEAL_ENVELOPE_AUTHENTICATION");
}

#[test]
fn what_is_no_chain_is_refused() {
    let mut chain = Chain::new(&noise(64 * 1024, 2), true, 512, None);
    let child = chain.child();
    let (base, top) = (chain.link(&chain.links[0]), chain.link(&child));
    assert_eq!(code(ChainDisk::open(&[], true)), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(code(ChainDisk::open(&[top], false)), "VMSEAL_DISK_STATE");
    assert_eq!(code(ChainDisk::open(&[base, base], false)), "VMSEAL_DISK_STATE");
    let plain = Link { descriptor: &child, key: None };
    assert_eq!(code(ChainDisk::open(&[base, plain], false)), "VMSEAL_DISK_STATE");
    let elsewhere = Binding { vm_id: [9; 16], ..binding() };
    let other = Link { descriptor: &child, key: Some((&chain.store.kek, elsewhere)) };
    assert_eq!(code(ChainDisk::open(&[base, other], false)), "VMSEAL_ENVELOPE_MISMATCH");
    // Alone its holes would be taken for the guest's zeros.
    assert_eq!(code(open_sealed(&child, &chain.store.kek, &binding())), "VMSEAL_DESCRIPTOR_UNSUPPORTED");
    let disk = ChainDisk::open(&[base, top], false).expect("for reading");
    assert_eq!(code(disk.write_at(0, &[1])), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(code(disk.read_at(64 * 1024 - 1, &mut [0; 2])), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(code(disk.merge(2, &Control::new())), "VMSEAL_INVALID_ARGUMENT");
    assert_eq!(code(disk.merge(0, &Control::new())), "VMSEAL_INVALID_ARGUMENT");
    let spec = chain.store.spec();
    assert_eq!(
        code(create_child(&child, &chain.links[0], "web.vmdk", &DISK, Some(&spec))),
        "VMSEAL_ALREADY_EXISTS"
    );
    let free = chain.store.path("web-000009.vmdk");
    assert_eq!(code(create_child(&free, &chain.links[0], "web.vmdk", &DISK, None)), "VMSEAL_DISK_STATE");
    assert_eq!(
        code(create_child(&free, &chain.links[0], "a\"b", &DISK, Some(&spec))),
        "VMSEAL_INVALID_ARGUMENT"
    );
    assert_eq!(code(set_parent(&chain.links[0], "web.vmdk")), "VMSEAL_DESCRIPTOR_UNSUPPORTED");
    set_parent(&child, "../other/other.vmdk").expect("another hint");
    assert!(
        Descriptor::read(&child)
            .expect("lines")
            .to_text()
            .contains("parentFileNameHint=\"../other/other.vmdk\"")
    );
    fs::File::options().write(true).open(delta_of(&child)).expect("the child").set_len(512).expect("a cut");
    assert_eq!(code(ChainDisk::open(&[base, top], false)), "VMSEAL_EXTENT_INVALID");
    assert_eq!(VM, [0x11; 16]);
}

#[test]
fn a_sparse_chain_stays_sparse_when_it_is_flattened_and_a_cancelled_copy_is_gone() {
    let store = Datastore::new();
    let source = store.path("sparse.raw");
    let seen = sparse(&source, 64 * MIB, &[(MIB, 8192), (40 * MIB + 512, 4096)]);
    let base = store.path("web.vmdk");
    vmseal_disk::encrypt_copy(&source, &base, &store.spec(), &Control::new()).expect("sealing");
    let links = [Link { descriptor: &base, key: Some((&store.kek, binding())) }];
    let disk = ChainDisk::open(&links, false).expect("a chain of one");
    let copy = store.path("copy.vmdk");
    let outcome = flatten(&disk, &copy, &DISK, None, &Control::new()).expect("a plain copy");
    assert!(outcome.allocated_bytes < MIB as u64, "{} bytes", outcome.allocated_bytes);
    assert!(fs::read(flat_of(&copy)).expect("the copy") == seen);
    let other = store.path("other.vmdk");
    let spec = SealSpec { holes: Some(Holes::Dense), ..store.spec() };
    if let Err(error) = cancelled(|control| flatten(&disk, &other, &DISK, Some(&spec), control)) {
        assert_eq!(error.code(), "VMSEAL_CANCELLED");
        assert!(store.names().iter().all(|name| !name.starts_with("other")));
    }
}
