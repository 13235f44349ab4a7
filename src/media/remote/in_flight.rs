//! The progress of a fetch. Each file is fetched once and passed on, while it arrives, to all requests that want it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::{mpsc, watch};
use tracing::Instrument as _;

use super::{Fetched, RemoteHead};
use crate::error::{Error, Kind, Result};
use crate::http::file_stream::{FileStream, Readers};
use crate::http::response::Chunks;
use crate::log;
use crate::store::blobs::BlobReader;
use crate::store::stored_media::StoredMedia;
use crate::sync::Joined;
use crate::sync::admission::Waiter;

/// Chunks read ahead for a client that receives an arriving file.
const READ_AHEAD: usize = 2;

/// How long beyond its own `timeout_ms` a request waits that joined a fetch which may wait longer: the file may be on its way.
const EXTRA_WAIT: Duration = Duration::from_secs(20);

/// A fetch in progress, as seen by one of the requests that want its file.
#[derive(Debug)]
pub(super) struct FetchHandle {
    progress: watch::Receiver<Progress>,
    waiter: Waiter,
    /// Whether this request started the fetch.
    is_first: bool,
    /// When the request stops waiting for an answer of the remote server.
    until: Option<Instant>,
}

/// The progress of a fetch.
#[derive(Clone, Debug, Default)]
pub(super) enum Progress {
    /// The remote server has not answered.
    #[default]
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
    /// The fetch goes on as long as somebody receives the file.
    _waiter: Waiter,
}

/// Reports the progress of a fetch to the requests that wait for it. Never blocks.
#[derive(Clone, Debug)]
pub(super) struct ProgressReporter(pub(super) Arc<watch::Sender<Progress>>);

impl FetchHandle {
    /// The handle of a request that waits until `until` for a pending upload.
    pub(super) fn new(joined: Joined<Progress>, until: Option<Instant>) -> Self {
        let Joined { progress, waiter, is_first } = joined;
        // The first request told the remote server how long it may wait.
        let until = until.filter(|_| !is_first).and_then(|until| until.checked_add(EXTRA_WAIT));
        Self { progress, waiter, is_first, until }
    }

    /// Waits until the file is stored.
    pub(super) async fn stored(mut self) -> Result<StoredMedia> {
        self.answered().await?;
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
        self.answered().await?;
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
                let Self { progress, waiter, .. } = self;
                let readers = readers.clone();
                Ok(Fetched::Arriving(ArrivingFile { head, progress, blob, readers, _waiter: waiter }))
            }
            Progress::Stored(stored) => Ok(Fetched::Stored(stored)),
            Progress::Failed(error) => Err(error),
            Progress::Requested => Err(lost()),
        }
    }

    /// Waits until the remote server answers, as long as this request wants to.
    async fn answered(&mut self) -> Result<()> {
        let Some(until) = self.until else { return Ok(()) };
        let answered = self.progress.wait_for(|progress| !matches!(progress, Progress::Requested));
        match tokio::time::timeout_at(until.into(), answered).await {
            Ok(_) => Ok(()),
            Err(_elapsed) => Err(Error::new(Kind::NotYetUploaded, "the media is not yet here")),
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
    let ArrivingFile { mut progress, blob, readers, _waiter, .. } = file;
    let mut sent = range.start;
    while sent < range.end {
        let available = async {
            match progress.wait_for(|progress| progress.reaches(sent)).await {
                Ok(progress) => progress.available(&blob),
                Err(_) => Err(io::Error::other(lost())),
            }
        };
        let available = tokio::select! {
            available = available => available,
            // The client has disconnected: only this task ends, others still read the file.
            () = client.closed() => return,
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
    pub(super) fn ended(&self, outcome: Result<StoredMedia>) -> Self {
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
    /// Whether the remote server has not answered yet, as far as requests know.
    pub(super) fn is_requested(&self) -> bool {
        matches!(*self.0.borrow(), Progress::Requested)
    }

    /// Resolves when the remote server has answered.
    pub(super) async fn answered(&self) {
        // The sender is part of this.
        drop(self.0.subscribe().wait_for(|progress| !matches!(progress, Progress::Requested)).await);
    }

    /// Bytes so far; `None` unless bytes are arriving.
    pub(super) fn arrived(&self) -> Option<u64> {
        let progress = self.0.borrow();
        if let Progress::Arriving { size, complete: false, .. } = &*progress { Some(*size) } else { None }
    }

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

/// The fetch's task ended without an outcome: it panicked.
fn lost() -> Error {
    Error::internal("fetching remote media", io::Error::other("its task ended"))
}
