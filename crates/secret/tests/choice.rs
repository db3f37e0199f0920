//! Which memory is chosen when the kernel refuses memfd_secret, and what status() says of the process.

mod child;

use vmseal_secret::{Backing, Error, SecretKey, status};

// Makes memfd_secret fail with `errno` from here on, as an old kernel or a container's filter does.
fn refuse_memfd_secret(errno: i32) {
    let statement = |code: u32, jt: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        libc::sock_filter {
            jf: 1,
            ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, libc::SYS_memfd_secret as u32)
        },
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the filter outlives the calls; it binds this thread of a child process.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter), 0);
    }
}

#[test]
fn falls_back_only_when_the_kernel_has_none() {
    let name = "falls_back_only_when_the_kernel_has_none";
    let Some(role) = child::role() else {
        for errno in [libc::ENOSYS, libc::EPERM] {
            child::pass(name, &errno.to_string(), "auto");
            child::pass(name, &errno.to_string(), "secret");
        }
        return;
    };
    let refused = role.parse().expect("an error number");
    refuse_memfd_secret(refused);
    if std::env::var("VMSEAL_KEY_MEMORY").expect("set by the parent") == "auto" {
        SecretKey::generate(32).expect("locked memory");
        assert_eq!(status().backing, Some(Backing::LockedMemory));
    } else {
        let error = SecretKey::generate(32).expect_err("memfd_secret was demanded");
        assert_eq!(error, Error::Unavailable { operation: "memfd_secret", errno: refused });
        assert_eq!(status().backing, None);
    }
    child::done();
}

#[test]
fn a_passing_shortage_neither_weakens_nor_sticks() {
    let name = "a_passing_shortage_neither_weakens_nor_sticks";
    if child::role().is_none() {
        return child::pass(name, "files", "auto");
    }
    child::set_limit(libc::RLIMIT_NOFILE, 0);
    let first = SecretKey::generate(32);
    child::set_limit(libc::RLIMIT_NOFILE, 64);
    match first {
        Err(error) => {
            assert_eq!(error, Error::Unavailable { operation: "memfd_secret", errno: libc::EMFILE })
        }
        Ok(_) if status().backing == Some(Backing::LockedMemory) => {
            println!("skipped: this kernel has no memfd_secret, so key memory needs no file");
            return child::done();
        }
        Ok(key) => panic!("{key:?} without a file"),
    }
    SecretKey::generate(32).expect("there are files again");
    assert_eq!(status().backing, Some(Backing::MemfdSecret));
    child::done();
}

#[test]
fn status_tells_the_process_apart() {
    if child::role().is_none() {
        return child::pass("status_tells_the_process_apart", "status", "auto");
    }
    let before = status();
    assert!(before.backing.is_some() && before.dumpable);
    assert_eq!(
        (before.allocations, before.bytes_used, before.bytes_reserved),
        (0, 0, 0),
        "status() maps nothing"
    );
    let key = SecretKey::generate(65).expect("a key");
    let with_key = status();
    assert_eq!((with_key.allocations, with_key.bytes_used), (1, 128));
    assert_eq!(
        with_key.locked_bytes,
        before.locked_bytes.map(|bytes| bytes + with_key.bytes_reserved as u64)
    );
    drop(key);
    assert_eq!(status().bytes_reserved, with_key.bytes_reserved);

    child::set_limit(libc::RLIMIT_MEMLOCK, 1 << 20);
    assert_eq!(status().lock_limit, Some(1 << 20));
    child::set_limit(libc::RLIMIT_CORE, 0);
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("core_pattern");
    assert_eq!(status().core_dumps_possible, pattern.starts_with(['|', '@']), "{pattern}");
    // SAFETY: changes a flag of this child process.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }, 0);
    let after = status();
    assert!(!after.dumpable && !after.core_dumps_possible);
    child::done();
}

#[test]
fn secrets_cross_threads() {
    fn assert<T: Send + Sync>() {}
    assert::<SecretKey>();
    assert::<vmseal_secret::SecretBox<[u8; 32]>>();
}
