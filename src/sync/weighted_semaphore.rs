//! A semaphore that counts bytes, for example of memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;

/// How much of the bytes low-priority callers may hold together: three quarters, so that others find some at any time.
const LOW_SHARE: u64 = 3;
const SHARES: u64 = 4;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    High,
    /// Served when nobody with high priority waits.
    Low,
}

/// A bounded number of bytes, shared by all callers. Waiters of one priority are served in order.
#[derive(Debug)]
pub(crate) struct WeightedSemaphore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    /// By low priority.
    used_low: u64,
    high: VecDeque<Waiting>,
    low: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    bytes: u64,
    permit: oneshot::Sender<BytesPermit>,
}

/// Bytes, until this is dropped.
#[derive(Debug)]
pub(crate) struct BytesPermit {
    shared: Arc<Shared>,
    bytes: u64,
    priority: Priority,
}

impl WeightedSemaphore {
    /// `total` bytes.
    pub(crate) fn new(total: u64) -> Self {
        Self(Arc::new(Shared { total, state: Mutex::default() }))
    }

    /// The most bytes that a caller can have.
    pub(crate) fn most(&self, priority: Priority) -> u64 {
        self.0.most(priority)
    }

    /// Waits until `bytes` are free and takes them until the permit is dropped. A request for more than [`Self::most`] takes that.
    pub(crate) async fn acquire(&self, bytes: u64, priority: Priority) -> BytesPermit {
        let bytes = bytes.min(self.most(priority));
        let mut granted = {
            let (permit, granted) = oneshot::channel();
            let mut state = lock(&self.0.state);
            state.queue(priority).push_back(Waiting { bytes, permit });
            granted
        };
        self.0.dispatch();
        loop {
            match (&mut granted).await {
                Ok(permit) => return permit,
                // The sender is dropped only when it sends: this cannot happen.
                Err(_) => std::future::pending::<()>().await,
            }
        }
    }
}

impl Shared {
    fn most(&self, priority: Priority) -> u64 {
        match priority {
            Priority::High => self.total,
            Priority::Low => self.total.saturating_mul(LOW_SHARE).div_euclid(SHARES),
        }
    }

    /// Grants what is free.
    fn dispatch(self: &Arc<Self>) {
        let mut grants = Vec::new();
        let mut state = lock(&self.state);
        loop {
            for priority in [Priority::High, Priority::Low] {
                while state.queue(priority).front().is_some_and(|waiting| waiting.permit.is_closed()) {
                    state.queue(priority).pop_front();
                }
            }
            let priority = if state.high.is_empty() { Priority::Low } else { Priority::High };
            let Some(bytes) = state.queue(priority).front().map(|waiting| waiting.bytes) else { break };
            let used_low = state.used_low.saturating_add(bytes);
            let fits = state.used.saturating_add(bytes) <= self.total
                && (priority == Priority::High || used_low <= self.most(Priority::Low));
            if !fits {
                break;
            }
            state.used = state.used.saturating_add(bytes);
            if priority == Priority::Low {
                state.used_low = used_low;
            }
            let waiting = state.queue(priority).pop_front();
            let permit = BytesPermit { shared: Arc::clone(self), bytes, priority };
            grants.extend(waiting.map(|waiting| (waiting.permit, permit)));
        }
        drop(state);
        // A permit whose caller has gone comes back when it is dropped here, outside the lock.
        for (caller, permit) in grants {
            drop(caller.send(permit));
        }
    }
}

impl State {
    fn queue(&mut self, priority: Priority) -> &mut VecDeque<Waiting> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Low => &mut self.low,
        }
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        state.used = state.used.saturating_sub(self.bytes);
        if self.priority == Priority::Low {
            state.used_low = state.used_low.saturating_sub(self.bytes);
        }
        drop(state);
        self.shared.dispatch();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether so many bytes are free now.
    fn is_free(memory: &WeightedSemaphore, bytes: u64, priority: Priority) -> bool {
        let acquired = std::pin::pin!(memory.acquire(bytes, priority));
        acquired.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn low_priority_leaves_a_quarter_and_lets_others_go_first() {
        let memory = Arc::new(WeightedSemaphore::new(100));
        let low = memory.acquire(1000, Priority::Low).await;
        assert!(!is_free(&memory, 1, Priority::Low), "three quarters are all it can have");
        assert!(is_free(&memory, 25, Priority::High) && !is_free(&memory, 26, Priority::High));
        let waiting = |bytes, priority| {
            let memory = Arc::clone(&memory);
            tokio::spawn(async move { memory.acquire(bytes, priority).await })
        };
        let (later, first) = (waiting(10, Priority::Low), waiting(100, Priority::High));
        for _ in 0..9 {
            tokio::task::yield_now().await;
        }
        drop(low);
        let first = first.await.unwrap();
        assert!(!later.is_finished());
        drop(first);
        drop(later.await.unwrap());
        assert_eq!(lock(&memory.0.state).used, 0);
    }
}
