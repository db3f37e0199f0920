use std::time::{Duration, Instant};

use crate::clock;
use crate::memory::{self, Traffic};
use crate::units::{self, Width};
use vmseal_secret::SecretKey;
use vmseal_xts::{Kernel, SECTOR_SIZES, Xts};

const LARGEST: usize = 64 << 20;
const SIZES: [(usize, &str); 4] =
    [(4 << 10, "4 KiB"), (64 << 10, "64 KiB"), (1 << 20, "1 MiB"), (LARGEST, "64 MiB")];
const OPERATIONS: [Operation; 4] =
    [Operation::Encrypt, Operation::Decrypt, Operation::EncryptTo, Operation::DecryptTo];
/// How long one measurement of a round takes at least.
const SPAN: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Encrypt,
    Decrypt,
    EncryptTo,
    DecryptTo,
}

/// One line of a table: a cipher, a size, and for each operation its speed and share of the limit in every round.
struct Case {
    xts: Xts,
    size: usize,
    label: &'static str,
    samples: [Vec<(f64, f64)>; 4],
}

/// Measures what the arguments of the program name, and prints the tables.
pub fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rounds = arguments.iter().find_map(|text| text.strip_prefix("rounds=")).map_or(Ok(9), str::parse)?;
    let wanted = |kernel: &Kernel| {
        let mut names = arguments.iter().filter(|text| !text.contains('=')).peekable();
        kernel.is_supported() && (names.peek().is_none() || names.any(|name| name == kernel.name()))
    };
    let key = SecretKey::generate(64)?;
    let mut cases = Vec::new();
    for kernel in Kernel::ALL.into_iter().filter(wanted) {
        for sector_size in SECTOR_SIZES {
            let whole_sector = [(sector_size as usize, "1 sector")];
            for (size, label) in whole_sector.into_iter().chain(SIZES) {
                let xts = Xts::with_kernel(&key, sector_size, 1, kernel)?;
                cases.push(Case { xts, size, label, samples: Default::default() });
            }
        }
    }
    // Page-aligned, the destination half a page apart: equal page offsets make stores look like they hit later loads.
    let offset = arguments.iter().find_map(|text| text.strip_prefix("offset=")).map_or(Ok(0), str::parse)?;
    let (mut source, mut destination) = (Aligned::new(offset), Aligned::new(offset + 2048));
    let mut clock_rates = Vec::new();
    let mut memory_rates = Traffic::ALL.map(|traffic| (traffic, Vec::new()));
    let mut unit_rates = Width::available().map(|width| (width, Vec::new())).collect::<Vec<_>>();
    for _ in 0..rounds {
        clock_rates.push(clock::cycles_per_second());
        for (width, rates) in &mut unit_rates {
            rates.push(units::bytes_per_second(*width));
        }
        for (traffic, rates) in &mut memory_rates {
            rates.push(memory::bytes_per_second(*traffic, source.bytes(), destination.bytes()));
        }
        for case in &mut cases {
            let unit_rate = Width::of(case.xts.kernel()).map(units::bytes_per_second);
            for operation in OPERATIONS {
                let rate = measure(case, operation, source.bytes(), destination.bytes())?;
                let share = unit_rate
                    .map_or(f64::NAN, |unit_rate| rate / xts_limit(unit_rate, case.xts.sector_size()));
                case.samples[operation as usize].push((rate, share));
            }
        }
    }
    for (traffic, rates) in &mut memory_rates {
        println!("memory, 64 MiB, {}: {:.2} GB/s", traffic.name(), median(rates) / 1e9);
    }
    report(&mut cases, &mut unit_rates, median(&mut clock_rates));
    Ok(())
}

/// A buffer of the largest size that begins `offset` bytes after a page boundary.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(offset: usize) -> Aligned {
        let memory = vec![0x5a; LARGEST + 4096 + offset];
        let start = memory.as_ptr().align_offset(4096) + offset;
        Aligned { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + LARGEST]
    }
}

/// The AES-unit limit of XTS in bytes per second: a sector takes one more block, its tweak.
fn xts_limit(unit_rate: f64, sector_size: u32) -> f64 {
    let blocks = f64::from(sector_size / 16);
    unit_rate * blocks / (blocks + 1.0)
}

/// Bytes per second of calls over `case.size` bytes.
fn measure(
    case: &Case,
    operation: Operation,
    source: &mut [u8],
    destination: &mut [u8],
) -> Result<f64, vmseal_xts::Error> {
    let (source, destination) = (&mut source[..case.size], &mut destination[..case.size]);
    let mut calls = 0;
    let mut batch = 1;
    call(case, operation, source, destination)?;
    let start = Instant::now();
    loop {
        for _ in 0..batch {
            call(case, operation, source, destination)?;
        }
        calls += batch;
        let elapsed = start.elapsed();
        if elapsed >= SPAN {
            return Ok((calls * case.size) as f64 / elapsed.as_secs_f64());
        }
        batch = if elapsed < SPAN / 16 { calls } else { calls.div_ceil(8) };
    }
}

fn call(
    case: &Case,
    operation: Operation,
    source: &mut [u8],
    destination: &mut [u8],
) -> Result<(), vmseal_xts::Error> {
    match operation {
        Operation::Encrypt => case.xts.encrypt(source, 1),
        Operation::Decrypt => case.xts.decrypt(source, 1),
        Operation::EncryptTo => case.xts.encrypt_to(source, destination, 1),
        Operation::DecryptTo => case.xts.decrypt_to(source, destination, 1),
    }
}

fn report(cases: &mut [Case], unit_rates: &mut [(Width, Vec<f64>)], clock: f64) {
    println!("clock {:.3} GHz", clock / 1e9);
    for (width, rates) in unit_rates {
        println!("AES units, {width}: {:.2} GB/s", median(rates) / 1e9);
    }
    println!();
    println!("GB/s (share of the XTS limit) [cycles per call]");
    println!(
        "{:<9}{:>6}{:>10}{:>20}{:>20}{:>20}{:>20}",
        "kernel", "sector", "call", "encrypt in place", "decrypt in place", "encrypt copy", "decrypt copy"
    );
    for case in cases {
        print!("{:<9}{:>6}{:>10}", case.xts.kernel().name(), case.xts.sector_size(), case.label);
        for samples in &mut case.samples {
            let mut rates: Vec<f64> = samples.iter().map(|(rate, _)| *rate).collect();
            let mut shares: Vec<f64> = samples.iter().map(|(_, share)| *share).collect();
            let (rate, share) = (median(&mut rates), median(&mut shares));
            let cycles = case.size as f64 / rate * clock;
            if case.size <= 4096 {
                print!("{:>20}", format!("{:.2} ({share:.3}) [{cycles:.0}]", rate / 1e9));
            } else {
                print!("{:>20}", format!("{:.2} ({share:.3})", rate / 1e9));
            }
        }
        println!();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
