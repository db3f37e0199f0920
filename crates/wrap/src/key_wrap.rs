//! AES key wrap: RFC 3394 (SP 800-38F KW) and RFC 5649 (KWP).
//!
//! Both are deterministic and need no nonce. Neither binds anything beside the key: that is [`crate::envelope`]'s part.
//! Keys below 16 bytes are refused in both: at 8 bytes KWP is one AES block, and short keys have no use here.

mod kernel;
mod many;
mod padded;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use subtle::ConstantTimeEq;
use vmseal_secret::SecretKey;
use zeroize::Zeroizing;

use crate::Error;
use crate::guard::{guarded, guarded_shallow};

pub use kernel::{KERNEL_VARIABLE, Kernel};
pub use many::{unwrap_many, unwrap_row, wrap_many, wrap_many_into};
pub use padded::{unwrap_padded, wrap_padded};

/// The shortest key that is wrapped or unwrapped, in bytes.
pub const MIN_KEY_LEN: usize = 16;
/// The longest key that is wrapped or unwrapped, in bytes.
pub const MAX_KEY_LEN: usize = vmseal_secret::MAX_LEN;

/// The default initial value (RFC 3394 section 2.2.3.1).
const INITIAL_VALUE: [u8; 8] = [0xa6; 8];
/// A semiblock, the unit of the algorithm.
const SEMIBLOCK: usize = 8;

/// Wraps `key` under `kek` (RFC 3394); the result is 8 bytes longer than the key.
///
/// `kek` is 16, 24 or 32 bytes, `key` a multiple of 8 from 16 to 4096 bytes; else [`Error::KeyLength`].
pub fn wrap(kek: &SecretKey, key: &SecretKey) -> Result<Vec<u8>, Error> {
    let mut wrapped = vec![0; SEMIBLOCK + key.len()];
    wrap_into(kek, key, &mut wrapped)?;
    Ok(wrapped)
}

/// As [`wrap`] into a buffer that is 8 bytes longer than the key, else [`Error::InvalidArgument`]. Nothing but the
/// finished wrap is ever written to it.
pub fn wrap_into(kek: &SecretKey, key: &SecretKey, wrapped: &mut [u8]) -> Result<(), Error> {
    check_kek(kek)?;
    check_key(key)?;
    if wrapped.len() != SEMIBLOCK + key.len() {
        return Err(Error::InvalidArgument {
            reason: "the buffer must be 8 bytes longer than the key to wrap",
        });
    }
    wrap_with(Kernel::select()?, kek, key, wrapped)
}

/// Opens what [`wrap`] made.
///
/// Anything else is [`Error::UnwrapFailed`]: another KEK, a changed bit, a length that is not a multiple of 8 from 24 to
/// 4104 bytes.
pub fn unwrap(kek: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, Error> {
    check_kek(kek)?;
    check_wrapped(wrapped)?;
    unwrap_with(Kernel::select()?, kek, wrapped)
}

/// [`wrap_into`] with arguments that were checked.
fn wrap_with(kernel: Kernel, kek: &SecretKey, key: &SecretKey, wrapped: &mut [u8]) -> Result<(), Error> {
    #[cfg(target_arch = "x86_64")]
    if kernel != Kernel::Portable && kek.len() == x86::KEK_LEN {
        return guarded_shallow(|| {
            kek.expose(|kek| key.expose(|key| x86::wrap(kernel, kek, key, wrapped)));
            Ok(())
        });
    }
    debug_assert!(kernel.is_supported());
    guarded(|| {
        let (wrapped_a, wrapped_r) = wrapped.split_at_mut(SEMIBLOCK);
        // Holds the key until the last round has passed over it; wiped if anything unwinds before that.
        let mut r = Zeroizing::new(vec![0; key.len()]);
        key.expose(|bytes| r.copy_from_slice(bytes));
        wrapped_a.copy_from_slice(&INITIAL_VALUE);
        kek.expose(|kek| portable::wrap_in_place(kek, wrapped_a, &mut r));
        wrapped_r.copy_from_slice(&r);
        Ok(())
    })
}

/// [`unwrap`] with arguments that were checked.
fn unwrap_with(kernel: Kernel, kek: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, Error> {
    #[cfg(target_arch = "x86_64")]
    if kernel != Kernel::Portable && kek.len() == x86::KEK_LEN {
        return guarded_shallow(|| {
            SecretKey::try_init(wrapped.len() - SEMIBLOCK, |key| {
                let is_sound = kek.expose(|kek| x86::unwrap(kernel, kek, wrapped, key));
                if is_sound { Ok(()) } else { Err(Error::UnwrapFailed) }
            })
        });
    }
    debug_assert!(kernel.is_supported());
    guarded(|| {
        let (wrapped_a, wrapped_r) = wrapped.split_at(SEMIBLOCK);
        SecretKey::try_init(wrapped_r.len(), |r| {
            let mut a = [0; SEMIBLOCK];
            a.copy_from_slice(wrapped_a);
            r.copy_from_slice(wrapped_r);
            kek.expose(|kek| portable::unwrap_in_place(kek, &mut a, r));
            if is_initial_value(&a) { Ok(()) } else { Err(Error::UnwrapFailed) }
        })
    })
}

/// The integrity check of RFC 3394 section 2.2.3, in constant time. Not inlined, so that the test that looks for decisions
/// on secrets knows this one, whose result is public.
#[inline(never)]
fn is_initial_value(a: &[u8]) -> bool {
    a.ct_eq(&INITIAL_VALUE).into()
}

fn check_kek(kek: &SecretKey) -> Result<(), Error> {
    match kek.len() {
        16 | 24 | 32 => Ok(()),
        actual => Err(Error::KeyLength {
            what: "the KEK",
            expected: "32 bytes (or 16 or 24 for AES-128 and AES-192)",
            actual,
        }),
    }
}

fn check_key(key: &SecretKey) -> Result<(), Error> {
    if (MIN_KEY_LEN..=MAX_KEY_LEN).contains(&key.len()) && key.len().is_multiple_of(SEMIBLOCK) {
        return Ok(());
    }
    let expected = "16 to 4096 bytes, in whole multiples of 8";
    Err(Error::KeyLength { what: "the key to wrap", expected, actual: key.len() })
}

fn check_wrapped(wrapped: &[u8]) -> Result<(), Error> {
    let lengths = MIN_KEY_LEN + SEMIBLOCK..=MAX_KEY_LEN + SEMIBLOCK;
    if lengths.contains(&wrapped.len()) && wrapped.len().is_multiple_of(SEMIBLOCK) {
        Ok(())
    } else {
        Err(Error::UnwrapFailed)
    }
}

#[cfg(test)]
mod every_kernel;
#[cfg(test)]
mod published;
#[cfg(test)]
mod refusals;
