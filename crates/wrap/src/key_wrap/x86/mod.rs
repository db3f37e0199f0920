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

use super::kernel::Kernel;
use super::{INITIAL_VALUE, SEMIBLOCK, is_initial_value};
use crate::guard::{SHALLOW_STACK, wipe_dead_stack};
use block::Block;
use schedule::RoundKeys;

/// Bytes of the only KEK that these kernels know.
pub(super) const KEK_LEN: usize = 32;

/// Wraps one key. All lengths must have been checked.
pub(super) fn wrap(kernel: Kernel, kek: &[u8], key: &[u8], wrapped: &mut [u8]) {
    if key.len() <= SHORT * SEMIBLOCK {
        wrap_alone::<SHORT>(kernel, kek, key, wrapped);
    } else {
        wrap_alone::<LONG>(kernel, kek, key, wrapped);
    }
}

/// Unwraps into `key` and says whether the integrity check holds. All lengths must have been checked.
pub(super) fn unwrap(kernel: Kernel, kek: &[u8], wrapped: &[u8], key: &mut [u8]) -> bool {
    if key.len() <= SHORT * SEMIBLOCK {
        unwrap_alone::<SHORT>(kernel, kek, wrapped, key)
    } else {
        unwrap_alone::<LONG>(kernel, kek, wrapped, key)
    }
}

/// Semiblocks of all usual keys, and of the longest one.
const SHORT: usize = 16;
const LONG: usize = super::MAX_KEY_LEN / SEMIBLOCK;

fn wrap_alone<const CAPACITY: usize>(kernel: Kernel, kek: &[u8], key: &[u8], wrapped: &mut [u8]) {
    let mut lane = Lanes::<true, 1, CAPACITY>::empty(kernel);
    lane.expand(kek);
    lane.load(0, 1, &INITIAL_VALUE, key);
    lane.run(1, key.len() / SEMIBLOCK);
    let (a, r) = wrapped.split_at_mut(SEMIBLOCK);
    a.copy_from_slice(lane.a(0));
    lane.store(0, 1, r);
    lane.wipe_residue();
}

fn unwrap_alone<const CAPACITY: usize>(kernel: Kernel, kek: &[u8], wrapped: &[u8], key: &mut [u8]) -> bool {
    let mut lane = Lanes::<false, 1, CAPACITY>::empty(kernel);
    lane.expand(kek);
    let (a, r) = wrapped.split_at(SEMIBLOCK);
    lane.load(0, 1, a, r);
    lane.run(1, key.len() / SEMIBLOCK);
    lane.store(0, 1, key);
    lane.wipe_residue();
    is_initial_value(lane.a(0))
}

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

    /// Expands a KEK of [`KEK_LEN`] bytes.
    #[inline(always)]
    pub(super) fn expand(&mut self, kek: &[u8]) {
        let kek: &[u8; KEK_LEN] = kek.try_into().expect("a KEK of 32 bytes");
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
    pub(super) fn load(&mut self, lane: usize, lanes: usize, a: &[u8], r: &[u8]) {
        self.a[lane].0[..SEMIBLOCK].copy_from_slice(a);
        for (block, semiblock) in self.r[lane..].iter_mut().step_by(lanes).zip(r.as_chunks::<SEMIBLOCK>().0) {
            block.0[SEMIBLOCK..].copy_from_slice(semiblock);
        }
    }

    /// Wraps or unwraps what lies in the first `lanes` lanes (a number of [`lanes_for`](Self::lanes_for)); the content
    /// of lanes that were not loaded means nothing.
    #[inline(always)]
    pub(super) fn run(&mut self, lanes: usize, semiblocks: usize) {
        let r = &mut self.r[..lanes * semiblocks];
        let a = &mut self.a[..lanes];
        // SAFETY: `empty` has checked that this CPU supports the kernel.
        unsafe {
            match lanes {
                32 => vaes512::run::<ENCRYPT, 8>(&self.keys, a, r),
                16 => vaes512::run::<ENCRYPT, 4>(&self.keys, a, r),
                8 => aesni::run::<ENCRYPT, 8>(&self.keys, a.try_into().expect("eight"), r),
                1 => aesni::run::<ENCRYPT, 1>(&self.keys, a.try_into().expect("one"), r),
                _ => unreachable!("no kernel has {lanes} lanes"),
            }
        }
    }

    /// Wipes what kernels and expansion spilled. To be called last, by the function that called them: their frames began
    /// where that of the wiping begins, which is why `expand`, `run` and this have none.
    #[inline(always)]
    pub(super) fn wipe_residue(&self) {
        wipe_dead_stack::<SHALLOW_STACK>();
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
        // Semiblocks were copied through them since the kernel ran.
        // SAFETY: `empty` has checked that this CPU supports a kernel, and all of them need AVX.
        unsafe { wipe::wipe_vector_registers() }
    }
}
