//! The number of uploads that each user may have in progress.
//!
//! A bridge sends a hundred small files at once: those beyond the limit wait for a slot, first come, first served. The queue and the wait
//! are short, because each waiting request holds a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Kind, Result};
use crate::matrix::UserId;
use crate::sync::{RETRY, lock};

/// Uploads that a user may have in progress at the same time; further ones wait. A client sends a handful at once.
const MAX_UPLOADS_PER_USER: usize = 32;

/// Uploads of a user that may wait for a slot; further ones get 429.
const MAX_WAITING_PER_USER: usize = 256;

/// The longest wait for a slot: well below the 60 s after which reverse proxies give up.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Users with uploads in progress or waiting.
type UserTable = Arc<Mutex<HashMap<UserId, User>>>;

/// The upload slots of all users.
#[derive(Debug, Default)]
pub(super) struct UploadSlots(UserTable);

/// The uploads of one user.
#[derive(Debug)]
struct User {
    /// A permit for each upload that may be in progress.
    slots: Arc<Semaphore>,
    /// Uploads in progress and waiting.
    count: usize,
}

/// An upload in progress, until this is dropped.
#[derive(Debug)]
pub(crate) struct UploadSlot {
    /// Dropped first, so that the next upload gets the slot before the user is removed from the table.
    _slot: OwnedSemaphorePermit,
    _counted: Counted,
}

/// An upload that is counted in the table, until this is dropped.
#[derive(Debug)]
struct Counted {
    table: UserTable,
    user_id: UserId,
}

impl UploadSlots {
    /// Waits for a slot of this user.
    ///
    /// # Errors
    /// `LimitExceeded` when too many uploads of the user wait already, or those in progress take too long.
    pub(super) async fn acquire(&self, user_id: &UserId) -> Result<UploadSlot> {
        let refused = || {
            let message = "too many of your uploads are in progress";
            Error::new(Kind::LimitExceeded, message).retry_after(RETRY)
        };
        let (slots, counted) = self.count(user_id).ok_or_else(refused)?;
        match tokio::time::timeout(LONGEST_WAIT, slots.acquire_owned()).await {
            Ok(slot) => {
                let slot = slot.map_err(|error| Error::internal("waiting for an upload slot", error))?;
                Ok(UploadSlot { _slot: slot, _counted: counted })
            }
            Err(_elapsed) => Err(refused()),
        }
    }

    /// Counts an upload; `None` when the user has too many.
    fn count(&self, user_id: &UserId) -> Option<(Arc<Semaphore>, Counted)> {
        let mut table = lock(&self.0);
        let new = || User { slots: Arc::new(Semaphore::new(MAX_UPLOADS_PER_USER)), count: 0 };
        let user = table.entry(user_id.clone()).or_insert_with(new);
        if user.count >= MAX_UPLOADS_PER_USER.saturating_add(MAX_WAITING_PER_USER) {
            return None;
        }
        user.count = user.count.saturating_add(1);
        Some((Arc::clone(&user.slots), Counted { table: Arc::clone(&self.0), user_id: user_id.clone() }))
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
    fn start(
        uploads: &Arc<UploadSlots>,
        user_id: &UserId,
        count: usize,
    ) -> Vec<JoinHandle<Result<UploadSlot>>> {
        let start = |_| {
            let (uploads, user_id) = (Arc::clone(uploads), user_id.clone());
            tokio::spawn(async move { uploads.acquire(&user_id).await })
        };
        (0..count).map(start).collect()
    }

    /// Those that are under way, once nothing moves any more.
    async fn settled(begun: &[JoinHandle<Result<UploadSlot>>]) -> usize {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        begun.iter().filter(|upload| upload.is_finished()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_beyond_the_limit_take_turns_and_a_user_without_any_leaves_the_table() {
        let uploads = Arc::new(UploadSlots::default());
        let (alice, bob) = (UserId::new("@alice:example.org"), UserId::new("@bob:example.org"));
        let begun = start(&uploads, &alice, 100);
        assert_eq!(settled(&begun).await, MAX_UPLOADS_PER_USER);
        drop(uploads.acquire(&bob).await.unwrap());
        assert_eq!(lock(&uploads.0).len(), 1, "bob has none any more");
        let mut ended = 0;
        for upload in begun {
            // Ends at once: the next one is let in.
            drop(upload.await.unwrap().unwrap());
            ended += 1;
        }
        assert_eq!(ended, 100);
        assert!(lock(&uploads.0).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_has_waited_long_enough_or_finds_the_queue_full_is_refused() {
        let uploads = Arc::new(UploadSlots::default());
        let alice = UserId::new("@alice:example.org");
        let started = Instant::now();
        let mut begun = start(&uploads, &alice, MAX_UPLOADS_PER_USER + MAX_WAITING_PER_USER);
        assert_eq!(settled(&begun).await, MAX_UPLOADS_PER_USER);
        let error = uploads.acquire(&alice).await.unwrap_err();
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
