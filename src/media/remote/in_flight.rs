//! Fetches in progress. Each file is fetched once and passed on, while it arrives, to all requests that want it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tracing::Instrument as _;

use super::{Fetched, RemoteHead};
use crate::error::{Error, Kind, Result};
use crate::http::file_stream::{FileStream, Readers};
use crate::http::response::Chunks;
use crate::log;
use crate::matrix::Mxc;
use crate::media::Viewer;
use crate::store::blobs::BlobReader;
use crate::store::stored_media::StoredMedia;
use crate::sync::{RETRY, TableEntry, lock};

/// Chunks read ahead for a client that receives an arriving file.
const READ_AHEAD: usize = 2;

/// Fetches at the same time, running or waiting to run. Further requests wait in the queue or get 429.
const MAX_FETCHES: usize = 256;

/// The same from one server, so that a slow server does not use up all of them.
const MAX_FETCHES_OF_SERVER: usize = 32;

/// The same for callers without a token, so that a flood of them leaves half to callers with one.
const MAX_ANONYMOUS_FETCHES: usize = 128;

/// Requests with a token that may wait until a further fetch can begin; further ones get 429. A room full of pictures is opened at
/// once, and many of them are of one server.
const MAX_WAITING: usize = 256;

/// The longest wait of such a request.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// All fetches in progress.
#[derive(Debug)]
pub(super) struct InFlightFetches {
    table: Arc<Mutex<HashMap<Mxc, InFlightFetch>>>,
    /// Notified whenever a fetch has ended.
    ended: Arc<Notify>,
    /// A permit for each request that may wait.
    queue: Semaphore,
}

/// A fetch in progress.
#[derive(Debug)]
struct InFlightFetch {
    progress: watch::Receiver<Progress>,
    /// Who started it.
    viewer: Viewer,
}

/// A fetch in progress, as seen by one of the requests that want its file.
#[derive(Debug)]
pub(super) struct FetchHandle {
    progress: watch::Receiver<Progress>,
    /// Whether this request started the fetch.
    is_first: bool,
}

/// The progress of a fetch.
#[derive(Clone, Debug)]
enum Progress {
    /// The remote server has not answered.
    Requested,
    /// Bytes are arriving.
    Arriving {
        head: RemoteHead,
        /// Where the bytes appear.
        blob: BlobReader,
        /// Bytes so far.
        size: u64,
        /// Whether this is the whole file.
        complete: bool,
    },
    /// The row is committed.
    Stored(StoredMedia),
    /// All bytes arrived and could not be stored. Requests that are passing them on can finish.
    Unstored {
        head: RemoteHead,
        blob: BlobReader,
        size: u64,
        error: Error,
    },
    Failed(Error),
}

/// A remote file while it arrives, to be passed on to a client.
#[derive(Debug)]
pub(crate) struct ArrivingFile {
    pub(crate) head: RemoteHead,
    progress: watch::Receiver<Progress>,
    /// Where the bytes appear.
    blob: BlobReader,
    readers: Readers,
}

/// Reports the progress of a fetch to the requests that wait for it. Never blocks.
#[derive(Debug)]
pub(super) struct ProgressReporter(Arc<watch::Sender<Progress>>);

/// Notifies when it is dropped, even if the task that holds it panics.
struct NotifyOnDrop(Arc<Notify>);

impl Default for InFlightFetches {
    fn default() -> Self {
        Self { table: Arc::default(), ended: Arc::default(), queue: Semaphore::new(MAX_WAITING) }
    }
}

