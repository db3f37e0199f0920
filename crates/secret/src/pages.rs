//! Mapping of memory that may hold keys: locked, not dumped, not forked, with a guard page on each side.

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::error::Error;

/// Where key memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// `memfd_secret(2)`: pages outside the kernel's direct map; `/proc/PID/mem`, ptrace and core files cannot read
    /// them, they are never swapped, and the kernel refuses hibernation while they exist.
    MemfdSecret,
    /// Anonymous memory with `mlock`, `MADV_DONTDUMP` and `MADV_DONTFORK`: not swapped, not in core files, but readable
    /// for a debugger of the same user.
    LockedMemory,
}

/// A mapping of `len` bytes, never unmapped: addresses into it stay valid for the life of the process.
#[derive(Clone, Copy)]
pub(crate) struct Region {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
}

/// Why a region could not be mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) operation: &'static str,
    pub(crate) errno: c_int,
    /// Whether the call is one the kernel refuses when `RLIMIT_MEMLOCK` is reached.
    pub(crate) may_be_lock_limit: bool,
}

impl Refusal {
    fn last(operation: &'static str) -> Refusal {
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL);
        Refusal { operation, errno, may_be_lock_limit: false }
    }

    fn last_of_locking(operation: &'static str) -> Refusal {
        Refusal { may_be_lock_limit: true, ..Refusal::last(operation) }
    }
}

/// The backing of this process, decided once; a failure is not kept, its cause may pass.
pub(crate) fn backing() -> Result<Backing, Error> {
    static CHOICE: OnceLock<Backing> = OnceLock::new();
    match CHOICE.get() {
        Some(chosen) => Ok(*chosen),
        None => choose().map(|chosen| *CHOICE.get_or_init(|| chosen)),
    }
}

/// The size of a page in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf only reads; this name is known everywhere.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("the page size is known")
}

/// Maps `len` bytes (whole pages) of zeroed key memory between two guard pages.
pub(crate) fn map(backing: Backing, len: usize) -> Result<Region, Refusal> {
    debug_assert!(len > 0 && len.is_multiple_of(page_size()));
    let start = match backing {
        Backing::MemfdSecret => map_secret(len)?,
        Backing::LockedMemory => map_locked(len)?,
    };
    Ok(Region { start, len })
}

fn choose() -> Result<Backing, Error> {
    let setting = std::env::var_os("VMSEAL_KEY_MEMORY").unwrap_or_default();
    let required = match setting.to_str() {
        Some("" | "auto") => false,
        Some("secret") => true,
        Some("locked") => return Ok(Backing::LockedMemory),
        _ => return Err(Error::Setting),
    };
    match secret_file() {
        Ok(file) => {
            close(file);
            Ok(Backing::MemfdSecret)
        }
        // No such call, switched off (secretmem.enable=0), or forbidden by a system call filter. Anything else, say
        // a full file table, passes and must not weaken the memory of the whole process.
        Err(refusal)
            if !required
                && matches!(refusal.errno, libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL) =>
        {
            Ok(Backing::LockedMemory)
        }
        Err(Refusal { operation, errno, .. }) => Err(Error::Unavailable { operation, errno }),
    }
}

// The secret file is mapped at an address of the kernel's choice and then moved between the guards. Mapping it there
// directly with MAP_FIXED would be a call less, but when the lock limit refuses it some kernels have already unmapped
// the reserved range, and another thread may have mapped something in the hole before it is cleaned up.
fn map_secret(len: usize) -> Result<NonNull<u8>, Refusal> {
    let file = secret_file()?;
    // SAFETY: `file` is an open descriptor owned here.
    let mapped = if unsafe { libc::ftruncate(file, len as libc::off_t) } != 0 {
        Err(Refusal::last("ftruncate"))
    } else {
        map_anywhere("mmap", len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, file)
    };
    close(file);
    let source = mapped?;
    match protect_from_fork_and_dump(source, len).and_then(|()| move_between_guards(source, len)) {
        Ok(start) => {
            // Secret pages are made at the first touch: do it now, so that no later use of a key can fail.
            // SAFETY: the region was mapped above, writable, and nobody else knows it.
            unsafe { start.as_ptr().write_bytes(0, len) };
            Ok(start)
        }
        Err(refusal) => {
            unmap(source, len);
            Err(refusal)
        }
    }
}

