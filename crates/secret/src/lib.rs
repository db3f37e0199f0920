//! Memory for keys: locked, never swapped or dumped, made in place, wiped when done.
//!
//! # What to use when
//!
//! * [`SecretKey`]: key bytes of any length up to [`MAX_LEN`]: KEKs, DEKs, private keys.
//! * [`SecretBox`]: one value of a plain type ([`Pod`]), such as an expanded cipher schedule.
//! * [`wipe`]: for a buffer elsewhere that held key bytes and is done with.
//! * [`WipingAllocator`]: as `#[global_allocator]` of a program, for the buffers of libraries nobody can reach.
//! * [`forbid_core_dumps`]: for a program that serves: a crash of it leaves nothing.
//! * [`status`]: what really protects the keys here, for a start-up check.
//!
//! ```
//! use vmseal_secret::SecretKey;
//!
//! # fn main() -> Result<(), vmseal_secret::Error> {
//! let key = SecretKey::generate(32)?;
//! let folded = SecretKey::try_init::<vmseal_secret::Error>(16, |bytes| {
//!     key.expose(|all| (0..16).for_each(|i| bytes[i] = all[i] ^ all[i + 16]));
//!     Ok(())
//! })?;
//! assert_eq!(format!("{folded:?}"), "SecretKey(16 bytes)");
//! # Ok(())
//! # }
//! ```
//!
//! # Where the bytes live
//!
//! In an arena of 64 KiB chunks, each between two guard pages, cut into slots of 64-byte units. The pages come from
//! `memfd_secret(2)`; where the kernel has none, from anonymous memory with `mlock`, `MADV_DONTDUMP` and `MADV_DONTFORK`
//! ([`Backing`]). The choice is made once for a process. There is no third way: when memory cannot be locked, making a
//! secret fails. `VMSEAL_KEY_MEMORY` in the environment forces it: `locked` (the second kind), `secret` (the first or
//! nothing), `auto`.
//!
//! The arena counts against `RLIMIT_MEMLOCK`. With the usual 8 MiB it holds 131,072 keys of up to 64 bytes; when it is
//! full, making a secret fails with [`Error::LockLimit`], the others keep working, and dropping some makes room.
//!
//! # The end of the process
//!
//! [`wipe_all`] runs at `exit(3)` while other threads may be ciphering; they cannot be stopped, and a key they use turns
//! to zeros under their hands. So that no data made with a zeroed key is ever written:
//!
//! 1. `wipe_all` raises the flag behind [`wiped`], then fences, then wipes the first byte;
//! 2. whoever ciphers does so completely, **then** asks `wiped()`, and only then writes the result. `false` means that
//!    every key byte used was true: a reader that saw a zeroed byte sees the flag too.
//!
//! ```
//! # fn cipher(_: &vmseal_secret::SecretKey, _: &mut [u8]) {}
//! # fn write(_: &[u8]) -> Result<(), vmseal_secret::Error> { Ok(()) }
//! # fn step(key: &vmseal_secret::SecretKey, sectors: &mut [u8]) -> Result<(), vmseal_secret::Error> {
//! cipher(key, sectors);
//! if vmseal_secret::wiped() {
//!     return Err(vmseal_secret::Error::ShuttingDown);
//! }
//! write(sectors)
//! # }
//! ```
//!
//! The same holds for a wrapped key, a tag or a key check value. Exposing a secret after `wipe_all` shows zeros; dropping
//! it is harmless. `_exit`, `abort` and a fatal signal run no wipe; the kernel then clears the pages as it takes them
//! back.
//!
//! # Limits
//!
//! * A fork (without exec) has none of the key pages: reading an inherited secret there is a segmentation fault, dropping
//!   it does nothing, and a new one is refused with [`Error::Forked`].
//! * `memfd_secret` pages cannot be read from outside, but the process itself can still `write(2)` from them.
//! * What a closure passed to `expose` copies to the stack, the heap or registers is its own to wipe.
//! * Lengths are public; contents are compared in constant time only by [`SecretKey::ct_eq`].
//! * Key memory is mapped on demand and then kept: [`Status::bytes_reserved`] does not shrink.

#[cfg(not(target_os = "linux"))]
compile_error!("key memory needs Linux");

mod allocator;
mod arena;
mod boxed;
mod chunk;
mod dumps;
mod error;
mod exit;
mod key;
mod pages;
mod status;
mod wipe;

pub use allocator::WipingAllocator;
pub use boxed::{Pod, SecretBox};
pub use dumps::forbid_core_dumps;
pub use error::Error;
pub use exit::{wipe_all, wiped};
pub use key::{MAX_LEN, SecretKey};
pub use pages::Backing;
pub use status::{Status, status};
pub use wipe::wipe;
