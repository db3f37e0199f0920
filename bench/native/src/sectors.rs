//! AES-256-XTS over runs of sectors: every kernel and every peer, on the same buffers, in interleaved rounds.

use std::hint::black_box;
use std::time::{Duration, Instant};

use vmseal_secret::SecretKey;
use vmseal_xts::{Kernel, SECTOR_SIZES};

use crate::Outcome;
use crate::limits::{traffic_rate, unit_rate, xts_part};
use crate::progress::{progress, progress_end};
use crate::report::{Request, SectorResult};
use crate::sector_cipher::{Maker, Operation, SectorCipher};
use crate::spread::Spread;
use crate::threads::{bind, cpus, sum_over};

const FIRST_SECTOR: u64 = 1 << 33;

/// Same buffers, same call size: one entry per implementation.
struct Case {
    sector_size: usize,
    call_bytes: usize,
    threads: usize,
    operation: Operation,
    samples: Vec<Vec<Sample>>,
}

struct Sample {
    rate: f64,
    limit: Option<f64>,
    memory: Option<f64>,
}

/// Measures all of it.
pub fn measure(request: &Request, makers: &[Maker]) -> Outcome<Vec<SectorResult>> {
    let cpus = cpus();
    // A bound main thread measures steadier, and the last CPU is the least used by others.
    bind(*cpus.last().ok_or("no CPU to run on")?);
    let key = SecretKey::generate(64)?;
    let mut ciphers = Vec::new();
    for sector_size in SECTOR_SIZES.map(|size| size as usize) {
        let mut row = Vec::new();
        for maker in makers {
            let copies = (0..cpus.len()).map(|_| (maker.make)(&key, sector_size));
            row.push(copies.collect::<Outcome<Vec<_>>>()?);
        }
        ciphers.push((sector_size, row));
    }
    let mut cases = cases(request, cpus, makers.len());
    let mut buffers = Buffers::new(request.call_bytes.iter().copied().max().unwrap_or(4096), cpus);
    for round in 0..request.rounds {
        progress(&format!("sectors: round {} of {}", round + 1, request.rounds));
        for case in &mut cases {
            if round % rounds_between(case.call_bytes) != 0 {
                continue;
            }
            let (_, row) = ciphers
                .iter_mut()
                .find(|(size, _)| *size == case.sector_size)
                .ok_or("a case of an unknown sector size")?;
            for turn in 0..makers.len() {
                // Nobody always comes first.
                let index = (turn + round) % makers.len();
                // Disturbance only ever lowers a limit, so the higher of two stands.
                let limit = || unit_rate(makers[index].kernel, cpus, case.threads);
                let before = limit();
                let span = Duration::from_millis(request.span_ms);
                let rate = rate_of(case, &mut row[index], &mut buffers, cpus, span);
                let limit = before.zip(limit()).map(|(before, after)| before.max(after));
                let memory = (case.call_bytes > SHARED_OUT && makers[index].kernel == Some(Kernel::detect()))
                    .then(|| {
                        traffic_rate(
                            case.operation.in_place(),
                            buffers.places(case.call_bytes, case.threads),
                            cpus,
                        )
                    })
                    .flatten();
                case.samples[index].push(Sample { rate, limit, memory });
            }
        }
    }
    progress_end();
    Ok(cases.iter().flat_map(|case| results(case, makers)).collect())
}

/// Long calls take part in fewer rounds.
fn rounds_between(call_bytes: usize) -> usize {
    match call_bytes >> 20 {
        0..2 => 1,
        2..65 => 3,
        _ => 5,
    }
}

/// One thread and, where there are more CPUs, one on each.
pub fn thread_counts(cpus: &[usize]) -> impl Iterator<Item = usize> + use<> {
    let all = (cpus.len() > 1).then_some(cpus.len());
    std::iter::once(1).chain(all)
}

fn cases(request: &Request, cpus: &[usize], implementations: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for sector_size in SECTOR_SIZES.map(|size| size as usize) {
        let larger = request.call_bytes.iter().copied().filter(|&bytes| bytes > sector_size);
        for call_bytes in std::iter::once(sector_size).chain(larger) {
            for threads in thread_counts(cpus) {
                cases.extend(Operation::ALL.into_iter().map(|operation| Case {
                    sector_size,
                    call_bytes,
                    threads,
                    operation,
                    samples: (0..implementations).map(|_| Vec::new()).collect(),
                }));
            }
        }
    }
    cases
}

