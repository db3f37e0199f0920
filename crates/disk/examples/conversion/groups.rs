//! What is measured against what. The first way of a group is ours.

use std::fs::File;
use std::path::PathBuf;

use vmseal_disk::measurement::{
    copy_over, destroy_with_barriers, destroy_without_journal, write_new, write_over,
};
use vmseal_disk::{Control, describe_raw, encrypt_copy, encrypt_in_place};

use crate::Outcome;
use crate::programs::{cryptsetup_reencrypt, dd, exists, qemu_img, qemu_img_create};
use crate::stage::{DISK, Stage, chill, clear, warm};

type Step<'a> = Box<dyn Fn() -> Outcome<()> + 'a>;

pub(crate) struct Way<'a> {
    pub(crate) name: &'static str,
    pub(crate) prepare: Step<'a>,
    /// After everything was synced.
    pub(crate) settle: Step<'a>,
    pub(crate) run: Step<'a>,
}

pub(crate) type Group<'a> = Vec<Way<'a>>;

type Maker = fn(&Stage) -> Group<'_>;

/// Names and makers of all groups.
pub(crate) const GROUPS: [(&str, Maker); 7] = [
    ("copy over", copy_over_a_file),
    ("in place without journal", in_place_without_journal),
    ("in place with journal", in_place_with_journal),
    ("new file", to_a_new_file),
    ("new file, durable", to_a_new_file_durably),
    ("cold, direct", cold_direct),
    ("cold, new file", cold_to_a_new_file),
];

fn way<'a>(name: &'static str, run: impl Fn() -> Outcome<()> + 'a) -> Way<'a> {
    Way { name, prepare: Box::new(|| Ok(())), settle: Box::new(|| Ok(())), run: Box::new(run) }
}

fn copy_over_a_file(stage: &Stage) -> Group<'_> {
    let copy = |cipher| move || Ok(copy_over(&stage.source(), &stage.target(), cipher, false)?);
    vec![
        way("vmseal, encrypted", copy(true)),
        way("the same pipeline, cipher off", copy(false)),
        way("dd bs=1M conv=notrunc", || dd(&stage.source(), &stage.target())),
    ]
}

fn in_place_without_journal(stage: &Stage) -> Group<'_> {
    let destroy =
        |cipher| move || Ok(destroy_without_journal(&describe_raw(&stage.target(), &DISK)?, cipher)?);
    vec![way("vmseal, encrypted", destroy(true)), way("the same pipeline, cipher off", destroy(false))]
}

fn in_place_with_journal(stage: &Stage) -> Group<'_> {
    let descriptor = stage.target().with_extension("vmdk");
    let forget = move || clear(&[descriptor.clone(), descriptor.with_extension("vmdk.vmseal")]);
    let mut ours = way("vmseal, encrypted in place, journal and barriers", || {
        let descriptor = describe_raw(&stage.target(), &DISK)?;
        encrypt_in_place(&descriptor, &stage.spec(), &Control::new())?;
        Ok(())
    });
    ours.prepare = Box::new(forget.clone());
    let mut limit = way("the same writes and barriers alone", || {
        Ok(destroy_with_barriers(&describe_raw(&stage.target(), &DISK)?)?)
    });
    limit.prepare = Box::new(forget);
    let stream = way("as many bytes in one stream", || {
        write_over(&stage.source(), stage.bytes)?;
        Ok(write_over(&stage.target(), stage.bytes)?)
    });
    let mut group = vec![ours, limit, stream];
    if exists("cryptsetup") {
        let header = stage.path("header.img");
        let (remove, run) = (header.clone(), header);
        let mut theirs = way("cryptsetup reencrypt --encrypt --resilience journal", move || {
            cryptsetup_reencrypt(&stage.target(), &run)
        });
        theirs.prepare = Box::new(move || clear(std::slice::from_ref(&remove)));
        group.push(theirs);
    }
    for way in &mut group {
        // Direct I/O of `cryptsetup` takes the disk out of the page cache.
        way.settle = Box::new(|| warm(&stage.target()));
    }
    group
}

/// Neither side waits for the disk: `qemu-img convert` leaves its result in the page cache.
fn to_a_new_file(stage: &Stage) -> Group<'_> {
    let ours = way("vmseal, encrypted, left in the page cache", || {
        let new = stage.path("new-flat.vmdk");
        File::create(&new)?.set_len(stage.bytes)?;
        Ok(copy_over(&stage.source(), &new, true, false)?)
    });
    beside_qemu_img(stage, ours, false)
}

/// Both sides end with everything on the disk; ours with descriptors too.
fn to_a_new_file_durably(stage: &Stage) -> Group<'_> {
    beside_qemu_img(stage, way("vmseal, encrypted to a copy, durable", || seal(stage)), true)
}

fn beside_qemu_img<'a>(stage: &'a Stage, mut ours: Way<'a>, durable: bool) -> Group<'a> {
    let copies: [PathBuf; 4] =
        ["new.vmdk", "new.vmdk.vmseal", "new-flat.vmdk", "new.luks"].map(|name| stage.path(name));
    let forget = copies.clone();
    ours.prepare = Box::new(move || clear(&forget));
    let mut limit = way("the same writes alone", move || {
        Ok(write_new(&stage.path("new-flat.vmdk"), stage.bytes, durable)?)
    });
    let forget = copies.clone();
    limit.prepare = Box::new(move || clear(&forget));
    let mut group = vec![ours, limit];
    if !exists("qemu-img") {
        return group;
    }
    for (name, parallel) in [("qemu-img convert to LUKS", false), ("qemu-img convert -W -m 16 to LUKS", true)]
    {
        let mut theirs = way(name, move || {
            let target = stage.path("new.luks");
            qemu_img(&stage.source(), &target, parallel)?;
            if durable { Ok(File::open(target)?.sync_all()?) } else { Ok(()) }
        });
        let forget = copies.clone();
        theirs.prepare = Box::new(move || {
            clear(&forget)?;
            qemu_img_create(&stage.path("new.luks"), stage.bytes)
        });
        group.push(theirs);
    }
    group
}

fn cold_direct(stage: &Stage) -> Group<'_> {
    let copy = |cipher, direct| move || Ok(copy_over(&stage.source(), &stage.target(), cipher, direct)?);
    let mut group = vec![
        way("vmseal, encrypted, direct I/O", copy(true, true)),
        way("the same pipeline, cipher off", copy(false, true)),
        way("vmseal, encrypted, through the page cache, then synced", || {
            copy_over(&stage.source(), &stage.target(), true, false)?;
            Ok(std::fs::File::open(stage.target())?.sync_all()?)
        }),
    ];
    for way in &mut group {
        way.settle = Box::new(|| chill(&stage.source()).and_then(|()| chill(&stage.target())));
    }
    group
}

fn cold_to_a_new_file(stage: &Stage) -> Group<'_> {
    let mut group = to_a_new_file_durably(stage);
    for way in &mut group {
        way.settle = Box::new(|| chill(&stage.source()));
    }
    group
}

fn seal(stage: &Stage) -> Outcome<()> {
    encrypt_copy(&stage.source(), &stage.path("new.vmdk"), &stage.spec(), &Control::new())?;
    Ok(())
}
