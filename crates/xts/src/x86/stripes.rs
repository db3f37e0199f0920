use std::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_NTA, _MM_HINT_T0, _mm_prefetch, _mm_sfence};
use std::mem::MaybeUninit;

use super::schedule::{RoundKeys, Schedule};
use super::tweak::{Chain, Ring, Tweak};
use super::wipe::wipe_memory;
use crate::run::{Direction, Run};

/// Bytes of a stripe: eight 512-bit registers, and a divisor of every sector size.
pub(super) const STRIPE: usize = 512;

/// Sectors whose tweaks are encrypted together. Encrypting one tweak takes the latency of 14 rounds, in which a full
/// pipeline encrypts half a stripe; many at once fill the pipeline, and the gap between two batches becomes rare.
const BATCH: usize = 256;

/// A multiple of the number of tweaks any kernel encrypts at once.
const TWEAK_GROUP: usize = 32;

/// Runs from this length on are prefetched: they no longer fit the caches of one core.
const FAR_LENGTH: usize = 4 << 20;

/// Copies from this length on bypass the caches: source and destination together fill the last-level cache of most CPUs,
/// so fetching the destination before overwriting it is a waste of memory bandwidth. Shorter copies are read again soon,
/// from the cache.
const STREAMED_LENGTH: usize = 16 << 20;

/// How a kernel treats memory: a constant of its instances, so that the stripes need no branch for it.
pub(super) type Memory = u8;
/// Nothing but loads and stores: prefetching what is cached costs up to 3 % (measured on Zen 4).
pub(super) const NEAR: Memory = 0;
/// In place: what is read is prefetched.
pub(super) const FAR: Memory = 1;
/// To another buffer: source and destination are prefetched.
pub(super) const FAR_COPY: Memory = 2;
/// To another buffer aligned to 64 bytes: the source is prefetched, the stores are non-temporal.
pub(super) const STREAMED: Memory = 3;

/// How far ahead to prefetch, in bytes: about 250 ns.
const DATA_DISTANCE: usize = 8 * STRIPE;

/// How far ahead to have addresses translated, in bytes. Every page of a run through far memory misses the TLB, and in a
/// virtual machine a walk goes through the page tables of both. The walk of a load or store only begins when the
/// instruction does, and prefetching of the hardware ends at the page: with pages of 4 KiB this cost 10 % of the speed in
/// place and 35 % of that of streamed copies (measured on Zen 4). One prefetch for each page, early, hides it.
const TRANSLATION_DISTANCE: usize = 32 << 10;

/// The smallest page of x86-64, in stripes.
const PAGE_STRIPES: usize = 4096 / STRIPE;

/// What a kernel has to be able to do. All pointers are valid for what is read or written through them.
pub(super) trait StripeKernel {
    /// Encrypts the tweaks `first`, `first + step`, ... of `count` sectors into `tweaks`, which has room for `count`
    /// rounded up to a multiple of [`TWEAK_GROUP`].
    ///
    /// # Safety
    /// The CPU supports the kernel.
    unsafe fn encrypt_tweaks(keys: &RoundKeys, first: u64, step: u64, count: usize, tweaks: *mut Tweak);

    /// Ciphers a row of stripes.
    ///
    /// # Safety
    /// The CPU supports the kernel.
    unsafe fn cipher<const ENCRYPT: bool, const MEMORY: Memory>(keys: &RoundKeys, stripes: &Stripes);
}

/// Tweaks that stand in memory during a run. Who knows them has reduced XTS to ECB: wiped at the end.
#[repr(C, align(64))]
struct Scratch {
    tweaks: [Tweak; BATCH + TWEAK_GROUP],
    ring: Ring,
}

