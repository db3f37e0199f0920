//! Our own cipher for a script, many calls behind one call of Node: what a call from JavaScript could reach at most, in the
//! same process, on the same buffer and in the same rounds. Two processes minutes apart compare the machine's other work.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};
use std::slice;

use vmseal_secret::SecretKey;
use vmseal_xts::Xts;

use crate::Outcome;

type Env = *mut c_void;
type Value = *mut c_void;
type Callback = unsafe extern "C" fn(Env, *mut c_void) -> Value;

// Node has them, and nothing else loads this library.
unsafe extern "C" {
    fn napi_create_function(
        env: Env,
        name: *const c_char,
        length: usize,
        function: Callback,
        data: *mut c_void,
        result: *mut Value,
    ) -> i32;
    fn napi_set_named_property(env: Env, object: Value, name: *const c_char, value: Value) -> i32;
    fn napi_get_cb_info(
        env: Env,
        info: *mut c_void,
        count: *mut usize,
        arguments: *mut Value,
        this: *mut Value,
        data: *mut *mut c_void,
    ) -> i32;
    fn napi_get_value_double(env: Env, value: Value, result: *mut f64) -> i32;
    fn napi_get_typedarray_info(
        env: Env,
        value: Value,
        kind: *mut i32,
        length: *mut usize,
        data: *mut *mut c_void,
        buffer: *mut Value,
        offset: *mut usize,
    ) -> i32;
    fn napi_throw_error(env: Env, code: *const c_char, message: *const c_char) -> i32;
}

/// Gives `exports` the function `cipher(data, sectorSize, encrypts, calls)`: ciphers `data` in place that many times, with
/// 1 or 0 for `encrypts`.
///
/// # Safety
/// `env` and `exports` are what Node gave when it loaded the library.
pub unsafe fn export(env: *mut c_void, exports: *mut c_void) -> bool {
    let mut function = null_mut();
    // SAFETY: promised by the caller; the names end in a zero.
    unsafe {
        napi_create_function(env, null(), 0, cipher, null_mut(), &mut function) == 0
            && napi_set_named_property(env, exports, c"cipher".as_ptr(), function) == 0
    }
}

unsafe extern "C" fn cipher(env: Env, info: *mut c_void) -> Value {
    let mut arguments = [null_mut(); 4];
    let mut count = arguments.len();
    let mut numbers = [0.0; 3];
    let (mut kind, mut length, mut data) = (-1, 0, null_mut());
    // SAFETY: Node gave `env` and `info`; all other pointers are to locals, and missing arguments are undefined.
    let outcome = unsafe {
        let mut is_sound =
            napi_get_cb_info(env, info, &mut count, arguments.as_mut_ptr(), null_mut(), null_mut()) == 0
                && napi_get_typedarray_info(
                    env,
                    arguments[0],
                    &mut kind,
                    &mut length,
                    &mut data,
                    null_mut(),
                    null_mut(),
                ) == 0
                && kind == UINT8_ARRAY
                && length > 0;
        for (number, argument) in numbers.iter_mut().zip(&arguments[1..]) {
            is_sound = is_sound && napi_get_value_double(env, *argument, number) == 0;
        }
        if is_sound {
            // Node names `length` bytes of a live buffer, and no script runs before this returns.
            cipher_calls(slice::from_raw_parts_mut(data.cast(), length), numbers)
        } else {
            Err("cipher(data, sectorSize, encrypts, calls)".into())
        }
    };
    if outcome.is_err() {
        // SAFETY: `env` is good, the text ends in a zero.
        unsafe { napi_throw_error(env, null(), c"the native cipher cannot do this".as_ptr()) };
    }
    null_mut()
}

/// `napi_uint8_array`.
const UINT8_ARRAY: i32 = 1;

fn cipher_calls(data: &mut [u8], [sector_size, encrypts, calls]: [f64; 3]) -> Outcome<()> {
    thread_local! {
        static CIPHERS: RefCell<HashMap<u32, Xts>> = RefCell::default();
    }
    CIPHERS.with_borrow_mut(|ciphers| {
        let sector_size = sector_size as u32;
        if !ciphers.contains_key(&sector_size) {
            ciphers.insert(sector_size, Xts::new(&SecretKey::generate(64)?, sector_size, 1)?);
        }
        let cipher = &ciphers[&sector_size];
        for _ in 0..calls as usize {
            if encrypts == 1.0 {
                cipher.encrypt(data, FIRST_SECTOR)?
            } else {
                cipher.decrypt(data, FIRST_SECTOR)?
            }
        }
        Ok(())
    })
}

const FIRST_SECTOR: u64 = 1 << 33;
