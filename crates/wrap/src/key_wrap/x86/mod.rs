//! RFC 3394 under a 32-byte KEK with the AES instructions of x86-64: the only unsafe code of this crate, all of it
//! intrinsics and empty assembly blocks.
//!
//! One wrap is a chain: each block cipher call needs the result of the one before, so it takes 6 x n times the latency
//! of AES. Many keys of one length therefore pass side by side, one lane each.
#![allow(unsafe_code)]

mod aesni;
mod block;
mod schedule;
mod steps;
mod vaes512;
mod wipe;

use super::SEMIBLOCK;
use super::kernel::Kernel;
use block::Block;
use schedule::RoundKeys;

/// One expanded KEK and the working memory of up to `LANES` keys of one length; wiped at drop. `CAPACITY` is the number
/// of semiblocks it has room for in all.
///
/// Secrets are written into it in place: it is made empty and never moved afterwards.
#[repr(C, align(64))]
pub(super) struct Lanes<const ENCRYPT: bool, const LANES: usize, const CAPACITY: usize> {
    keys: RoundKeys,
    a: [Block; LANES],
    r: [Block; CAPACITY],
    kernel: Kernel,
}

/// Lanes of the widest kernel.
pub(super) const WIDEST: usize = 32;

impl<const ENCRYPT: bool, const LANES: usize, const CAPACITY: usize> Lanes<ENCRYPT, LANES, CAPACITY> {
    /// Without a key yet. `kernel` is not [`Kernel::Portable`] and is supported by this CPU.
    pub(super) fn empty(kernel: Kernel) -> Self {
        assert!(kernel != Kernel::Portable && kernel.is_supported(), "a kernel of this CPU");
        let (keys, a, r) = ([Block::ZERO; 15], [Block::ZERO; LANES], [Block::ZERO; CAPACITY]);
        Self { keys, a, r, kernel }
    }

    pub(super) fn expand(&mut self, kek: &[u8; 32]) {
        // SAFETY: `empty` has checked that this CPU supports a kernel, and all of them need AES-NI and AVX.
        unsafe { schedule::expand::<ENCRYPT>(kek, &mut self.keys) }
    }

    /// How many lanes the kernel takes for `keys` keys of `semiblocks` semiblocks: as many as fit, not more than help.
    pub(super) fn lanes_for(&self, keys: usize, semiblocks: usize) -> usize {
        let room = LANES.min(CAPACITY / semiblocks);
        match self.kernel {
            // Up to 16 lanes take the time of one.
            Kernel::Vaes512 if keys > 16 && room >= 32 => 32,
            Kernel::Vaes512 if keys > 1 && room >= 16 => 16,
            _ if keys > 1 && room >= 8 => 8,
            _ => 1,
        }
    }

    /// Puts a key, or a wrapped one, into a lane.
    pub(super) fn load(&mut self, lane: usize, lanes: usize, a: &[u8; SEMIBLOCK], r: &[u8]) {
        self.a[lane].0[..SEMIBLOCK].copy_from_slice(a);
        for (block, semiblock) in self.r[lane..].iter_mut().step_by(lanes).zip(r.as_chunks::<SEMIBLOCK>().0) {
            block.0[SEMIBLOCK..].copy_from_slice(semiblock);
        }
    }

    /// Wraps or unwraps what lies in the first `lanes` lanes (a number of [`lanes_for`](Self::lanes_for)); the content
    /// of lanes that were not loaded means nothing.
    pub(super) fn run(&mut self, lanes: usize, semiblocks: usize) {
        let r = &mut self.r[..lanes * semiblocks];
        let a = &mut self.a[..lanes];
        // SAFETY: `empty` has checked that this CPU supports the kernel.
        unsafe {
            match lanes {
                32 => vaes512::run::<ENCRYPT, 8>(&self.keys, a, r),
                16 => vaes512::run::<ENCRYPT, 4>(&self.keys, a, r),
                8 => aesni::run::<ENCRYPT, 8>(&self.keys, a.as_mut_array().expect("eight"), r),
                1 => aesni::run::<ENCRYPT, 1>(&self.keys, a.as_mut_array().expect("one"), r),
                _ => unreachable!("no kernel has {lanes} lanes"),
            }
            wipe::wipe_vector_registers();
        }
    }

    /// A of a lane.
    pub(super) fn a(&self, lane: usize) -> &[u8] {
        &self.a[lane].0[..SEMIBLOCK]
    }

    /// Writes R of a lane.
    pub(super) fn store(&self, lane: usize, lanes: usize, r: &mut [u8]) {
        for (block, semiblock) in self.r[lane..].iter().step_by(lanes).zip(r.as_chunks_mut::<SEMIBLOCK>().0) {
            semiblock.copy_from_slice(&block.0[SEMIBLOCK..]);
        }
    }
}

impl<const ENCRYPT: bool, const LANES: usize, const CAPACITY: usize> Drop
    for Lanes<ENCRYPT, LANES, CAPACITY>
{
    fn drop(&mut self) {
        let secrets = [&mut self.keys[..], &mut self.a[..], &mut self.r[..]];
        for blocks in secrets {
            let length = size_of_val(blocks);
            // SAFETY: blocks are plain bytes without padding.
            let bytes = unsafe { std::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast::<u8>(), length) };
            vmseal_secret::wipe(bytes);
        }
    }
}