/// Ciphers a whole run.
///
/// # Safety
/// The CPU supports the kernel `K`.
#[inline(never)]
pub(super) unsafe fn cipher_run<K: StripeKernel>(schedule: &Schedule, direction: Direction, run: &Run<'_>) {
    // SAFETY: promised by the caller, and the constant is what `memory_of` found.
    unsafe {
        match memory_of(run) {
            NEAR => cipher_direction::<K, NEAR>(schedule, direction, run),
            FAR => cipher_direction::<K, FAR>(schedule, direction, run),
            FAR_COPY => cipher_direction::<K, FAR_COPY>(schedule, direction, run),
            _ => {
                cipher_direction::<K, STREAMED>(schedule, direction, run);
                // Non-temporal stores are not ordered with others: whoever is told that the run is done must find
                // its bytes.
                _mm_sfence();
            }
        }
    }
}

/// Whether the run is too long for the caches of one core.
pub(super) fn is_far(run: &Run<'_>) -> bool {
    run.length() >= FAR_LENGTH
}

fn memory_of(run: &Run<'_>) -> Memory {
    let length = run.length();
    if !is_far(run) {
        NEAR
    } else if run.source == run.destination.cast_const() {
        FAR
    } else if length < STREAMED_LENGTH || !run.destination.addr().is_multiple_of(64) {
        FAR_COPY
    } else {
        STREAMED
    }
}

#[inline(always)]
unsafe fn cipher_direction<K: StripeKernel, const MEMORY: Memory>(
    schedule: &Schedule,
    direction: Direction,
    run: &Run<'_>,
) {
    // SAFETY: promised by the caller.
    unsafe {
        match direction {
            Direction::Encrypt => cipher_batches::<K, true, MEMORY>(schedule, &schedule.encrypt, run),
            Direction::Decrypt => cipher_batches::<K, false, MEMORY>(schedule, &schedule.decrypt, run),
        }
    }
}

#[inline(always)]
unsafe fn cipher_batches<K: StripeKernel, const ENCRYPT: bool, const MEMORY: Memory>(
    schedule: &Schedule,
    keys: &RoundKeys,
    run: &Run<'_>,
) {
    let mut scratch = MaybeUninit::<Scratch>::uninit();
    let scratch = scratch.as_mut_ptr();
    // SAFETY: the fields exist; only addresses are taken.
    let (tweaks, ring) = unsafe { ((&raw mut (*scratch).tweaks).cast::<Tweak>(), &raw mut (*scratch).ring) };
    let per_sector = run.sector_size / STRIPE;
    let mut done = 0;
    let mut tweak = run.first_tweak;
    while done < run.sectors {
        let sectors = BATCH.min(run.sectors - done);
        let offset = done * run.sector_size;
        // SAFETY: `sectors` does not exceed BATCH, and the offset lies within both buffers of the run.
        unsafe {
            K::encrypt_tweaks(&schedule.tweak, tweak, run.tweak_step, sectors, tweaks);
            let (source, destination) = (run.source.add(offset), run.destination.add(offset));
            let count = sectors * per_sector;
            K::cipher::<ENCRYPT, MEMORY>(
                keys,
                &Stripes { source, destination, count, per_sector, tweaks, ring },
            );
        }
        tweak = tweak.wrapping_add(run.tweak_step.wrapping_mul(sectors as u64));
        done += sectors;
    }
    let used = BATCH.min(run.sectors).next_multiple_of(TWEAK_GROUP);
    // SAFETY: the scratch is ours and has `used` tweaks.
    unsafe {
        wipe_memory(tweaks.cast(), used * size_of::<Tweak>());
        wipe_memory(ring.cast(), size_of::<Ring>());
    }
}

/// A row of stripes that begins with a sector.
pub(super) struct Stripes {
    source: *const u8,
    destination: *mut u8,
    /// At least 1.
    count: usize,
    per_sector: usize,
    /// The encrypted tweaks of the sectors.
    tweaks: *const Tweak,
    ring: *mut Ring,
}

