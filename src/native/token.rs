//! Numbers that stand for native objects in calls where looking into a JavaScript object would take longer than the
//! work: unwrapping a class instance and checking its type tag takes 200 ns, finding a token 10.
//!
//! A token is a capability like the object it belongs to: 53 bits that nobody can guess, valid on one JavaScript thread
//! and only as long as the object lives.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::thread::LocalKey;

/// The largest integer that a JavaScript number holds exactly, as a mask.
const MASK: u64 = (1 << 53) - 1;

/// The objects of one kind on one JavaScript thread.
pub(crate) struct Tokens<T> {
    objects: HashMap<u64, T, BuildHasherDefault<AsItIs>>,
    /// Objects that came together, by the token of the first: one entry for all of them.
    runs: BTreeMap<u64, RunOfObjects<T>>,
    /// A keyed hash (SipHash under a key from the operating system) of a counter.
    random: RandomState,
    counter: u64,
}

/// Objects whose tokens follow one another; the gaps are objects that were removed.
struct RunOfObjects<T> {
    places: Vec<Option<T>>,
    left: usize,
}

/// Declared with `thread_local!` for each kind.
pub(crate) type Registry<T> = LocalKey<RefCell<Tokens<T>>>;

impl<T> Tokens<T> {
    pub(crate) fn new() -> Self {
        Self { objects: HashMap::default(), runs: BTreeMap::new(), random: RandomState::new(), counter: 0 }
    }

    /// A new token for `object`; never 0.
    pub(crate) fn insert(&mut self, object: T) -> f64 {
        loop {
            let token = self.random_token();
            if token == 0 || self.run_of(token).is_some() {
                continue;
            }
            if let Entry::Vacant(place) = self.objects.entry(token) {
                place.insert(object);
                return token as f64;
            }
        }
    }

    /// New tokens for `objects`, each greater by one than that of the object before; gives the first.
    pub(crate) fn insert_run(&mut self, objects: impl ExactSizeIterator<Item = T>) -> f64 {
        let left = objects.len();
        let places: Vec<Option<T>> = objects.map(Some).collect();
        loop {
            let first = self.random_token();
            let end = first + left as u64;
            // A single token inside of the run would be hidden by it, or hide its object.
            let is_free = first != 0
                && end <= MASK
                && self.run_of(first).is_none()
                && self.runs.range(first..end).next().is_none()
                && !(first..end).any(|token| self.objects.contains_key(&token));
            if is_free {
                if left > 0 {
                    self.runs.insert(first, RunOfObjects { places, left });
                }
                return first as f64;
            }
        }
    }

    pub(crate) fn get(&self, token: f64) -> Option<&T> {
        let token = whole(token)?;
        match self.objects.get(&token) {
            None => {
                let (first, run) = self.run_of(token)?;
                run.places[(token - first) as usize].as_ref()
            }
            found => found,
        }
    }

    /// Gives a token that was removed to `object`.
    pub(crate) fn put_back(&mut self, token: f64, object: T) {
        let Some(token) = whole(token) else { return };
        if let Some((first, run)) = self.runs.range_mut(..=token).next_back()
            && let Some(place) = run.places.get_mut((token - first) as usize)
        {
            *place = Some(object);
            run.left += 1;
        } else {
            self.objects.insert(token, object);
        }
    }

    pub(crate) fn remove(&mut self, token: f64) -> Option<T> {
        let token = whole(token)?;
        self.objects.remove(&token).or_else(|| self.remove_of_run(token, 1).next())
    }

    /// Removes the objects of `tokens`, which costs least where they follow one another.
    pub(crate) fn remove_many(&mut self, tokens: &[f64]) -> Vec<T> {
        let mut removed = Vec::with_capacity(tokens.len());
        for run in tokens.chunk_by(|one, next| *next == one + 1.0) {
            let Some(first) = whole(run[0]) else { continue };
            // Most runs were inserted as one.
            if self
                .run_of(first)
                .is_some_and(|(start, found)| (first - start) as usize + run.len() <= found.places.len())
            {
                removed.extend(self.remove_of_run(first, run.len()));
            } else {
                removed.extend(run.iter().filter_map(|token| self.remove(*token)));
            }
        }
        removed
    }

    fn random_token(&mut self) -> u64 {
        self.counter += 1;
        self.random.hash_one(self.counter) & MASK
    }

    /// The run that a token belongs to, with the token of its first object.
    fn run_of(&self, token: u64) -> Option<(u64, &RunOfObjects<T>)> {
        let (first, run) = self.runs.range(..=token).next_back()?;
        (token - first < run.places.len() as u64).then_some((*first, run))
    }

    /// Removes `count` objects of one run, from `token` on; all of them lie in it, or `token` in no run at all.
    fn remove_of_run(&mut self, token: u64, count: usize) -> impl Iterator<Item = T> + use<T> {
        let mut removed = Vec::new();
        if let Some((first, run)) = self.runs.range_mut(..=token).next_back() {
            let (first, from) = (*first, (token - first) as usize);
            if let Some(places) = run.places.get_mut(from..from + count) {
                removed.extend(places.iter_mut().filter_map(Option::take));
                run.left -= removed.len();
            }
            if run.left == 0 {
                self.runs.remove(&first);
            }
        }
        removed.into_iter()
    }
}

/// Forgets a token when its object goes, also at the end of the thread, when the registry may be gone first.
pub(crate) fn forget<T: 'static>(registry: &'static Registry<T>, token: f64) {
    if token != 0.0 {
        // Dropped outside of the borrow.
        drop(registry.try_with(|tokens| tokens.borrow_mut().remove(token)));
    }
}

/// [`forget`] for many; `end` is what becomes of their objects.
pub(crate) fn forget_many<T: 'static>(
    registry: &'static Registry<T>,
    tokens: &[f64],
    end: impl FnOnce(Vec<T>),
) {
    if let Ok(removed) = registry.try_with(|known| known.borrow_mut().remove_many(tokens)) {
        // Outside of the borrow.
        end(removed);
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
