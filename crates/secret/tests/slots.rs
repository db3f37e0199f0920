//! Slots against a model: alignment, no overlap, contents intact, freed bytes zero; alone and from many threads.

use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;

use proptest::prelude::*;
use vmseal_secret::{Error, MAX_LEN, SecretKey, status};

// Tests that look at freed slots or at totals may not share the arena with another test.
static ALONE: Mutex<()> = Mutex::new(());

fn patterned(len: usize, seed: u64) -> SecretKey {
    SecretKey::try_init::<Error>(len, |bytes| {
        assert!(bytes.iter().all(|b| *b == 0), "a new slot is zero");
        bytes.iter_mut().enumerate().for_each(|(i, b)| *b = pattern(seed, i));
        Ok(())
    })
    .expect("a key")
}

// Never zero, so that a wiped byte cannot pass for a written one.
fn pattern(seed: u64, index: usize) -> u8 {
    let mixed = (seed ^ index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8 | 1
}

fn intact(key: &SecretKey, seed: u64) -> bool {
    key.expose(|bytes| bytes.iter().enumerate().all(|(i, b)| *b == pattern(seed, i)))
}

fn range(key: &SecretKey) -> (usize, usize) {
    key.expose(|bytes| (bytes.as_ptr().addr(), bytes.len()))
}

fn reads_zero(address: usize, len: usize) -> bool {
    (address..address + len).all(|at| {
        // SAFETY: chunks stay mapped and readable after their slots are freed; no test that could take the slot
        // again runs meanwhile.
        unsafe { std::ptr::with_exposed_provenance::<u8>(at).read_volatile() == 0 }
    })
}

#[derive(Clone, Debug)]
enum Step {
    Make(usize),
    MakeMany(usize, usize),
    Drop(prop::sample::Index),
    /// That many, from some place on.
    DropMany(prop::sample::Index, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length =
        prop_oneof![4 => 1usize..=64, 2 => 65usize..=600, 1 => 601usize..=MAX_LEN, 1 => Just(MAX_LEN)];
    let index = any::<prop::sample::Index>;
    prop_oneof![
        6 => length.clone().prop_map(Step::Make),
        1 => (length, 0usize..80).prop_map(|(length, count)| Step::MakeMany(length, count)),
        4 => index().prop_map(Step::Drop),
        1 => (index(), 0usize..60).prop_map(|(index, count)| Step::DropMany(index, count)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn follow_the_model(steps in prop::collection::vec(step(), 1..250)) {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = status();
        let mut live: Vec<(SecretKey, u64)> = Vec::new();
        let mut units = 0;
        for (seed, step) in (1u64..).zip(steps) {
            match step {
                Step::Make(len) => {
                    let key = patterned(len, seed);
                    let (start, _) = range(&key);
                    let end = start + len.next_multiple_of(64);
                    prop_assert_eq!(start % 64, 0);
                    for (other, _) in &live {
                        let (from, len) = range(other);
                        prop_assert!(end <= from || from + len.next_multiple_of(64) <= start, "slots overlap");
                    }
                    units += len.div_ceil(64);
                    live.push((key, seed));
                }
                Step::MakeMany(len, count) => {
                    let seed_of = |index: usize| seed << 16 | index as u64;
                    let made = SecretKey::try_init_many::<Error>(len, count, |index, bytes| {
                        assert!(bytes.iter().all(|b| *b == 0), "a new slot is zero");
                        bytes.iter_mut().enumerate().for_each(|(i, b)| *b = pattern(seed_of(index), i));
                        Ok(())
                    });
                    let made = made.expect("keys");
                    prop_assert_eq!(made.len(), count);
                    units += count * len.div_ceil(64);
                    live.extend(made.into_iter().enumerate().map(|(index, key)| (key, seed_of(index))));
                    prop_assert!(live.iter().all(|(key, seed)| intact(key, *seed)), "slots overlap");
                }
                Step::DropMany(index, count) if !live.is_empty() => {
                    let from = index.index(live.len());
                    let dropped: Vec<_> = live.drain(from..(from + count).min(live.len())).collect();
                    prop_assert!(dropped.iter().all(|(key, seed)| intact(key, *seed)));
                    let places: Vec<_> = dropped.iter().map(|(key, _)| range(key)).collect();
                    units -= places.iter().map(|(_, len)| len.div_ceil(64)).sum::<usize>();
                    SecretKey::drop_many(dropped.into_iter().map(|(key, _)| key).collect());
                    let zero = |(start, len): &(usize, usize)| reads_zero(*start, len.next_multiple_of(64));
                    prop_assert!(places.iter().all(zero), "a freed slot is zero");
                }
                Step::Drop(index) if !live.is_empty() => {
                    let (key, seed) = live.swap_remove(index.index(live.len()));
                    prop_assert!(intact(&key, seed));
                    let (start, len) = range(&key);
                    units -= len.div_ceil(64);
                    drop(key);
                    prop_assert!(reads_zero(start, len.next_multiple_of(64)), "a freed slot is zero");
                }
                Step::Drop(_) | Step::DropMany(..) => {}
            }
            let now = status();
            prop_assert_eq!(now.allocations, before.allocations + live.len());
            prop_assert_eq!(now.bytes_used, before.bytes_used + units * 64);
            prop_assert!(now.bytes_used <= now.bytes_reserved);
        }
        prop_assert!(live.iter().all(|(key, seed)| intact(key, *seed)));
    }
}

#[test]
fn a_failed_or_panicking_fill_leaves_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = status();
    let mut place = 0;
    let failed = SecretKey::try_init::<Error>(200, |bytes| {
        place = bytes.as_ptr().expose_provenance();
        bytes.fill(0xee);
        Err(Error::Random)
    });
    assert_eq!(failed.expect_err("refused"), Error::Random);
    assert!(reads_zero(place, 256));
    let caught = std::panic::catch_unwind(|| {
        SecretKey::try_init::<Error>(200, |bytes| {
            bytes.fill(0xee);
            panic!("in the filler");
        })
    });
    assert!(caught.is_err());
    assert!(reads_zero(place, 256), "the slot of the panic is the one freed before it");
    assert_eq!((status().allocations, status().bytes_used), (before.allocations, before.bytes_used));
    assert_eq!(range(&patterned(200, 1)).0, place, "the arena goes on after a panic");
}

#[test]
fn threads_keep_their_own_bytes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const THREADS: u64 = 12;
    let before = status();
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for id in 0..THREADS {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                let mut live: Vec<(SecretKey, u64)> = Vec::new();
                let mut random = id + 1;
                for round in 0..1500 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let seed = (id << 32) | round;
                    if live.len() > 40 || (random >> 40).is_multiple_of(3) && !live.is_empty() {
                        let (key, seed) = live.swap_remove((random >> 33) as usize % live.len());
                        assert!(intact(&key, seed), "thread {id} round {round}");
                    } else {
                        live.push((patterned(1 + (random >> 33) as usize % 300, seed), seed));
                    }
                }
                assert!(live.iter().all(|(key, seed)| intact(key, *seed)));
            });
        }
    });
    assert_eq!((status().allocations, status().bytes_used), (before.allocations, before.bytes_used));
}

#[test]
fn many_threads_read_one_key_made_and_dropped_elsewhere() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let key = thread::spawn(|| patterned(64, 99)).join().expect("made on another thread");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20_000).for_each(|_| assert!(intact(&key, 99))));
        }
    });
    let place = range(&key).0;
    thread::spawn(move || drop(key)).join().expect("dropped on another thread");
    assert!(reads_zero(place, 64));
}
