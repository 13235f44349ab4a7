//! Concurrent callers with the same key share one run of the work.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument as _;

use super::{RETRY, TableEntry, lock};
use crate::error::{Error, Kind, Result};
use crate::log;

/// Most flights at the same time, unless [`SingleFlight::at_most`] sets another number; further ones are refused.
const MAX_FLIGHTS: usize = 1024;

/// The longest wait of a caller in the queue.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The result of a flight, when it has ended.
type Outcome<V> = watch::Receiver<Option<Result<V>>>;

/// Runs one future for each key at a time; callers that come meanwhile get its result. The number of keys in flight is bounded: further
/// callers wait in a bounded queue, if there is one, for up to [`LONGEST_WAIT`], and then get `LimitExceeded`.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, V> {
    flights: Arc<Mutex<HashMap<K, Outcome<V>>>>,
    /// A permit for each flight.
    permits: Arc<Semaphore>,
    /// A permit for each caller that may wait for a flight's permit.
    queue: Semaphore,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::at_most(MAX_FLIGHTS)
    }
}

impl<K, V> SingleFlight<K, V> {
    /// At most `limit` flights at the same time, and no queue.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { flights: Arc::default(), permits: Arc::new(Semaphore::new(limit)), queue: Semaphore::new(0) }
    }

    /// The same with a queue of `length` callers.
    #[must_use]
    pub(crate) fn with_queue(self, length: usize) -> Self {
        Self { queue: Semaphore::new(length), ..self }
    }

    async fn permit(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let refused = || {
            let message = "too many requests of this kind are in progress, try again";
            Error::new(Kind::LimitExceeded, message).retry_after(RETRY)
        };
        let _in_queue = self.queue.try_acquire().map_err(|_full| refused())?;
        let permit = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.permits).acquire_owned()).await;
        permit.map_err(|_elapsed| refused())?.map_err(|error| Error::internal("waiting for a permit", error))
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// The result of the flight in progress for `key`, or of `start()` if there is none. A flight runs to its end even if all its callers
    /// are cancelled.
    ///
    /// # Errors
    /// `LimitExceeded`, and the errors of the flight.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let under_way = lock(&self.flights).get(&key).cloned();
        let mut outcome = match under_way {
            Some(outcome) => outcome,
            None => self.join(key, self.permit().await?, start),
        };
        let outcome = outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => Err(Error::internal("sharing a result", io::Error::other("its task ended"))),
        }
    }

    /// Joins a flight that began while the permit was waited for, or starts one.
    fn join<F>(&self, key: K, permit: OwnedSemaphorePermit, start: impl FnOnce() -> F) -> Outcome<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(outcome) = flights.get(&key) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        flights.insert(key.clone(), outcome.clone());
        let future = start();
        let entry = TableEntry::new(&self.flights, key);
        // Log lines carry the ID of the request that started the flight, not of those that share its result.
        let span = log::request_span();
        let flight = async move {
            let result = future.instrument(span).await;
            // Removed before the result is published: a later caller starts a new flight.
            drop((entry, permit));
            sender.send_replace(Some(result));
        };
        tokio::spawn(flight);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Runs a flight for `key` in a task of its own; its result is the key, once `gate` opens.
    fn ask(
        flight: &Arc<SingleFlight<u32, u32>>,
        key: u32,
        gate: &Arc<Semaphore>,
    ) -> tokio::task::JoinHandle<Result<u32>> {
        let (flight, gate) = (Arc::clone(flight), Arc::clone(gate));
        let start = move || async move {
            gate.acquire().await.unwrap().forget();
            Ok(key)
        };
        tokio::spawn(async move { flight.run(key, start).await })
    }

    /// Lets all tasks run until they wait.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_waits_in_the_queue_while_there_are_too_many_flights_and_joins_what_is_under_way() {
        let (flight, gate) = (Arc::new(SingleFlight::at_most(2).with_queue(3)), Arc::new(Semaphore::new(0)));
        let asked: Vec<_> = [1, 2, 1, 3, 4, 5].map(|key| ask(&flight, key, &gate)).into();
        settle().await;
        let started = Instant::now();
        let refused = ask(&flight, 6, &gate).await.unwrap().unwrap_err();
        assert_eq!((refused.kind(), refused.wait()), (Kind::LimitExceeded, Some(RETRY)));
        assert_eq!(started.elapsed(), Duration::ZERO);
        // Joining a flight needs no permit.
        let joined = ask(&flight, 2, &gate);
        gate.add_permits(5);
        for (asked, key) in asked.into_iter().chain([joined]).zip([1, 2, 1, 3, 4, 5, 2]) {
            assert_eq!(asked.await.unwrap().unwrap(), key);
        }
        settle().await;
        assert_eq!((flight.permits.available_permits(), flight.queue.available_permits()), (2, 3));
        assert!(lock(&flight.flights).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_has_waited_long_enough_is_refused_and_without_a_queue_at_once() {
        let gate = Arc::new(Semaphore::new(0));
        for (queue, wait) in [(1, LONGEST_WAIT), (0, Duration::ZERO)] {
            let flight = Arc::new(SingleFlight::at_most(1).with_queue(queue));
            let first = ask(&flight, 1, &gate);
            settle().await;
            let started = Instant::now();
            let refused = ask(&flight, 2, &gate).await.unwrap().unwrap_err();
            assert_eq!((refused.kind(), started.elapsed()), (Kind::LimitExceeded, wait));
            gate.add_permits(1);
            assert_eq!(first.await.unwrap().unwrap(), 1);
        }
    }
}
