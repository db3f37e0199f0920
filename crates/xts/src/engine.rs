use vmseal_secret::{SecretBox, SecretKey};

use crate::key::KeyHalves;
use crate::portable::PortableSchedule;
use crate::run::{Direction, Run};
use crate::{Error, Kernel};

/// The seam between the cipher and its kernels: one expanded key in the form its kernel reads.
pub(crate) enum Engine {
    #[cfg(target_arch = "x86_64")]
    X86(crate::x86::Engine),
    Portable(SecretBox<PortableSchedule>),
}

impl Engine {
    /// Expands `key` straight into locked memory.
    pub(crate) fn new(key: &SecretKey, kernel: Kernel) -> Result<Engine, Error> {
        match kernel.require()? {
            #[cfg(target_arch = "x86_64")]
            Kernel::Vaes512 | Kernel::Vaes256 | Kernel::AesNi => {
                crate::x86::Engine::new(key, kernel).map(Engine::X86)
            }
            _ => {
                let expand = |schedule: &mut PortableSchedule| {
                    key.expose(|bytes| KeyHalves::split(bytes).map(|halves| schedule.expand(&halves)))
                };
                SecretBox::try_init(expand).map(Engine::Portable)
            }
        }
    }

    /// Ciphers the run. When the process wiped its keys meanwhile, the output is worthless and the caller is told so.
    pub(crate) fn run(&self, direction: Direction, run: Run<'_>) -> Result<(), Error> {
        refuse_when_wiped()?;
        match self {
            #[cfg(target_arch = "x86_64")]
            Engine::X86(engine) => engine.run(direction, &run),
            Engine::Portable(schedule) => schedule.get().run(direction, run),
        }
        refuse_when_wiped()
    }
}

/// Checked before and after every use of a key: data made while the keys were being wiped must never be written.
pub(crate) fn refuse_when_wiped() -> Result<(), Error> {
    if vmseal_secret::wiped() { Err(vmseal_secret::Error::ShuttingDown.into()) } else { Ok(()) }
}
