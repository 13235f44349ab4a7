//! Concurrent callers with the same key share one run of the work.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::watch;
use tracing::Instrument as _;

use super::admission::{Caller, Waiter, Work};
use super::lock;
use crate::error::{Error, Kind, Result};
use crate::log;

/// Work in progress, one for each key; callers that come meanwhile share it and give it their standing. Work that nobody waits for any more
/// is dropped. It admits itself to what it needs, and its number is bounded by that. All callers see its progress `P`.
#[derive(Debug)]
pub(crate) struct Flights<K, P>(Arc<Mutex<Table<K, P>>>);

type Table<K, P> = HashMap<K, Flight<P>>;

#[derive(Debug)]
struct Flight<P> {
    work: Work,
    progress: watch::Receiver<P>,
}

/// A flight as seen by a caller.
#[derive(Debug)]
pub(crate) struct Joined<P> {
    pub(crate) progress: watch::Receiver<P>,
    /// The flight goes on while a caller keeps its own.
    pub(crate) waiter: Waiter,
    /// Whether this caller started it.
    pub(crate) is_first: bool,
}

/// Runs one future for each key at a time; callers that come meanwhile get its result.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, V>(Flights<K, Option<Result<V>>>);

/// Takes a flight out of the table when it is dropped, also after a panic.
struct Entry<K: Eq + Hash, P> {
    flights: Arc<Mutex<Table<K, P>>>,
    key: K,
    work: Work,
}

impl<K, P> Default for Flights<K, P> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self(Flights::default())
    }
}

impl<K, P> Flights<K, P>
where
    K: Clone + Eq + Hash + Send + 'static,
    P: Clone + Default + Send + Sync + 'static,
{
    /// Joins the flight in progress for `key`, or starts one with `start`, whose result `end` turns into the last progress. The caller waits
    /// until `until` for what is not there yet.
    pub(crate) fn join<V, F>(
        &self,
        key: K,
        (caller, until): (Caller, Option<Instant>),
        start: impl FnOnce(Work, Arc<watch::Sender<P>>) -> F,
        end: impl FnOnce(&P, Result<V>) -> P + Send + 'static,
    ) -> Joined<P>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.get(&key)
            && let Some(waiter) = flight.work.join(caller, until)
        {
            return Joined { progress: flight.progress.clone(), waiter, is_first: false };
        }
        let (sender, progress) = watch::channel(P::default());
        let sender = Arc::new(sender);
        let (work, waiter) = Work::shared(caller, until);
        // In place of one that was given up, if there is one.
        flights.insert(key.clone(), Flight { work: work.clone(), progress: progress.clone() });
        let future = start(work.clone(), Arc::clone(&sender));
        let entry = Entry { flights: Arc::clone(&self.0), key, work: work.clone() };
        let flight = async move {
            let result = tokio::select! {
                biased;
                result = future => result,
                () = work.abandoned() => Err(Error::new(Kind::Internal, "nobody waits for it any more")),
            };
            // Removed before the result is published: a later caller starts a new flight.
            drop(entry);
            sender.send_modify(|progress| *progress = end(progress, result));
        };
        // Log lines carry the ID of the request that started the flight, not of those that share its result.
        tokio::spawn(flight.instrument(log::request_span()));
        Joined { progress, waiter, is_first: true }
    }
}

impl<K, V> SingleFlight<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The result of the flight in progress for `key`, or of `start(work)` if there is none.
    ///
    /// # Errors
    /// Those of the flight.
    pub(crate) async fn run<F>(&self, key: K, caller: Caller, start: impl FnOnce(Work) -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let Joined { mut progress, waiter: _waiter, .. } =
            self.0.join(key, (caller, None), |work, _progress| start(work), |_, result| Some(result));
        let outcome = progress.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => Err(Error::internal("sharing a result", io::Error::other("its task ended"))),
        }
    }
}

impl<K: Eq + Hash, P> Drop for Entry<K, P> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        if flights.get(&self.key).is_some_and(|flight| flight.work.is(&self.work)) {
            flights.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;
    use crate::matrix::UserId;

    fn alice() -> Caller {
        Caller::user(&UserId::new("@alice:example.org"))
    }

    /// Lets all tasks run until they wait.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Runs a flight for `key` in a task of its own; its result is the class of its caller, once `gate` opens.
    fn ask(
        flight: &Arc<SingleFlight<u32, &'static str>>,
        key: u32,
        caller: Caller,
        gate: &Arc<Semaphore>,
    ) -> tokio::task::JoinHandle<Result<&'static str>> {
        let (flight, gate) = (Arc::clone(flight), Arc::clone(gate));
        let start = move |work: Work| async move {
            gate.acquire().await.unwrap().forget();
            Ok(work.caller().class.name())
        };
        tokio::spawn(async move { flight.run(key, caller, start).await })
    }

    #[tokio::test]
    async fn callers_share_a_flight_in_the_standing_of_the_best_of_them() {
        let (flight, gate) = (Arc::new(SingleFlight::default()), Arc::new(Semaphore::new(0)));
        let unknown = Caller::unknown(None);
        let asked = [
            ask(&flight, 1, unknown, &gate),
            ask(&flight, 2, unknown, &gate),
            ask(&flight, 1, alice(), &gate),
        ];
        settle().await;
        gate.add_permits(2);
        for (asked, class) in asked.into_iter().zip(["users", "unknown", "users"]) {
            assert_eq!(asked.await.unwrap().unwrap(), class);
        }
        assert!(lock(&flight.0.0).is_empty());
        assert_eq!(gate.available_permits(), 0, "two flights");
    }

    #[tokio::test]
    async fn a_flight_that_nobody_waits_for_is_dropped_and_the_next_caller_starts_anew() {
        let (flight, gate) = (Arc::new(SingleFlight::default()), Arc::new(Semaphore::new(0)));
        let asked = [ask(&flight, 1, alice(), &gate), ask(&flight, 1, alice(), &gate)];
        settle().await;
        let [one, other] = asked;
        one.abort();
        settle().await;
        assert_eq!(lock(&flight.0.0).len(), 1, "one still waits");
        other.abort();
        settle().await;
        assert!(lock(&flight.0.0).is_empty());
        let again = ask(&flight, 1, alice(), &gate);
        gate.add_permits(1);
        assert_eq!(again.await.unwrap().unwrap(), "users");
    }
}
