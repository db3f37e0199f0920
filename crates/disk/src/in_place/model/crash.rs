//! Every disk a power cut may leave.

use super::{Fate, Image, Moment, apply, put};

/// How finely and how far crashes are enumerated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choices {
    /// Parts a single write may tear into.
    pub(crate) pieces: usize,
    /// Up to this many optional parts all subsets are taken.
    pub(crate) all_below: usize,
    /// Random subsets where there are more.
    pub(crate) samples: usize,
}

/// Random numbers from a seed (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// At least `bits` random bits.
    fn words(&mut self, bits: usize) -> Vec<u64> {
        (0..bits.div_ceil(64)).map(|_| self.next()).collect()
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Parts a write tears into.
fn pieces(most: usize, len: usize) -> usize {
    most.min(len).max(1)
}

/// One bit for each change of a name and each piece of a write that is not durable, in this order.
fn bits(moment: &Moment, most: usize) -> usize {
    let writes = moment.files.iter().flat_map(|file| &file.writes);
    let optional = writes.filter(|write| write.fate != Fate::Durable);
    let changes = moment.changes.iter().filter(|(_, fate)| *fate != Fate::Durable).count();
    changes + optional.map(|write| pieces(most, write.bytes.len())).sum::<usize>()
}

/// Makes `image` what a power cut at `moment` leaves when the parts that `reached` names were written. Its memory is used
/// again.
fn build(moment: &Moment, most: usize, image: &mut Image, reached: impl Fn(usize) -> bool) {
    let mut bit = 0;
    let mut chosen = |fate: Fate| {
        fate == Fate::Durable || {
            bit += 1;
            reached(bit - 1)
        }
    };
    let mut names = moment.names;
    for &(change, fate) in &moment.changes {
        if chosen(fate) {
            apply(&mut names, change);
        }
    }
    for (index, file) in moment.files.iter().enumerate() {
        let name = names.iter().position(|name| *name == Some(index));
        let mut bytes = name.map(|name| {
            let mut bytes = image.files[name].take().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(&file.base);
            bytes
        });
        for write in &file.writes {
            let count = if write.fate == Fate::Durable { 1 } else { pieces(most, write.bytes.len()) };
            let len = write.bytes.len().div_ceil(count);
            for piece in 0..count {
                let (start, end) = (piece * len, ((piece + 1) * len).min(write.bytes.len()));
                if chosen(write.fate)
                    && start < end
                    && let Some(bytes) = &mut bytes
                {
                    put(bytes, write.offset + start, &write.bytes[start..end]);
                }
            }
        }
        if let Some(name) = name {
            image.files[name] = bytes;
        }
    }
    for (file, name) in image.files.iter_mut().zip(names) {
        if name.is_none() {
            *file = None;
        }
    }
}

/// Calls `visit` with every image a power cut at `moment` may leave, once for each subset of what was not durable.
pub(crate) fn images(moment: &Moment, choices: Choices, random: &mut Random, mut visit: impl FnMut(&Image)) {
    let bits = bits(moment, choices.pieces);
    let mut image = Image::default();
    let mut build = |reached: &dyn Fn(usize) -> bool| {
        build(moment, choices.pieces, &mut image, reached);
        visit(&image);
    };
    if bits <= choices.all_below {
        for mask in 0..1u64 << bits {
            build(&|bit| mask >> bit & 1 == 1);
        }
        return;
    }
    build(&|_| false);
    build(&|_| true);
    for one in 0..bits {
        build(&|bit| bit == one);
        build(&|bit| bit != one);
        build(&|bit| bit < one);
    }
    for _ in 0..choices.samples {
        let words = random.words(bits);
        build(&|bit| words[bit / 64] >> (bit % 64) & 1 == 1);
    }
}

/// One of the images that a power cut at `moment` may leave: any subset, or a write order cut somewhere, where real disks
/// are found most.
pub(crate) fn any_image(moment: &Moment, most: usize, random: &mut Random) -> Image {
    let bits = bits(moment, most);
    let mut image = Image::default();
    if random.below(2) == 0 {
        let end = random.below(bits + 1);
        build(moment, most, &mut image, |bit| bit < end);
    } else {
        let words = random.words(bits);
        build(moment, most, &mut image, |bit| words[bit / 64] >> (bit % 64) & 1 == 1);
    }
    image
}

/// Names an image. Two different ones get the same name with a chance of about 2^-90 for all that a run makes.
pub(crate) fn fingerprint(image: &Image) -> u128 {
    let mix = |hash: u64, word: u64, factor: u64| (hash.rotate_left(23) ^ word).wrapping_mul(factor);
    let (mut one, mut two) = (0x243f_6a88_85a3_08d3_u64, 0x1319_8a2e_0370_7344_u64);
    let mut take = |word: u64| {
        one = mix(one, word, 0x9e37_79b9_7f4a_7c15);
        two = mix(two, word, 0xd6e8_feb8_6659_fd93);
    };
    for file in &image.files {
        let Some(bytes) = file else {
            take(u64::MAX);
            continue;
        };
        take(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            take(u64::from_le_bytes(word));
        }
    }
    let finish = |hash: u64| (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    u128::from(finish(one)) << 64 | u128::from(finish(two))
}
