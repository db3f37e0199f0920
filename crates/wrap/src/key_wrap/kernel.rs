use std::fmt;
use std::sync::OnceLock;

use crate::Error;

/// Environment variable that forces a kernel by [`Kernel::name`]; unset or empty lets the CPU decide. It is read once
/// in the life of a process.
pub const KERNEL_VARIABLE: &str = "VMSEAL_KEY_WRAP_KERNEL";

/// An implementation of RFC 3394 for one CPU level. All give the same bytes; they differ in speed only. KEKs of 16 and
/// 24 bytes always take the portable one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// x86-64 with VAES on 512-bit registers: up to 32 keys side by side.
    Vaes512,
    /// x86-64 with AES-NI and AVX: up to 8 keys side by side.
    AesNi,
    /// The `aes` crate, one key after another.
    Portable,
}

impl Kernel {
    /// Every kernel, fastest first.
    pub const ALL: [Kernel; 3] = [Kernel::Vaes512, Kernel::AesNi, Kernel::Portable];

    /// The kernel [`KERNEL_VARIABLE`] forces, else the fastest this CPU can run.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the variable names no kernel, or one this CPU cannot run.
    pub fn select() -> Result<Kernel, Error> {
        static CHOICE: OnceLock<Result<Kernel, &'static str>> = OnceLock::new();
        CHOICE.get_or_init(choose).map_err(|reason| Error::InvalidArgument { reason })
    }

    /// Whether this CPU (and operating system) can run the kernel.
    pub fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Vaes512 => {
                Kernel::AesNi.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("vaes")
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::AesNi => is_x86_feature_detected!("aes") && is_x86_feature_detected!("avx"),
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Vaes512 | Kernel::AesNi => false,
            Kernel::Portable => true,
        }
    }

    /// The name [`KERNEL_VARIABLE`] knows the kernel by.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Vaes512 => "vaes512",
            Kernel::AesNi => "aesni",
            Kernel::Portable => "portable",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

fn choose() -> Result<Kernel, &'static str> {
    let forced = std::env::var_os(KERNEL_VARIABLE).filter(|name| !name.is_empty());
    let kernel = match forced {
        Some(name) => Kernel::ALL
            .into_iter()
            .find(|kernel| name == kernel.name())
            .ok_or("VMSEAL_KEY_WRAP_KERNEL must be vaes512, aesni or portable, or unset")?,
        None => return Ok(fastest()),
    };
    if kernel.is_supported() {
        Ok(kernel)
    } else {
        Err("this CPU cannot run the kernel that VMSEAL_KEY_WRAP_KERNEL names; unset it")
    }
}

fn fastest() -> Kernel {
    Kernel::ALL.into_iter().find(|kernel| kernel.is_supported()).unwrap_or(Kernel::Portable)
}