/// Bytes per second over all threads of the case.
fn rate_of(
    case: &Case,
    ciphers: &mut [Box<dyn SectorCipher>],
    buffers: &mut Buffers,
    cpus: &[usize],
    span: Duration,
) -> f64 {
    let places = buffers.places(case.call_bytes, case.threads).into_iter().zip(ciphers).collect();
    sum_over(places, cpus, |((source, destination), cipher)| {
        let bytes = source.len();
        let mut call = || {
            cipher.run(case.operation, black_box(&mut *source), black_box(&mut *destination), FIRST_SECTOR)
        };
        // Large buffers do not stay in a cache anyway.
        if bytes <= SHARED_OUT {
            call();
        }
        let (mut calls, mut batch) = (0, 1);
        let start = Instant::now();
        loop {
            (0..batch).for_each(|_| call());
            calls += batch;
            let elapsed = start.elapsed();
            if elapsed >= span {
                break (calls * bytes) as f64 / elapsed.as_secs_f64();
            }
            batch = if elapsed < span / 16 { calls } else { calls.div_ceil(8) };
        }
    })
}

fn results(case: &Case, makers: &[Maker]) -> Vec<SectorResult> {
    let chosen = Kernel::detect();
    let own = makers.iter().position(|maker| maker.kernel == Some(chosen));
    let part = xts_part(case.sector_size);
    let one = |(maker, samples): (&Maker, &Vec<Sample>)| {
        let shares = samples.iter().filter_map(|one| Some(one.rate / (one.limit? * part)));
        let limits = samples.iter().filter_map(|one| Some(one.limit? * part / 1e9));
        let memory = samples.iter().filter_map(|one| Some(one.memory? / 1e9));
        let ratios = own.filter(|_| maker.kernel != Some(chosen)).and_then(|own| {
            Spread::of(case.samples[own].iter().zip(samples).map(|(own, one)| own.rate / one.rate))
        });
        Some(SectorResult {
            implementation: maker.implementation.name.clone(),
            sector_size: case.sector_size,
            call_bytes: case.call_bytes,
            threads: case.threads,
            operation: if case.operation.encrypts() { "encrypt" } else { "decrypt" },
            in_place: case.operation.in_place(),
            gbps: Spread::of(samples.iter().map(|one| one.rate / 1e9))?,
            share: Spread::of(shares),
            limit: Spread::of(limits),
            memory: Spread::of(memory),
            ours: ratios,
        })
    };
    makers.iter().zip(&case.samples).filter_map(one).collect()
}

/// Page-aligned memory for all threads, the destinations half a page apart from the sources: at equal page offsets
/// stores look as if they hit the loads that follow.
pub struct Buffers {
    source: Vec<u8>,
    destination: Vec<u8>,
    bytes: usize,
    stride: usize,
}

const PAGE: usize = 4096;

impl Buffers {
    /// For calls of up to `bytes`. Very large calls are shared out between the threads instead of repeated by each.
    pub fn new(bytes: usize, cpus: &[usize]) -> Buffers {
        let stride = if bytes > SHARED_OUT { bytes / cpus.len() } else { bytes };
        let stride = stride.next_multiple_of(PAGE);
        let length = (stride * cpus.len()).max(bytes) + 2 * PAGE;
        Buffers { source: vec![0x5a; length], destination: vec![0xa5; length], bytes, stride }
    }

    /// A source and a destination for each of `threads`.
    pub fn places(&mut self, call_bytes: usize, threads: usize) -> Vec<(&mut [u8], &mut [u8])> {
        assert!(call_bytes <= self.bytes);
        let from = self.source.as_ptr().align_offset(PAGE);
        let to = self.destination.as_ptr().align_offset(PAGE) + PAGE / 2;
        let (length, stride) = match threads {
            1 => (call_bytes, call_bytes),
            // Whole sectors of every size.
            _ if call_bytes > SHARED_OUT => ((call_bytes / threads) & !(PAGE - 1), self.stride),
            _ => (call_bytes, self.stride.max(call_bytes.next_multiple_of(PAGE))),
        };
        let sources = self.source[from..].chunks_mut(stride).take(threads);
        let destinations = self.destination[to..].chunks_mut(stride).take(threads);
        sources.zip(destinations).map(|(from, to)| (&mut from[..length], &mut to[..length])).collect()
    }
}

/// Calls above this size are shared out between threads.
const SHARED_OUT: usize = 1 << 20;
