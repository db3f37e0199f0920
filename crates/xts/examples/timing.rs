//! Whether the time of ciphering depends on keys or data: the statistical test of dudect (Reparaz, Balasch, Verbauwhede,
//! 2017) for every kernel of this CPU, those that valgrind does not know included.
//!
//! `cargo run --release -p vmseal-xts --example timing [SAMPLES]` (default 400,000 a case; about a minute in all).
//!
//! Two classes of input come in random order: one key with one content, and random keys with random contents. Welch's t
//! compares their mean times. Beyond 5 in three runs of a case the classes can be told apart, and the program fails;
//! it also fails when it does not find a comparison that stops at the first difference.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use vmseal_secret::SecretKey;
use vmseal_xts::{Kernel, Xts};

/// |t| that chance gives once in two million runs.
const THRESHOLD: f64 = 5.0;
const RUNS: usize = 3;

fn main() -> ExitCode {
    let samples = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(400_000);
    let mut random = Random(0x2545_f491_4f6c_dd1d ^ u64::from(std::process::id()));
    let mut is_sound = true;
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_supported()) {
        for (length, name) in [(512, "one sector"), (16 * 1024, "32 sectors")] {
            for (operation, apply) in
                [("encrypt", Xts::encrypt as fn(&_, &mut _, _) -> _), ("decrypt", Xts::decrypt)]
            {
                let t = least_t(length, samples, &mut random, |key, data| {
                    let xts = Xts::with_kernel(key, 512, 1, kernel).expect("cipher");
                    let begin = Instant::now();
                    apply(&xts, black_box(data), 77).expect("sectors");
                    begin.elapsed()
                });
                let verdict = if t < THRESHOLD { "ok" } else { "TELLS KEYS OR DATA APART" };
                println!("{:10} {operation} {name:12} |t| = {t:6.2}  {verdict}", kernel.name());
                is_sound &= t < THRESHOLD;
            }
        }
    }
    let t = least_t(512, samples, &mut random, |_, data| {
        let begin = Instant::now();
        black_box(black_box(data).iter().all(|byte| *byte == 0));
        begin.elapsed()
    });
    println!(
        "a comparison that stops early: |t| = {t:.0}  {}",
        if t < THRESHOLD { "NOT FOUND" } else { "found" }
    );
    if is_sound && t >= THRESHOLD { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The least |t| of three runs: chance does not come three times.
///
/// Every sample makes its key and its data anew in the same places: addresses of their own would be told apart.
fn least_t(
    length: usize,
    samples: usize,
    random: &mut Random,
    measure: impl Fn(&SecretKey, &mut [u8]) -> Duration,
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
            let key = SecretKey::try_init::<vmseal_secret::Error>(64, |slot| {
                slot.copy_from_slice(&key_bytes);
                Ok(())
            });
            let time = measure(&key.expect("key memory"), &mut data);
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
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
