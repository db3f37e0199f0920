//! What this CPU and its memory can do without a cipher around it. The loops are those of the kernels' own example.

use crate::report::{MemoryRate, Request, UnitLimit};
use crate::spread::Spread;

#[cfg(target_arch = "x86_64")]
#[path = "../../../crates/xts/examples/limits/clock.rs"]
mod clock_rate;
#[cfg(target_arch = "x86_64")]
#[path = "../../../crates/xts/examples/limits/memory.rs"]
mod traffic;
#[cfg(target_arch = "x86_64")]
#[path = "../../../crates/xts/examples/limits/units.rs"]
mod unit_rate;

#[cfg(target_arch = "x86_64")]
mod measured {
    use vmseal_xts::Kernel;

    use super::traffic::Traffic;
    use super::unit_rate::{self, Width};
    use super::{MemoryRate, Request, Spread, UnitLimit, clock_rate, traffic};
    use crate::sectors::Buffers;
    use crate::threads::{self, sum_over};

    /// The AES-unit limit of every register width, on one CPU and on all.
    pub fn units(rounds: usize) -> Vec<UnitLimit> {
        let cpus = threads::cpus();
        let mut limits = Vec::new();
        for width in Width::available() {
            for threads in crate::sectors::thread_counts(cpus) {
                let rates = (0..rounds.max(5)).map(|_| rate_on(cpus, threads, width) / 1e9);
                if let Some(gbps) = Spread::of(rates) {
                    limits.push(UnitLimit { width: width.to_string(), threads, gbps });
                }
            }
        }
        limits
    }

    /// Core clock in GHz.
    pub fn clock(rounds: usize) -> Option<Spread> {
        Spread::of((0..rounds.max(5)).map(|_| clock_rate::cycles_per_second() / 1e9))
    }

    /// Payload per second of traffic through every size of the request.
    pub fn memory(request: &Request) -> Vec<MemoryRate> {
        let cpus = threads::cpus();
        let mut rates = Vec::new();
        for &bytes in &request.call_bytes {
            let mut buffers = Buffers::new(bytes, cpus);
            for traffic in Traffic::ALL {
                for threads in crate::sectors::thread_counts(cpus) {
                    let turns = (1 << 24_usize) / bytes;
                    let run = || {
                        sum_over(buffers.places(bytes, threads), cpus, |(source, destination)| {
                            let rates: Vec<f64> = (0..=turns)
                                .map(|_| traffic::bytes_per_second(traffic, source, destination))
                                .collect();
                            let inverse: f64 = rates.iter().map(|rate| 1.0 / rate).sum();
                            rates.len() as f64 / inverse
                        }) / 1e9
                    };
                    let samples: Vec<f64> = std::iter::repeat_with(run).take(request.rounds.min(5)).collect();
                    if let Some(gbps) = Spread::of(samples) {
                        rates.push(MemoryRate { traffic: traffic.name(), bytes, threads, gbps });
                    }
                }
            }
        }
        rates
    }

    /// The limit that a kernel is measured against, in bytes per second now: that of its register width; for one
    /// without a width and for peers the best of the CPU.
    pub fn unit_rate(kernel: Option<Kernel>, cpus: &[usize], threads: usize) -> Option<f64> {
        let width = kernel.and_then(Width::of).or_else(|| Width::available().next())?;
        Some(rate_on(cpus, threads, width))
    }

    /// Bytes per second of traffic without a cipher through these places now, in place or as the better of two copies.
    pub fn traffic_rate(
        in_place: bool,
        mut places: Vec<(&mut [u8], &mut [u8])>,
        cpus: &[usize],
    ) -> Option<f64> {
        let kinds = if in_place { &[Traffic::InPlace][..] } else { &[Traffic::Copy, Traffic::StreamedCopy] };
        let rates = kinds.iter().map(|&kind| {
            let again = places.iter_mut().map(|(source, destination)| (&mut **source, &mut **destination));
            sum_over(again.collect(), cpus, |(source, destination)| {
                traffic::bytes_per_second(kind, source, destination)
            })
        });
        rates.reduce(f64::max)
    }

    fn rate_on(cpus: &[usize], threads: usize, width: Width) -> f64 {
        sum_over(vec![(); threads], cpus, |()| unit_rate::bytes_per_second(width))
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod measured {
    use super::{MemoryRate, Request, Spread, UnitLimit};

    pub fn units(_rounds: usize) -> Vec<UnitLimit> {
        Vec::new()
    }

    pub fn clock(_rounds: usize) -> Option<Spread> {
        None
    }

    pub fn memory(_request: &Request) -> Vec<MemoryRate> {
        Vec::new()
    }

    pub fn unit_rate(_: Option<vmseal_xts::Kernel>, _cpus: &[usize], _threads: usize) -> Option<f64> {
        None
    }

    pub fn traffic_rate(_: bool, _: Vec<(&mut [u8], &mut [u8])>, _cpus: &[usize]) -> Option<f64> {
        None
    }
}

pub use measured::{clock, memory, traffic_rate, unit_rate, units};

/// The part of the AES rate that XTS can have: a sector takes one more block, its tweak.
pub fn xts_part(sector_size: usize) -> f64 {
    let blocks = (sector_size / 16) as f64;
    blocks / (blocks + 1.0)
}
