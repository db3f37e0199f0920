//! AES-256-XTS over buffers that JavaScript owns.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use napi::bindgen_prelude::{Object, Uint8Array};
use napi::{Env, Result};
use napi_derive::napi;
use rayon::prelude::*;
use vmseal_xts::Xts;

use crate::background;
use crate::direct::{Call, DirectCall, SectorNumber};
use crate::fault::{coded, guard};
use crate::key::KeyHandle;
use crate::token::{Tokens, forget};

thread_local! {
    static CIPHERS: RefCell<Tokens<Arc<Xts>>> = RefCell::new(Tokens::new());
}

/// Encrypts whole sectors in place: token of an `XtsHandle`, data, number of the first sector.
pub(crate) struct Encrypt;

impl DirectCall for Encrypt {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let (token, first_sector) = (call.number(0)?, call.sector(2)?);
        let data = call.bytes(1)?;
        with_cipher(token, |xts| xts.encrypt(data, first_sector))
    }
}

/// Decrypts whole sectors in place, with the same arguments.
pub(crate) struct Decrypt;

impl DirectCall for Decrypt {
    fn run(call: &mut Call) -> Result<Option<f64>> {
        let (token, first_sector) = (call.number(0)?, call.sector(2)?);
        let data = call.bytes(1)?;
        with_cipher(token, |xts| xts.decrypt(data, first_sector))
    }
}

fn with_cipher(
    token: f64,
    operation: impl FnOnce(&Xts) -> std::result::Result<(), vmseal_xts::Error>,
) -> Result<Option<f64>> {
    CIPHERS.with_borrow(|ciphers| {
        let xts = ciphers.get(token).ok_or_else(disposed)?;
        operation(xts).map(|()| None).map_err(|error| coded(error.code(), &error))
    })
}

fn disposed() -> napi::Error {
    coded("VMSEAL_KEY_DISPOSED", "the cipher was disposed")
}

/// An expanded XTS key in locked memory.
#[napi]
pub struct XtsHandle {
    token: f64,
}

impl Drop for XtsHandle {
    fn drop(&mut self) {
        forget(&CIPHERS, self.token);
    }
}

#[napi]
impl XtsHandle {
    /// Expands a 64-byte key. Sector n has tweak n x `tweak_step`.
    #[napi(factory)]
    pub fn create(key: &KeyHandle, sector_size: u32, tweak_step: u32) -> Result<Self> {
        let key = key.get()?;
        let xts = guard(|| Xts::new(&key, sector_size, u64::from(tweak_step)))?;
        Ok(Self { token: CIPHERS.with_borrow_mut(|ciphers| ciphers.insert(Arc::new(xts))) })
    }

    /// What the direct calls know the cipher by.
    #[napi(getter)]
    pub fn token(&self) -> f64 {
        self.token
    }

    /// Encrypts in place off the event loop, on several threads. Nobody else may touch `data` until it settles.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn encrypt_async<'env>(
        &self,
        env: &'env Env,
        data: Uint8Array,
        #[napi(ts_arg_type = "number | bigint")] first_sector: SectorNumber,
    ) -> Result<Object<'env>> {
        self.spawn(env, data, first_sector.0, Xts::encrypt)
    }

    /// Decrypts in place off the event loop, on several threads. Nobody else may touch `data` until it settles.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn decrypt_async<'env>(
        &self,
        env: &'env Env,
        data: Uint8Array,
        #[napi(ts_arg_type = "number | bigint")] first_sector: SectorNumber,
    ) -> Result<Object<'env>> {
        self.spawn(env, data, first_sector.0, Xts::decrypt)
    }

    /// The kernel that this machine uses: vaes512, vaes256, aesni or portable.
    #[napi(getter)]
    pub fn kernel(&self) -> Result<String> {
        Ok(self.get()?.kernel().name().to_owned())
    }

    /// Wipes the expanded key now, or when the operation that is using it ends. Idempotent.
    #[napi]
    pub fn dispose(&self) {
        forget(&CIPHERS, self.token);
    }

    fn get(&self) -> Result<Arc<Xts>> {
        CIPHERS.with_borrow(|ciphers| ciphers.get(self.token).cloned()).ok_or_else(disposed)
    }

    fn spawn<'env>(
        &self,
        env: &'env Env,
        mut data: Uint8Array,
        first: u64,
        operation: fn(&Xts, &mut [u8], u64) -> std::result::Result<(), vmseal_xts::Error>,
    ) -> Result<Object<'env>> {
        let xts = self.get()?;
        background::stoppable(env, move |stop| {
            let sector_size = xts.sector_size() as usize;
            if !data.len().is_multiple_of(sector_size) {
                return Err(coded("VMSEAL_SECTOR_ALIGNMENT", "the data is not a whole number of sectors"));
            }
            // SAFETY: `crypto.ts` transferred the ArrayBuffer, so no JavaScript can reach these bytes until the
            // promise settles; the Uint8Array keeps them alive.
            #[allow(unsafe_code)]
            let bytes = unsafe { data.as_mut() };
            let piece_bytes = piece_of(bytes.len());
            let sectors_per_piece = piece_bytes / sector_size;
            let cipher = |(index, piece): (usize, &mut [u8])| {
                stop.check()?;
                let first = first.wrapping_add((index * sectors_per_piece) as u64);
                guard(|| operation(&xts, piece, first))
            };
            thread::sleep(pause_before(bytes.len()));
            let threads = rayon::current_num_threads();
            let pieces = Mutex::new(bytes.chunks_mut(piece_bytes).enumerate());
            let next = || pieces.lock().unwrap_or_else(PoisonError::into_inner).next();
            (0..threads).into_par_iter().try_for_each(|_| {
                while let Some(piece) = next() {
                    cipher(piece)?;
                }
                Ok(())
            })
        })
    }
}

/// How long the threads stay out of the way before a buffer of so many bytes: V8 takes the transfer of more than 64 MiB
/// (its kExternalAllocationSoftLimit) for new memory and collects garbage. That takes it a few milliseconds when its own
/// threads find a core, and up to 60 when ours have taken them all, with the event loop waiting. A small part of the time
/// that the work takes.
fn pause_before(bytes: usize) -> Duration {
    if bytes > LONG { Duration::from_millis((bytes >> 27).min(8) as u64) } else { Duration::ZERO }
}

/// Bytes that a thread takes at a time. While they stay in the caches, 64 KiB to 1 MiB are equally fast (two cores, buffers
/// of 4 MiB to 512 MiB); a small piece lets more cores share a buffer, and 128 KiB are 8 us of work, far above the cost of
/// handing them over. Of what comes from memory anyway a piece is long enough for the cipher to look ahead in.
fn piece_of(bytes: usize) -> usize {
    if bytes > LONG { 4 << 20 } else { 128 << 10 }
}

/// V8's kExternalAllocationSoftLimit.
const LONG: usize = 64 << 20;
