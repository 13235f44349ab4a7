//! Bounded pools of threads for blocking work: the seam between the async shell and the synchronous core.
//!
//! Owns how many threads each kind of work has. Refuses to know what the work means.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};
use crate::log;

/// Threads that make things durable, or wait for the disk otherwise.
const DISK_THREADS: usize = 8;

/// Threads that look things up in the catalog and open files: what is served does not wait behind what is being stored.
const LOOKUP_THREADS: usize = 8;

/// Threads that wait for the homeserver.
const HOMESERVER_THREADS: usize = 8;

/// Threads that wait for other servers' media.
const FEDERATION_THREADS: usize = 16;

/// Threads that wait for other servers' keys: anybody can claim to be a server that does not answer.
const KEY_THREADS: usize = 8;

/// Threads that wait for linked pages.
const PREVIEW_THREADS: usize = 8;

/// Threads that read blobs which the page cache does not hold.
pub(crate) const READ_THREADS: usize = 8;

/// Most of `thumbnails.workers`.
const MAX_THUMBNAIL_THREADS: usize = 64;

/// Most blocking threads in all, for the runtime; a few are the runtime's own.
pub(crate) const MAX_BLOCKING_THREADS: usize = DISK_THREADS
    + LOOKUP_THREADS
    + HOMESERVER_THREADS
    + FEDERATION_THREADS
    + KEY_THREADS
    + PREVIEW_THREADS
    + READ_THREADS
    + MAX_THUMBNAIL_THREADS
    + 4;

/// A kind of blocking work, each with threads of its own so that one cannot starve the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Files and the catalog, writing above all.
    Disk,
    /// Questions to the catalog, and opening what it names.
    Lookup,
    /// The homeserver.
    Homeserver,
    /// Other servers' media.
    Federation,
    /// Other servers' keys.
    Keys,
    /// Linked pages.
    Previews,
    /// Pictures: waits for the processor.
    Thumbnails,
}

/// A thread of a pool, kept for work that is still to be chosen.
#[derive(Debug)]
pub(crate) struct Permit {
    /// The right to it.
    _permit: OwnedSemaphorePermit,
}

/// The pools.
#[derive(Debug)]
pub(crate) struct Pools {
    /// Permits of [`Pool::Disk`].
    disk: Arc<Semaphore>,
    /// Permits of [`Pool::Lookup`].
    lookup: Arc<Semaphore>,
    /// Permits of [`Pool::Homeserver`].
    homeserver: Arc<Semaphore>,
    /// Permits of [`Pool::Federation`].
    federation: Arc<Semaphore>,
    /// Permits of [`Pool::Keys`].
    keys: Arc<Semaphore>,
    /// Permits of [`Pool::Previews`].
    previews: Arc<Semaphore>,
    /// Permits of [`Pool::Thumbnails`].
    thumbnails: Arc<Semaphore>,
}

impl Pools {
    /// Pools of their fixed sizes, and of `thumbnail_workers` for pictures.
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

    /// Runs blocking work when its pool has a thread free. Work once begun runs to its end, whoever stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.enter(pool).await?.run(work).await
    }

    /// Waits until a pool has a thread free.
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
        Ok(Permit { _permit: permit.map_err(|error| Error::internal("waiting", error))? })
    }
}

impl Permit {
    /// Runs blocking work in the thread that is kept. Work once begun runs to its end, whoever stops waiting. Its log lines carry the ID
    /// of the request it is done for.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let span = log::request_span();
        let (sender, mut receiver) = oneshot::channel();
        run_boxed(Box::new(move || {
            let _permit = self;
            // An error: the caller stopped waiting.
            drop(sender.send(span.in_scope(work)));
        }))
        .await?;
        receiver.try_recv().map_err(|error| Error::internal("blocking work", error))?
    }
}

/// Runs work of any kind to its end. Boxed, because the runtime's machinery for a task is large and would else be compiled for each kind.
async fn run_boxed(work: Box<dyn FnOnce() + Send>) -> Result<()> {
    spawn_blocking(work).await.map_err(|error| Error::internal("blocking work", error))
}
