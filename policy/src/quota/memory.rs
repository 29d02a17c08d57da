//! Where counts of quotas and levels of gauges live: memory that is handed in, so that this crate
//! does no I/O.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use super::counter::Words;

/// Memory for counters. What it hands out stays where it is for the life of the process.
///
/// A count is known by a key made of its owner, its name, its meter and its calendar, a level by one
/// of its tenant and its meter; it is the same in every process. An implementation that keeps words over a restart hands out what was in them, after
/// [`begin_process`](super::begin_process). Words nobody used for 40 days must come back as zeros:
/// tags of hours compare rightly for 42.
pub trait Memory: fmt::Debug + Send + Sync {
    /// The words of a key, zeros at first. The same key always gets the same words. `None`: there
    /// is no room; the quota then counts in the process's own memory, see
    /// [`Policy::unkept_quotas`](crate::Policy::unkept_quotas).
    fn words(&self, key: u128) -> Option<&'static Words>;

    /// The words of a key that has some.
    fn find(&self, key: u128) -> Option<&'static Words>;

    /// Says which keys are in use; words of all others may be given to other keys. Called once, when
    /// the first documents of a process are in force: what is taken out of the documents while a
    /// process runs keeps its words until the next start, so that putting it back forgives nothing.
    fn retain(&self, in_use: &dyn Fn(u128) -> bool);
}

/// Words for the life of the process: for tests, benches and a gateway that keeps none.
#[derive(Default)]
pub struct InMemory {
    words: Mutex<HashMap<u128, &'static Words>>,
}

impl InMemory {
    /// A memory of its own.
    pub fn shared() -> Arc<dyn Memory> {
        Arc::new(InMemory::default())
    }
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory").finish_non_exhaustive()
    }
}

/// Fresh words that stay for ever.
pub(crate) fn leaked() -> &'static Words {
    Box::leak(Box::default())
}

impl Memory for InMemory {
    fn words(&self, key: u128) -> Option<&'static Words> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        Some(*words.entry(key).or_insert_with(leaked))
    }

    fn find(&self, key: u128) -> Option<&'static Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    fn retain(&self, _in_use: &dyn Fn(u128) -> bool) {}
}
