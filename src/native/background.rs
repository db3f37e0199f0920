//! Bounded work off the event loop: an own pool, so that neither libuv's four threads (fs, dns) nor rayon's global
//! pool wait for us.
//!
//! The environments of the process (the main thread's and one for each worker) share its threads. An environment that
//! ends waits for its own work, which may be writing to memory of its buffers; the last one ends the threads and waits
//! for them. `process.exit` ends no environment, so the threads are ended at exit, too, before the keys are wiped.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::fault::{caught, coded};
use crate::lifetime::{self, Lifetime};

/// Runs `job` on the pool; the returned promise settles with its result.
pub(crate) fn promise<'env, T: ToNapiValue + Send + 'static>(
    env: &'env Env,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Object<'env>> {
    stoppable(env, |_| job())
}

/// [`promise`] for long work in small pieces, which asks [`Stop::check`] before each.
pub(crate) fn stoppable<'env, T: ToNapiValue + Send + 'static>(
    env: &'env Env,
    job: impl FnOnce(&Stop) -> Result<T> + Send + 'static,
) -> Result<Object<'env>> {
    let work = work_of(env)?;
    let pool = pool();
    let running = pool.as_ref().ok_or_else(ending)?;
    let (deferred, promise) = env.create_deferred()?;
    let begun = work.begin();
    running.threads.spawn(move || {
        match caught(|| job(&Stop(&begun.0))) {
            Ok(value) => deferred.resolve(move |_| Ok(value)),
            Err(error) => deferred.reject(error),
        }
        // After the last use of the environment.
        drop(begun);
    });
    Ok(promise)
}

/// Says when a job has nobody left to work for.
pub(crate) struct Stop<'a>(&'a Work);

impl Stop<'_> {
    /// Fails when the environment of the job, or the process, is ending.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.is_ending.load(Ordering::Relaxed) || EXITING.load(Ordering::Relaxed) {
            return Err(ending());
        }
        Ok(())
    }
}

fn ending() -> napi::Error {
    coded("VMSEAL_CANCELLED", "Node is ending")
}

/// The work of one environment.
#[derive(Default)]
struct Work {
    /// Changes under the lock of `UNFINISHED` only.
    unfinished: AtomicUsize,
    is_ending: AtomicBool,
}

/// What all environments together have not finished.
static UNFINISHED: Mutex<usize> = Mutex::new(0);
static FINISHED: Condvar = Condvar::new();

fn unfinished() -> MutexGuard<'static, usize> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of work from when it is handed over until it is done with.
struct Begun(Arc<Work>);

impl Work {
    fn begin(self: &Arc<Self>) -> Begun {
        *unfinished() += 1;
        self.unfinished.fetch_add(1, Ordering::Relaxed);
        Begun(Arc::clone(self))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut all = unfinished();
        *all -= 1;
        self.0.unfinished.fetch_sub(1, Ordering::Relaxed);
        FINISHED.notify_all();
    }
}

impl Lifetime for Work {
    fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        let own = FINISHED.wait_while(unfinished(), |_| self.unfinished.load(Ordering::Relaxed) > 0);
        drop(own.unwrap_or_else(PoisonError::into_inner));
        let mut pool = pool();
        let is_last = pool.as_mut().is_some_and(|running| {
            running.environments -= 1;
            running.environments == 0
        });
        if is_last && let Some(running) = pool.take() {
            running.end();
        }
    }
}

thread_local! {
    /// An environment lives on one thread.
    static WORK: RefCell<Option<Arc<Work>>> = const { RefCell::new(None) };
}

/// The work of this environment, which takes part in the pool from its first on.
fn work_of(env: &Env) -> Result<Arc<Work>> {
    if let Some(work) = WORK.with_borrow(Option::clone) {
        return if work.is_ending.load(Ordering::Relaxed) { Err(ending()) } else { Ok(work) };
    }
    let mut pool = pool();
    let running = match pool.take() {
        Some(running) => running,
        None => Running::start()?,
    };
    pool.insert(running).environments += 1;
    drop(pool);
    let work = Arc::new(Work::default());
    lifetime::attach(env, &work)?;
    WORK.set(Some(Arc::clone(&work)));
    Ok(work)
}

/// The threads, while there are any.
struct Running {
    threads: ThreadPool,
    handles: Vec<JoinHandle<()>>,
    /// How many use them.
    environments: usize,
}

static POOL: Mutex<Option<Running>> = Mutex::new(None);

fn pool() -> MutexGuard<'static, Option<Running>> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Running {
    fn start() -> Result<Self> {
        end_at_exit();
        if EXITING.load(Ordering::Relaxed) {
            return Err(ending());
        }
        let mut handles = Vec::new();
        let threads = ThreadPoolBuilder::new()
            .spawn_handler(|thread| {
                let name = format!("vmseal-{}", thread.index());
                handles.push(Builder::new().name(name).spawn(|| {
                    step_back();
                    thread.run();
                })?);
                Ok(())
            })
            .build()
            .map_err(|error| coded("VMSEAL_IO", format!("cannot start threads: {error}")))?;
        Ok(Self { threads, handles, environments: 0 })
    }

    /// Returns when no thread runs any more. What was handed over is still done.
    fn end(self) {
        drop(self.threads);
        for handle in self.handles {
            // A panic of a job was caught inside it.
            let _ = handle.join();
        }
    }
}

static EXITING: AtomicBool = AtomicBool::new(false);

/// The process that has the threads.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Has the threads ended at exit. The last to register is the first to run, so this runs before the wiping of keys, which
/// the first key has registered.
fn end_at_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Were it refused, a thread that still works at exit would get zeros for keys and be told so.
        // SAFETY: `at_exit` takes nothing, never unwinds, and touches statics of a library that is never unloaded.
        let _ = unsafe { libc::atexit(at_exit) };
        OWNER.store(process::id(), Ordering::Relaxed);
    });
}

extern "C" fn at_exit() {
    // A forked child has none of the threads.
    if OWNER.load(Ordering::Relaxed) != process::id() {
        return;
    }
    EXITING.store(true, Ordering::Relaxed);
    let Some(running) = pool().take() else { return };
    let rest = FINISHED.wait_timeout_while(unfinished(), AT_EXIT, |all| *all > 0);
    let (rest, _) = rest.unwrap_or_else(PoisonError::into_inner);
    if *rest == 0 {
        drop(rest);
        running.end();
    } else {
        // They run to the end of the process, as every other thread of it does.
        mem::forget(running);
    }
}

/// How long exit waits. What works on memory of JavaScript stops within microseconds; what is longer waits for a disk or
/// for a server, asks whether the keys were wiped before it writes, and must survive a kill anyway.
const AT_EXIT: Duration = Duration::from_secs(1);

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