fn map_locked(len: usize) -> Result<NonNull<u8>, Refusal> {
    let page = page_size();
    let total = len + 2 * page;
    let reserved = reserve(total)?;
    // SAFETY: `reserved` is `total` bytes long, so one page further is inside it.
    let start = unsafe { reserved.add(page) };
    let prepare = || {
        // SAFETY: the range lies inside the reservation, which nobody else knows.
        if unsafe { libc::mprotect(start.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(Refusal::last("mprotect"));
        }
        protect_from_fork_and_dump(start, len)?;
        // SAFETY: as above. mlock brings every page in, so no later use of a key can fail.
        if unsafe { libc::mlock(start.as_ptr().cast(), len) } != 0 {
            return Err(Refusal::last_of_locking("mlock"));
        }
        Ok(start)
    };
    prepare().inspect_err(|_| unmap(reserved, total))
}

fn move_between_guards(source: NonNull<u8>, len: usize) -> Result<NonNull<u8>, Refusal> {
    let page = page_size();
    let reserved = reserve(len + 2 * page)?;
    // SAFETY: the reservation is `len + 2 * page` bytes long.
    let (target, behind) = unsafe { (reserved.add(page), reserved.add(page + len)) };
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: `source` and the target range are mappings made here that nobody else knows; they do not overlap.
    let moved =
        unsafe { libc::mremap(source.as_ptr().cast(), len, len, flags, target.as_ptr().cast::<c_void>()) };
    if moved == libc::MAP_FAILED {
        let refusal = Refusal::last_of_locking("mremap");
        // The middle may be a hole by now and is not touched again; the guards are surely still ours.
        unmap(reserved, page);
        unmap(behind, page);
        return Err(refusal);
    }
    Ok(target)
}

fn protect_from_fork_and_dump(start: NonNull<u8>, len: usize) -> Result<(), Refusal> {
    for (advice, operation) in
        [(libc::MADV_DONTFORK, "madvise(MADV_DONTFORK)"), (libc::MADV_DONTDUMP, "madvise(MADV_DONTDUMP)")]
    {
        // SAFETY: the range is a mapping of this module; neither advice changes its contents.
        if unsafe { libc::madvise(start.as_ptr().cast(), len, advice) } != 0 {
            return Err(Refusal::last(operation));
        }
    }
    Ok(())
}

fn reserve(len: usize) -> Result<NonNull<u8>, Refusal> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    map_anywhere("mmap(PROT_NONE)", len, libc::PROT_NONE, flags, -1)
}

fn map_anywhere(
    operation: &'static str,
    len: usize,
    protection: c_int,
    flags: c_int,
    file: c_int,
) -> Result<NonNull<u8>, Refusal> {
    // SAFETY: without MAP_FIXED the kernel picks an unused range, so no existing memory changes.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file, 0) };
    if address == libc::MAP_FAILED {
        return Err(Refusal::last_of_locking(operation));
    }
    NonNull::new(address.cast()).ok_or(Refusal { operation, errno: libc::EINVAL, may_be_lock_limit: false })
}

fn unmap(start: NonNull<u8>, len: usize) {
    // SAFETY: called only for ranges this module mapped and gave to nobody.
    unsafe { libc::munmap(start.as_ptr().cast(), len) };
}

fn secret_file() -> Result<c_int, Refusal> {
    // SAFETY: takes one flag word and makes a descriptor.
    let file = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    c_int::try_from(file).ok().filter(|file| *file >= 0).ok_or_else(|| Refusal::last("memfd_secret"))
}

fn close(file: c_int) {
    // SAFETY: a descriptor made by `secret_file` and closed once.
    unsafe { libc::close(file) };
}
