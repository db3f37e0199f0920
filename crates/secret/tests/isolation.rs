//! What the kernel keeps away from key memory: forks, reads past the ends, debuggers, swap and core files.

mod child;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;

use vmseal_secret::{Backing, Error, SecretKey, status, wipe_all};

fn address(key: &SecretKey) -> usize {
    key.expose(|bytes| bytes.as_ptr().expose_provenance())
}

#[test]
fn a_fork_has_no_keys() {
    if child::role().is_none() {
        return child::MEMORIES.iter().for_each(|memory| child::pass("a_fork_has_no_keys", "fork", memory));
    }
    let key = SecretKey::generate(32).expect("a key");
    let other = SecretKey::generate(32).expect("a key");
    let at = address(&key);
    let mut pipe = [0; 2];
    // SAFETY: `pipe` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // write(2) tells whether an address is mapped without a fault.
    // SAFETY: the kernel checks the address.
    let mapped = || unsafe { libc::write(pipe[1], std::ptr::with_exposed_provenance(at), 32) } == 32;
    assert!(mapped(), "the parent has the page");
    // SAFETY: the child calls only code that takes no lock another thread could have held.
    let process = unsafe { libc::fork() };
    if process == 0 {
        let verdict = match SecretKey::generate(32) {
            _ if mapped() => 10,
            Err(Error::Forked) => 0,
            _ => 11,
        };
        drop(other);
        wipe_all();
        // SAFETY: runs the handlers of atexit, among them that of the arena, which must not touch the absent pages.
        unsafe { libc::exit(verdict) }
    }
    let mut ended = 0;
    // SAFETY: `ended` is valid for the call; the process is our child.
    let waited = unsafe { libc::waitpid(process, &raw mut ended, 0) };
    assert_eq!(waited, process);
    assert!(libc::WIFEXITED(ended), "the child died of signal {}", libc::WTERMSIG(ended));
    assert_eq!(libc::WEXITSTATUS(ended), 0, "10: key readable in the fork, 11: the fork made a key");
    assert!(mapped() && key.expose(|bytes| bytes.iter().any(|b| *b != 0)), "the parent keeps its keys");
    child::done();
}

#[test]
fn reading_past_an_end_is_fatal() {
    let name = "reading_past_an_end_is_fatal";
    let Some(role) = child::role() else {
        for memory in child::MEMORIES {
            child::pass(name, "inside", memory);
            for role in ["before", "behind"] {
                let output = child::start(name, role, memory);
                assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{role} {memory}: {}", output.status);
            }
        }
        return;
    };
    // The child leaves no core file.
    child::set_limit(libc::RLIMIT_CORE, 0);
    let key = SecretKey::generate(32).expect("a key");
    let region = child::mapping_of(address(&key));
    let read = |at: usize| {
        // SAFETY: inside the chunk for the first two; the other two are meant to fault and end this process.
        unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() }
    };
    match role.as_str() {
        "inside" => {
            _ = (read(region.start), read(region.end - 1));
            // Not a hole either, which another mapping could fill.
            for neighbour in [region.start - 1, region.end] {
                assert!(!child::mapping_of(neighbour).readable, "a guard page");
            }
        }
        "before" => _ = read(region.start - 1),
        _ => _ = read(region.end),
    }
    child::done();
}

#[test]
fn proc_self_mem_cannot_read_secret_pages() {
    let backing = status().backing.expect("key memory");
    if backing == Backing::LockedMemory {
        println!("skipped: key memory is not from memfd_secret here, so /proc/self/mem reads it");
        return;
    }
    let memory = File::open("/proc/self/mem").expect("open /proc/self/mem");
    let key = SecretKey::generate(32).expect("a key");
    let ordinary = [0x5a_u8; 32];
    let mut seen = [0; 32];
    memory.read_exact_at(&mut seen, ordinary.as_ptr().addr() as u64).expect("ordinary memory can be read");
    assert_eq!(seen, [0x5a; 32]);
    let refused = memory.read_exact_at(&mut seen, address(&key) as u64).expect_err("key memory cannot");
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    assert_eq!(seen, [0x5a; 32]);
}

#[test]
fn pages_are_locked_and_left_out_of_cores_and_forks() {
    if child::role().is_none() {
        let name = "pages_are_locked_and_left_out_of_cores_and_forks";
        return child::MEMORIES.iter().for_each(|memory| child::pass(name, "flags", memory));
    }
    let forced = std::env::var("VMSEAL_KEY_MEMORY").expect("set by the parent") == "locked";
    let key = SecretKey::generate(32).expect("a key");
    if forced {
        assert_eq!(status().backing, Some(Backing::LockedMemory));
    } else if status().backing == Some(Backing::LockedMemory) {
        println!("skipped: this kernel has no memfd_secret; the flags of the fallback are tested twice");
    }
    let region = child::mapping_of(address(&key));
    assert_eq!(
        region.name.contains("secretmem"),
        status().backing == Some(Backing::MemfdSecret),
        "{}",
        region.name
    );
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("read /proc/self/smaps");
    let entry = smaps.split(&format!("{:x}-{:x} ", region.start, region.end)).nth(1).expect("the chunk");
    let flags = entry.lines().find_map(|line| line.strip_prefix("VmFlags:")).expect("VmFlags");
    for (flag, meaning) in [("lo", "locked"), ("dd", "not dumped"), ("dc", "not copied by fork")] {
        assert!(flags.split_whitespace().any(|f| f == flag), "{meaning}: {flags}");
    }
    let locked = status().locked_bytes.expect("/proc/self/status");
    assert_eq!(locked, status().bytes_reserved as u64, "the kernel counts what status() counts");
    child::done();
}

#[test]
fn unknown_settings_are_refused() {
    if child::role().is_none() {
        return ["unlocked", "Locked", "1"]
            .iter()
            .for_each(|m| child::pass("unknown_settings_are_refused", "set", m));
    }
    assert_eq!(SecretKey::generate(32).expect_err("refused"), Error::Setting);
    assert_eq!(status().backing, None);
    child::done();
}
