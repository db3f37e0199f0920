//! Calls that take less time than the frame that napi-rs puts around a function (80 ns) and the checks that JavaScript
//! would make: a frame of their own, and every argument checked in as few calls into Node as the check needs.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::{ptr, slice};

use napi::bindgen_prelude::{FromNapiValue, Object, Unknown};
use napi::sys;
use napi::{Env, JsError, Result};
use napi_derive::napi;

use crate::fault::{caught, coded, invalid_argument};
use crate::{key, key_wrap, xts};

/// A function for JavaScript. It runs no JavaScript itself.
pub(crate) trait DirectCall {
    /// What the call does; a number is its result.
    fn run(call: &mut Call) -> Result<Option<f64>>;
}

/// The arguments of one call; the ones that are missing are undefined.
pub(crate) struct Call {
    env: sys::napi_env,
    arguments: [sys::napi_value; 4],
}

/// The direct calls, each knowing its objects by their tokens.
#[napi(ts_return_type = "{ \
    xtsEncrypt(cipher: number, data: Uint8Array, firstSector: number | bigint): void; \
    xtsDecrypt(cipher: number, data: Uint8Array, firstSector: number | bigint): void; \
    wrapKey(kek: number, key: number, wrapped: Uint8Array): void; \
    unwrapKey(kek: number, wrapped: Uint8Array): number; \
    wrapKeys(kek: number, keys: Float64Array, count: number, packed: Uint8Array): void; \
    unwrapKeys(kek: number, packed: Uint8Array, lengths: Float64Array, count: number): number; \
    disposeKey(key: number): void; \
    disposeKeys(keys: Float64Array, count: number): void }")]
pub fn direct_calls<'env>(env: &'env Env) -> Result<Object<'env>> {
    let mut calls = Object::new(env)?;
    calls.set("xtsEncrypt", function::<xts::Encrypt>(env)?)?;
    calls.set("xtsDecrypt", function::<xts::Decrypt>(env)?)?;
    calls.set("wrapKey", function::<key_wrap::Wrap>(env)?)?;
    calls.set("unwrapKey", function::<key_wrap::Unwrap>(env)?)?;
    calls.set("wrapKeys", function::<key_wrap::WrapAll>(env)?)?;
    calls.set("unwrapKeys", function::<key_wrap::UnwrapAll>(env)?)?;
    calls.set("disposeKey", function::<key::Dispose>(env)?)?;
    calls.set("disposeKeys", function::<key::DisposeAll>(env)?)?;
    Ok(calls)
}

fn function<C: DirectCall>(env: &Env) -> Result<Unknown<'_>> {
    let mut function = ptr::null_mut();
    // SAFETY: `env` is good, the function has no name and no data, and `frame` has the signature Node calls.
    let status = unsafe {
        sys::napi_create_function(env.raw(), ptr::null(), 0, Some(frame::<C>), ptr::null_mut(), &mut function)
    };
    if status != sys::Status::napi_ok {
        return Err(coded("VMSEAL_INTERNAL", "Node made no function"));
    }
    // SAFETY: Node has just made it.
    unsafe { Unknown::from_napi_value(env.raw(), function) }
}

/// What Node calls.
unsafe extern "C" fn frame<C: DirectCall>(
    env: sys::napi_env,
    info: sys::napi_callback_info,
) -> sys::napi_value {
    let mut call = Call { env, arguments: [ptr::null_mut(); 4] };
    let mut count = call.arguments.len();
    let result = caught(|| {
        // SAFETY: Node gave `env` and `info`; it writes `count` arguments, undefined where one is missing.
        let status = unsafe {
            let (arguments, this, data) = (call.arguments.as_mut_ptr(), ptr::null_mut(), ptr::null_mut());
            sys::napi_get_cb_info(env, info, &mut count, arguments, this, data)
        };
        if status != sys::Status::napi_ok {
            return Err(coded("VMSEAL_INTERNAL", "Node gave no arguments"));
        }
        C::run(&mut call)
    });
    let mut value = ptr::null_mut();
    match result {
        // Null is undefined.
        Ok(None) => {}
        // SAFETY: `env` is good and `value` a local; if no number can be made the result is undefined.
        Ok(Some(number)) => unsafe {
            sys::napi_create_double(env, number, &mut value);
        },
        // SAFETY: `env` is good and no exception is pending: nothing above runs JavaScript.
        Err(error) => unsafe { JsError::from(error).throw_into(env) },
    }
    value
}

impl Call {
    /// A token or a count.
    pub(crate) fn number(&self, index: usize) -> Result<f64> {
        let mut number = 0.0;
        // SAFETY: the arguments are Node's, good for the call; `number` is a local.
        let status = unsafe { sys::napi_get_value_double(self.env, self.arguments[index], &mut number) };
        if status == sys::Status::napi_ok { Ok(number) } else { Err(invalid_argument("not a number")) }
    }

