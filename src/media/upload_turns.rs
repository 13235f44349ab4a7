//! Uploads under way: how many each user may have, and who waits for a turn.
//!
//! Owns the count, in memory; an upload lasts as long as its request, however that ends. A bridge sends a hundred small files at
//! once: those beyond the limit wait for a turn, in their order, not long and not many, for whoever waits holds a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result};
use crate::matrix::UserId;
use crate::sync::{RETRY, lock};

/// Uploads that a user may have under way at the same time; further ones wait. A client sends a handful at once.
const MAX_UPLOADS_PER_USER: usize = 32;

/// Uploads of a user that may wait for a turn; further ones are told to come back.
const MAX_WAITING_PER_USER: usize = 256;

/// The longest wait for a turn: well below the 60 s after which proxies give up.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Uploads under way or waiting, by user. Who has none is not in the table.
type Table = Arc<Mutex<HashMap<UserId, Turns>>>;

/// The uploads of every user.
#[derive(Debug, Default)]
pub(crate) struct Uploads(Table);

/// The uploads of one user.
#[derive(Debug)]
struct Turns {
    /// A permit for each that may be under way.
    turns: Arc<Semaphore>,
    /// Those under way and those waiting.
    count: usize,
}

/// An upload under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    /// Its turn, given to the next one first.
    _turn: OwnedSemaphorePermit,
    /// Its place in the table.
    _counted: Counted,
}

/// An upload that is in the table, until it is dropped.
#[derive(Debug)]
struct Counted {
    /// The table.
    table: Table,
    /// Whose it is.
    user_id: UserId,
}

impl Uploads {
    /// Begins one when it is its turn.
    ///
    /// # Errors
    /// `LimitExceeded` when too many of the user's wait already, or those under way take too long.
    pub(crate) async fn begin(&self, user_id: &UserId) -> Result<UnderWay> {
        let refused = || {
            let message = "too many of your uploads are under way";
            Error::new(Kind::LimitExceeded, message).retry_after(RETRY)
        };
        let (turns, counted) = self.count(user_id).ok_or_else(refused)?;
        match tokio::time::timeout(LONGEST_WAIT, turns.acquire_owned()).await {
            Ok(turn) => {
                let turn = turn.map_err(|error| Error::internal("waiting for a turn", error))?;
                Ok(UnderWay { _turn: turn, _counted: counted })
            }
            Err(_elapsed) => Err(refused()),
        }
    }

    /// Puts one into the table; `None` when there are too many of the user's.
    fn count(&self, user_id: &UserId) -> Option<(Arc<Semaphore>, Counted)> {
        let mut table = lock(&self.0);
        let new = || Turns { turns: Arc::new(Semaphore::new(MAX_UPLOADS_PER_USER)), count: 0 };
        let user = table.entry(user_id.clone()).or_insert_with(new);
        if user.count >= MAX_UPLOADS_PER_USER.saturating_add(MAX_WAITING_PER_USER) {
            return None;
        }
        user.count = user.count.saturating_add(1);
        Some((Arc::clone(&user.turns), Counted { table: Arc::clone(&self.0), user_id: user_id.clone() }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        match table.get_mut(&self.user_id) {
            Some(user) if user.count > 1 => user.count = user.count.saturating_sub(1),
            _ => drop(table.remove(&self.user_id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    /// Begins so many uploads at once, each in a task of its own.
    fn begin(uploads: &Arc<Uploads>, user_id: &UserId, count: usize) -> Vec<JoinHandle<Result<UnderWay>>> {
        let begin = |_| {
            let (uploads, user_id) = (Arc::clone(uploads), user_id.clone());
            tokio::spawn(async move { uploads.begin(&user_id).await })
        };
        (0..count).map(begin).collect()
    }

    /// Those that are under way, once nothing moves any more.
    async fn settled(begun: &[JoinHandle<Result<UnderWay>>]) -> usize {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        begun.iter().filter(|upload| upload.is_finished()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_beyond_the_limit_take_turns_and_the_table_forgets_who_has_none() {
        let uploads = Arc::new(Uploads::default());
        let (alice, bob) = (UserId::new("@alice:example.org"), UserId::new("@bob:example.org"));
        let begun = begin(&uploads, &alice, 100);
        assert_eq!(settled(&begun).await, MAX_UPLOADS_PER_USER);
        drop(uploads.begin(&bob).await.unwrap());
        assert_eq!(lock(&uploads.0).len(), 1, "bob has none any more");
        let mut ended = 0;
        for upload in begun {
            // Ends at once: the next one has its turn.
            drop(upload.await.unwrap().unwrap());
            ended += 1;
        }
        assert_eq!(ended, 100);
        assert!(lock(&uploads.0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_long_enough_or_finds_the_queue_full_is_told_to_come_back() {
        let uploads = Arc::new(Uploads::default());
        let alice = UserId::new("@alice:example.org");
        let started = Instant::now();
        let mut begun = begin(&uploads, &alice, MAX_UPLOADS_PER_USER + MAX_WAITING_PER_USER);
        assert_eq!(settled(&begun).await, MAX_UPLOADS_PER_USER);
        let error = uploads.begin(&alice).await.unwrap_err();
        assert_eq!((error.kind(), error.wait()), (Kind::LimitExceeded, Some(RETRY)));
        assert_eq!(started.elapsed(), Duration::ZERO, "at once");
        // A client that goes away while it waits leaves the queue.
        begun.pop().unwrap().abort();
        assert_eq!(settled(&begun).await, MAX_UPLOADS_PER_USER);
        assert_eq!(lock(&uploads.0)[&alice].count, MAX_UPLOADS_PER_USER + MAX_WAITING_PER_USER - 1);

        let mut under_way = Vec::new();
        for upload in begun {
            match upload.await.unwrap() {
                Ok(upload) => under_way.push(upload),
                Err(error) => assert_eq!(error.kind(), Kind::LimitExceeded),
            }
        }
        assert_eq!((under_way.len(), started.elapsed()), (MAX_UPLOADS_PER_USER, LONGEST_WAIT));
        drop(under_way);
        assert!(lock(&uploads.0).is_empty());
    }
}
