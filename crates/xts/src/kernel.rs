use std::fmt;

use crate::Error;

/// Environment variable that forces a kernel by [`Kernel::name`]; unset or empty lets the CPU decide.
pub const KERNEL_VARIABLE: &str = "VMSEAL_XTS_KERNEL";

/// An implementation of AES-XTS for one CPU level. All give the same bytes; they differ in speed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// x86-64 with VAES on 512-bit registers (AVX-512).
    Vaes512,
    /// x86-64 with VAES on 256-bit registers (AVX2).
    Vaes256,
    /// x86-64 with AES-NI and AVX.
    AesNi,
    /// The `aes` crate: AES instructions where it knows them, else constant-time bit-sliced arithmetic.
    Portable,
}

impl Kernel {
    /// Every kernel, fastest first.
    pub const ALL: [Kernel; 4] = [Kernel::Vaes512, Kernel::Vaes256, Kernel::AesNi, Kernel::Portable];

    /// The fastest kernel this CPU can run.
    pub fn detect() -> Kernel {
        Self::ALL.into_iter().find(|kernel| kernel.is_supported()).unwrap_or(Kernel::Portable)
    }

    /// The kernel [`KERNEL_VARIABLE`] forces, else [`Kernel::detect`].
    ///
    /// # Errors
    /// [`Error::KernelUnknown`] and [`Error::KernelUnsupported`] when the variable cannot be obeyed.
    pub fn select() -> Result<Kernel, Error> {
        let Some(name) = std::env::var_os(KERNEL_VARIABLE).filter(|name| !name.is_empty()) else {
            return Ok(Self::detect());
        };
        let kernel =
            Self::ALL.into_iter().find(|kernel| name == kernel.name()).ok_or(Error::KernelUnknown)?;
        kernel.require()
    }

    /// Whether this CPU (and operating system) can run the kernel.
    pub fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Vaes512 => {
                Kernel::Vaes256.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("vpclmulqdq")
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Vaes256 => {
                Kernel::AesNi.is_supported()
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("vaes")
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::AesNi => is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx"),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Vaes512 | Kernel::Vaes256 | Kernel::AesNi => false,
            Kernel::Portable => true,
        }
    }

    /// The name [`KERNEL_VARIABLE`] knows the kernel by.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Vaes512 => "vaes512",
            Kernel::Vaes256 => "vaes256",
            Kernel::AesNi => "aesni",
            Kernel::Portable => "portable",
        }
    }

    pub(crate) fn require(self) -> Result<Kernel, Error> {
        if self.is_supported() { Ok(self) } else { Err(Error::KernelUnsupported { kernel: self }) }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