    /// The first `count` numbers of a Float64Array.
    pub(crate) fn numbers(&mut self, index: usize, count: f64) -> Result<&mut [f64]> {
        let view = self.view(index)?;
        if view.kind != sys::TypedarrayType::float64_array || !(0.0..=view.length as f64).contains(&count) {
            return Err(invalid_argument("not that many numbers in a Float64Array"));
        }
        if count == 0.0 || view.data.is_null() {
            return Ok(&mut []);
        }
        // SAFETY: as in `bytes`; Node aligns the data of a Float64Array for its numbers.
        Ok(unsafe { slice::from_raw_parts_mut(view.data.cast(), count as usize) })
    }

    /// The number of a sector: a number up to 2^53-1, or a bigint up to 2^64-1.
    pub(crate) fn sector(&self, index: usize) -> Result<u64> {
        // SAFETY: the arguments are Node's, good for the call.
        unsafe { SectorNumber::from_napi_value(self.env, self.arguments[index]) }.map(|number| number.0)
    }

    /// The bytes of a Buffer or Uint8Array that lies in memory of its own thread and is not detached.
    pub(crate) fn bytes(&mut self, index: usize) -> Result<&mut [u8]> {
        let view = self.view(index)?;
        if view.kind != sys::TypedarrayType::uint8_array {
            return Err(invalid_argument("the data must be a Buffer or Uint8Array"));
        }
        if view.length == 0 || view.data.is_null() {
            return Ok(&mut []);
        }
        // SAFETY: Node names `length` bytes of a live ArrayBuffer. No JavaScript runs before the call returns, other
        // threads cannot reach an ArrayBuffer, and `self` is borrowed as long as these bytes are.
        Ok(unsafe { slice::from_raw_parts_mut(view.data.cast(), view.length) })
    }

    fn view(&self, index: usize) -> Result<View> {
        let mut view = View { kind: -1, length: 0, data: ptr::null_mut() };
        let (mut buffer, mut offset) = (ptr::null_mut(), 0);
        // SAFETY: the arguments are Node's, good for the call; the other pointers are to locals.
        let status = unsafe {
            sys::napi_get_typedarray_info(
                self.env,
                self.arguments[index],
                &mut view.kind,
                &mut view.length,
                &mut view.data,
                &mut buffer,
                &mut offset,
            )
        };
        if status != sys::Status::napi_ok {
            return Err(invalid_argument("the data must be a Buffer or Uint8Array"));
        }
        let mut is_own = false;
        // SAFETY: as above; `buffer` was just given by Node.
        let status = unsafe { sys::napi_is_arraybuffer(self.env, buffer, &mut is_own) };
        if status != sys::Status::napi_ok || !is_own {
            let text = "the data lies in a SharedArrayBuffer, which others may change";
            return Err(coded("VMSEAL_BUFFER_DETACHED", text));
        }
        if view.length == 0 {
            let mut is_detached = true;
            // SAFETY: as above.
            let status = unsafe { sys::napi_is_detached_arraybuffer(self.env, buffer, &mut is_detached) };
            if status != sys::Status::napi_ok || is_detached {
                return Err(coded("VMSEAL_BUFFER_DETACHED", "the data is detached"));
            }
        }
        Ok(view)
    }
}

/// A typed array that lies in memory of its own thread and is not detached.
struct View {
    kind: sys::napi_typedarray_type,
    /// In elements.
    length: usize,
    data: *mut c_void,
}

/// The number of a sector: a number up to 2^53-1, or a bigint up to 2^64-1.
#[derive(Clone, Copy)]
pub struct SectorNumber(pub(crate) u64);

const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

impl FromNapiValue for SectorNumber {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> Result<Self> {
        let mut number = 0.0;
        // SAFETY: `env` and `value` are good by the contract of this function; `number` is a local.
        if unsafe { sys::napi_get_value_double(env, value, &mut number) } == sys::Status::napi_ok {
            // The conversion saturates, and NaN becomes 0: comparing back finds everything that is no whole number.
            let whole = number as u64;
            if whole as f64 == number && whole <= MAX_SAFE_INTEGER {
                return Ok(Self(whole));
            }
            return Err(invalid_argument(
                "firstSector must be a non-negative whole number; beyond 2^53-1 pass a bigint",
            ));
        }
        let (mut whole, mut is_lossless) = (0, false);
        // SAFETY: as above.
        let status = unsafe { sys::napi_get_value_bigint_uint64(env, value, &mut whole, &mut is_lossless) };
        if status == sys::Status::napi_ok && is_lossless {
            Ok(Self(whole))
        } else {
            Err(invalid_argument("firstSector must be a number or a bigint from 0 to 2^64-1"))
        }
    }
}
