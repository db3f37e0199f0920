//! AES key wrap: RFC 3394 (SP 800-38F KW) and RFC 5649 (KWP).
//!
//! Both are deterministic and need no nonce. Neither binds anything beside the key: that is [`crate::envelope`]'s part.
//! Keys below 16 bytes are refused in both: at 8 bytes KWP is one AES block, and short keys have no use here.

mod padded;

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16};
use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc, Block};
use subtle::ConstantTimeEq;
use vmseal_secret::SecretKey;
use zeroize::{Zeroize, Zeroizing};

use crate::Error;
use crate::guard::guarded;

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
    check_kek(kek)?;
    if !(MIN_KEY_LEN..=MAX_KEY_LEN).contains(&key.len()) || !key.len().is_multiple_of(SEMIBLOCK) {
        let expected = "16 to 4096 bytes, in whole multiples of 8";
        return Err(Error::KeyLength { what: "the key to wrap", expected, actual: key.len() });
    }
    guarded(|| {
        // Holds the key until the last round has passed over it; wiped if anything unwinds before that.
        let mut wrapped = Zeroizing::new(vec![0; SEMIBLOCK + key.len()]);
        let (a, r) = wrapped.split_at_mut(SEMIBLOCK);
        a.copy_from_slice(&INITIAL_VALUE);
        key.expose(|bytes| r.copy_from_slice(bytes));
        kek.expose(|kek| wrap_in_place(kek, a, r));
        Ok(std::mem::take(&mut *wrapped))
    })
}

/// Opens what [`wrap`] made.
///
/// Anything else is [`Error::UnwrapFailed`]: another KEK, a changed bit, a length that is not a multiple of 8 from 24 to
/// 4104 bytes.
pub fn unwrap(kek: &SecretKey, wrapped: &[u8]) -> Result<SecretKey, Error> {
    check_kek(kek)?;
    if !(MIN_KEY_LEN + SEMIBLOCK..=MAX_KEY_LEN + SEMIBLOCK).contains(&wrapped.len())
        || !wrapped.len().is_multiple_of(SEMIBLOCK)
    {
        return Err(Error::UnwrapFailed);
    }
    guarded(|| {
        let (sealed_a, sealed_r) = wrapped.split_at(SEMIBLOCK);
        kek.expose(|kek| {
            SecretKey::try_init(sealed_r.len(), |r| {
                let mut a = [0; SEMIBLOCK];
                a.copy_from_slice(sealed_a);
                r.copy_from_slice(sealed_r);
                unwrap_in_place(kek, &mut a, r);
                if bool::from(a.ct_eq(&INITIAL_VALUE)) { Ok(()) } else { Err(Error::UnwrapFailed) }
            })
        })
    })
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

/// Turns `A | R[1..n]` into the wrapped key, in place. The length of `kek` must have been checked.
fn wrap_in_place(kek: &[u8], a: &mut [u8], r: &mut [u8]) {
    const CHECKED: &str = "the KEK length was checked";
    match kek.len() {
        16 => encrypt_rounds(&Aes128Enc::new_from_slice(kek).expect(CHECKED), a, r),
        24 => encrypt_rounds(&Aes192Enc::new_from_slice(kek).expect(CHECKED), a, r),
        _ => encrypt_rounds(&Aes256Enc::new_from_slice(kek).expect(CHECKED), a, r),
    }
}

/// The inverse of [`wrap_in_place`]; the caller compares `a`.
fn unwrap_in_place(kek: &[u8], a: &mut [u8], r: &mut [u8]) {
    const CHECKED: &str = "the KEK length was checked";
    match kek.len() {
        16 => decrypt_rounds(&Aes128Dec::new_from_slice(kek).expect(CHECKED), a, r),
        24 => decrypt_rounds(&Aes192Dec::new_from_slice(kek).expect(CHECKED), a, r),
        _ => decrypt_rounds(&Aes256Dec::new_from_slice(kek).expect(CHECKED), a, r),
    }
}

/// RFC 3394 section 2.2.1, index based; with a single semiblock it is RFC 5649 section 4.1's one block of ECB.
fn encrypt_rounds<C: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>>(
    cipher: &C,
    a: &mut [u8],
    r: &mut [u8],
) {
    let mut block: Block = Array::default();
    block[..SEMIBLOCK].copy_from_slice(a);
    let rounds = if r.len() == SEMIBLOCK { 1 } else { 6 };
    let mut step: u64 = 0;
    for _ in 0..rounds {
        for semiblock in r.chunks_exact_mut(SEMIBLOCK) {
            block[SEMIBLOCK..].copy_from_slice(semiblock);
            cipher.encrypt_block(&mut block);
            step += 1;
            if rounds == 6 {
                xor_step(&mut block, step);
            }
            semiblock.copy_from_slice(&block[SEMIBLOCK..]);
        }
    }
    a.copy_from_slice(&block[..SEMIBLOCK]);
    block.zeroize();
}

/// RFC 3394 section 2.2.2 and RFC 5649 section 4.2.
fn decrypt_rounds<C: BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>>(
    cipher: &C,
    a: &mut [u8],
    r: &mut [u8],
) {
    let mut block: Block = Array::default();
    block[..SEMIBLOCK].copy_from_slice(a);
    let rounds = if r.len() == SEMIBLOCK { 1 } else { 6 };
    let mut step: u64 = rounds * (r.len() / SEMIBLOCK) as u64;
    for _ in 0..rounds {
        for semiblock in r.chunks_exact_mut(SEMIBLOCK).rev() {
            block[SEMIBLOCK..].copy_from_slice(semiblock);
            if rounds == 6 {
                xor_step(&mut block, step);
            }
            step -= 1;
            cipher.decrypt_block(&mut block);
            semiblock.copy_from_slice(&block[SEMIBLOCK..]);
        }
    }
    a.copy_from_slice(&block[..SEMIBLOCK]);
    block.zeroize();
}

fn xor_step(block: &mut Block, step: u64) {
    for (byte, t) in block.iter_mut().zip(step.to_be_bytes()) {
        *byte ^= t;
    }
}

#[cfg(test)]
mod published;
#[cfg(test)]
mod refusals;
