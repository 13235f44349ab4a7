//! Work that waits for a place, and what can be done along with it.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;
use crate::error::{Error, Result};

/// Work that waits. Whoever gets a place for some of it takes along what can be done in the same go. As many wait as have
/// joined and not gone: who joins is bounded elsewhere.
#[derive(Debug)]
pub(crate) struct Batcher<T>(Arc<Mutex<Table<T>>>);

/// What waits, in the order it came.
#[derive(Debug)]
struct Table<T> {
    /// The number of the next handle.
    next: u64,
    /// What waits.
    waiting: Vec<Waiting<T>>,
}

/// Something to do.
#[derive(Debug)]
struct Waiting<T> {
    /// Its handle.
    number: u64,
    /// What it is.
    item: T,
    /// Hears what came of it.
    done: oneshot::Sender<Result<()>>,
}

/// Something to do, in the hand of who wants it done. Dropped before it is taken, it waits no more.
#[derive(Debug)]
pub(crate) struct Handle<T> {
    /// Where it waits.
    table: Arc<Mutex<Table<T>>>,
    /// Which it is.
    number: u64,
    /// Says what came of it.
    done: oneshot::Receiver<Result<()>>,
}

/// Those who hear what came of work that was taken.
#[derive(Debug)]
pub(crate) struct Waiters(Vec<oneshot::Sender<Result<()>>>);

impl<T> Default for Batcher<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Table { next: 0, waiting: Vec::new() })))
    }
}

impl<T> Batcher<T> {
    /// Adds work.
    pub(crate) fn join(&self, item: T) -> Handle<T> {
        let (sender, done) = oneshot::channel();
        let mut table = lock(&self.0);
        let number = table.next;
        table.next = number.wrapping_add(1);
        table.waiting.push(Waiting { number, item, done: sender });
        Handle { table: Arc::clone(&self.0), number, done }
    }
}

#[cfg(test)]
impl<T> Batcher<T> {
    /// How much waits.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.0).waiting.len()
    }
}

impl<T> Handle<T> {
    /// What came of it, once somebody has taken and done it.
    pub(crate) async fn done(&mut self) -> Result<()> {
        let lost = |_| Err(Error::internal("waiting together", io::Error::other("its task ended")));
        (&mut self.done).await.unwrap_or_else(lost)
    }

    /// Takes this and, in the order they came, all others that `goes_with` lets go with those taken before them. `None` when
    /// this one was taken already.
    pub(crate) fn take(&self, goes_with: impl Fn(&[T], &T) -> bool) -> Option<(Vec<T>, Waiters)> {
        let mut table = lock(&self.table);
        let own = table.waiting.iter().position(|waiting| waiting.number == self.number)?;
        let own = table.waiting.remove(own);
        let (mut items, mut waiters) = (vec![own.item], vec![own.done]);
        for waiting in std::mem::take(&mut table.waiting) {
            if goes_with(&items, &waiting.item) {
                items.push(waiting.item);
                waiters.push(waiting.done);
            } else {
                table.waiting.push(waiting);
            }
        }
        Some((items, Waiters(waiters)))
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        lock(&self.table).waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl Waiters {
    /// Tells everybody; some may be gone.
    pub(crate) fn tell(self, outcome: &Result<()>) {
        for listener in self.0 {
            drop(listener.send(outcome.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal tens go together, three at most.
    fn same_ten() -> impl Fn(&[u32], &u32) -> bool {
        |set, further| set[0] / 10 == further / 10 && set.len() < 3
    }

    #[tokio::test]
    async fn what_fits_is_taken_along_once_and_all_hear_of_it() {
        let batcher = Batcher::default();
        let mut handles: Vec<_> =
            [10, 20, 11, 21, 12, 13].into_iter().map(|item| batcher.join(item)).collect();
        let (items, waiters) = handles[2].take(same_ten()).unwrap();
        assert_eq!(items, [11, 10, 12]);
        assert!(handles[0].take(same_ten()).is_none(), "it went along");
        waiters.tell(&Ok(()));
        for handle in [0, 2, 4] {
            handles[handle].done().await.unwrap();
        }
        let (items, waiters) = handles[5].take(same_ten()).unwrap();
        assert_eq!(items, [13], "what did not fit is left");
        drop(waiters);
        assert!(handles[5].done().await.is_err(), "whoever took it gave up");
        assert_eq!(handles[3].take(same_ten()).unwrap().0, [21, 20]);
    }

    #[test]
    fn who_goes_away_takes_his_work_with_him() {
        let batcher = Batcher::default();
        let (one, other) = (batcher.join(10), batcher.join(11));
        drop(other);
        assert_eq!(one.take(same_ten()).unwrap().0, [10]);
        drop(one);
        assert_eq!(batcher.waiting(), 0);
    }
}
