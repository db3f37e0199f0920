use std::mem::MaybeUninit;

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes256, Aes256Enc, Block};
use vmseal_secret::Pod;

use crate::key::KeyHalves;
use crate::residue;
use crate::run::{Direction, Run};

/// Blocks given to the `aes` crate at once: its widest implementation works on 64.
const BATCH: usize = 64;

/// The expanded keys of the `aes` crate, living in locked memory. They are never dropped: the memory is wiped instead.
pub(crate) struct PortableSchedule {
    data: MaybeUninit<Aes256>,
    tweak: MaybeUninit<Aes256Enc>,
}

// SAFETY: both objects are unions of arrays of integers or vectors plus a zero-sized token: all-zero bytes are a valid
// value, MaybeUninit has no drop code, and no field is aligned to more than 64 bytes.
unsafe impl Pod for PortableSchedule {}

const _: () = assert!(align_of::<PortableSchedule>() <= 64);

impl PortableSchedule {
    /// Expands both halves in place.
    pub(crate) fn expand(&mut self, halves: &KeyHalves<'_>) {
        self.expand_on_this_stack(halves);
        residue::wipe();
    }

    /// The cipher of the data blocks.
    pub(crate) fn data(&self) -> &Aes256 {
        // SAFETY: a schedule is handed out only after `expand`; if the arena was wiped since, all-zero is valid too.
        unsafe { self.data.assume_init_ref() }
    }

    /// The cipher of the tweaks.
    pub(crate) fn tweak(&self) -> &Aes256Enc {
        // SAFETY: as in `data`.
        unsafe { self.tweak.assume_init_ref() }
    }

    /// Ciphers a run of sectors.
    pub(crate) fn run(&self, direction: Direction, run: Run<'_>) {
        if run.source != run.destination.cast_const() {
            // SAFETY: both buffers have `length` bytes and different buffers never overlap (see `Run`).
            unsafe { run.source.copy_to_nonoverlapping(run.destination, run.length()) };
        }
        // SAFETY: `Run` borrows the destination exclusively for its own lifetime, and it has `length` bytes.
        let data = unsafe { std::slice::from_raw_parts_mut(run.destination, run.length()) };
        self.cipher_sectors(direction, data, &run);
        residue::wipe();
    }

    // A frame of its own, so that the wiping reaches what the expansion left on the stack.
    #[inline(never)]
    fn expand_on_this_stack(&mut self, halves: &KeyHalves<'_>) {
        self.data.write(Aes256::new(halves.data.into()));
        self.tweak.write(Aes256Enc::new(halves.tweak.into()));
    }

    // A frame of its own: as above.
    #[inline(never)]
    fn cipher_sectors(&self, direction: Direction, data: &mut [u8], run: &Run<'_>) {
        let mut sector_tweaks = [Block::default(); BATCH];
        let mut number = run.first_tweak;
        for group in data.chunks_mut(BATCH * run.sector_size) {
            let sectors = group.len() / run.sector_size;
            for tweak in &mut sector_tweaks[..sectors] {
                *tweak = u128::from(number).to_le_bytes().into();
                number = number.wrapping_add(run.tweak_step);
            }
            self.tweak().encrypt_blocks(&mut sector_tweaks[..sectors]);
            self.cipher_group(direction, group, &sector_tweaks, run.sector_size / 16);
        }
    }

    /// Ciphers up to [`BATCH`] sectors whose encrypted tweaks are given.
    fn cipher_group(
        &self,
        direction: Direction,
        group: &mut [u8],
        sector_tweaks: &[Block; BATCH],
        per_sector: usize,
    ) {
        let (blocks, _) = group.as_chunks_mut::<16>();
        let mut tweak = 0;
        for (batch_index, batch) in blocks.chunks_mut(BATCH).enumerate() {
            let mut tweaks = [0; BATCH];
            for (index, (block, slot)) in batch.iter_mut().zip(&mut tweaks).enumerate() {
                let position = batch_index * BATCH + index;
                if position.is_multiple_of(per_sector) {
                    tweak = u128::from_le_bytes(sector_tweaks[position / per_sector].into());
                }
                *slot = tweak;
                whiten(block, tweak);
                tweak = double(tweak);
            }
            let batch = Block::cast_slice_from_core_mut(batch);
            match direction {
                Direction::Encrypt => self.data().encrypt_blocks(batch),
                Direction::Decrypt => self.data().decrypt_blocks(batch),
            }
            for (block, tweak) in Block::cast_slice_to_core_mut(batch).iter_mut().zip(tweaks) {
                whiten(block, tweak);
            }
        }
    }
}

/// Multiplies by the primitive element of GF(2^128) (IEEE 1619 section 5.2), in constant time.
pub(crate) fn double(tweak: u128) -> u128 {
    let carry = tweak >> 127;
    (tweak << 1) ^ (carry.wrapping_neg() & 0x87)
}

/// Xors a tweak into a block.
pub(crate) fn whiten(block: &mut [u8; 16], tweak: u128) {
    *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
}
