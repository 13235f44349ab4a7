//! A semaphore for each key, for example for each host.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;
use crate::error::{Error, Result};

/// Size of the table from which on unused keys are removed whenever a new one is added.
const MAX_IDLE_KEYS: usize = 256;

/// The same number of permits for each key.
#[derive(Debug)]
pub(crate) struct KeyedSemaphore<K> {
    table: Mutex<HashMap<K, Arc<Semaphore>>>,
    permits_per_key: usize,
}

impl<K: Clone + Eq + Hash> KeyedSemaphore<K> {
    pub(crate) fn new(permits_per_key: usize) -> Self {
        Self { table: Mutex::default(), permits_per_key }
    }

    /// Waits for a permit of `key`. Waiters of one key are served in order; the caller must bound their number.
    pub(crate) async fn acquire(&self, key: &K) -> Result<OwnedSemaphorePermit> {
        let permits = {
            let mut table = lock(&self.table);
            if table.len() >= MAX_IDLE_KEYS {
                table.retain(|_, permits| Arc::strong_count(permits) > 1);
            }
            let new = || Arc::new(Semaphore::new(self.permits_per_key));
            Arc::clone(table.entry(key.clone()).or_insert_with(new))
        };
        permits.acquire_owned().await.map_err(|error| Error::internal("waiting for a permit", error))
    }
}
