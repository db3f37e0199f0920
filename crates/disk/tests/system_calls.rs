//! Jobs on real files under strace: killed before every call that changes a file, and each such call failing once.
//!
//! The job is this test binary run again, so that thousands of runs take seconds; `__test__/cli/disk/system-calls.spec.ts` does
//! a sample with the `vmseal` command. Nothing but the process dies here; what a power cut leaves is the model's part
//! (`src/in_place/tests`).

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fixture::{DISK, MIB, VM, flat_of, noise, skip};
use tempfile::TempDir;
use vmseal_disk::{
    Binding, Control, Descriptor, Error, Holes, NewKek, SealSpec, decrypt_in_place, encrypt_copy,
    encrypt_in_place, import, job_path, open_sealed, recrypt_in_place, resume, shallow_recrypt,
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
}

const MODES: [Mode; 7] = [
    Mode::Encrypt,
    Mode::Decrypt,
    Mode::Recrypt,
    Mode::Shallow,
    Mode::ResumeEncrypt,
    Mode::ResumeDecrypt,
    Mode::ResumeRecrypt,
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
        !matches!(self, Self::Encrypt | Self::ResumeEncrypt)
    }

    fn ends_sealed(self) -> bool {
        !matches!(self, Self::Decrypt | Self::ResumeDecrypt)
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
            Self::Interrupted => matches!(call, "pwrite64" | "write" | "fallocate"),
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
        _ => resume(disk, &[&old, &fresh], &BINDING, &control).map(drop),
    }
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
    if let Some(begun) = mode.begun() {
        // Killed at its last write to the data: a zone is in flight.
        let calls = trace(begun, &disk_copy(folder.path()).1);
        let (copy, disk) = disk_copy(folder.path());
        let writes = calls["pwrite64"];
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

/// How often the job makes each call, at most in one thread.
fn trace(mode: Mode, disk: &Path) -> BTreeMap<String, usize> {
    let strace = ["-e".to_owned(), format!("trace={CALLS}"), "-y".to_owned()];
    let output = command(mode, disk, &strace).output().expect("strace");
    assert_eq!(ending(&output).as_deref(), Some("done"), "{}", String::from_utf8_lossy(&output.stderr));
    let log = fs::read_to_string(disk.with_file_name("trace.log")).expect("the log of strace");
    let folder = disk.parent().expect("a folder").display().to_string();
    let mut threads: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut elsewhere = BTreeSet::new();
    for line in log.lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        if arguments.contains(&folder) {
            *threads.entry((thread, call)).or_default() += 1;
        } else {
            elsewhere.insert(call);
        }
    }
    // `when` counts them all.
    assert!(threads.keys().all(|(_, call)| !elsewhere.contains(call)), "{elsewhere:?} go elsewhere too");
    let mut calls = BTreeMap::new();
    for ((_, call), count) in threads {
        let most: &mut usize = calls.entry(call.to_owned()).or_default();
        *most = count.max(*most);
    }
    calls
}

/// Whatever happened: after a resume the disk is whole in one form and nothing of it is lost.
fn assert_nothing_lost(mode: Mode, disk: &Path, plain: &[u8], case: &str) -> bool {
    let (old, fresh) = (old_kek(), new_kek());
    match resume(disk, &[&old, &fresh], &BINDING, &Control::new()) {
        Ok(_) => {}
        Err(Error::DiskState { .. }) => {}
        Err(error) => panic!("{case}: resume fails: {error}"),
    }
    let descriptor = Descriptor::read(disk).unwrap_or_else(|error| panic!("{case}: {error}"));
    let sealed = descriptor.sealed.is_some();
    let whole = if sealed {
        [&old, &fresh].iter().any(|kek| {
            open_sealed(disk, kek, &BINDING).is_ok_and(|open| {
                let mut bytes = vec![0; plain.len()];
                open.read_at(0, &mut bytes).is_ok() && bytes == plain
            })
        })
    } else {
        fs::read(flat_of(disk)).is_ok_and(|bytes| bytes == plain)
    };
    assert!(whole, "{case}: data is lost");
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
    let output = command(mode, &disk, &strace).output().expect("strace");
    let end = ending(&output);
    let sealed = assert_nothing_lost(mode, &disk, plain, &case);
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
    assert!(calls.values().sum::<usize>() > 8, "{mode:?}: {calls:?}");
    let mut cases = Vec::new();
    for (call, &count) in &calls {
        for when in (1..=count).step_by(every) {
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
    println!("{mode:?}: {} cases over {calls:?}", cases.len());
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
    assert!(cases > 300, "{cases}");
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
