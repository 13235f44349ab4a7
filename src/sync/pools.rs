//! Bounded pools of threads for blocking work: where async code hands over to synchronous code.
//!
//! Owns how many threads each kind of work has. Refuses to know what the work means.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};
use crate::log;

/// Threads that write to the disk and wait until the data is durable.
const DISK_THREADS: usize = 8;

/// Threads that read the catalog and open files. Separate from [`DISK_THREADS`], so that downloads do not wait behind uploads.
const LOOKUP_THREADS: usize = 8;

/// Threads that wait for the homeserver.
const HOMESERVER_THREADS: usize = 8;

/// Threads that wait for other servers' media.
const FEDERATION_THREADS: usize = 16;

/// Threads that wait for other servers' keys. Separate, because anyone can name a server that does not respond.
const KEY_THREADS: usize = 8;

/// Threads that wait for linked pages.
const PREVIEW_THREADS: usize = 8;

/// Threads that read blobs which the page cache does not hold.
pub(crate) const READ_THREADS: usize = 8;

/// The largest value of `thumbnails.workers`.
const MAX_THUMBNAIL_THREADS: usize = 64;

/// The runtime's limit of blocking threads: all pools, and a few for the runtime itself.
pub(crate) const MAX_BLOCKING_THREADS: usize = DISK_THREADS
    + LOOKUP_THREADS
    + HOMESERVER_THREADS
    + FEDERATION_THREADS
    + KEY_THREADS
    + PREVIEW_THREADS
    + READ_THREADS
    + MAX_THUMBNAIL_THREADS
    + 4;

/// A kind of blocking work. Each has its own threads, so that no kind can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Writing files and the catalog.
    Disk,
    /// Reading the catalog, and opening files.
    Lookup,
    /// Requests to the homeserver.
    Homeserver,
    /// Fetching other servers' media.
    Federation,
    /// Fetching other servers' keys.
    Keys,
    /// Fetching linked pages.
    Previews,
    /// Decoding pictures: uses the processor.
    Thumbnails,
}

/// The right to use one thread of a pool, for work that is chosen later.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

/// The pools: for each, a semaphore with as many permits as it has threads. The threads belong to the runtime.
#[derive(Debug)]
pub(crate) struct Pools {
    disk: Arc<Semaphore>,
    lookup: Arc<Semaphore>,
    homeserver: Arc<Semaphore>,
    federation: Arc<Semaphore>,
    keys: Arc<Semaphore>,
    previews: Arc<Semaphore>,
    thumbnails: Arc<Semaphore>,
}

impl Pools {
    /// Pools of fixed sizes, except [`Pool::Thumbnails`], which has `thumbnail_workers` threads.
    pub(crate) fn new(thumbnail_workers: u32) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self {
            disk: permits(DISK_THREADS),
            lookup: permits(LOOKUP_THREADS),
            homeserver: permits(HOMESERVER_THREADS),
            federation: permits(FEDERATION_THREADS),
            keys: permits(KEY_THREADS),
            previews: permits(PREVIEW_THREADS),
            thumbnails: permits(usize::try_from(thumbnail_workers).unwrap_or(1)),
        }
    }

    /// Runs blocking work when `pool` has a free thread. Work that has begun runs to its end, even if the caller stops waiting. Its log lines
    /// carry the caller's request ID.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.enter(pool).await?.run(work).await
    }

    /// Waits until `pool` has a free thread, and reserves it.
    pub(crate) async fn enter(&self, pool: Pool) -> Result<Permit> {
        let permits = match pool {
            Pool::Disk => &self.disk,
            Pool::Lookup => &self.lookup,
            Pool::Homeserver => &self.homeserver,
            Pool::Federation => &self.federation,
            Pool::Keys => &self.keys,
            Pool::Previews => &self.previews,
            Pool::Thumbnails => &self.thumbnails,
        };
        let permit = Arc::clone(permits).acquire_owned().await;
        Ok(Permit { _permit: permit.map_err(|error| Error::internal("waiting for a thread", error))? })
    }
}

impl Permit {
    /// Runs blocking work in the reserved thread, as [`Pools::run`] does.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let span = log::request_span();
        let (sender, mut receiver) = oneshot::channel();
        run_boxed(Box::new(move || {
            let _permit = self;
            // An error means that the caller has stopped waiting.
            drop(sender.send(span.in_scope(work)));
        }))
        .await?;
        receiver.try_recv().map_err(|error| Error::internal("blocking work", error))?
    }
}

/// Runs work of any kind to its end. Boxed, because the runtime's code for a task is large and would be compiled again for each kind.
async fn run_boxed(work: Box<dyn FnOnce() + Send>) -> Result<()> {
    spawn_blocking(work).await.map_err(|error| Error::internal("blocking work", error))
}
