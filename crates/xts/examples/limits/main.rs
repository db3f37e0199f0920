//! How near each kernel comes to what the AES units of this CPU can do at all.
//!
//! `taskset -c 0 cargo run --release -p vmseal-xts --example limits [KERNEL...] [rounds=N] [offset=BYTES]`
//!
//! Every figure is the median over interleaved rounds. Shares are of the limit measured in the same round: the AES
//! rounds of the data and of one tweak per sector at the speed of a loop that touches no memory.

#[cfg(target_arch = "x86_64")]
mod clock;
#[cfg(target_arch = "x86_64")]
mod measure;
#[cfg(target_arch = "x86_64")]
mod memory;
#[cfg(target_arch = "x86_64")]
mod units;

#[cfg(target_arch = "x86_64")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    measure::run()
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("the limits are known for x86-64 only");
}
