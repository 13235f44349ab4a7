//! A queue of work in which several items can be processed together.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;
use crate::error::{Error, Result};

/// Items of type `T` that wait to be processed, each with a result of type `R`. A task that processes its item takes along other items that
/// can be processed together with it. The queue has no limit: the callers must be bounded elsewhere.
#[derive(Debug)]
pub(crate) struct Batcher<T, R>(Arc<Mutex<Queue<T, R>>>);

#[derive(Debug)]
struct Queue<T, R> {
    /// The number of the next handle.
    next: u64,
    /// In the order of arrival.
    waiting: Vec<Waiting<T, R>>,
}

#[derive(Debug)]
struct Waiting<T, R> {
    /// The number of its handle.
    number: u64,
    item: T,
    outcome: oneshot::Sender<Result<R>>,
}

/// The handle of an item in the queue, for the task that wants its result. If it is dropped before the item is taken, the item leaves the
/// queue.
#[derive(Debug)]
pub(crate) struct Handle<T, R> {
    queue: Arc<Mutex<Queue<T, R>>>,
    number: u64,
    outcome: oneshot::Receiver<Result<R>>,
}

/// The tasks that wait for the results of a taken batch. If this is dropped, each of them gets an error.
#[derive(Debug)]
pub(crate) struct Waiters<R>(Vec<oneshot::Sender<Result<R>>>);

impl<T, R> Default for Batcher<T, R> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Queue { next: 0, waiting: Vec::new() })))
    }
}

impl<T, R> Batcher<T, R> {
    /// Adds an item to the queue.
    pub(crate) fn join(&self, item: T) -> Handle<T, R> {
        let (sender, outcome) = oneshot::channel();
        let mut queue = lock(&self.0);
        let number = queue.next;
        queue.next = number.wrapping_add(1);
        queue.waiting.push(Waiting { number, item, outcome: sender });
        Handle { queue: Arc::clone(&self.0), number, outcome }
    }
}

#[cfg(test)]
impl<T, R> Batcher<T, R> {
    /// Waiting items.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.0).waiting.len()
    }
}

impl<T, R> Handle<T, R> {
    /// Waits for the item's result. The item must be taken, by this handle or along with another one.
    pub(crate) async fn outcome(&mut self) -> Result<R> {
        let lost = |_| Err(Error::internal("waiting for a batch", io::Error::other("its task ended")));
        (&mut self.outcome).await.unwrap_or_else(lost)
    }

    /// Takes this item and all others that `goes_with` accepts beside those already taken, in the order of arrival. `None` if this item was
    /// taken along with another one.
    pub(crate) fn take(&self, goes_with: impl Fn(&[T], &T) -> bool) -> Option<(Vec<T>, Waiters<R>)> {
        let mut queue = lock(&self.queue);
        let own = queue.waiting.iter().position(|waiting| waiting.number == self.number)?;
        let own = queue.waiting.remove(own);
        let (mut items, mut waiters) = (vec![own.item], vec![own.outcome]);
        for waiting in std::mem::take(&mut queue.waiting) {
            if goes_with(&items, &waiting.item) {
                items.push(waiting.item);
                waiters.push(waiting.outcome);
            } else {
                queue.waiting.push(waiting);
            }
        }
        Some((items, Waiters(waiters)))
    }
}

impl<T, R> Drop for Handle<T, R> {
    fn drop(&mut self) {
        lock(&self.queue).waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl<R> Waiters<R> {
    /// Sends each waiter the result of its item, in the order of the items, or all of them the error. Waiters that have gone are skipped.
    pub(crate) fn tell(self, outcome: Result<Vec<R>>) {
        match outcome {
            Ok(results) => {
                for (waiter, result) in self.0.into_iter().zip(results) {
                    drop(waiter.send(Ok(result)));
                }
            }
            Err(error) => {
                for waiter in self.0 {
                    drop(waiter.send(Err(error.clone())));
                }
            }
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
    async fn what_fits_is_taken_along_once_and_each_waiter_gets_its_own_result() {
        let batcher = Batcher::default();
        let mut handles: Vec<_> =
            [10, 20, 11, 21, 12, 13].into_iter().map(|item| batcher.join(item)).collect();
        let (items, waiters) = handles[2].take(same_ten()).unwrap();
        assert_eq!(items, [11, 10, 12]);
        assert!(handles[0].take(same_ten()).is_none(), "it went along");
        waiters.tell(Ok(vec!["eleven", "ten", "twelve"]));
        for (handle, result) in [(0, "ten"), (2, "eleven"), (4, "twelve")] {
            assert_eq!(handles[handle].outcome().await.unwrap(), result);
        }
        let (items, waiters) = handles[5].take(same_ten()).unwrap();
        assert_eq!(items, [13], "what did not fit is left");
        drop(waiters);
        assert!(handles[5].outcome().await.is_err(), "the task that took it was dropped");
        let (items, waiters) = handles[3].take(same_ten()).unwrap();
        assert_eq!(items, [21, 20]);
        waiters.tell(Err(Error::not_found()));
        for handle in [1, 3] {
            assert_eq!(handles[handle].outcome().await.unwrap_err().kind(), Error::not_found().kind());
        }
    }

    #[test]
    fn a_handle_that_is_dropped_takes_its_item_out_of_the_queue() {
        let batcher: Batcher<u32, ()> = Batcher::default();
        let (one, other) = (batcher.join(10), batcher.join(11));
        drop(other);
        assert_eq!(one.take(same_ten()).unwrap().0, [10]);
        drop(one);
        assert_eq!(batcher.waiting(), 0);
    }
}
