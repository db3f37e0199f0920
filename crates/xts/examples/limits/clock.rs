use std::arch::asm;
use std::time::Instant;

/// Core cycles per second: the rate of additions that wait for one another, one a cycle.
pub fn cycles_per_second() -> f64 {
    const TURNS: u64 = 250_000;
    let start = Instant::now();
    // SAFETY: arithmetic on two registers.
    unsafe {
        asm!(
            "2:",
            ".rept 16",
            "add {sum}, {turns}",
            ".endr",
            "dec {turns}",
            "jnz 2b",
            turns = inout(reg) TURNS => _,
            sum = inout(reg) 0_u64 => _,
            options(nomem, nostack)
        );
    }
    (16 * TURNS) as f64 / start.elapsed().as_secs_f64()
}
