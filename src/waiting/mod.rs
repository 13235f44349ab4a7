//! Who waits for what: questions asked once for many, work done in one go, uploads that are pending, remote files that
//! are arriving, what is put off until nobody wants anything, and how many uploads each user has under way.
//!
//! Owns the meeting points between requests, all in memory and bounded. Waiting holds no thread.

mod arrivals;
mod gathering;
mod idle;
mod pending;
mod permits;
mod single_flight;
mod uploads;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use self::arrivals::{Arrivals, Chunks, Coming, Served};
pub(crate) use self::gathering::{Gathering, Ticket};
pub(crate) use self::idle::{Activity, Backlog, Busy};
pub(crate) use self::pending::PendingUploads;
pub(crate) use self::permits::{Lanes, Memory};
pub(crate) use self::single_flight::SingleFlight;
pub(crate) use self::uploads::{UnderWay, Uploads};

/// When to come back.
const RETRY: Duration = Duration::from_secs(5);

/// An entry of a table of what is under way, which leaves it when this is dropped, however its task ends.
struct Entry<K: Eq + Hash, V> {
    /// The table.
    table: Arc<Mutex<HashMap<K, V>>>,
    /// Where it stands.
    key: K,
}

impl<K: Eq + Hash, V> Entry<K, V> {
    /// The entry at `key`.
    fn new(table: &Arc<Mutex<HashMap<K, V>>>, key: K) -> Self {
        Self { table: Arc::clone(table), key }
    }
}

impl<K: Eq + Hash, V> Drop for Entry<K, V> {
    fn drop(&mut self) {
        lock(&self.table).remove(&self.key);
    }
}

/// A table's lock. A panic elsewhere cannot leave it half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
