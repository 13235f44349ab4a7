//! Concurrency: admission to work that costs, bounded pools of blocking threads, single flight, semaphores, batches, idleness.
//!
//! Owns waiting in memory: every queue is bounded, and waiting holds no thread. Refuses to know media and HTTP.

mod activity;
pub(crate) mod admission;
mod backlog;
mod batcher;
pub(crate) mod pools;
mod single_flight;
mod weighted_semaphore;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use self::activity::{Activity, Busy};
pub(crate) use self::admission::Admission;
pub(crate) use self::backlog::Backlog;
pub(crate) use self::batcher::{Batcher, Handle};
pub(crate) use self::single_flight::{Flights, Joined, SingleFlight};
pub(crate) use self::weighted_semaphore::{Priority, WeightedSemaphore};

/// The `Retry-After` of requests that a full queue refuses.
pub(crate) const RETRY: Duration = Duration::from_secs(5);

/// Locks a table. A poisoned lock can be used: no code that holds one can panic halfway through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
