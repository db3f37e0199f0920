//! One value of a plain type, such as an expanded cipher schedule.

use std::fmt;
use std::marker::PhantomData;

use crate::arena::{MAX_SLOT, Slot, UNIT};
use crate::error::Error;
use crate::exit;

/// Types that are nothing but bytes and may live in a [`SecretBox`].
///
/// # Safety
/// All bits zero is a valid value; there is no destructor, no pointer to owned memory and no interior mutability.
/// Size (1 byte to 32 KiB) and alignment (at most 64) are checked when a `SecretBox` of the type is compiled.
pub unsafe trait Pod: Send + Sync + 'static {}

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: an integer: any bit pattern is valid.
        unsafe impl Pod for $type {}
    )* };
}
plain!(u8, u16, u32, u64, u128);

// SAFETY: an array is its elements and nothing more.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// One `T` in locked memory, aligned to 64 bytes: made in place, wiped at drop, no `Clone`.
///
/// A type that does not fit is refused when the program is compiled:
///
/// ```compile_fail,E0080
/// let large = vmseal_secret::SecretBox::<[u8; 40_000]>::try_init::<vmseal_secret::Error>(|_| Ok(()));
/// ```
pub struct SecretBox<T: Pod> {
    slot: Slot,
    kind: PhantomData<T>,
}

impl<T: Pod> SecretBox<T> {
    const FITS: () = assert!(
        size_of::<T>() > 0
            && size_of::<T>() <= MAX_SLOT
            && align_of::<T>() <= UNIT
            && !std::mem::needs_drop::<T>(),
        "a SecretBox holds 1 byte to 32 KiB with an alignment of at most 64 and no destructor"
    );

    /// Makes a value that `fill` writes in place; it is handed the all-zero value.
    ///
    /// When `fill` fails or panics the memory is wiped. Set fields through the reference: a whole `T` assigned to it
    /// is built on the stack first and leaves a copy there.
    pub fn try_init<E: From<Error>>(fill: impl FnOnce(&mut T) -> Result<(), E>) -> Result<Self, E> {
        const { Self::FITS };
        let slot = Slot::take(size_of::<T>())?;
        // SAFETY: the slot is long and aligned enough (FITS), owned by this call alone, and all zero, which is a valid
        // `T` by the contract of `Pod`.
        fill(unsafe { slot.start().cast::<T>().as_mut() })?;
        // `wipe_all` may have passed this slot before `fill` wrote to it; then the drop of the slot wipes it.
        if exit::wiped_after_writing() {
            return Err(Error::ShuttingDown.into());
        }
        Ok(SecretBox { slot, kind: PhantomData })
    }

    /// Lends the value to `f`, without a lock. After [`wipe_all`](crate::wipe_all) it is all zero.
    pub fn expose<R>(&self, f: impl FnOnce(&T) -> R) -> R {
        f(self.get())
    }

    /// The value in its place, without a lock. After [`wipe_all`](crate::wipe_all) it is all zero.
    pub fn get(&self) -> &T {
        // SAFETY: the slot holds a valid `T` that is not written while `self` is borrowed, but for `wipe_all`, which
        // leaves the all-zero value (protocol: crate documentation).
        unsafe { self.slot.start().cast::<T>().as_ref() }
    }
}

impl<T: Pod> fmt::Debug for SecretBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBox({} bytes)", size_of::<T>())
    }
}
