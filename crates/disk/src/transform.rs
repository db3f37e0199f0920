//! What happens to the bytes of a disk on their way from one form to another.

use vmseal_xts::Xts;

use crate::buffer::is_zero;
use crate::descriptor::Holes;
use crate::error::Result;

/// What happens to the bytes of a chunk.
#[derive(Clone, Copy)]
pub(crate) enum Transform<'a> {
    Copy,
    Encrypt(&'a Xts),
    Decrypt(&'a Xts, Holes),
    /// From one data key to another; the hole rule is that of the source.
    Recrypt {
        old: &'a Xts,
        new: &'a Xts,
        holes: Holes,
    },
    /// A fault of ours, to show that it stays inside the job.
    #[cfg(test)]
    Panic,
}

impl Transform<'_> {
    /// Transforms a chunk in place; `false` when it is all zeros and the target's hole already says so.
    pub(crate) fn apply(self, chunk: &mut [u8], offset: u64) -> Result<bool> {
        match self {
            Self::Copy => return Ok(true),
            #[cfg(test)]
            Self::Panic => panic!("a fault at {offset}"),
            Self::Encrypt(xts) => xts.encrypt(chunk, offset / u64::from(xts.sector_size()))?,
            Self::Decrypt(xts, holes) => {
                if !decrypt(xts, holes, chunk, offset)? {
                    return Ok(false);
                }
            }
            Self::Recrypt { old, new, holes } => {
                if !decrypt(old, holes, chunk, offset)? {
                    return Ok(false);
                }
                refuse_when_wiped()?;
                new.encrypt(chunk, offset / u64::from(new.sector_size()))?;
            }
        }
        refuse_when_wiped()?;
        Ok(true)
    }
}

/// Decrypts whole data units in place, obeying the rule of `holes`. `false` when nothing was ciphertext.
pub(crate) fn decrypt(xts: &Xts, holes: Holes, data: &mut [u8], offset: u64) -> Result<bool> {
    let unit = xts.sector_size() as usize;
    let first = offset / unit as u64;
    each_run(unit, holes, data, |at, run| Ok(xts.decrypt(run, first + at)?))
}

/// Has `work` done to each run of data units that are ciphertext: the number of its first unit in `data`, and the run.
/// Where holes are kept, a unit of zeros means zeros under every key and is left out. `false` when there was none.
pub(crate) fn each_run(
    unit: usize,
    holes: Holes,
    data: &mut [u8],
    work: impl Fn(u64, &mut [u8]) -> Result<()>,
) -> Result<bool> {
    if holes == Holes::Dense {
        work(0, data)?;
        return Ok(true);
    }
    let units = data.len() / unit;
    let mut any = false;
    let mut at = 0;
    while at < units {
        let run = data[at * unit..].chunks_exact(unit).take_while(|unit| !is_zero(unit)).count();
        if run == 0 {
            at += 1;
            continue;
        }
        work(at as u64, &mut data[at * unit..(at + run) * unit])?;
        any = true;
        at += run;
    }
    Ok(any)
}

/// To be asked after ciphering and before the result is used: with wiped keys the result is not what it claims to be.
pub(crate) fn refuse_when_wiped() -> Result<()> {
    if vmseal_secret::wiped() { Err(vmseal_secret::Error::ShuttingDown.into()) } else { Ok(()) }
}