/// One stripe to cipher, while the tweaks of the next are made.
#[derive(Clone, Copy)]
pub(super) struct Stripe {
    pub(super) source: *const u8,
    pub(super) destination: *mut u8,
    /// Its 32 tweaks, aligned to 64 bytes.
    pub(super) tweaks: *const Tweak,
    /// Room for the 32 tweaks of the next stripe, to be written by the chain.
    pub(super) next_tweaks: *mut Tweak,
}

impl Stripe {
    /// The part that begins after `bytes` bytes.
    ///
    /// # Safety
    /// `bytes` is a multiple of 16 and less than [`STRIPE`].
    #[inline(always)]
    pub(super) unsafe fn after(self, bytes: usize) -> Stripe {
        // SAFETY: promised by the caller.
        unsafe {
            Stripe {
                source: self.source.add(bytes),
                destination: self.destination.add(bytes),
                tweaks: self.tweaks.add(bytes / 16),
                next_tweaks: self.next_tweaks.add(bytes / 16),
            }
        }
    }

    /// Prefetches 64 bytes, the `line`th of the stripe [`DATA_DISTANCE`] ahead, if memory is far.
    #[inline(always)]
    pub(super) fn prefetch<const MEMORY: Memory>(&self, line: usize) {
        if MEMORY == NEAR {
            return;
        }
        let ahead = line.wrapping_mul(64).wrapping_add(DATA_DISTANCE);
        // SAFETY: prefetching never faults, wherever the address lies.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(self.source.wrapping_add(ahead).cast());
            if MEMORY == FAR_COPY {
                _mm_prefetch::<_MM_HINT_ET0>(self.destination.wrapping_add(ahead).cast());
            }
        }
    }

    /// Has the addresses [`TRANSLATION_DISTANCE`] ahead translated, if memory is far. To be called once for each page.
    #[inline(always)]
    fn translate<const MEMORY: Memory>(&self) {
        if MEMORY == NEAR {
            return;
        }
        // SAFETY: prefetching never faults, wherever the address lies.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(self.source.wrapping_add(TRANSLATION_DISTANCE).cast());
            if MEMORY != FAR {
                // Only the translation is wanted: the line will be overwritten as a whole.
                _mm_prefetch::<_MM_HINT_NTA>(self.destination.wrapping_add(TRANSLATION_DISTANCE).cast());
            }
        }
    }
}

impl Stripes {
    /// Calls `cipher` for each stripe in turn, with the chain that makes the tweaks of the next one.
    ///
    /// # Safety
    /// `cipher` writes 32 tweaks of the chain to `next_tweaks` and nothing else into the ring.
    #[inline(always)]
    pub(super) unsafe fn for_each<const MEMORY: Memory>(&self, mut cipher: impl FnMut(Stripe, &mut Chain)) {
        // SAFETY: there is at least one sector, and the ring takes two stripes.
        let mut chain = unsafe {
            let mut chain = Chain::new(self.tweaks.read());
            chain.write_stripe(Ring::stripe(self.ring, 0));
            chain
        };
        let mut sector = 0;
        let mut in_sector = 0;
        let (mut source, mut destination) = (self.source, self.destination);
        for number in 0..self.count {
            in_sector += 1;
            if in_sector == self.per_sector {
                in_sector = 0;
                // After the last sector the chain makes one stripe in vain; it must not read past the table.
                sector += usize::from(number + 1 < self.count);
                // SAFETY: `sector` is one of the sectors.
                chain = unsafe { Chain::new(self.tweaks.add(sector).read()) };
            }
            // SAFETY: only addresses in the ring are taken.
            let (tweaks, next_tweaks) =
                unsafe { (Ring::stripe(self.ring, number), Ring::stripe(self.ring, number + 1)) };
            let stripe = Stripe { source, destination, tweaks, next_tweaks };
            if number.is_multiple_of(PAGE_STRIPES) {
                stripe.translate::<MEMORY>();
            }
            cipher(stripe, &mut chain);
            source = source.wrapping_add(STRIPE);
            destination = destination.wrapping_add(STRIPE);
        }
    }
}
