//! Downloads of media IDs that are created and not yet uploaded to (MSC2246).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::lock;
use crate::matrix::Mxc;

/// Requests that may wait for pending uploads at the same time; further ones are told "not yet" at once. A flood of
/// never-filled IDs is the threat MSC2246 names.
const MAX_WAITING: usize = 1024;

/// Requests that wait for a pending media ID to be filled.
#[derive(Debug)]
pub(crate) struct PendingUploads {
    /// Who waits for which ID.
    awaited: Awaited,
    /// Places to wait.
    places: Arc<Semaphore>,
}

/// For each awaited ID, what wakes its waiters.
type Awaited = Arc<Mutex<HashMap<Mxc, watch::Sender<()>>>>;

/// A place among those who wait. Taken before the catalog is asked, so that nothing is missed in between.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Where the place is noted.
    awaited: Awaited,
    /// For which ID.
    mxc: Mxc,
    /// Hears of the upload.
    filled: watch::Receiver<()>,
    /// The place.
    _place: OwnedSemaphorePermit,
}

impl Default for PendingUploads {
    fn default() -> Self {
        Self { awaited: Arc::default(), places: Arc::new(Semaphore::new(MAX_WAITING)) }
    }
}

impl PendingUploads {
    /// A place for `mxc`; `None` when too many wait already.
    pub(crate) fn waiter(&self, mxc: &Mxc) -> Option<Waiter> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let filled =
            lock(&self.awaited).entry(mxc.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Some(Waiter { awaited: Arc::clone(&self.awaited), mxc: mxc.clone(), filled, _place: place })
    }

    /// Wakes everybody who waits for `mxc`.
    pub(crate) fn filled(&self, mxc: &Mxc) {
        if let Some(sender) = lock(&self.awaited).get(mxc) {
            sender.send_replace(());
        }
    }
}

impl Waiter {
    /// Waits until the ID is filled, or for `timeout`. Says whether it was.
    pub(crate) async fn filled_within(&mut self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.filled.changed()).await.is_ok_and(|changed| changed.is_ok())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut awaited = lock(&self.awaited);
        // This one still counts as a receiver.
        if awaited.get(&self.mxc).is_some_and(|sender| sender.receiver_count() <= 1) {
            awaited.remove(&self.mxc);
        }
    }
}