impl InFlightFetches {
    /// Joins the fetch of `mxc`, or starts one with `fetch`, which reports its progress and ends when the row is committed. A fetch runs
    /// to its end even if all requests for it are cancelled: what has arrived would have to be fetched again.
    ///
    /// # Errors
    /// `LimitExceeded` when too many fetches are in progress: at once for callers without a token, for others when the queue is full or
    /// after [`LONGEST_WAIT`].
    pub(super) async fn join<F>(
        &self,
        mxc: &Mxc,
        viewer: Viewer,
        fetch: impl FnOnce(ProgressReporter) -> F,
    ) -> Result<FetchHandle>
    where
        F: Future<Output = Result<StoredMedia>> + Send + 'static,
    {
        let mut fetch = Some(fetch);
        let refused = || {
            let message = "too many remote files are being fetched";
            Error::new(Kind::LimitExceeded, message).retry_after(RETRY)
        };
        if let Some(handle) = self.join_or_start(mxc, viewer, &mut fetch) {
            return Ok(handle);
        }
        let permit = (viewer == Viewer::Known).then(|| self.queue.try_acquire().ok()).flatten();
        let _in_queue = permit.ok_or_else(refused)?;
        let wait = async {
            loop {
                // Registered before the attempt, so that a fetch that ends in between still wakes us.
                let mut ended = pin!(self.ended.notified());
                ended.as_mut().enable();
                if let Some(handle) = self.join_or_start(mxc, viewer, &mut fetch) {
                    return handle;
                }
                ended.await;
            }
        };
        tokio::time::timeout(LONGEST_WAIT, wait).await.map_err(|_elapsed| refused())
    }

    /// Joins a fetch or starts one; `None` when too many are in progress.
    fn join_or_start<F>(
        &self,
        mxc: &Mxc,
        viewer: Viewer,
        fetch: &mut Option<impl FnOnce(ProgressReporter) -> F>,
    ) -> Option<FetchHandle>
    where
        F: Future<Output = Result<StoredMedia>> + Send + 'static,
    {
        let mut table = lock(&self.table);
        if let Some(under_way) = table.get(mxc) {
            return Some(FetchHandle { progress: under_way.progress.clone(), is_first: false });
        }
        let of_server = table.keys().filter(|other| other.server_name == mxc.server_name).count();
        let of_anonymous = || table.values().filter(|other| other.viewer == Viewer::Anonymous).count();
        if table.len() >= MAX_FETCHES
            || of_server >= MAX_FETCHES_OF_SERVER
            || viewer == Viewer::Anonymous && of_anonymous() >= MAX_ANONYMOUS_FETCHES
        {
            return None;
        }
        let fetch = fetch.take()?;
        let (sender, progress) = watch::channel(Progress::Requested);
        table.insert(mxc.clone(), InFlightFetch { progress: progress.clone(), viewer });
        let sender = Arc::new(sender);
        let fetch = fetch(ProgressReporter(Arc::clone(&sender)));
        // Dropped in this order: the table has room by the time waiting requests are woken.
        let entry = (TableEntry::new(&self.table, mxc.clone()), NotifyOnDrop(Arc::clone(&self.ended)));
        let span = log::request_span();
        let task = async move {
            let outcome = fetch.instrument(span).await;
            // Removed before the outcome is published: a request that comes later finds the media in the store.
            drop(entry);
            sender.send_modify(|progress| *progress = progress.ended(outcome));
        };
        tokio::spawn(task);
        Some(FetchHandle { progress, is_first: true })
    }
}

impl FetchHandle {
    /// Waits until the file is stored.
    pub(super) async fn stored(mut self) -> Result<StoredMedia> {
        let is_over =
            |progress: &Progress| !matches!(progress, Progress::Requested | Progress::Arriving { .. });
        match self.progress.wait_for(is_over).await.as_deref() {
            Ok(Progress::Stored(stored)) => Ok(stored.clone()),
            Ok(Progress::Failed(error) | Progress::Unstored { error, .. }) => Err(error.clone()),
            Ok(Progress::Requested | Progress::Arriving { .. }) | Err(_) => Err(lost()),
        }
    }

    /// Waits until the file can be passed on. A request that joins after the last byte waits until the file is stored, because stored media
    /// is sent with an `ETag`.
    pub(super) async fn first_byte(mut self, readers: &Readers) -> Result<Fetched> {
        let is_first = self.is_first;
        let can_be_sent = |progress: &Progress| match progress {
            Progress::Requested => false,
            Progress::Arriving { complete, .. } => is_first || !complete,
            Progress::Stored(_) | Progress::Unstored { .. } | Progress::Failed(_) => true,
        };
        let progress = match self.progress.wait_for(can_be_sent).await {
            Ok(progress) => progress.clone(),
            Err(_) => return Err(lost()),
        };
        match progress {
            Progress::Arriving { head, blob, .. } | Progress::Unstored { head, blob, .. } => {
                let (progress, readers) = (self.progress, readers.clone());
                Ok(Fetched::Arriving(ArrivingFile { head, progress, blob, readers }))
            }
            Progress::Stored(stored) => Ok(Fetched::Stored(stored)),
            Progress::Failed(error) => Err(error),
            Progress::Requested => Err(lost()),
        }
    }
}

