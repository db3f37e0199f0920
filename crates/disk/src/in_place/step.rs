//! One zone in memory, cut into pieces that threads work on side by side.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::JobMode;
use super::record::Slot;
use super::sidecar::{Layout, check_elder, read_zone};
use super::storage::{Name, Storage, read_exact, write_all};
use super::suite::{Forms, Sum};
use super::zone::{Proof, Zone};
use crate::buffer::Buffer;
use crate::error::Result;

/// A zone and the bytes for it: what the journal holds, and after [`Step::ready`] what goes in place.
#[derive(Default)]
pub(super) struct Step {
    pub(super) zone: Zone,
    pieces: Vec<Mutex<Piece>>,
}

struct Piece {
    buffer: Buffer,
    sum: [u8; 32],
}

impl Step {
    /// Takes another zone; buffers are kept from step to step.
    pub(super) fn take(&mut self, zone: Zone, layout: Layout) {
        self.zone = zone;
        while self.pieces.len() < self.count(layout) {
            self.pieces.push(Mutex::new(Piece { buffer: Buffer::new(layout.piece), sum: [0; 32] }));
        }
    }

    /// Pieces of this zone.
    pub(super) fn count(&self, layout: Layout) -> usize {
        self.zone.payload_len().div_ceil(layout.piece)
    }

    /// Shares of this zone that [`Step::prepare`] does: two pieces, for their sums are made side by side.
    pub(super) fn shares(&self, layout: Layout) -> usize {
        self.count(layout).div_ceil(2)
    }

    /// Reads the pieces of share `index` from the disk, writes their journal and leaves the new form in memory. Only
    /// ciphertext reaches the journal: the new one, or on decryption the old one.
    pub(super) fn prepare<S: Storage, F: Forms, H: Sum>(
        &self,
        storage: &S,
        layout: Layout,
        forms: &F,
        slot: &Slot,
        index: usize,
    ) -> Result<()> {
        let decrypts = forms.mode() == JobMode::Decrypt;
        let pieces = 2 * index..(2 * index + 2).min(self.count(layout));
        let mut locked: Vec<_> = pieces.clone().map(|piece| self.lock(piece)).collect();
        let mut contents = Vec::with_capacity(2);
        for (piece, locked) in pieces.clone().zip(&mut locked) {
            let (start, end) = self.range(layout, piece);
            let Piece { buffer, sum } = &mut **locked;
            let bytes = buffer.first(end - start);
            for (offset, range) in self.zone.parts(start, end) {
                read_exact(storage, Name::Flat, &mut bytes[range], offset)?;
            }
            if !decrypts {
                self.convert(forms, start, end, bytes)?;
            }
            contents.push((bytes, sum));
        }
        match contents.as_mut_slice() {
            [(one, sum_one), (two, sum_two)] => [**sum_one, **sum_two] = H::sum_two(one, two),
            rest => rest.iter_mut().for_each(|(bytes, sum)| **sum = H::sum(bytes)),
        }
        for (piece, (bytes, _)) in pieces.zip(contents) {
            write_all(storage, Name::Sidecar, bytes, layout.payload(slot, piece))?;
            if decrypts {
                let (start, end) = self.range(layout, piece);
                self.convert(forms, start, end, bytes)?;
            }
        }
        Ok(())
    }

    /// Writes the bytes of piece `index` to their place on the disk.
    pub(super) fn apply<S: Storage>(&self, storage: &S, layout: Layout, index: usize) -> Result<()> {
        let (start, end) = self.range(layout, index);
        let piece = &mut *self.lock(index);
        let bytes = piece.buffer.first(end - start);
        for (offset, range) in self.zone.parts(start, end) {
            write_all(storage, Name::Flat, &bytes[range], offset)?;
        }
        Ok(())
    }

    /// Loads what the journal holds for `slot`; `None` when it holds nothing whole, and then the zone's place on the disk is
    /// untouched, or this is [`Error::JobInvalid`](crate::Error::JobInvalid). Needs no key, so nothing is authenticated; afterwards the step has ciphertext.
    pub(super) fn load<S: Storage, H: Sum>(
        &mut self,
        storage: &S,
        layout: Layout,
        slot: &Slot,
    ) -> Result<Option<Proof>> {
        let Some((zone, proof)) = read_zone::<S, H>(storage, layout, slot)? else {
            return check_elder::<S, H>(storage, layout, slot).map(|()| None);
        };
        self.take(zone, layout);
        for index in 0..self.count(layout) {
            let (start, end) = self.range(layout, index);
            let piece = &mut *self.lock(index);
            let bytes = piece.buffer.first(end - start);
            read_exact(storage, Name::Sidecar, bytes, layout.payload(slot, index))?;
            piece.sum = H::sum(bytes);
        }
        if self.sum::<H>(layout) == proof.payload_sum {
            return Ok(Some(proof));
        }
        check_elder::<S, H>(storage, layout, slot).map(|()| None)
    }

    /// Writes the journal again with what [`Step::load`] read: a failed sync may have left it in memory only, where it
    /// looks durable and is not.
    pub(super) fn store_again<S: Storage>(&self, storage: &S, layout: Layout, slot: &Slot) -> Result<()> {
        for index in 0..self.count(layout) {
            let (start, end) = self.range(layout, index);
            let piece = &mut *self.lock(index);
            write_all(storage, Name::Sidecar, piece.buffer.first(end - start), layout.payload(slot, index))?;
        }
        Ok(())
    }

    /// From what the journal holds to what goes in place.
    pub(super) fn ready<F: Forms>(&self, layout: Layout, forms: &F) -> Result<()> {
        if forms.mode() != JobMode::Decrypt {
            return Ok(());
        }
        for index in 0..self.count(layout) {
            let (start, end) = self.range(layout, index);
            let piece = &mut *self.lock(index);
            self.convert(forms, start, end, piece.buffer.first(end - start))?;
        }
        Ok(())
    }

    /// Sum of the payload: the sum of its pieces' sums.
    pub(super) fn sum<H: Sum>(&self, layout: Layout) -> [u8; 32] {
        let sums: Vec<u8> = (0..self.count(layout)).flat_map(|index| self.lock(index).sum).collect();
        H::sum(&sums)
    }

    fn convert<F: Forms>(&self, forms: &F, start: usize, end: usize, bytes: &mut [u8]) -> Result<()> {
        for (offset, range) in self.zone.parts(start, end) {
            forms.convert(&mut bytes[range], offset)?;
        }
        Ok(())
    }

    fn range(&self, layout: Layout, index: usize) -> (usize, usize) {
        let start = index * layout.piece;
        (start, (start + layout.piece).min(self.zone.payload_len()))
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Piece> {
        // A panic ends the job; what a piece holds then is not used.
        self.pieces[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
