//! Jobs on real files under strace: killed before every call that changes a file, and each such call failing once.
//!
//! The job is this test binary run again, so that thousands of runs take seconds; `__test__/cli/disk/system-calls.spec.ts` does
//! a sample with the `vmseal` command. Nothing but the process dies here; what a power cut leaves is the model's part
//! (`src/in_place/tests`). All of it is one file, for cargo makes a program of each and the job must be in the one that the tests run.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fixture::{DISK, MIB, VM, flat_of, noise, skip};
use tempfile::TempDir;
use vmseal_disk::{
    Binding, Control, Descriptor, DiscardSource, Error, Holes, NewKek, SealSpec, copy_job_info, decrypt_copy,
    decrypt_in_place, discard_source, encrypt_copy, encrypt_in_place, import, job_path, open_sealed,
    recrypt_copy, recrypt_in_place, remove_unfinished, resume, resume_copy, shallow_recrypt,
};
use vmseal_secret::SecretKey;

/// Every call with which a job changes a file or makes a change durable.
const CALLS: &str = "write,pwrite64,pwritev,fallocate,ftruncate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Encrypt,
    Decrypt,
    Recrypt,
    Shallow,
    ResumeEncrypt,
    ResumeDecrypt,
    ResumeRecrypt,
    CopyEncrypt,
    CopyDecrypt,
    CopyRecrypt,
    /// Overwriting and removing the source of a finished copy.
    Discard,
}

const MODES: [Mode; 11] = [
    Mode::Encrypt,
    Mode::Decrypt,
    Mode::Recrypt,
    Mode::Shallow,
    Mode::ResumeEncrypt,
    Mode::ResumeDecrypt,
    Mode::ResumeRecrypt,
    Mode::CopyEncrypt,
    Mode::CopyDecrypt,
    Mode::CopyRecrypt,
    Mode::Discard,
];

impl Mode {
    fn parse(word: &str) -> Self {
        MODES.into_iter().find(|mode| format!("{mode:?}") == word).expect("a mode")
    }

    /// The job that a resume goes on with.
    fn begun(self) -> Option<Self> {
        match self {
            Self::ResumeEncrypt => Some(Self::Encrypt),
            Self::ResumeDecrypt => Some(Self::Decrypt),
            Self::ResumeRecrypt => Some(Self::Recrypt),
            _ => None,
        }
    }

    fn begins_sealed(self) -> bool {
        let begins_plain = [Self::Encrypt, Self::ResumeEncrypt, Self::CopyEncrypt, Self::Discard];
        !begins_plain.contains(&self)
    }

    fn is_copy(self) -> bool {
        matches!(self, Self::CopyEncrypt | Self::CopyDecrypt | Self::CopyRecrypt | Self::Discard)
    }

    fn ends_sealed(self) -> bool {
        !matches!(self, Self::Decrypt | Self::ResumeDecrypt | Self::CopyDecrypt)
    }
}

/// What happens at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Error(&'static str, &'static str),
    /// Interrupted, which is no failure.
    Interrupted,
    /// A write that takes no byte.
    Nothing,
}

impl Fault {
    fn inject(self) -> String {
        match self {
            Self::Kill => "signal=KILL".to_owned(),
            Self::Error(name, _) => format!("error={name}"),
            Self::Interrupted => "error=EINTR".to_owned(),
            Self::Nothing => "retval=0".to_owned(),
        }
    }

    /// Whether it means something for the call.
    fn fits(self, call: &str) -> bool {
        match self {
            Self::Kill | Self::Error("EIO", _) => true,
            Self::Error(..) => !call.starts_with("unlink"),
            // Only calls that may wait are interrupted.
            Self::Interrupted => {
                matches!(call, "pwrite64" | "write" | "fallocate" | "ftruncate" | "fsync" | "fdatasync")
            }
            Self::Nothing => call == "pwrite64",
        }
    }
}

const FAULTS: [Fault; 5] = [
    Fault::Kill,
    Fault::Error("EIO", "VMSEAL_IO"),
    Fault::Error("ENOSPC", "VMSEAL_NO_SPACE"),
    Fault::Interrupted,
    Fault::Nothing,
];

fn key(byte: u8, len: usize) -> SecretKey {
    SecretKey::try_init(len, |bytes| -> Result<(), vmseal_secret::Error> {
        bytes.fill(byte);
        Ok(())
    })
    .expect("key memory")
}