impl ArrivingFile {
    /// The bytes of `range` as they arrive, once its first one is here; for `None` all bytes, without waiting.
    ///
    /// # Errors
    /// Those of the fetch, when it fails before the first byte of the range.
    pub(crate) async fn chunks(mut self, range: Option<Range<u64>>) -> Result<Chunks> {
        if let Some(Range { start, .. }) = range {
            match self.progress.wait_for(|progress| progress.reaches(start)).await.as_deref() {
                Ok(Progress::Failed(error)) => return Err(error.clone()),
                Ok(_) => {}
                Err(_) => return Err(lost()),
            }
        }
        let range = range.unwrap_or(0..self.head.size.unwrap_or(u64::MAX));
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        tokio::spawn(tail(self, range, sender).instrument(log::request_span()));
        Ok(receiver)
    }
}

/// Reads a part of an arriving file for one client, as fast as it arrives and the client reads.
async fn tail(file: ArrivingFile, range: Range<u64>, client: mpsc::Sender<io::Result<Bytes>>) {
    let ArrivingFile { mut progress, blob, readers, .. } = file;
    let mut sent = range.start;
    while sent < range.end {
        let available = match progress.wait_for(|progress| progress.reaches(sent)).await {
            Ok(progress) => progress.available(&blob),
            Err(_) => Err(io::Error::other(lost())),
        };
        let (until, complete) = match available {
            Ok((size, complete)) => (size.min(range.end), complete),
            Err(error) => {
                // This aborts the response, so that a truncated file does not look complete. Ignored if the client has disconnected.
                drop(client.send(Err(error)).await);
                return;
            }
        };
        let mut stream = FileStream::new(blob.range(sent, until.saturating_sub(sent)), &readers);
        while let Some(chunk) = std::future::poll_fn(|context| stream.poll_chunk(context)).await {
            // The client has disconnected: only this task ends, others still read the file.
            if client.send(chunk).await.is_err() {
                return;
            }
        }
        sent = until;
        if complete {
            return;
        }
    }
}

impl Progress {
    /// Whether more than `size` bytes are here, or no more will come.
    fn reaches(&self, size: u64) -> bool {
        match self {
            Self::Requested => false,
            Self::Arriving { size: arrived, complete, .. } => *complete || *arrived > size,
            Self::Stored(_) | Self::Unstored { .. } | Self::Failed(_) => true,
        }
    }

    /// How many bytes of the file can be read from `blob`, and whether that is the whole file.
    fn available(&self, blob: &BlobReader) -> io::Result<(u64, bool)> {
        match self {
            Self::Arriving { size, complete, .. } => Ok((*size, *complete)),
            Self::Unstored { size, .. } => Ok((*size, true)),
            // A file is stored only after all of it has arrived.
            Self::Stored(_) | Self::Requested => Ok((blob.available()?, true)),
            Self::Failed(error) => Err(io::Error::other(error.clone())),
        }
    }

    /// The final state of a fetch that ended with `outcome`.
    fn ended(&self, outcome: Result<StoredMedia>) -> Self {
        match (outcome, self) {
            (Ok(stored), _) => Self::Stored(stored),
            (Err(error), Self::Arriving { head, blob, size, complete: true }) => {
                Self::Unstored { head: head.clone(), blob: blob.clone(), size: *size, error }
            }
            (Err(error), _) => Self::Failed(error),
        }
    }
}

impl ProgressReporter {
    /// The response head is here; the bytes will appear in `blob`.
    pub(super) fn started(&self, head: RemoteHead, blob: BlobReader) {
        self.0.send_replace(Progress::Arriving { head, blob, size: 0, complete: false });
    }

    /// `to` bytes are here.
    pub(super) fn advanced(&self, to: u64) {
        self.0.send_modify(|progress| {
            if let Progress::Arriving { size, .. } = progress {
                *size = to;
            }
        });
    }

