//! Faults on purpose, for tests that must be able to find them. Only in builds with the feature `planted-faults`.

use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_secret::SecretKey;

use crate::background;
use crate::fault::caught;
use crate::task::NativeTask;

/// Leaves a copy of the key in ordinary memory.
pub(crate) fn leak(key: &SecretKey) {
    key.expose(|bytes| std::mem::forget(bytes.to_vec()));
}

#[napi]
pub fn panic_in_call() -> Result<()> {
    caught(|| panic!("planted"))
}

#[napi(ts_return_type = "Promise<void>")]
pub fn panic_in_background<'env>(env: &'env Env) -> Result<Object<'env>> {
    background::promise::<()>(env, || panic!("planted"))
}

#[napi]
pub fn panic_in_task(env: &Env) -> Result<NativeTask> {
    NativeTask::start(env, |_| panic!("planted"))
}
