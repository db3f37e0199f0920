//! The statistical test of dudect (Reparaz, Balasch, Verbauwhede, 2017): whether the time of an operation depends on keys or
//! data, for kernels that valgrind does not know too.
//!
//! Two classes of input come in random order: one key with one content, and random keys with random contents. Welch's t
//! compares their mean times. Beyond [`THRESHOLD`] in three runs of a case the classes can be told apart.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vmseal_secret::SecretKey;

/// |t| that chance gives once in two million runs.
pub const THRESHOLD: f64 = 5.0;
const RUNS: usize = 3;

/// Prints the verdict on one case; true: the classes cannot be told apart.
pub fn verdict(what: &str, t: f64) -> bool {
    let is_sound = t < THRESHOLD;
    println!("{what:40} |t| = {t:6.2}  {}", if is_sound { "ok" } else { "TELLS KEYS OR DATA APART" });
    is_sound
}

/// True: a comparison that stops at the first difference is found, so the test sees what it looks for.
pub fn finds_a_planted_leak(samples: usize, random: &mut Random) -> bool {
    let t = least_t(512, samples, random, |_, data| {
        let begin = Instant::now();
        black_box(black_box(data).iter().all(|byte| *byte == 0));
        begin.elapsed()
    });
    let is_found = t >= THRESHOLD;
    println!("a comparison that stops early: |t| = {t:.0}  {}", if is_found { "found" } else { "NOT FOUND" });
    is_found
}

pub fn secret_key(bytes: &[u8]) -> SecretKey {
    let key = SecretKey::try_init::<vmseal_secret::Error>(bytes.len(), |slot| {
        slot.copy_from_slice(bytes);
        Ok(())
    });
    key.expect("key memory")
}

/// The least |t| of three runs: chance does not come three times.
///
/// Every sample makes its key and its data anew in the same places: addresses of their own would be told apart.
pub fn least_t(
    length: usize,
    samples: usize,
    random: &mut Random,
    measure: impl Fn(&[u8; 64], &mut [u8]) -> Duration,
) -> f64 {
    let mut least = f64::INFINITY;
    let mut data = vec![0; length];
    let mut key_bytes = [0; 64];
    for _ in 0..RUNS {
        let mut times: [Vec<f64>; 2] = [Vec::with_capacity(samples), Vec::with_capacity(samples)];
        for _ in 0..samples {
            let class = random.next() >> 63;
            // All ones or all zeros, and the compiler does not know it: both classes take the same steps here, too.
            let mask = black_box(class.wrapping_neg());
            for eight in key_bytes.as_chunks_mut::<8>().0.iter_mut().chain(data.as_chunks_mut::<8>().0) {
                *eight = (random.next() & mask).to_le_bytes();
            }
            // The halves of a key must differ.
            key_bytes[0] |= 1;
            key_bytes[32] &= !1;
            let time = measure(&key_bytes, &mut data);
            times[class as usize].push(time.as_nanos() as f64);
        }
        least = least.min(welch_t(times).abs());
        if least < THRESHOLD {
            break;
        }
    }
    least
}

/// Welch's t of the faster nine tenths of all: interrupts and other programs make the rest.
fn welch_t(times: [Vec<f64>; 2]) -> f64 {
    let mut all = times.concat();
    all.sort_by(f64::total_cmp);
    let limit = all[all.len() * 9 / 10];
    let [(mean_0, spread_0), (mean_1, spread_1)] = times.map(|class| {
        let kept: Vec<f64> = class.into_iter().filter(|time| *time <= limit).collect();
        let count = kept.len() as f64;
        let mean = kept.iter().sum::<f64>() / count;
        let variance = kept.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    });
    (mean_0 - mean_1) / (spread_0 + spread_1).sqrt()
}

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// Another row of numbers in every process.
    pub fn of_this_process() -> Self {
        Self(0x2545_f491_4f6c_dd1d ^ u64::from(std::process::id()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
