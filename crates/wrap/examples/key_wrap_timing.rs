//! Whether the time of key wrap depends on KEKs or keys, for every kernel of this CPU: see `dudect`.
//!
//! `cargo run --release -p vmseal-wrap --example key_wrap_timing [SAMPLES]` (default 400,000 a case; about a minute in all). It also fails
//! when it does not find a planted leak.

use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

use vmseal_wrap::key_wrap::{self, KERNEL_VARIABLE, Kernel};

#[path = "../../secret/tests/dudect/mod.rs"]
mod dudect;

use dudect::{Random, finds_a_planted_leak, least_t, secret_key, verdict};

const KEY: usize = 64;
const PROCESSES: usize = 3;

/// A process takes one kernel for its life, so each has one of its own. What tells the classes apart in one process may be where its
/// memory lies: only what three processes see is a leak.
fn main() -> ExitCode {
    let samples = env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(400_000);
    if env::var_os(KERNEL_VARIABLE).is_some() {
        return if measure_kernel(samples) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut is_sound = finds_a_planted_leak(samples, &mut Random::of_this_process());
    for kernel in Kernel::ALL.into_iter().filter(|kernel| kernel.is_supported()) {
        let mut child = Command::new(env::current_exe().expect("this program"));
        child.arg(samples.to_string()).env(KERNEL_VARIABLE, kernel.name());
        is_sound &= (0..PROCESSES).any(|_| child.status().expect("this program").success());
    }
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure_kernel(samples: usize) -> bool {
    let name = Kernel::select().expect("the kernel that was asked for").name();
    let mut random = Random::of_this_process();
    let mut is_sound = true;
    for count in [1, 32] {
        let t = least_t(count * KEY, samples / count, &mut random, |kek, data| {
            let kek = secret_key(&kek[..32]);
            let keys: Vec<_> = data.chunks_exact(KEY).map(secret_key).collect();
            let borrowed: Vec<_> = keys.iter().collect();
            let begin = Instant::now();
            black_box(key_wrap::wrap_many(&kek, black_box(&borrowed)).expect("wrapped"));
            begin.elapsed()
        });
        is_sound &= verdict(&format!("key wrap {name}, {count} a call"), t);
        let t = least_t(count * KEY, samples / count, &mut random, |kek, data| {
            let kek = secret_key(&kek[..32]);
            let keys: Vec<_> = data.chunks_exact(KEY).map(secret_key).collect();
            let wrapped = key_wrap::wrap_many(&kek, &keys.iter().collect::<Vec<_>>()).expect("wrapped");
            let borrowed: Vec<&[u8]> = wrapped.iter().map(AsRef::as_ref).collect();
            let begin = Instant::now();
            black_box(key_wrap::unwrap_many(&kek, black_box(&borrowed)).expect("unwrapped"));
            begin.elapsed()
        });
        is_sound &= verdict(&format!("key unwrap {name}, {count} a call"), t);
    }
    is_sound
}
