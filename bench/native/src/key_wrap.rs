//! AES key wrap (RFC 3394) of 64-byte keys under a 32-byte KEK, one by one and in batches.

use std::time::{Duration, Instant};

use vmseal_secret::SecretKey;

use crate::Outcome;
use crate::key_wrap_implementations::{KeyWrapper, implementations};
use crate::peers::openssl::Libcrypto;
use crate::progress::{progress, progress_end};
use crate::report::{KeyWrapResult, Request};
use crate::spread::Spread;

/// Keys per call.
const BATCHES: [usize; 3] = [1, 32, 1024];

/// Measures wrap and unwrap of every implementation in interleaved rounds.
pub fn measure(request: &Request, libcryptos: Vec<&'static Libcrypto>) -> Outcome<Vec<KeyWrapResult>> {
    let span = Duration::from_millis(request.span_ms);
    let mut results = Vec::new();
    for batch in BATCHES {
        let kek = SecretKey::generate(32)?;
        let keys = (0..batch).map(|_| SecretKey::generate(64)).collect::<Result<Vec<_>, _>>()?;
        let mut wrappers = implementations(&kek, &keys, &libcryptos)?;
        agree(&mut wrappers)?;
        for operation in ["wrap", "unwrap"] {
            let mut samples: Vec<Vec<f64>> = wrappers.iter().map(|_| Vec::new()).collect();
            for round in 0..request.rounds {
                progress(&format!("key wrap: {operation}, {batch} a call, round {round}"));
                for turn in 0..wrappers.len() {
                    let index = (turn + round) % wrappers.len();
                    let wrapper = &mut wrappers[index];
                    let call = || if operation == "wrap" { wrapper.wrap() } else { wrapper.unwrap() };
                    samples[index].push(nanoseconds_per_call(call, span) / batch as f64);
                }
            }
            for (wrapper, own) in wrappers.iter().zip(&samples) {
                let ratios = samples[0].iter().zip(own).map(|(ours, theirs)| theirs / ours);
                results.push(KeyWrapResult {
                    implementation: wrapper.name(),
                    operation,
                    batch,
                    ns_per_key: Spread::of(own.iter().copied()).ok_or("no rounds")?,
                    ours: Spread::of(ratios).filter(|_| wrapper.is_peer()),
                });
            }
        }
    }
    progress_end();
    Ok(results)
}

/// Everybody's wraps are ours, byte for byte.
fn agree(wrappers: &mut [Box<dyn KeyWrapper + '_>]) -> Outcome<()> {
    for wrapper in wrappers.iter_mut() {
        wrapper.wrap();
        wrapper.unwrap();
    }
    let ours = wrappers.first().map(|wrapper| wrapper.wrapped()).ok_or("nothing to measure")?;
    match wrappers.iter().find(|wrapper| wrapper.wrapped() != ours) {
        Some(wrapper) => Err(format!("{} wraps differently", wrapper.name()).into()),
        None => Ok(()),
    }
}

fn nanoseconds_per_call(mut call: impl FnMut(), span: Duration) -> f64 {
    call();
    let (mut calls, mut batch) = (0_u32, 1);
    let start = Instant::now();
    loop {
        (0..batch).for_each(|_| call());
        calls += batch;
        let elapsed = start.elapsed();
        if elapsed >= span {
            return elapsed.as_secs_f64() * 1e9 / f64::from(calls);
        }
        batch = if elapsed < span / 16 { calls } else { calls.div_ceil(8) };
    }
}
