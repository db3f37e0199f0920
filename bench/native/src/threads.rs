//! Measurements on one CPU or on all of them at once, every thread bound to its own.

use std::sync::{Barrier, OnceLock};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs that this process may use, as they were at the first call: before any thread was bound.
pub fn cpus() -> &'static [usize] {
    static CPUS: OnceLock<Vec<usize>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let Ok(set) = sched_getaffinity(None) else { return vec![0] };
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
    })
}

/// Binds this thread; a refusal only makes the figures less steady.
pub fn bind(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    let _ = sched_setaffinity(None, &set);
}

/// The sum of what `work` gives on a thread for each of `places`, all begun at the same moment. A single one runs here.
pub fn sum_over<T: Send>(places: Vec<T>, cpus: &[usize], work: impl Fn(T) -> f64 + Sync) -> f64 {
    let count = places.len();
    let barrier = Barrier::new(count);
    let run = |place: T| {
        barrier.wait();
        work(place)
    };
    if count == 1 {
        return places.into_iter().map(run).sum();
    }
    let run = &run;
    std::thread::scope(|scope| {
        let handles: Vec<_> = places
            .into_iter()
            .zip(cpus)
            .map(|(place, &cpu)| {
                scope.spawn(move || {
                    bind(cpu);
                    run(place)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap_or(f64::NAN)).sum()
    })
}
