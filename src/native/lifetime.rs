//! Work that outlives a call ends with its environment: a worker that terminates, or Node at exit.

use std::cell::RefCell;
use std::sync::{Arc, Weak};

use napi::{Env, Result};

/// Something with threads of its own.
pub(crate) trait Lifetime: Send + Sync {
    /// Stops the work and returns when no thread of it runs any more.
    fn end(&self);
}

thread_local! {
    /// The running work of this environment; an environment lives on one thread.
    static RUNNING: RefCell<Option<Vec<Weak<dyn Lifetime>>>> = const { RefCell::new(None) };
}

/// Ties `work` to the environment. The last owner may drop it earlier.
pub(crate) fn attach(env: &Env, work: &Arc<impl Lifetime + 'static>) -> Result<()> {
    let weak: Weak<dyn Lifetime> = Arc::downgrade(&(Arc::clone(work) as Arc<dyn Lifetime>));
    let first = RUNNING.with_borrow_mut(|running| {
        let first = running.is_none();
        let running = running.get_or_insert_default();
        running.retain(|work| work.strong_count() > 0);
        running.push(weak);
        first
    });
    if first {
        env.add_env_cleanup_hook((), |()| end_all())?;
    }
    Ok(())
}

fn end_all() {
    let running = RUNNING.with_borrow_mut(Option::take).unwrap_or_default();
    for work in running.iter().filter_map(Weak::upgrade) {
        work.end();
    }
}