fn old_kek() -> SecretKey {
    key(7, 32)
}

fn new_kek() -> SecretKey {
    key(8, 32)
}

const BINDING: Binding<'static> = Binding { vm_id: VM, disk_id: DISK, provider_id: None };

fn spec(kek: &SecretKey) -> SealSpec<'_> {
    SealSpec {
        kek,
        kek_id: "old",
        provider_id: "kms",
        vm_id: VM,
        disk_id: DISK,
        generation: 1,
        sector_size: 512,
        holes: Some(Holes::Dense),
    }
}

fn run(mode: Mode, disk: &Path) -> Result<(), Error> {
    let (old, fresh, control) = (old_kek(), new_kek(), Control::new());
    let new = NewKek { kek: &fresh, kek_id: "new", provider_id: "kms" };
    match mode {
        Mode::Encrypt => encrypt_in_place(disk, &spec(&old), &control).map(drop),
        Mode::Decrypt => decrypt_in_place(disk, &old, &BINDING, &control).map(drop),
        Mode::Recrypt => recrypt_in_place(disk, &old, &BINDING, &new, &control).map(drop),
        Mode::Shallow => shallow_recrypt(disk, &old, &BINDING, &new).map(drop),
        Mode::CopyEncrypt => encrypt_copy(disk, &copy_of(disk), &spec(&old), &control).map(drop),
        Mode::CopyDecrypt => decrypt_copy(disk, &copy_of(disk), &old, &BINDING, &control).map(drop),
        Mode::CopyRecrypt => {
            recrypt_copy(disk, &copy_of(disk), &old, &BINDING, &spec(&fresh), &control).map(drop)
        }
        Mode::Discard => {
            let copy = copy_of(disk);
            discard_source(disk, &copy, &[&old], &BINDING, DiscardSource::Overwrite, &control)
        }
        _ => resume(disk, &[&old, &fresh], &BINDING, &control).map(drop),
    }
}

/// Where a copy of the disk goes.
fn copy_of(disk: &Path) -> PathBuf {
    disk.with_file_name("c.vmdk")
}

/// The job itself: run again as a process of its own.
#[test]
#[ignore = "a process that the other tests start"]
fn job() {
    let mode = Mode::parse(&std::env::var("JOB_MODE").expect("a mode"));
    let disk = PathBuf::from(std::env::var_os("JOB_DISK").expect("a disk"));
    let code = run(mode, &disk).map_or_else(|error| error.code(), |()| "done");
    eprintln!("RESULT {code}");
}

fn command(mode: Mode, disk: &Path, strace: &[String]) -> Command {
    let mut command = Command::new("strace");
    // No --seccomp-bpf: a signal that is injected at a stop of its kind is lost.
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(disk.with_file_name("trace.log")).args(strace);
    command.arg(std::env::current_exe().expect("the test binary"));
    command.args(["--exact", "--ignored", "--nocapture", "--test-threads=1", "job"]);
    command.env("JOB_MODE", format!("{mode:?}")).env("JOB_DISK", disk);
    command
}

/// How the job ended: its code, `done`, or `None` when it was killed.
fn ending(output: &Output) -> Option<String> {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().find_map(|line| line.split("RESULT ").nth(1)).map(|word| word.trim().to_owned())
}

/// Memory where there is some: only the process dies.
fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a temporary folder")
}

/// A disk as the mode finds it.
fn template(mode: Mode, plain: &[u8]) -> TempDir {
    let folder = folder();
    let disk = folder.path().join("d.vmdk");
    let source = folder.path().join("source.raw");
    fs::write(&source, plain).expect("a source");
    if mode.begins_sealed() {
        encrypt_copy(&source, &disk, &spec(&old_kek()), &Control::new()).expect("a sealed disk");
    } else {
        import(&source, &disk, &DISK, &Control::new()).expect("a plain disk");
    }
    fs::remove_file(source).expect("removal");
    if mode == Mode::Discard {
        run(Mode::CopyEncrypt, &disk).expect("a copy");
    }
    if let Some(begun) = mode.begun() {
        // Killed at its last write to the data: a zone is in flight.
        let calls = trace(begun, &disk_copy(folder.path()).1);
        let (copy, disk) = disk_copy(folder.path());
        let writes = calls["pwrite64"].len();
        let inject = format!("inject=pwrite64:signal=KILL:when={}", (writes / 2).max(6));
        let output = command(begun, &disk, &["-e".to_owned(), inject]).output().expect("strace");
        assert_eq!(ending(&output), None, "{begun:?} was not killed");
        return copy;
    }
    folder
}

