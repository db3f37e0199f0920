//! The kernels for x86-64. All work on stripes of 512 bytes: the largest unit that divides every sector size.

mod aesni;
mod rounds;
mod schedule;
mod stripes;
mod tweak;
mod vaes256;
mod vaes512;
mod vaes512_short;
mod wipe;

use vmseal_secret::{SecretBox, SecretKey};

use crate::key::KeyHalves;
use crate::residue;
use crate::run::{Direction, Run};
use crate::{Error, Kernel};
use schedule::Schedule;
pub(crate) use wipe::wipe_vector_registers;

/// An expanded key and the kernel that reads it.
pub(crate) struct Engine {
    kernel: Kernel,
    schedule: SecretBox<Schedule>,
}

impl Engine {
    /// Expands `key` for `kernel`, which this CPU must support.
    pub(crate) fn new(key: &SecretKey, kernel: Kernel) -> Result<Engine, Error> {
        kernel.require()?;
        let expand = |schedule: &mut Schedule| {
            key.expose(|bytes| {
                let halves = KeyHalves::split(bytes)?;
                // SAFETY: every kernel but the portable one requires AES-NI and AVX.
                unsafe { schedule.expand(&halves) };
                residue::wipe();
                Ok(())
            })
        };
        Ok(Engine { kernel, schedule: SecretBox::try_init::<Error>(expand)? })
    }

    /// Ciphers a run and leaves no round key or tweak in registers or on the stack.
    pub(crate) fn run(&self, direction: Direction, run: &Run<'_>) {
        let schedule = self.schedule.get();
        // SAFETY: `new` has checked that this CPU supports the kernel.
        unsafe {
            match self.kernel {
                Kernel::Vaes512 if vaes512_short::is_short(run) => {
                    vaes512_short::cipher_short_run(schedule, direction, run);
                }
                Kernel::Vaes512 => stripes::cipher_run::<vaes512::Vaes512>(schedule, direction, run),
                Kernel::Vaes256 => stripes::cipher_run::<vaes256::Vaes256>(schedule, direction, run),
                _ => stripes::cipher_run::<aesni::AesNi>(schedule, direction, run),
            }
        }
        if stripes::is_far(run) {
            // The compiler spills tweaks in the kernels with the most to do at once, and here there is time to wipe the
            // whole stack.
            residue::wipe();
        } else {
            wipe_vector_registers();
        }
    }
}
