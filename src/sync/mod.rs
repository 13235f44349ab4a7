//! Primitives of concurrency: bounded pools of blocking threads, single flight, semaphores, batches, idleness.
//!
//! Owns waiting in memory: every queue is bounded, and waiting holds no thread. Refuses to know media, HTTP and Matrix.

mod activity;
mod backlog;
mod batcher;
mod keyed_semaphore;
pub(crate) mod pools;
mod single_flight;
mod weighted_semaphore;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use self::activity::{Activity, Busy};
pub(crate) use self::backlog::Backlog;
pub(crate) use self::batcher::{Batcher, Handle};
pub(crate) use self::keyed_semaphore::KeyedSemaphore;
pub(crate) use self::single_flight::SingleFlight;
pub(crate) use self::weighted_semaphore::WeightedSemaphore;

/// The `Retry-After` of requests that a full queue refuses.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// An entry of a shared table. It is removed when this is dropped, so a task that holds it leaves the table even if it panics.
pub(crate) struct TableEntry<K: Eq + Hash, V> {
    table: Arc<Mutex<HashMap<K, V>>>,
    key: K,
}

impl<K: Eq + Hash, V> TableEntry<K, V> {
    /// Guards the entry at `key`, which the caller has inserted or is about to.
    pub(crate) fn new(table: &Arc<Mutex<HashMap<K, V>>>, key: K) -> Self {
        Self { table: Arc::clone(table), key }
    }
}

impl<K: Eq + Hash, V> Drop for TableEntry<K, V> {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

/// Locks a table. A poisoned lock can be used: no code that holds one can panic halfway through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