    /// All bytes are here; only storing remains.
    pub(super) fn complete(&self) {
        self.0.send_modify(|progress| {
            if let Progress::Arriving { complete, .. } = progress {
                *complete = true;
            }
        });
    }
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// The fetch's task ended without an outcome: it panicked.
fn lost() -> Error {
    Error::internal("fetching remote media", io::Error::other("its task ended"))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::matrix::{MediaId, ServerName, Timestamp};
    use crate::store::catalog::Filled;
    use crate::store::sha256::Sha256;

    /// File `number` of a server of its own.
    fn file(number: usize) -> Mxc {
        let server_name = ServerName::parse(&format!("remote{number}.example")).unwrap();
        Mxc { server_name, media_id: MediaId::parse("abc").unwrap() }
    }

    fn media() -> StoredMedia {
        let (sha256, content_type) = (Sha256::from_bytes([7; 32]), "text/plain".to_owned());
        let content = Filled { sha256, size: 1, content_type, upload_name: None };
        StoredMedia { content, created: Timestamp(0), open: true, blob: BlobReader::of(b"x") }
    }

    #[tokio::test]
    async fn a_fetch_that_panics_is_an_error_and_leaves_the_table() {
        let fetches = InFlightFetches::default();
        for _ in 0..2 {
            let fetch = |_progress| async { panic!("on purpose") };
            let handle = fetches.join(&file(0), Viewer::Known, fetch).await.unwrap();
            assert!(handle.is_first);
            handle.stored().await.unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_without_tokens_leaves_half_to_those_who_have_one() {
        let fetches = InFlightFetches::default();
        let join = async |number, viewer| {
            fetches.join(&file(number), viewer, |_progress| std::future::pending()).await
        };
        for number in 0..MAX_ANONYMOUS_FETCHES {
            join(number, Viewer::Anonymous).await.unwrap();
        }
        let started = Instant::now();
        let error = join(MAX_ANONYMOUS_FETCHES, Viewer::Anonymous).await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (Kind::LimitExceeded, Duration::ZERO));
        // What is under way is shared with everybody.
        assert!(!join(0, Viewer::Anonymous).await.unwrap().is_first);
        for number in MAX_ANONYMOUS_FETCHES..MAX_FETCHES {
            assert!(join(number, Viewer::Known).await.unwrap().is_first);
        }
        join(MAX_FETCHES, Viewer::Known).await.unwrap_err();
        assert_eq!(started.elapsed(), LONGEST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_with_a_token_waits_in_a_bounded_queue() {
        let (fetches, gate) = (Arc::new(InFlightFetches::default()), Arc::new(Semaphore::new(0)));
        let request = |number: usize| {
            let (fetches, gate) = (Arc::clone(&fetches), Arc::clone(&gate));
            let mxc = Mxc {
                server_name: ServerName::parse("remote.example").unwrap(),
                media_id: MediaId::parse(&format!("f{number}")).unwrap(),
            };
            let fetch = move |_progress| async move {
                gate.acquire().await.unwrap().forget();
                // A fetch that panics makes room too.
                assert_ne!(number, 5, "on purpose");
                Ok(media())
            };
            tokio::spawn(async move { fetches.join(&mxc, Viewer::Known, fetch).await?.stored().await })
        };
        let requested: Vec<_> = (0..MAX_FETCHES_OF_SERVER + MAX_WAITING).map(request).collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            (lock(&fetches.table).len(), fetches.queue.available_permits()),
            (MAX_FETCHES_OF_SERVER, 0)
        );
        let started = Instant::now();
        assert_eq!(request(1000).await.unwrap().unwrap_err().kind(), Kind::LimitExceeded);
        assert_eq!(started.elapsed(), Duration::ZERO, "at once");
        gate.add_permits(requested.len());
        let mut stored = 0;
        for requested in requested {
            stored += usize::from(requested.await.unwrap().is_ok());
        }
        assert_eq!((stored, started.elapsed()), (MAX_FETCHES_OF_SERVER + MAX_WAITING - 1, Duration::ZERO));
        assert_eq!(fetches.queue.available_permits(), MAX_WAITING);
        assert!(lock(&fetches.table).is_empty());
    }
}
