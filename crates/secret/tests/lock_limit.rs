//! The lock limit, for real: a child lowers RLIMIT_MEMLOCK, gives up root (which the limit does not bind), and fills it.

mod child;

use vmseal_secret::{Backing, Error, SecretKey, status};

#[test]
fn is_used_to_the_last_page_and_then_refused() {
    let name = "is_used_to_the_last_page_and_then_refused";
    let Some(role) = child::role() else {
        for memory in child::MEMORIES {
            // 100 KiB is one full chunk and smaller ones; 256 KiB is four full ones.
            for limit in ["102400", "262144"] {
                child::pass(name, limit, memory);
            }
        }
        return;
    };
    let limit: u64 = role.parse().expect("a limit");
    restrict(limit);
    let already = status().locked_bytes.expect("/proc/self/status");
    assert_eq!(already, 0, "the test process locks nothing itself");

    let (mut keys, error) = fill();
    let Error::LockLimit { requested, used, limit: reported } = error else { panic!("{error:?}") };
    assert_eq!(error.code(), "VMSEAL_KEY_MEMORY_EXHAUSTED");
    assert_eq!((reported, used), (limit, limit), "{error}");
    assert!(requested > 0 && used + requested > limit, "{error}");
    assert_eq!(keys.len() as u64 * 64, limit, "every byte of the limit holds keys");
    assert_eq!(status().bytes_reserved as u64, limit);

    let mapped = child::mappings().len();
    for _ in 0..300 {
        assert_eq!(SecretKey::generate(32).expect_err("full"), error);
    }
    assert_eq!(child::mappings().len(), mapped, "a refusal leaves no mapping behind");
    assert!(keys.iter().enumerate().all(|(n, key)| intact(key, n)), "keys made before keep working");

    keys.pop();
    let again = numbered(keys.len()).expect("freeing makes room");
    keys.push(again);
    assert!(matches!(SecretKey::generate(1), Err(Error::LockLimit { .. })));

    // Every second slot is free: half the arena, and still no room for a key of two units.
    let mut index = 0;
    keys.retain(|_| {
        index += 1;
        index % 2 == 0
    });
    assert!(matches!(SecretKey::generate(65), Err(Error::LockLimit { .. })));
    SecretKey::generate(64).expect("one unit fits");
    drop(keys);
    let (keys, error) = fill();
    assert!(matches!(error, Error::LockLimit { .. }));
    assert_eq!(keys.len() as u64 * 64, limit, "all room came back");
    drop(keys);
    SecretKey::generate(vmseal_secret::MAX_LEN).expect("runs of freed units join");
    child::done();
}

#[test]
fn many_keys_at_once_are_all_made_or_none() {
    let name = "many_keys_at_once_are_all_made_or_none";
    if child::role().is_none() {
        return child::MEMORIES.iter().for_each(|m| child::pass(name, "many", m));
    }
    restrict(1 << 20);
    let first = numbered(7).expect("room");
    let error = SecretKey::try_init_many::<Error>(64, 1 << 20, |_, _| unreachable!()).expect_err("no room");
    assert!(matches!(error, Error::LockLimit { limit: 1_048_576, .. }), "{error:?}");
    assert_eq!((status().allocations, status().bytes_used), (1, 64));
    let again = SecretKey::try_init_many::<Error>(64, 1000, |_, _| Ok(())).expect("the room is there again");
    assert!(again.len() == 1000 && intact(&first, 7));
    child::done();
}

#[test]
fn of_nothing_refuses_the_first_key() {
    if child::role().is_none() {
        return child::MEMORIES.iter().for_each(|m| child::pass("of_nothing_refuses_the_first_key", "0", m));
    }
    restrict(0);
    let error = SecretKey::generate(32).expect_err("nothing may be locked");
    assert!(matches!(error, Error::LockLimit { used: 0, limit: 0, .. }), "{error:?}");
    assert_eq!((status().allocations, status().bytes_reserved), (0, 0));
    child::done();
}

#[test]
fn is_not_blamed_for_other_shortages() {
    if child::role().is_none() {
        return child::MEMORIES
            .iter()
            .for_each(|m| child::pass("is_not_blamed_for_other_shortages", "space", m));
    }
    restrict(1 << 20);
    child::set_limit(libc::RLIMIT_AS, 0);
    let error = SecretKey::generate(32).expect_err("no address space");
    assert!(matches!(error, Error::Unavailable { errno: libc::ENOMEM, .. }), "{error:?}");
    assert_eq!(error.code(), "VMSEAL_KEY_MEMORY_UNAVAILABLE");
    child::done();
}

#[test]
fn a_refusal_halfway_leaves_nothing() {
    let name = "a_refusal_halfway_leaves_nothing";
    if child::role().is_none() {
        return child::pass(name, "halfway", "auto");
    }
    if status().backing == Some(Backing::LockedMemory) {
        println!("skipped: this kernel has no memfd_secret; the fallback reserves its guards first");
        return child::done();
    }
    let refusal = |address_space: u64| {
        child::set_limit(libc::RLIMIT_AS, address_space);
        match SecretKey::generate(32) {
            Err(Error::Unavailable { operation, errno: libc::ENOMEM }) => operation,
            other => panic!("{other:?}"),
        }
    };
    // Address space for the secret pages of a chunk, but not for the room between guards they are moved to.
    let halfway =
        (0..).step_by(4096).find(|space| refusal(*space) == "mmap(PROT_NONE)").expect("a size") + 32 * 1024;
    for _ in 0..20 {
        assert_eq!(refusal(halfway), "mmap(PROT_NONE)", "the pages mapped first are given back");
    }
    assert_eq!(status().locked_bytes, Some(0));
    child::done();
}

fn fill() -> (Vec<SecretKey>, Error) {
    let mut keys = Vec::new();
    loop {
        match numbered(keys.len()) {
            Ok(key) => keys.push(key),
            Err(error) => return (keys, error),
        }
    }
}

fn numbered(number: usize) -> Result<SecretKey, Error> {
    SecretKey::try_init(64, |bytes| {
        bytes.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&(number as u64).to_le_bytes()));
        Ok(())
    })
}

fn intact(key: &SecretKey, number: usize) -> bool {
    key.expose(|bytes| bytes.chunks_exact(8).all(|part| part == (number as u64).to_le_bytes()))
}

fn restrict(limit: u64) {
    child::set_limit(libc::RLIMIT_MEMLOCK, limit);
    const NOBODY: u32 = 65534;
    // SAFETY: changes the credentials of this child process only; no pointer but null is passed.
    unsafe {
        if libc::geteuid() == 0 {
            assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
            assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
            assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
        }
    }
    assert_eq!(status().lock_limit, if limit == u64::MAX { None } else { Some(limit) });
}
