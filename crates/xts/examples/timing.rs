//! Whether the time of ciphering depends on keys or data, for every kernel of this CPU: see `dudect`.
//!
//! `cargo run --release -p vmseal-xts --example timing [SAMPLES]` (default 400,000 a case; about a minute in all). It also fails
//! when it does not find a planted leak.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use vmseal_xts::{Kernel, Xts};

#[path = "../../secret/tests/dudect/mod.rs"]
mod dudect;

use dudect::{Random, finds_a_planted_leak, least_t, secret_key, verdict};

fn main() -> ExitCode {
    let samples = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(400_000);
    let mut random = Random::of_this_process();
    let mut is_sound = true;
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_supported()) {
        for (length, name) in [(512, "one sector"), (16 * 1024, "32 sectors")] {
            for (operation, apply) in
                [("encrypt", Xts::encrypt as fn(&_, &mut _, _) -> _), ("decrypt", Xts::decrypt)]
            {
                let t = least_t(length, samples, &mut random, |key, data| {
                    let xts = Xts::with_kernel(&secret_key(key), 512, 1, kernel).expect("cipher");
                    let begin = Instant::now();
                    apply(&xts, black_box(data), 77).expect("sectors");
                    begin.elapsed()
                });
                is_sound &= verdict(&format!("xts {} {operation} {name}", kernel.name()), t);
            }
        }
    }
    if finds_a_planted_leak(samples, &mut random) && is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
