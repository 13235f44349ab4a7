//! A semaphore that counts bytes, for example of memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Result};

/// Bytes in one permit of the semaphore below: it counts at most 2^29.
const UNIT: u64 = 1024;

/// A bounded number of bytes, shared by all callers. Waiters are served in order.
#[derive(Debug)]
pub(crate) struct WeightedSemaphore {
    /// One permit for each [`UNIT`].
    permits: Arc<Semaphore>,
    total: u32,
}

impl WeightedSemaphore {
    /// `bytes` in all, rounded up to whole KiB.
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        Self { permits: Arc::new(Semaphore::new(usize::try_from(total).unwrap_or(0))), total }
    }

    /// Waits until `bytes` are free and takes them until the permit is dropped. A request for more than the total takes the total.
    pub(crate) async fn acquire(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let wanted = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).min(self.total);
        let permits = Arc::clone(&self.permits);
        permits.acquire_many_owned(wanted).await.map_err(|error| Error::internal("waiting for memory", error))
    }
}
