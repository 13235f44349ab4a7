//! Waiting for something there is only so much of.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;
use crate::error::{Error, Result};

/// Places whose lanes are kept while nobody is in them.
const IDLE_LANES: usize = 256;

/// Memory for decoding pictures, over all requests: who needs more than is free waits.
#[derive(Debug)]
pub(crate) struct Memory {
    /// One permit for each KiB.
    permits: Arc<Semaphore>,
    /// All of them.
    total: u32,
}

impl Memory {
    /// `bytes` of memory.
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        Self { permits: Arc::new(Semaphore::new(usize::try_from(total).unwrap_or(0))), total }
    }

    /// Waits until `bytes` are free; they are free again when the permit is dropped.
    pub(crate) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.total);
        let permits = Arc::clone(&self.permits);
        permits.acquire_many_owned(wanted).await.map_err(|error| Error::internal("waiting for memory", error))
    }
}

/// A few lanes to each place.
#[derive(Debug)]
pub(crate) struct KeyedSemaphore<K> {
    /// The lanes of places where somebody is.
    table: Mutex<HashMap<K, Arc<Semaphore>>>,
    /// Permits for each key.
    count: usize,
}

impl<K: Clone + Eq + Hash> KeyedSemaphore<K> {
    /// `count` lanes to each place.
    pub(crate) fn new(count: usize) -> Self {
        Self { table: Mutex::default(), count }
    }

    /// Waits for a lane to `place`; it is free again when the permit is dropped.
    pub(crate) async fn enter(&self, place: &K) -> Result<OwnedSemaphorePermit> {
        let lanes = {
            let mut table = lock(&self.table);
            if table.len() >= IDLE_LANES {
                table.retain(|_, lanes| Arc::strong_count(lanes) > 1);
            }
            let new = || Arc::new(Semaphore::new(self.count));
            Arc::clone(table.entry(place.clone()).or_insert_with(new))
        };
        lanes.acquire_owned().await.map_err(|error| Error::internal("waiting for a lane", error))
    }
}