fn disk_copy(from: &Path) -> (TempDir, PathBuf) {
    let copy = folder();
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a copy");
    }
    let disk = copy.path().join("d.vmdk");
    (copy, disk)
}

/// Of each call, which ones of a thread go to the disk's folder: the numbers that `when` takes.
fn trace(mode: Mode, disk: &Path) -> BTreeMap<String, BTreeSet<usize>> {
    let strace = ["-e".to_owned(), format!("trace={CALLS}"), "-y".to_owned()];
    let output = command(mode, disk, &strace).output().expect("strace");
    assert_eq!(ending(&output).as_deref(), Some("done"), "{}", String::from_utf8_lossy(&output.stderr));
    let log = fs::read_to_string(disk.with_file_name("trace.log")).expect("the log of strace");
    let folder = disk.parent().expect("a folder").display().to_string();
    let mut made: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut calls: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        let count = made.entry((thread, call)).or_default();
        *count += 1;
        // Key memory is made with such calls too.
        if arguments.contains(&folder) {
            calls.entry(call.to_owned()).or_default().insert(*count);
        }
    }
    calls
}

/// Whether the disk is there and its guest reads what it wrote.
fn is_whole(disk: &Path, plain: &[u8]) -> bool {
    let Ok(descriptor) = Descriptor::read(disk) else { return false };
    if descriptor.sealed.is_none() {
        return fs::read(flat_of(disk)).is_ok_and(|bytes| bytes == plain);
    }
    [&old_kek(), &new_kek()].iter().any(|kek| {
        open_sealed(disk, kek, &BINDING).is_ok_and(|open| {
            let mut bytes = vec![0; plain.len()];
            open.read_at(0, &mut bytes).is_ok() && bytes == plain
        })
    })
}

/// Whatever happened to a copy or to the discard of its source: one of the two is whole, and what a user does then ends it.
/// Whether the copy was there at once.
fn assert_copy_ends(mode: Mode, disk: &Path, plain: &[u8], case: &str) -> bool {
    let (copy, control) = (copy_of(disk), Control::new());
    let came_to_its_end = copy.exists();
    assert!(
        is_whole(disk, plain) || (mode == Mode::Discard && is_whole(&copy, plain)),
        "{case}: data is lost"
    );
    let told = |error: Error| panic!("{case}: going on: {error}");
    if copy_job_info(&copy).unwrap_or_else(|error| panic!("{case}: {error}")).is_some() {
        resume_copy(&copy, &[&old_kek(), &new_kek()], &BINDING, &control).map_or_else(told, drop);
    } else if !copy.exists() {
        remove_unfinished(&copy).map_or_else(told, drop);
        run(mode, disk).unwrap_or_else(told);
    }
    assert!(is_whole(&copy, plain), "{case}: the copy is not what was copied");
    if mode == Mode::Discard {
        if disk.exists() {
            run(mode, disk).unwrap_or_else(told);
        }
        remove_unfinished(disk).map_or_else(told, drop);
        let left = fs::read_dir(disk.parent().expect("a folder")).expect("the folder").flatten();
        let left: Vec<_> =
            left.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"d")).collect();
        assert!(left.is_empty(), "{case}: {left:?} stays");
    }
    came_to_its_end == mode.ends_sealed()
}

