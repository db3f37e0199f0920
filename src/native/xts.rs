//! AES-256-XTS over buffers that JavaScript owns.

use std::sync::{Arc, Mutex, PoisonError};

use napi::bindgen_prelude::{BigInt, BufferSlice, Either, Object, Uint8Array};
use napi::{Env, Result};
use napi_derive::napi;
use rayon::prelude::*;
use vmseal_xts::Xts;

use crate::background;
use crate::fault::{coded, guard, invalid_argument};
use crate::key::KeyHandle;

/// An expanded XTS key in locked memory.
#[napi]
pub struct XtsHandle {
    xts: Mutex<Option<Arc<Xts>>>,
}

#[napi]
impl XtsHandle {
    /// Expands a 64-byte key. Sector n has tweak n x `tweak_step`.
    #[napi(factory)]
    pub fn create(key: &KeyHandle, sector_size: u32, tweak_step: u32) -> Result<Self> {
        let key = key.get()?;
        let xts = guard(|| Xts::new(&key, sector_size, u64::from(tweak_step)))?;
        Ok(Self { xts: Mutex::new(Some(Arc::new(xts))) })
    }

    /// Encrypts whole sectors in place.
    #[napi]
    pub fn encrypt(
        &self,
        #[napi(ts_arg_type = "Uint8Array")] mut data: BufferSlice,
        first_sector: Either<f64, BigInt>,
    ) -> Result<()> {
        let (xts, first) = (self.get()?, sector_number(first_sector)?);
        guard(|| xts.encrypt(&mut data, first))
    }

    /// Decrypts whole sectors in place.
    #[napi]
    pub fn decrypt(
        &self,
        #[napi(ts_arg_type = "Uint8Array")] mut data: BufferSlice,
        first_sector: Either<f64, BigInt>,
    ) -> Result<()> {
        let (xts, first) = (self.get()?, sector_number(first_sector)?);
        guard(|| xts.decrypt(&mut data, first))
    }

    /// Encrypts in place off the event loop, on several threads. Nobody else may touch `data` until it settles.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn encrypt_async<'env>(
        &self,
        env: &'env Env,
        data: Uint8Array,
        first_sector: Either<f64, BigInt>,
    ) -> Result<Object<'env>> {
        self.spawn(env, data, first_sector, Xts::encrypt)
    }

    /// Decrypts in place off the event loop, on several threads. Nobody else may touch `data` until it settles.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn decrypt_async<'env>(
        &self,
        env: &'env Env,
        data: Uint8Array,
        first_sector: Either<f64, BigInt>,
    ) -> Result<Object<'env>> {
        self.spawn(env, data, first_sector, Xts::decrypt)
    }

    /// The kernel that this machine uses: vaes512, vaes256, aesni or portable.
    #[napi(getter)]
    pub fn kernel(&self) -> Result<String> {
        Ok(self.get()?.kernel().name().to_owned())
    }

    /// Wipes the expanded key now, or when the operation that is using it ends. Idempotent.
    #[napi]
    pub fn dispose(&self) {
        drop(self.xts.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn get(&self) -> Result<Arc<Xts>> {
        let xts = self.xts.lock().unwrap_or_else(PoisonError::into_inner);
        xts.clone().ok_or_else(|| coded("VMSEAL_KEY_DISPOSED", "the cipher was disposed"))
    }

    fn spawn<'env>(
        &self,
        env: &'env Env,
        mut data: Uint8Array,
        first_sector: Either<f64, BigInt>,
        operation: fn(&Xts, &mut [u8], u64) -> std::result::Result<(), vmseal_xts::Error>,
    ) -> Result<Object<'env>> {
        let (xts, first) = (self.get()?, sector_number(first_sector)?);
        background::promise(env, move || {
            let sector_size = xts.sector_size() as usize;
            if data.len() % sector_size != 0 {
                return Err(coded("VMSEAL_SECTOR_ALIGNMENT", "the data is not a whole number of sectors"));
            }
            // SAFETY: `crypto.ts` transferred the ArrayBuffer, so no JavaScript can reach these bytes until the
            // promise settles; the Uint8Array keeps them alive.
            #[allow(unsafe_code)]
            let bytes = unsafe { data.as_mut() };
            let sectors_per_piece = PIECE / sector_size;
            guard(|| {
                bytes.par_chunks_mut(PIECE).enumerate().try_for_each(|(index, piece)| {
                    operation(&xts, piece, first.wrapping_add((index * sectors_per_piece) as u64))
                })
            })
        })
    }
}

/// A piece fits the level 2 cache and is far above the cost of handing it to a thread.
const PIECE: usize = 512 * 1024;

fn sector_number(number: Either<f64, BigInt>) -> Result<u64> {
    match number {
        Either::A(number) if number >= 0.0 && number.fract() == 0.0 && number <= MAX_SAFE_INTEGER => {
            Ok(number as u64)
        }
        Either::B(number) => {
            let (negative, value, lossless) = number.get_u64();
            if negative || !lossless {
                return Err(invalid_argument("firstSector must be from 0 to 2^64-1"));
            }
            Ok(value)
        }
        Either::A(_) => Err(invalid_argument(
            "firstSector must be a non-negative whole number; beyond 2^53-1 pass a bigint",
        )),
    }
}

const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
