//! Wiping at exit and on request, and the protocol that keeps zeroed keys out of written data.

mod child;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use vmseal_secret::{Error, SecretBox, SecretKey, status, wipe_all, wiped};

static PLACE: AtomicUsize = AtomicUsize::new(0);

fn zero_at_place() -> bool {
    let start = PLACE.load(Ordering::SeqCst);
    // SAFETY: the place of a key that is alive; chunks stay mapped.
    start != 0
        && (0..32).all(|i| unsafe { std::ptr::with_exposed_provenance::<u8>(start + i).read_volatile() } == 0)
}

fn remember_place(key: &SecretKey) {
    PLACE.store(key.expose(|bytes| bytes.as_ptr().expose_provenance()), Ordering::SeqCst);
}

#[test]
fn wipes_keys_that_are_still_alive() {
    if child::role().is_none() {
        return child::MEMORIES
            .iter()
            .for_each(|m| child::pass("wipes_keys_that_are_still_alive", "exit", m));
    }
    // Handlers run last in, first out: this one is registered before the first key and so runs after the arena's.
    extern "C" fn check() {
        if zero_at_place() && wiped() {
            child::done();
        } else {
            // SAFETY: ends the process at once with a code the parent sees.
            unsafe { libc::_exit(3) }
        }
    }
    // SAFETY: `check` touches statics and mapped memory only.
    assert_eq!(unsafe { libc::atexit(check) }, 0);
    let key = SecretKey::generate(32).expect("a key");
    remember_place(&key);
    assert!(!zero_at_place() && !wiped());
    std::process::exit(0);
}

#[test]
fn after_wiping_old_keys_are_zero_and_new_ones_refused() {
    let name = "after_wiping_old_keys_are_zero_and_new_ones_refused";
    if child::role().is_none() {
        return child::MEMORIES.iter().for_each(|memory| child::pass(name, "wipe", memory));
    }
    let keys: Vec<_> = (0..3000).map(|_| SecretKey::generate(64).expect("a key")).collect();
    let boxed = SecretBox::<[u64; 60]>::try_init::<Error>(|words| {
        words.fill(u64::MAX);
        Ok(())
    })
    .expect("a box");
    // A key that is being made meanwhile: filled after the wipe passed its slot.
    let late = SecretKey::try_init::<Error>(32, |bytes| {
        PLACE.store(bytes.as_ptr().expose_provenance(), Ordering::SeqCst);
        wipe_all();
        bytes.fill(0xee);
        Ok(())
    });
    assert_eq!(late.expect_err("refused"), Error::ShuttingDown);
    assert!(zero_at_place(), "what was written after the wipe is wiped as well");
    assert!(wiped());
    assert!(keys.iter().all(|key| key.expose(|bytes| bytes.iter().all(|b| *b == 0))));
    assert!(boxed.get().iter().all(|word| *word == 0));
    assert_eq!(SecretKey::generate(32).expect_err("refused"), Error::ShuttingDown);
    let refused = SecretBox::<[u8; 16]>::try_init::<Error>(|_| panic!("fill must not run"));
    assert_eq!(refused.expect_err("refused"), Error::ShuttingDown);
    drop((keys, boxed));
    assert_eq!((status().allocations, status().bytes_used), (0, 0));
    wipe_all();
    child::done();
}

#[test]
fn a_result_checked_after_ciphering_was_made_with_the_true_key() {
    let name = "a_result_checked_after_ciphering_was_made_with_the_true_key";
    if child::role().is_none() {
        for _ in 0..3 {
            child::MEMORIES.iter().for_each(|memory| child::pass(name, "race", memory));
        }
        return;
    }
    // A long arena, so that the wipe takes a while, and the key of the workers in the chunk that is wiped first.
    let _ballast: Vec<_> = (0..1024).map(|_| SecretKey::generate(4096).expect("a key")).collect();
    let key = SecretKey::try_init::<Error>(4096, |bytes| {
        bytes.fill(0xff);
        Ok(())
    })
    .expect("a key");
    let (written, wrong, running) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                running.fetch_add(1, Ordering::SeqCst);
                loop {
                    let zeroed = key.expose(|bytes| bytes.iter().any(|b| *b != 0xff));
                    if wiped() {
                        break;
                    }
                    wrong.fetch_or(zeroed, Ordering::SeqCst);
                    written.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while running.load(Ordering::SeqCst) < 3 {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        wipe_all();
    });
    assert!(written.load(Ordering::SeqCst) > 0);
    assert!(!wrong.load(Ordering::SeqCst), "data made with a zeroed key passed the check");
    assert!(key.expose(|bytes| bytes.iter().all(|b| *b == 0)));
    child::done();
}
