//! Numbers that stand for native objects in calls where looking into a JavaScript object would take longer than the
//! work: unwrapping a class instance and checking its type tag takes 200 ns, finding a token 10.
//!
//! A token is a capability like the object it belongs to: 53 bits that nobody can guess, valid on one JavaScript thread
//! and only as long as the object lives.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::thread::LocalKey;

/// The largest integer that a JavaScript number holds exactly, as a mask.
const MASK: u64 = (1 << 53) - 1;

/// The objects of one kind on one JavaScript thread.
pub(crate) struct Tokens<T> {
    objects: HashMap<u64, T, BuildHasherDefault<AsItIs>>,
    /// A keyed hash (SipHash under a key from the operating system) of a counter.
    random: RandomState,
    counter: u64,
}

/// Declared with `thread_local!` for each kind.
pub(crate) type Registry<T> = LocalKey<RefCell<Tokens<T>>>;

impl<T> Tokens<T> {
    pub(crate) fn new() -> Self {
        Self { objects: HashMap::default(), random: RandomState::new(), counter: 0 }
    }

    /// A new token for `object`; never 0.
    pub(crate) fn insert(&mut self, object: T) -> f64 {
        loop {
            self.counter += 1;
            let token = self.random.hash_one(self.counter) & MASK;
            if let (1.., Entry::Vacant(place)) = (token, self.objects.entry(token)) {
                place.insert(object);
                return token as f64;
            }
        }
    }

    /// New tokens for `objects`, each greater by one than that of the object before; gives the first.
    pub(crate) fn insert_run(&mut self, objects: Vec<T>) -> f64 {
        let count = objects.len() as u64;
        let first = loop {
            self.counter += 1;
            let first = self.random.hash_one(self.counter) & MASK;
            let mut run = first..first + count;
            if first != 0 && run.end <= MASK && !run.any(|token| self.objects.contains_key(&token)) {
                break first;
            }
        };
        self.objects.extend((first..).zip(objects));
        first as f64
    }

    pub(crate) fn get(&self, token: f64) -> Option<&T> {
        self.objects.get(&whole(token)?)
    }

    /// Gives a token that was removed to `object`.
    pub(crate) fn put_back(&mut self, token: f64, object: T) {
        if let Some(token) = whole(token) {
            self.objects.insert(token, object);
        }
    }

    pub(crate) fn remove(&mut self, token: f64) -> Option<T> {
        self.objects.remove(&whole(token)?)
    }
}

/// Forgets a token when its object goes, also at the end of the thread, when the registry may be gone first.
pub(crate) fn forget<T: 'static>(registry: &'static Registry<T>, token: f64) {
    if token != 0.0 {
        // Dropped outside of the borrow.
        drop(registry.try_with(|tokens| tokens.borrow_mut().remove(token)));
    }
}

fn whole(token: f64) -> Option<u64> {
    let whole = token as u64;
    (whole as f64 == token).then_some(whole)
}

/// Tokens are random already.
#[derive(Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        // The map takes 7 bits of its hash from the top, where a token has none.
        self.0 | (self.0 << 57)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) | u64::from(*byte);
        }
    }

    fn write_u64(&mut self, token: u64) {
        self.0 = token;
    }
}
