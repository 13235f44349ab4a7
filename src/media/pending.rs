//! Downloads of media IDs that are created and not yet uploaded to (MSC2246).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::matrix::Mxc;
use crate::sync::lock;

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
    /// Whether the service stops: nothing is waited for any more.
    stop: watch::Sender<bool>,
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
    /// Hears that the service stops.
    stopped: watch::Receiver<bool>,
    /// The place.
    _place: OwnedSemaphorePermit,
}

impl Default for PendingUploads {
    fn default() -> Self {
        Self {
            awaited: Arc::default(),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            stop: watch::channel(false).0,
        }
    }
}

impl PendingUploads {
    /// A place for `mxc`; `None` when too many wait already.
    pub(crate) fn waiter(&self, mxc: &Mxc) -> Option<Waiter> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let filled =
            lock(&self.awaited).entry(mxc.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        let (awaited, stopped) = (Arc::clone(&self.awaited), self.stop.subscribe());
        Some(Waiter { awaited, mxc: mxc.clone(), filled, stopped, _place: place })
    }

    /// Ends all waiting: the service stops.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Wakes everybody who waits for `mxc`.
    pub(crate) fn filled(&self, mxc: &Mxc) {
        if let Some(sender) = lock(&self.awaited).get(mxc) {
            sender.send_replace(());
        }
    }
}

impl Waiter {
    /// Waits until the ID is filled, for `timeout` at most, and not when the service stops. Says whether it was.
    pub(crate) async fn filled_within(&mut self, timeout: Duration) -> bool {
        let filled = tokio::time::timeout(timeout, self.filled.changed());
        tokio::select! {
            filled = filled => filled.is_ok_and(|changed| changed.is_ok()),
            _ = self.stopped.wait_for(|is_stopped| *is_stopped) => false,
        }
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
