use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, consts::U16};
use aes::{Aes128Dec, Aes128Enc, Aes192Dec, Aes192Enc, Aes256Dec, Aes256Enc, Block};
use zeroize::Zeroize;

use super::SEMIBLOCK;

/// Turns `A | R[1..n]` into the wrapped key, in place. The length of `kek` must have been checked.
pub(super) fn wrap_in_place(kek: &[u8], a: &mut [u8], r: &mut [u8]) {
    const CHECKED: &str = "the KEK length was checked";
    match kek.len() {
        16 => encrypt_rounds(&Aes128Enc::new_from_slice(kek).expect(CHECKED), a, r),
        24 => encrypt_rounds(&Aes192Enc::new_from_slice(kek).expect(CHECKED), a, r),
        _ => encrypt_rounds(&Aes256Enc::new_from_slice(kek).expect(CHECKED), a, r),
    }
}

/// The inverse of [`wrap_in_place`]; the caller compares `a`.
pub(super) fn unwrap_in_place(kek: &[u8], a: &mut [u8], r: &mut [u8]) {
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