/// Whatever happened: after a resume the disk is whole in one form and nothing of it is lost.
fn assert_nothing_lost(mode: Mode, disk: &Path, plain: &[u8], case: &str) -> bool {
    if mode.is_copy() {
        return assert_copy_ends(mode, disk, plain, case);
    }
    let (old, fresh) = (old_kek(), new_kek());
    match resume(disk, &[&old, &fresh], &BINDING, &Control::new()) {
        Ok(_) => {}
        Err(Error::DiskState { .. }) => {}
        Err(error) => panic!("{case}: resume fails: {error}"),
    }
    let descriptor = Descriptor::read(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let sealed = descriptor.sealed.is_some();
    assert!(is_whole(disk, plain), "{case}: data is lost");
    assert!(!job_path(disk).exists(), "{case}: the record stays");
    if mode == Mode::Shallow {
        // Doing it again heals it.
        let new = NewKek { kek: &fresh, kek_id: "new", provider_id: "kms" };
        let again = shallow_recrypt(disk, &old, &BINDING, &new);
        let again = again.or_else(|_| shallow_recrypt(disk, &fresh, &BINDING, &new));
        again.unwrap_or_else(|error| panic!("{case}: again: {error}"));
        open_sealed(disk, &fresh, &BINDING).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(Descriptor::read(disk).expect("a descriptor").sealed.expect("sealed").wraps.len(), 1);
    }
    sealed
}

fn try_case(mode: Mode, template: &Path, plain: &[u8], call: &str, when: usize, fault: Fault) {
    let case = format!("{mode:?}, {call} {when}, {fault:?}");
    let (_folder, disk) = disk_copy(template);
    let strace = [
        "-e".to_owned(),
        format!("trace={call}"),
        "-e".to_owned(),
        format!("inject={call}:{}:when={when}", fault.inject()),
    ];
    // An open file shows what became of the data of a source that goes.
    let witness = (mode == Mode::Discard).then(|| File::open(flat_of(&disk)).expect("the data"));
    let output = command(mode, &disk, &strace).output().expect("strace");
    let end = ending(&output);
    let sealed = assert_nothing_lost(mode, &disk, plain, &case);
    if let Some(mut witness) = witness {
        let mut bytes = Vec::new();
        witness.read_to_end(&mut bytes).expect("reading");
        assert!(bytes.iter().all(|&byte| byte == 0), "{case}: the source went and was not overwritten");
    }
    match (fault, end.as_deref()) {
        (Fault::Kill, None) => {}
        // With threads one thread may not come that far this time.
        (_, Some("done")) if fault != Fault::Kill || mode.threads(plain) => {
            assert_eq!(sealed, mode.ends_sealed(), "{case}: not the end it says");
        }
        (Fault::Nothing, Some(found)) => assert_eq!(found, "VMSEAL_IO", "{case}"),
        (Fault::Error(_, code), Some(found)) => assert_eq!(found, code, "{case}"),
        (_, end) => panic!("{case}: {end:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

impl Mode {
    fn threads(self, plain: &[u8]) -> bool {
        plain.len() > MIB
    }
}

/// Runs every case on two threads; returns how many there were.
fn sweep(mode: Mode, plain: &[u8], faults: &[Fault], every: usize) -> usize {
    let template = template(mode, plain);
    let calls = trace(mode, &disk_copy(template.path()).1);
    let counts: BTreeMap<&str, usize> = calls.iter().map(|(call, all)| (call.as_str(), all.len())).collect();
    assert!(counts.values().sum::<usize>() > 8, "{mode:?}: {counts:?}");
    let mut cases = Vec::new();
    for (call, all) in &calls {
        for &when in all.iter().step_by(every) {
            cases.extend(faults.iter().filter(|fault| fault.fits(call)).map(|&fault| (call, when, fault)));
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(&(call, when, fault)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            try_case(mode, template.path(), plain, call, when, fault);
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    println!("{mode:?}: {} cases over {counts:?}", cases.len());
    cases.len()
}

fn has_strace() -> bool {
    let traces = Command::new("strace").args(["-qq", "-f", "true"]).output();
    let present = traces.is_ok_and(|output| output.status.success());
    if !present {
        skip("strace (Debian package strace), and leave to trace");
    }
    present
}

#[test]
fn b8_killed_before_every_call_and_every_call_failing_once_loses_nothing() {
    if !has_strace() {
        return;
    }
    let plain = noise(64 << 10, 3);
    let cases: usize = MODES.into_iter().map(|mode| sweep(mode, &plain, &FAULTS, 1)).sum();
    assert!(cases > 600, "{cases}");
}

/// Three zones and a thread for each piece: every third call of each thread.
#[test]
fn b8_a_disk_of_several_zones_is_killed_at_a_third_of_its_calls() {
    if !has_strace() {
        return;
    }
    let plain = noise(17 * MIB + 512, 4);
    for mode in [Mode::Encrypt, Mode::Decrypt, Mode::Recrypt] {
        assert!(sweep(mode, &plain, &[Fault::Kill], 3) > 10);
    }
}
