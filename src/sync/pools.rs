//! Bounded pools of threads for short blocking work on the own disk, and the way to a thread: where async code hands over to synchronous
//! code.
//!
//! Owns how many threads each kind of such work has. Work that is not short, or that others may cause, is admitted by
//! [`Admission`](super::Admission). Refuses to know what the work means.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::error::{Error, Result};
use crate::log;

/// Threads that write to the disk and wait until the data is durable.
const DISK_THREADS: usize = 8;

/// Threads that read the catalog and open files. Separate from [`DISK_THREADS`], so that downloads do not wait behind uploads.
const LOOKUP_THREADS: usize = 8;

/// Threads that read blobs which the page cache does not hold.
pub(crate) const READ_THREADS: usize = 8;

/// The runtime's limit of blocking threads. It is never reached: the pools and admission bound how many are in use.
pub(crate) const MAX_BLOCKING_THREADS: usize = 32 * 1024;

/// A kind of short blocking work. Each has its own threads, so that no kind can starve another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Writing files and the catalog.
    Disk,
    /// Reading the catalog, and opening files.
    Lookup,
}

/// The pools: for each, a semaphore with as many permits as it has threads. The threads belong to the runtime.
#[derive(Debug)]
pub(crate) struct Pools {
    disk: Arc<Semaphore>,
    lookup: Arc<Semaphore>,
}

impl Pools {
    pub(crate) fn new() -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self { disk: permits(DISK_THREADS), lookup: permits(LOOKUP_THREADS) }
    }

    /// Runs blocking work when `pool` has a free thread. Work that has begun runs to its end, even if the caller stops waiting. Its log lines
    /// carry the caller's request ID.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permits = match pool {
            Pool::Disk => &self.disk,
            Pool::Lookup => &self.lookup,
        };
        let permit = Arc::clone(permits).acquire_owned().await;
        let permit = permit.map_err(|error| Error::internal("waiting for a thread", error))?;
        run_on_thread(move || {
            let _permit = permit;
            work()
        })
        .await
    }
}

/// Runs blocking work on a thread of the runtime, to its end. Callers bound how much of it there is.
pub(super) async fn run_on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = log::request_span();
    let (sender, mut receiver) = oneshot::channel();
    run_boxed(Box::new(move || {
        // An error means that the caller has stopped waiting.
        drop(sender.send(span.in_scope(work)));
    }))
    .await?;
    receiver.try_recv().map_err(|error| Error::internal("blocking work", error))?
}

/// Runs work of any kind to its end. Boxed, because the runtime's code for a task is large and would be compiled again for each kind.
async fn run_boxed(work: Box<dyn FnOnce() + Send>) -> Result<()> {
    spawn_blocking(work).await.map_err(|error| Error::internal("blocking work", error))
}
