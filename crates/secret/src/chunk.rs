//! Which units of one chunk are taken.

use std::ptr::NonNull;

use crate::arena::UNIT;
use crate::pages::Region;

/// One region and the bitmap of its units: a set bit is a taken unit.
pub(crate) struct Chunk {
    region: Region,
    taken: Vec<u64>,
    free: usize,
}

// SAFETY: the chunk hands out addresses and never reads or writes through them.
unsafe impl Send for Chunk {}

impl Chunk {
    /// A chunk with every unit of `region` free.
    pub(crate) fn new(region: Region) -> Chunk {
        let units = region.len / UNIT;
        debug_assert!(units.is_multiple_of(64), "pages are whole words of the bitmap");
        Chunk { region, taken: vec![0; units / 64], free: units }
    }

    pub(crate) fn region(&self) -> Region {
        self.region
    }

    /// Takes the first run of `units` free units; `None` when there is none.
    pub(crate) fn take(&mut self, units: usize) -> Option<NonNull<u8>> {
        if units == 0 || units > self.free {
            return None;
        }
        let end = self.taken.len() * 64;
        let mut first = self.next(0, false);
        while first + units <= end {
            let stop = self.next(first, true);
            if stop - first >= units {
                self.mark(first, units, true);
                self.free -= units;
                let byte = self.region.start.as_ptr().wrapping_add(first * UNIT);
                return NonNull::new(byte);
            }
            first = self.next(stop, false);
        }
        None
    }

    /// Makes a run that [`take`](Chunk::take) gave free again.
    pub(crate) fn release(&mut self, start: NonNull<u8>, units: usize) {
        let first = (start.addr().get() - self.region.start.addr().get()) / UNIT;
        self.mark(first, units, false);
        self.free += units;
    }

    // The first unit from `unit` on whose state is `taken`, or the number of units.
    fn next(&self, unit: usize, taken: bool) -> usize {
        let flip = if taken { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (unit % 64);
        for (index, word) in self.taken.iter().enumerate().skip(unit / 64) {
            let hits = (word ^ flip) & mask;
            if hits != 0 {
                return index * 64 + hits.trailing_zeros() as usize;
            }
            mask = u64::MAX;
        }
        self.taken.len() * 64
    }

    fn mark(&mut self, first: usize, units: usize, taken: bool) {
        let end = first + units;
        let mut unit = first;
        while unit < end {
            let in_word = (64 - unit % 64).min(end - unit);
            let bits = (u64::MAX >> (64 - in_word)) << (unit % 64);
            let word = &mut self.taken[unit / 64];
            debug_assert_eq!(*word & bits, if taken { 0 } else { bits }, "units from {unit} on change state");
            *word ^= bits;
            unit += in_word;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The bitmap never looks at the memory, so an address alone will do.
    fn chunk(units: usize) -> Chunk {
        let start = NonNull::new(std::ptr::without_provenance_mut(0x10000)).expect("not zero");
        Chunk::new(Region { start, len: units * UNIT })
    }

    fn unit(start: NonNull<u8>) -> usize {
        (start.addr().get() - 0x10000) / UNIT
    }

    #[test]
    fn takes_every_unit_and_no_more() {
        let mut chunk = chunk(128);
        assert!((0..128).all(|n| chunk.take(1).map(unit) == Some(n)));
        assert_eq!(chunk.take(1), None);
        assert_eq!(chunk.take(0), None);
        assert_eq!(chunk.take(usize::MAX), None);
    }

    #[test]
    fn finds_runs_across_words_and_not_across_taken_units() {
        let mut chunk = chunk(128);
        let first = chunk.take(60).expect("room");
        let second = chunk.take(8).expect("room");
        assert_eq!(unit(second), 60);
        chunk.release(first, 60);
        assert_eq!(chunk.take(61).map(unit), None);
        assert_eq!(chunk.take(60).map(unit), Some(0));
        chunk.release(second, 8);
        assert_eq!(chunk.take(68).map(unit), Some(60));
        assert_eq!(chunk.free, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn takes_the_first_run_a_plain_search_finds(steps in prop::collection::vec((1usize..80, any::<bool>()), 1..200)) {
            let mut chunk = chunk(192);
            let mut model = [false; 192];
            let mut live: Vec<(NonNull<u8>, usize)> = Vec::new();
            for (units, make) in steps {
                if make {
                    let expected = (0..=192 - units).find(|from| model[*from..from + units].iter().all(|taken| !taken));
                    let start = chunk.take(units);
                    prop_assert_eq!(start.map(unit), expected);
                    if let Some(start) = start {
                        model[unit(start)..unit(start) + units].fill(true);
                        live.push((start, units));
                    }
                } else if !live.is_empty() {
                    let (start, units) = live.swap_remove(units % live.len());
                    chunk.release(start, units);
                    model[unit(start)..unit(start) + units].fill(false);
                }
                prop_assert_eq!(chunk.free, model.iter().filter(|taken| !**taken).count());
            }
        }
    }
}
