use std::arch::asm;
use std::fmt;
use std::time::Instant;

use vmseal_xts::Kernel;

/// A width of AES instructions.
#[derive(Clone, Copy, PartialEq)]
pub enum Width {
    Zmm,
    Ymm,
    Xmm,
}

impl Width {
    /// The widths this CPU has AES instructions for.
    pub fn available() -> impl Iterator<Item = Width> {
        [Width::Zmm, Width::Ymm, Width::Xmm].into_iter().filter(|width| width.kernel().is_supported())
    }

    /// The width a kernel works with; the portable one has none of its own.
    pub fn of(kernel: Kernel) -> Option<Width> {
        Self::available().find(|width| width.kernel() == kernel)
    }

    fn kernel(self) -> Kernel {
        match self {
            Width::Zmm => Kernel::Vaes512,
            Width::Ymm => Kernel::Vaes256,
            Width::Xmm => Kernel::AesNi,
        }
    }
}

impl fmt::Display for Width {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Width::Zmm => "zmm",
            Width::Ymm => "ymm",
            Width::Xmm => "xmm",
        })
    }
}

/// AES-256 bytes per second of eight independent streams, 14 rounds a block, that stay in registers.
pub fn bytes_per_second(width: Width) -> f64 {
    const BLOCK_GROUPS: u64 = 8_192;
    let start = Instant::now();
    // SAFETY: the CPU has the instructions, or `Width::available` would not have named the width.
    let bytes = unsafe {
        match width {
            Width::Zmm => zmm(BLOCK_GROUPS),
            Width::Ymm => ymm(BLOCK_GROUPS),
            Width::Xmm => xmm(BLOCK_GROUPS),
        }
    };
    bytes as f64 / start.elapsed().as_secs_f64()
}

/// Defines a loop of `turns` x 14 rounds over eight registers; gives the bytes that many rounds would encrypt.
macro_rules! aes_loop {
    ($name:ident, $feature:literal, $register:literal, $bytes:literal) => {
        #[target_feature(enable = $feature)]
        fn $name(turns: u64) -> u64 {
            // SAFETY: works on the declared registers only.
            unsafe {
                asm!(
                    "2:",
                    ".rept 14",
                    concat!("vaesenc ", $register, "0, ", $register, "0, ", $register, "8"),
                    concat!("vaesenc ", $register, "1, ", $register, "1, ", $register, "8"),
                    concat!("vaesenc ", $register, "2, ", $register, "2, ", $register, "8"),
                    concat!("vaesenc ", $register, "3, ", $register, "3, ", $register, "8"),
                    concat!("vaesenc ", $register, "4, ", $register, "4, ", $register, "8"),
                    concat!("vaesenc ", $register, "5, ", $register, "5, ", $register, "8"),
                    concat!("vaesenc ", $register, "6, ", $register, "6, ", $register, "8"),
                    concat!("vaesenc ", $register, "7, ", $register, "7, ", $register, "8"),
                    ".endr",
                    "dec {turns}",
                    "jnz 2b",
                    "vzeroupper",
                    turns = inout(reg) turns => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                    out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _,
                    options(nomem, nostack)
                );
            }
            turns * 8 * $bytes
        }
    };
}

aes_loop!(zmm, "avx512f,vaes", "zmm", 64);
aes_loop!(ymm, "avx2,vaes", "ymm", 32);
aes_loop!(xmm, "aes,avx", "xmm", 16);
