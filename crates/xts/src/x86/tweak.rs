use std::arch::asm;

/// Tweaks of one 512-byte stripe: one for each of its 32 blocks.
pub(super) const STRIPE_TWEAKS: usize = 32;

/// An encrypted tweak: the low and the high half of a little-endian 128-bit number.
pub(super) type Tweak = [u64; 2];

/// Tweaks of two stripes: one is read while the other is written. A whole stripe of distance matters, because two
/// 8-byte stores cannot be forwarded to one wider load: they have to have left the store queue by then.
#[repr(C, align(64))]
pub(super) struct Ring {
    stripes: [[Tweak; STRIPE_TWEAKS]; 2],
}

impl Ring {
    /// The tweaks of a stripe, by its running number. `ring` need not be initialised.
    ///
    /// # Safety
    /// `ring` points to a `Ring`.
    #[inline(always)]
    pub(super) unsafe fn stripe(ring: *mut Ring, number: usize) -> *mut Tweak {
        // SAFETY: the index is 0 or 1.
        unsafe { (&raw mut (*ring).stripes).cast::<[Tweak; STRIPE_TWEAKS]>().add(number & 1).cast() }
    }
}

/// The tweaks of one sector in order (IEEE 1619 section 5.2), made on the integer units: they idle while the vector
/// units run AES, and a carry-less multiplication or a byte shift in the vector units would cost AES slots.
pub(super) struct Chain {
    low: u64,
    high: u64,
}

impl Chain {
    /// The chain that begins with an encrypted tweak.
    #[inline(always)]
    pub(super) fn new([low, high]: Tweak) -> Chain {
        Chain { low, high }
    }

    /// Writes all tweaks of a stripe and goes on to the next: for the first stripe of a row, which nothing hides.
    /// Four pieces that do not wait for one another take half the time of one chain.
    ///
    /// # Safety
    /// `stripe` has room for [`STRIPE_TWEAKS`] tweaks.
    #[inline(always)]
    pub(super) unsafe fn write_stripe(&mut self, stripe: *mut Tweak) {
        const PIECE: usize = STRIPE_TWEAKS / 4;
        // SAFETY: four pieces are the stripe.
        unsafe {
            self.times_power(0).write(stripe, 0, PIECE);
            self.times_power(8).write(stripe.add(PIECE), 0, PIECE);
            self.times_power(16).write(stripe.add(2 * PIECE), 0, PIECE);
            self.times_power(24).write(stripe.add(3 * PIECE), 0, PIECE);
        }
        *self = self.times_power(32);
    }

    /// Writes the tweaks number `from..to` of a stripe. Calls have to follow one another without gaps.
    ///
    /// # Safety
    /// `stripe` has room for `to` tweaks.
    #[inline(always)]
    pub(super) unsafe fn write(&mut self, stripe: *mut Tweak, from: usize, to: usize) {
        let mut index = from;
        while index < to {
            // SAFETY: `index` is less than `to`.
            unsafe { stripe.wrapping_add(index).write([self.low, self.high]) };
            self.double();
            index = index.wrapping_add(1);
        }
    }

    /// Multiplied by the power 0 to 56 of the primitive element of GF(2^128).
    #[inline(always)]
    fn times_power(&self, power: u32) -> Chain {
        let product = ((u128::from(self.high) << 64) | u128::from(self.low)) << power;
        let carry = (u128::from(self.high) << power >> 64) as u64;
        // The carry times x^7 + x^2 + x + 1 is at most 63 bits long.
        let low = product as u64 ^ carry ^ (carry << 1) ^ (carry << 2) ^ (carry << 7);
        Chain { low, high: (product >> 64) as u64 }
    }

    /// Multiplies by the primitive element of GF(2^128) in constant time. In assembly, because LLVM turns any way to
    /// write it into double-precision shifts, which are slow on AMD.
    #[inline(always)]
    fn double(&mut self) {
        // SAFETY: arithmetic on three registers.
        unsafe {
            asm!(
                "sar {carry}, 63",
                "and {carry:e}, 0x87",
                "add {low}, {low}",
                "adc {high}, {high}",
                "xor {low}, {carry}",
                carry = inout(reg) self.high => _,
                low = inout(reg) self.low,
                high = inout(reg) self.high,
                options(pure, nomem, nostack)
            );
        }
    }
}
