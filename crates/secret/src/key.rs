//! A key of any length.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::arena::Slot;
use crate::error::Error;
use crate::exit;

/// The longest [`SecretKey`] in bytes.
pub const MAX_LEN: usize = 4096;

/// Key bytes in locked memory: made in place, never copied by this crate, wiped at drop.
///
/// There is no `Clone`, no comparison but [`ct_eq`](SecretKey::ct_eq), and `Debug` shows the length only.
///
/// ```compile_fail,E0599
/// let key = vmseal_secret::SecretKey::generate(32).unwrap();
/// let copy = key.clone();
/// ```
pub struct SecretKey {
    slot: Slot,
    len: usize,
}

#[expect(clippy::len_without_is_empty, reason = "a key is never empty")]
impl SecretKey {
    /// Makes a key of `len` random bytes (1 to [`MAX_LEN`]), written by the operating system straight into the slot.
    ///
    /// Fails with [`Error::Length`], [`Error::Random`] or one of the memory errors.
    pub fn generate(len: usize) -> Result<SecretKey, Error> {
        SecretKey::try_init(len, |bytes| getrandom::fill(bytes).map_err(|_| Error::Random))
    }

    /// Makes a key of `len` bytes (1 to [`MAX_LEN`]) that `fill` writes in place; it is handed zeros.
    ///
    /// When `fill` fails or panics the slot is wiped. Write into the slice directly: a local array moved into it
    /// leaves its copy on the stack.
    pub fn try_init<E: From<Error>>(
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<SecretKey, E> {
        if len == 0 || len > MAX_LEN {
            return Err(Error::Length { length: len, maximum: MAX_LEN }.into());
        }
        let slot = Slot::take(len)?;
        // SAFETY: the slot is at least `len` bytes long, initialised, and owned by this call alone.
        fill(unsafe { std::slice::from_raw_parts_mut(slot.start().as_ptr(), len) })?;
        // `wipe_all` may have passed this slot before `fill` wrote to it; then the drop of the slot wipes it.
        if exit::wiped_after_writing() {
            return Err(Error::ShuttingDown.into());
        }
        Ok(SecretKey { slot, len })
    }

    /// Makes `count` keys of `len` bytes each as [`try_init`](SecretKey::try_init) makes one, for less time than one by
    /// one; `fill` is also handed the index of the key. All keys are made or none.
    pub fn try_init_many<E: From<Error>>(
        len: usize,
        count: usize,
        mut fill: impl FnMut(usize, &mut [u8]) -> Result<(), E>,
    ) -> Result<Vec<SecretKey>, E> {
        if len == 0 || len > MAX_LEN {
            return Err(Error::Length { length: len, maximum: MAX_LEN }.into());
        }
        let slots = Slot::take_many(len, count)?;
        for (index, slot) in slots.iter().enumerate() {
            // SAFETY: as in `try_init`; every slot is another piece of memory.
            fill(index, unsafe { std::slice::from_raw_parts_mut(slot.start().as_ptr(), len) })?;
        }
        // As in `try_init`.
        if exit::wiped_after_writing() {
            return Err(Error::ShuttingDown.into());
        }
        Ok(slots.into_iter().map(|slot| SecretKey { slot, len }).collect())
    }

    /// Drops every key, for less time than one by one.
    pub fn drop_many(keys: Vec<SecretKey>) {
        Slot::give_back_many(keys.into_iter().map(|key| key.slot));
    }

    /// Length in bytes. Lengths are public.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Lends the bytes to `f`, without a lock. After [`wipe_all`](crate::wipe_all) they are zeros.
    pub fn expose<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: the slot is at least `len` bytes long, initialised, and not written while `self` is borrowed, but for
        // `wipe_all`, whose protocol is in the crate documentation.
        f(unsafe { std::slice::from_raw_parts(self.slot.start().as_ptr(), self.len) })
    }

    /// Whether both keys hold the same bytes, in a time that depends on the lengths only.
    pub fn ct_eq(&self, other: &SecretKey) -> bool {
        self.expose(|mine| other.expose(|theirs| mine.ct_eq(theirs).into()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} bytes)", self.len)
    }
}
