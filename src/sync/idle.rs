//! What waits until nobody wants anything.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::lock;
use crate::matrix::{Moment, Monotonic};

/// Silence that counts as idleness.
const QUIET: Duration = Duration::from_secs(5);

/// The machine's load that leaves room for more, percent of its processors.
const MAX_LOAD: u32 = 50;

/// Between two looks whether the machine is idle.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How busy the machine was during the last minute, percent of its processors.
pub(crate) type Load = Arc<dyn Fn() -> u32 + Send + Sync>;

/// Whether the machine is idle: no request has been running for [`QUIET`], and the load, to which its other programs
/// contribute, is at most [`MAX_LOAD`].
pub(crate) struct Activity {
    /// Requests running.
    running: AtomicUsize,
    /// When one last began or ended.
    last: Mutex<Moment>,
    /// For that.
    clock: Monotonic,
    /// The machine's.
    load: Load,
}

/// A running request, until it is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    /// Busy by now: something has just started.
    pub(crate) fn new(clock: Monotonic, load: Load) -> Self {
        let last = Mutex::new(clock());
        Self { running: AtomicUsize::new(0), last, clock, load }
    }

    /// Notes a request that begins.
    pub(crate) fn begin(self: &Arc<Self>) -> Busy {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.note();
        Busy(Arc::clone(self))
    }

    /// Waits until the machine is idle.
    pub(crate) async fn idle(&self) {
        while !self.is_idle() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Notes that a request begins or ends now.
    fn note(&self) {
        *lock(&self.last) = (self.clock)();
    }

    /// Whether it is.
    fn is_idle(&self) -> bool {
        let quiet = lock(&self.last).until((self.clock)());
        self.running.load(Ordering::Relaxed) == 0 && quiet >= QUIET && (self.load)() <= MAX_LOAD
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity")
            .field("running", &self.running)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

/// What is put off, oldest first. What does not fit in is forgotten.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    /// What is put off.
    items: Mutex<VecDeque<T>>,
    /// Most of it.
    limit: usize,
    /// Wakes who waits for some.
    added: Notify,
}

impl<T> Backlog<T> {
    /// One that holds up to `limit`; of 0, nothing.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { items: Mutex::default(), limit, added: Notify::new() }
    }

    /// Puts something off, if there is room.
    pub(crate) fn add(&self, item: T) {
        let mut items = lock(&self.items);
        if items.len() < self.limit {
            items.push_back(item);
            self.added.notify_one();
        }
    }

    /// Waits for the oldest. One task may.
    pub(crate) async fn next(&self) -> T {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            self.added.notified().await;
        }
    }

    /// The oldest, if there is one.
    fn pop(&self) -> Option<T> {
        lock(&self.items).pop_front()
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
            async move { activity.idle().await }
        });
        load.store(50, Ordering::SeqCst);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_fit_into_a_backlog_is_forgotten() {
        let backlog = Backlog::at_most(2);
        for number in [1, 2, 3] {
            backlog.add(number);
        }
        assert_eq!((backlog.next().await, backlog.next().await, backlog.pop()), (1, 2, None));
        let off = Backlog::at_most(0);
        off.add(1);
        assert_eq!(off.pop(), None);
    }
}
