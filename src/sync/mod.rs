//! Primitives of concurrency, without a word of what they are used for: bounded pools of blocking threads, single flight, keyed semaphores,
//! batches, idleness.
//!
//! Owns who waits for whom in memory, always bounded. Waiting holds no thread. Refuses to know media, HTTP and Matrix.

mod batcher;
mod idle;
mod keyed_semaphore;
pub(crate) mod pools;
mod single_flight;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use self::batcher::{Batcher, Handle};
pub(crate) use self::idle::{Activity, Backlog, Busy};
pub(crate) use self::keyed_semaphore::{KeyedSemaphore, Memory};
pub(crate) use self::single_flight::SingleFlight;

/// When to come back.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// An entry of a table of what is under way, which leaves it when this is dropped, however its task ends.
pub(crate) struct Entry<K: Eq + Hash, V> {
    /// The table.
    table: Arc<Mutex<HashMap<K, V>>>,
    /// Where it stands.
    key: K,
}

impl<K: Eq + Hash, V> Entry<K, V> {
    /// The entry at `key`.
    pub(crate) fn new(table: &Arc<Mutex<HashMap<K, V>>>, key: K) -> Self {
        Self { table: Arc::clone(table), key }
    }
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

/// A table's lock. A panic elsewhere cannot leave it half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
