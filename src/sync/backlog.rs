//! A bounded queue of optional work.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::lock;

/// Work to be done later, oldest first. Items that do not fit are dropped, so use it only for work that is optional.
#[derive(Debug)]
pub(crate) struct Backlog<T> {
    items: Mutex<VecDeque<T>>,
    limit: usize,
    added: Notify,
}

impl<T> Backlog<T> {
    /// An empty queue for up to `limit` items; with 0 it drops everything.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { items: Mutex::default(), limit, added: Notify::new() }
    }

    /// Adds an item, unless the queue is full.
    pub(crate) fn add(&self, item: T) {
        let mut items = lock(&self.items);
        if items.len() < self.limit {
            items.push_back(item);
            self.added.notify_one();
        }
    }

    /// Takes the oldest item, waiting for one if necessary. Only one task may wait.
    pub(crate) async fn next(&self) -> T {
        loop {
            if let Some(item) = self.pop() {
                return item;
            }
            self.added.notified().await;
        }
    }

    fn pop(&self) -> Option<T> {
        lock(&self.items).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
