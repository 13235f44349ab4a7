//! Questions asked once for all who ask.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{Entry, RETRY, lock};
use crate::error::{Error, Kind, Result};

/// Shared answers under way at the same time; who asks for a further one is told to come back.
const MAX_FLIGHTS: usize = 1024;

/// One answer under way, for all who ask.
type Under<V> = watch::Receiver<Option<Result<V>>>;

/// Runs one future for each key at a time; whoever asks meanwhile shares its answer.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, V> {
    /// Answers under way.
    flights: Arc<Mutex<HashMap<K, Under<V>>>>,
    /// Most of them.
    limit: usize,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::at_most(MAX_FLIGHTS)
    }
}

impl<K, V> SingleFlight<K, V> {
    /// One that has at most `limit` answers under way; who asks for a further one is told to come back.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { flights: Arc::default(), limit }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// The answer of the future under way for `key`, or of `start()` if there is none. The future runs to its end even if
    /// all who asked go away.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut answer = self.join(key, start)?;
        let outcome = answer.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => {
                Err(Error::internal("sharing an answer", io::Error::other("its task ended")))
            }
        }
    }

    /// Joins or starts.
    fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<Under<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(answer) = flights.get(&key) {
            return Ok(answer.clone());
        }
        if flights.len() >= self.limit {
            let message = "too many questions are waiting for an answer";
            return Err(Error::new(Kind::LimitExceeded, message).retry_after(RETRY));
        }
        let (sender, answer) = watch::channel(None);
        flights.insert(key.clone(), answer.clone());
        let future = start();
        let entry = Entry::new(&self.flights, key);
        tokio::spawn(async move {
            let result = future.await;
            // From here on, who asks asks anew.
            drop(entry);
            sender.send_replace(Some(result));
        });
        Ok(answer)
    }
}
