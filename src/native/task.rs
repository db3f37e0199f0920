//! Long work on a thread of its own: progress to poll, cancel, one promise.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use napi::bindgen_prelude::Object;
use napi::{Env, Result};
use napi_derive::napi;
use vmseal_disk::Control;

use crate::fault::{coded, panicked};
use crate::lifetime::{self, Lifetime};

/// A long native operation. It runs from the start, whether or not anybody waits.
#[napi]
pub struct NativeTask {
    work: Arc<Work>,
}

#[napi]
impl NativeTask {
    /// Bytes worked on so far.
    #[napi(getter)]
    pub fn done_bytes(&self) -> f64 {
        self.work.control.progress().done_bytes as f64
    }

    /// Bytes in all; 0 until it is known.
    #[napi(getter)]
    pub fn total_bytes(&self) -> f64 {
        self.work.control.progress().total_bytes as f64
    }

    /// Asks the operation to stop and to fail with VMSEAL_CANCELLED. A conversion, in place or to a copy, stays where it is and
    /// can be resumed; any other new disk is removed.
    #[napi]
    pub fn cancel(&self) {
        self.work.control.cancel();
    }

    /// Lets the operation work on at most that many bytes per second from its next step on; 0: as fast as it goes.
    #[napi]
    pub fn limit(&self, bytes_per_second: f64) {
        // Saturates; what is not a rate is 0.
        self.work.control.limit(bytes_per_second as u64);
    }

    /// Resolves with a JSON text that describes the outcome. May be called once.
    #[napi(ts_return_type = "Promise<string>")]
    pub fn done<'env>(&self, env: &'env Env) -> Result<Object<'env>> {
        let (deferred, promise) = env.create_deferred::<String, _>()?;
        let settle: Settle = Box::new(move |outcome| match outcome {
            Ok(text) => deferred.resolve(move |_| Ok(text)),
            Err(error) => deferred.reject(error),
        });
        self.work.observe(settle)?;
        Ok(promise)
    }
}

impl NativeTask {
    /// Starts `job` on a new thread.
    pub(crate) fn start(
        env: &Env,
        job: impl FnOnce(&Control) -> Result<String> + Send + 'static,
    ) -> Result<Self> {
        let work = Arc::new(Work::default());
        lifetime::attach(env, &work)?;
        let on_thread = Arc::clone(&work);
        let thread = std::thread::Builder::new()
            .name("vmseal-task".to_owned())
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| job(&on_thread.control)))
                    .unwrap_or_else(|panic| Err(panicked(&*panic)));
                on_thread.finish(outcome);
            })
            .map_err(|error| coded("VMSEAL_IO", format!("cannot start a thread: {error}")))?;
        *work.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Self { work })
    }
}

type Settle = Box<dyn FnOnce(Result<String>) + Send>;

#[derive(Default)]
struct Work {
    control: Control,
    state: Mutex<State>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
enum State {
    #[default]
    Running,
    Observed(Settle),
    Finished(Result<String>),
    Settled,
}

impl Work {
    fn observe(&self, settle: Settle) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Settled) {
            State::Running => *state = State::Observed(settle),
            State::Finished(outcome) => settle(outcome),
            other => {
                *state = other;
                return Err(coded("VMSEAL_INVALID_STATE", "done() was called before"));
            }
        }
        Ok(())
    }

    fn finish(&self, outcome: Result<String>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *state, State::Settled) {
            State::Observed(settle) => settle(outcome),
            _ => *state = State::Finished(outcome),
        }
    }
}

impl Lifetime for Work {
    fn end(&self) {
        self.control.cancel();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of the thread was caught inside it.
        let _ = thread.map(JoinHandle::join);
    }
}
