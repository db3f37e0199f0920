//! Single data units of IEEE Std 1619: any length from one block to 2^20 blocks, ciphertext stealing, any 128-bit tweak.
//!
//! For test vectors and interchange. It expands the key on every call: use [`Xts`](crate::Xts) for sectors.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt};
use vmseal_secret::{SecretBox, SecretKey};

use crate::Error;
use crate::engine::refuse_when_wiped;
use crate::key::KeyHalves;
use crate::portable::{PortableSchedule, double, whiten};
use crate::residue;

/// Shortest data unit in bytes: one block.
pub const MIN_LENGTH: usize = 16;

/// Longest data unit in bytes: 2^20 blocks (IEEE 1619-2018, NIST SP 800-38E).
pub const MAX_LENGTH: usize = 16 << 20;

/// Encrypts one data unit in place under a 64-byte key. `tweak` is the data unit's tweak value before encryption.
///
/// # Errors
/// Wrong key length, equal key halves, a length outside [`MIN_LENGTH`]..=[`MAX_LENGTH`], no locked memory. When the
/// process wiped its keys, the content of `data` is undefined.
pub fn encrypt(key: &SecretKey, tweak: &[u8; 16], data: &mut [u8]) -> Result<(), Error> {
    cipher(key, data, |schedule, data| encrypt_blocks(schedule, tweak, data))
}

/// Decrypts one data unit in place: the inverse of [`encrypt`].
///
/// # Errors
/// As [`encrypt`].
pub fn decrypt(key: &SecretKey, tweak: &[u8; 16], data: &mut [u8]) -> Result<(), Error> {
    cipher(key, data, |schedule, data| decrypt_blocks(schedule, tweak, data))
}

fn cipher(
    key: &SecretKey,
    data: &mut [u8],
    apply: impl FnOnce(&PortableSchedule, &mut [u8]),
) -> Result<(), Error> {
    if !(MIN_LENGTH..=MAX_LENGTH).contains(&data.len()) {
        return Err(Error::DataUnitLength { length: data.len() });
    }
    let expand = |schedule: &mut PortableSchedule| {
        key.expose(|bytes| KeyHalves::split(bytes).map(|halves| schedule.expand(&halves)))
    };
    let schedule: SecretBox<PortableSchedule> = SecretBox::try_init(expand)?;
    refuse_when_wiped()?;
    schedule.expose(|schedule| apply(schedule, data));
    residue::wipe();
    refuse_when_wiped()
}

/// IEEE 1619 section 5.3.2.
#[inline(never)]
fn encrypt_blocks(schedule: &PortableSchedule, tweak: &[u8; 16], data: &mut [u8]) {
    let mut tweak = first_tweak(schedule, tweak);
    let (blocks, rest) = data.as_chunks_mut::<16>();
    for block in &mut *blocks {
        encrypt_block(schedule, block, tweak);
        tweak = double(tweak);
    }
    if let [.., last] = blocks
        && !rest.is_empty()
    {
        // Stealing: the partial block becomes the head of the last full ciphertext block, which is then filled up.
        rest.swap_with_slice(&mut last[..rest.len()]);
        encrypt_block(schedule, last, tweak);
    }
}

/// IEEE 1619 section 5.4.2.
#[inline(never)]
fn decrypt_blocks(schedule: &PortableSchedule, tweak: &[u8; 16], data: &mut [u8]) {
    let mut tweak = first_tweak(schedule, tweak);
    let (blocks, rest) = data.as_chunks_mut::<16>();
    let stolen = usize::from(!rest.is_empty());
    let Some((whole, tail)) = blocks.split_at_mut_checked(blocks.len() - stolen) else { return };
    for block in whole {
        decrypt_block(schedule, block, tweak);
        tweak = double(tweak);
    }
    if let [last] = tail {
        // The last full block was encrypted after the stealing, so under the later of the two tweaks.
        decrypt_block(schedule, last, double(tweak));
        rest.swap_with_slice(&mut last[..rest.len()]);
        decrypt_block(schedule, last, tweak);
    }
}

fn first_tweak(schedule: &PortableSchedule, tweak: &[u8; 16]) -> u128 {
    let mut block = (*tweak).into();
    schedule.tweak().encrypt_block(&mut block);
    u128::from_le_bytes(block.into())
}

fn encrypt_block(schedule: &PortableSchedule, block: &mut [u8; 16], tweak: u128) {
    whiten(block, tweak);
    schedule.data().encrypt_block(block.into());
    whiten(block, tweak);
}

fn decrypt_block(schedule: &PortableSchedule, block: &mut [u8; 16], tweak: u128) {
    whiten(block, tweak);
    schedule.data().decrypt_block(block.into());
    whiten(block, tweak);
}
