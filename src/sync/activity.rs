//! Whether the machine is idle.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;
use crate::matrix::{Moment, Monotonic};

/// Time without a running request after which the machine counts as idle.
const QUIET: Duration = Duration::from_secs(5);

/// Highest load at which the machine counts as idle, percent of its processors. Other programs cause load, too.
const MAX_LOAD: u32 = 50;

/// Time between two checks while a task waits for idleness.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Returns the load during the last minute, percent of the processors.
pub(crate) type Load = Arc<dyn Fn() -> u32 + Send + Sync>;

/// Counts running requests. The machine is idle when none has been running for [`QUIET`] and its load is at most [`MAX_LOAD`].
pub(crate) struct Activity {
    running: AtomicUsize,
    /// When a request last began or ended.
    last_change: Mutex<Moment>,
    clock: Monotonic,
    load: Load,
}

/// A running request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    /// The machine is not idle at first: the start counts as a request that has just ended.
    pub(crate) fn new(clock: Monotonic, load: Load) -> Self {
        let last_change = Mutex::new(clock());
        Self { running: AtomicUsize::new(0), last_change, clock, load }
    }

    /// Counts a request until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.note_change();
        Busy(Arc::clone(self))
    }

    /// Waits until the machine is idle.
    pub(crate) async fn wait_until_idle(&self) {
        while !self.is_idle() {
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    /// Notes that a request begins or ends now.
    fn note_change(&self) {
        *lock(&self.last_change) = (self.clock)();
    }

    fn is_idle(&self) -> bool {
        let quiet = lock(&self.last_change).until((self.clock)());
        self.running.load(Ordering::Relaxed) == 0 && quiet >= QUIET && (self.load)() <= MAX_LOAD
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note_change();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity")
            .field("running", &self.running)
            .field("last_change", &self.last_change)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, AtomicU64};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_machine_is_idle_when_requests_and_load_have_been_low_for_a_while() {
        let (time, load) = (Arc::new(AtomicU64::new(1000)), Arc::new(AtomicU32::new(0)));
        let (now, share) = (Arc::clone(&time), Arc::clone(&load));
        let clock: Monotonic =
            Arc::new(move || Moment::since_start(Duration::from_millis(now.load(Ordering::SeqCst))));
        let activity = Arc::new(Activity::new(clock, Arc::new(move || share.load(Ordering::SeqCst))));
        assert!(!activity.is_idle(), "it has just started");
        time.fetch_add(5000, Ordering::SeqCst);
        assert!(activity.is_idle());
        let (one, other) = (activity.begin(), activity.begin());
        time.fetch_add(60_000, Ordering::SeqCst);
        drop(one);
        assert!(!activity.is_idle(), "one is still running");
        drop(other);
        time.fetch_add(4999, Ordering::SeqCst);
        assert!(!activity.is_idle(), "one has just ended");
        time.fetch_add(1, Ordering::SeqCst);
        load.store(51, Ordering::SeqCst);
        assert!(!activity.is_idle(), "others are at work");
        let waiting = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.wait_until_idle().await }
        });
        load.store(50, Ordering::SeqCst);
        waiting.await.unwrap();
    }
}
