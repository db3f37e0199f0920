use std::marker::PhantomData;

use crate::Error;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Encrypt,
    Decrypt,
}

/// How sectors are cut and numbered.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) sector_size: u32,
    pub(crate) tweak_step: u64,
}

/// A checked run of whole sectors. Source and destination have `sectors * sector_size` bytes each and are either
/// the same memory or do not overlap: the constructors take slices, so the borrow checker has proved it.
pub(crate) struct Run<'a> {
    pub(crate) source: *const u8,
    pub(crate) destination: *mut u8,
    pub(crate) sectors: usize,
    pub(crate) sector_size: usize,
    pub(crate) first_tweak: u64,
    pub(crate) tweak_step: u64,
    buffers: PhantomData<(&'a [u8], &'a mut [u8])>,
}

impl<'a> Run<'a> {
    pub(crate) fn in_place(
        data: &'a mut [u8],
        first_sector: u64,
        geometry: Geometry,
    ) -> Result<Run<'a>, Error> {
        let length = data.len();
        let destination = data.as_mut_ptr();
        Self::new(destination, destination, length, first_sector, geometry)
    }

    pub(crate) fn copying(
        source: &'a [u8],
        destination: &'a mut [u8],
        first_sector: u64,
        geometry: Geometry,
    ) -> Result<Run<'a>, Error> {
        if source.len() != destination.len() {
            return Err(Error::LengthMismatch {
                source_length: source.len(),
                destination_length: destination.len(),
            });
        }
        Self::new(source.as_ptr(), destination.as_mut_ptr(), source.len(), first_sector, geometry)
    }

    fn new(
        source: *const u8,
        destination: *mut u8,
        length: usize,
        first_sector: u64,
        Geometry { sector_size, tweak_step }: Geometry,
    ) -> Result<Run<'a>, Error> {
        let bytes = sector_size as usize;
        if !length.is_multiple_of(bytes) {
            return Err(Error::SectorAlignment { length, sector_size });
        }
        Ok(Run {
            source,
            destination,
            sectors: length / bytes,
            sector_size: bytes,
            first_tweak: first_sector.wrapping_mul(tweak_step),
            tweak_step,
            buffers: PhantomData,
        })
    }

    /// Bytes of the run.
    pub(crate) fn length(&self) -> usize {
        self.sectors * self.sector_size
    }
}
