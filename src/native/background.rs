//! Bounded work off the event loop: an own pool, so that neither libuv's four threads (fs, dns) nor rayon's global
//! pool wait for us.
#![allow(unsafe_code)]

use std::mem;
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

/// Lets the event loop go first when all cores are busy. A lower priority alone does not: a thread that wakes waits for the
/// end of the running one's slice. Since Linux 6.12 a thread may ask for a slice of its own; one that works long says so,
/// and gives way at once to one that has little to do. Measured for a gigabyte on a busy machine (p99 of a 1 ms timer): nice 5
/// 14.7 ms, SCHED_BATCH 8.0, SCHED_IDLE 8.2, nice 5 with this slice 4.0. A system that allows neither loses only that.
fn step_back() {
    // SAFETY: the structure is plain integers, for which zeros are lawful.
    let mut wish: libc::sched_attr = unsafe { mem::zeroed() };
    wish.size = mem::size_of::<libc::sched_attr>() as u32;
    wish.sched_policy = libc::SCHED_OTHER as u32;
    wish.sched_nice = NICE;
    wish.sched_runtime = SLICE_NS;
    // SAFETY: the kernel reads `size` bytes of a structure that lives until the call returns; 0 is the calling thread.
    let status = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
    if status != 0 {
        // On Linux this is the priority of the calling thread alone.
        let _ = rustix::process::nice(NICE);
    }
}

const NICE: i32 = 5;

/// The longest that the kernel takes.
const SLICE_NS: u64 = 100_000_000;
