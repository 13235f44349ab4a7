//! Downloads of media IDs that were created and have no content yet (MSC2246).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use crate::matrix::Mxc;
use crate::sync::lock;

/// Requests that wait for an upload.
#[derive(Debug)]
pub(super) struct PendingUploads {
    awaited: Awaited,
    /// Becomes true when the service stops; then no request waits any longer.
    stopped: watch::Sender<bool>,
}

/// Wakes the waiting requests of each ID.
type Awaited = Arc<Mutex<HashMap<Mxc, watch::Sender<()>>>>;

/// A request that waits. Create it before asking the catalog whether the upload is there; an upload in between is not missed then.
#[derive(Debug)]
pub(super) struct Waiter {
    awaited: Awaited,
    mxc: Mxc,
    filled: watch::Receiver<()>,
    stopped: watch::Receiver<bool>,
}

impl Default for PendingUploads {
    fn default() -> Self {
        Self { awaited: Arc::default(), stopped: watch::channel(false).0 }
    }
}

impl PendingUploads {
    /// A waiter for `mxc`. The caller bounds their number.
    pub(super) fn waiter(&self, mxc: &Mxc) -> Waiter {
        let filled =
            lock(&self.awaited).entry(mxc.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        let (awaited, stopped) = (Arc::clone(&self.awaited), self.stopped.subscribe());
        Waiter { awaited, mxc: mxc.clone(), filled, stopped }
    }

    /// Ends all waiting, now and later.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Wakes all requests that wait for `mxc`: its content is stored.
    pub(super) fn filled(&self, mxc: &Mxc) {
        if let Some(sender) = lock(&self.awaited).get(mxc) {
            sender.send_replace(());
        }
    }
}

impl Waiter {
    /// Waits until the ID has content. `false` when `timeout` has passed or the service stops.
    pub(super) async fn filled_within(&mut self, timeout: Duration) -> bool {
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
