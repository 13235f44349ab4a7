//! Questions asked once for all who ask.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument as _;

use super::{Entry, RETRY, lock};
use crate::error::{Error, Kind, Result};
use crate::log;

/// Shared answers under way at the same time; who asks for a further one is told to come back.
const MAX_FLIGHTS: usize = 1024;

/// The longest wait of who may wait for an answer to be begun.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// One answer under way, for all who ask.
type Under<V> = watch::Receiver<Option<Result<V>>>;

/// Runs one future for each key at a time; whoever asks meanwhile shares its answer.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, V> {
    /// Answers under way.
    flights: Arc<Mutex<HashMap<K, Under<V>>>>,
    /// A place for each of them.
    places: Arc<Semaphore>,
    /// A place for each who may wait for one of those.
    queue: Semaphore,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::at_most(MAX_FLIGHTS)
    }
}

impl<K, V> SingleFlight<K, V> {
    /// One that has at most `limit` answers under way; who asks for a further one is told to come back.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { flights: Arc::default(), places: Arc::new(Semaphore::new(limit)), queue: Semaphore::new(0) }
    }

    /// The same, where so many may wait a while before they are told to come back.
    #[must_use]
    pub(crate) fn with_queue(self, waiting: usize) -> Self {
        Self { queue: Semaphore::new(waiting), ..self }
    }

    /// A place for an answer.
    async fn place(&self) -> Result<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(place);
        }
        let refused = || {
            let message = "too many questions are waiting for an answer";
            Error::new(Kind::LimitExceeded, message).retry_after(RETRY)
        };
        let _waiting = self.queue.try_acquire().map_err(|_full| refused())?;
        let place = tokio::time::timeout(LONGEST_WAIT, Arc::clone(&self.places).acquire_owned()).await;
        place.map_err(|_elapsed| refused())?.map_err(|error| Error::internal("waiting for a place", error))
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// The answer of the future under way for `key`, or of `start()` if there is none. The future runs to its end even if
    /// all who asked go away.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let under_way = lock(&self.flights).get(&key).cloned();
        let mut answer = match under_way {
            Some(answer) => answer,
            None => self.join(key, self.place().await?, start),
        };
        let outcome = answer.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => {
                Err(Error::internal("sharing an answer", io::Error::other("its task ended")))
            }
        }
    }

    /// Joins, or starts in a place.
    fn join<F>(&self, key: K, place: OwnedSemaphorePermit, start: impl FnOnce() -> F) -> Under<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(answer) = flights.get(&key) {
            return answer.clone();
        }
        let (sender, answer) = watch::channel(None);
        flights.insert(key.clone(), answer.clone());
        let future = start();
        let entry = Entry::new(&self.flights, key);
        // Log lines carry the ID of the request that began it, not of those that share its answer.
        let span = log::request_span();
        tokio::spawn(async move {
            let result = future.instrument(span).await;
            // From here on, who asks asks anew.
            drop((entry, place));
            sender.send_replace(Some(result));
        });
        answer
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// Asks `flight` about `key`, in a task of its own; answered with the key once `gate` opens.
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

    /// Lets all tasks go as far as they get.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_all_places_taken_waits_where_there_is_a_queue_and_joins_what_is_under_way() {
        let (flight, gate) = (Arc::new(SingleFlight::at_most(2).with_queue(3)), Arc::new(Semaphore::new(0)));
        let asked: Vec<_> = [1, 2, 1, 3, 4, 5].map(|key| ask(&flight, key, &gate)).into();
        settle().await;
        let started = Instant::now();
        let refused = ask(&flight, 6, &gate).await.unwrap().unwrap_err();
        assert_eq!((refused.kind(), refused.wait()), (Kind::LimitExceeded, Some(RETRY)));
        assert_eq!(started.elapsed(), Duration::ZERO);
        // Who asks what is under way needs no place.
        let joined = ask(&flight, 2, &gate);
        gate.add_permits(5);
        for (asked, key) in asked.into_iter().chain([joined]).zip([1, 2, 1, 3, 4, 5, 2]) {
            assert_eq!(asked.await.unwrap().unwrap(), key);
        }
        settle().await;
        assert_eq!((flight.places.available_permits(), flight.queue.available_permits()), (2, 3));
        assert!(lock(&flight.flights).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_long_enough_is_told_to_come_back_and_without_a_queue_at_once() {
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
