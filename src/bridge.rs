//! The seam between the async shell and the blocking core.
//!
//! Owns the bounded pools that blocking work runs in, and the two conversions of bodies: HTTP body → blob gate, file → HTTP
//! body. Refuses to know what the work means.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::blobs::{Ingest, IngestError};
use crate::error::{Error, Kind, Result};
use crate::matrix::len_u64;

/// Threads that wait for the disk or `SQLite`.
const DISK_THREADS: usize = 8;

/// Threads that wait for the homeserver.
const HOMESERVER_THREADS: usize = 8;

/// Threads that wait for other servers' media.
const FEDERATION_THREADS: usize = 16;

/// Threads that wait for other servers' keys: anybody can claim to be a server that does not answer.
const KEY_THREADS: usize = 8;

/// Threads that wait for linked pages.
const PREVIEW_THREADS: usize = 8;

/// Threads that read blobs which the page cache does not hold.
const READ_THREADS: usize = 8;

/// Most of `thumbnails.workers`.
const MAX_THUMBNAIL_THREADS: usize = 64;

/// Most blocking threads in all, for the runtime; a few are the runtime's own.
pub(crate) const MAX_BLOCKING_THREADS: usize = DISK_THREADS
    + HOMESERVER_THREADS
    + FEDERATION_THREADS
    + KEY_THREADS
    + PREVIEW_THREADS
    + READ_THREADS
    + MAX_THUMBNAIL_THREADS
    + 4;

/// Longest silence of a client that uploads.
const UPLOAD_STALL: Duration = Duration::from_mins(1);

/// How much of an upload is gathered before it is handed to the disk, bytes. Two such batches exist at most.
const UPLOAD_BATCH: usize = 256 * 1024;

/// How much of a file is read at once, bytes.
const FILE_CHUNK: u64 = 128 * 1024;

/// A kind of blocking work, each with threads of its own so that one cannot starve the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Files and the catalog.
    Disk,
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

/// The pools.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// Permits of [`Pool::Disk`].
    disk: Arc<Semaphore>,
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
    /// For bodies that read files.
    readers: Readers,
}

impl Bridge {
    /// Pools of their fixed sizes, and of `thumbnail_workers` for pictures.
    pub(crate) fn new(thumbnail_workers: u32) -> Self {
        let permits = |count| Arc::new(Semaphore::new(count));
        Self {
            disk: permits(DISK_THREADS),
            homeserver: permits(HOMESERVER_THREADS),
            federation: permits(FEDERATION_THREADS),
            keys: permits(KEY_THREADS),
            previews: permits(PREVIEW_THREADS),
            thumbnails: permits(usize::try_from(thumbnail_workers).unwrap_or(1)),
            readers: Readers(permits(READ_THREADS)),
        }
    }

    /// What bodies that read files go by.
    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    /// Runs blocking work when its pool has a thread free. Work once begun runs to its end, whoever stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permits = match pool {
            Pool::Disk => &self.disk,
            Pool::Homeserver => &self.homeserver,
            Pool::Federation => &self.federation,
            Pool::Keys => &self.keys,
            Pool::Previews => &self.previews,
            Pool::Thumbnails => &self.thumbnails,
        };
        let permit =
            Arc::clone(permits).acquire_owned().await.map_err(|error| Error::internal("waiting", error))?;
        let work = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        work.await.map_err(|error| Error::internal("blocking work", error))?
    }

    /// Moves a whole HTTP body through the blob gate, which `begin` opens. While the disk takes one batch, the next arrives;
    /// no thread waits for the client.
    ///
    /// # Errors
    /// `UploadTooLarge`, `RequestTimeout` when the client falls silent, `BadRequest` when it breaks off.
    pub(crate) async fn absorb<B>(
        &self,
        body: &mut B,
        begin: impl FnOnce() -> Result<Ingest> + Send + 'static,
    ) -> Result<Ingest>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let mut ingest = self.run(Pool::Disk, begin).await?;
        let mut batch = next_batch(body).await?;
        while !batch.is_empty() {
            let writing = self.run(Pool::Disk, move || {
                batch.iter().try_for_each(|bytes| ingest.write(bytes)).map_err(refused)?;
                Ok(ingest)
            });
            let arriving = next_batch(body);
            (ingest, batch) = tokio::try_join!(writing, arriving)?;
        }
        Ok(ingest)
    }
}

/// What the client's upload failed with.
fn refused(error: IngestError) -> Error {
    match error {
        IngestError::TooLarge(limit) => too_large(limit),
        IngestError::Io(error) => Error::internal("storing an upload", error),
    }
}

/// An upload over the limit.
pub(crate) fn too_large(limit: u64) -> Error {
    Error::new(Kind::UploadTooLarge, format!("the upload is larger than {limit} bytes"))
}

/// Gathers what arrives, up to [`UPLOAD_BATCH`]; empty at the end of the body.
async fn next_batch<B>(body: &mut B) -> Result<Vec<Bytes>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let mut batch = Vec::new();
    let mut size = 0_usize;
    while size < UPLOAD_BATCH {
        let frame = tokio::time::timeout(UPLOAD_STALL, body.frame())
            .await
            .map_err(|_elapsed| Error::new(Kind::RequestTimeout, "the upload stalled"))?;
        let Some(frame) = frame else { break };
        let frame =
            frame.map_err(|error| Error::new(Kind::BadRequest, "the upload broke off").caused_by(error))?;
        if let Ok(bytes) = frame.into_data() {
            size = size.saturating_add(bytes.len());
            batch.push(bytes);
        }
    }
    Ok(batch)
}

/// The right to read files for bodies, a few at a time when the page cache does not hold them.
#[derive(Clone, Debug)]
pub(crate) struct Readers(Arc<Semaphore>);

/// A stretch of a file on its way into an HTTP body. What the page cache holds is read at once on the async thread; what
/// it does not is read on a blocking one.
#[derive(Debug)]
pub(crate) struct FileStream {
    /// The file.
    file: Arc<File>,
    /// Next byte.
    at: u64,
    /// Bytes still to come.
    left: u64,
    /// For reads that have to leave the async thread.
    readers: Readers,
    /// One that did.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileStream {
    /// `length` bytes of `file` from `start` on.
    pub(crate) fn new(file: Arc<File>, start: u64, length: u64, readers: &Readers) -> Self {
        Self { file, at: start, left: length, readers: readers.clone(), reading: None }
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Reads in a blocking thread, when one is free.
    fn read_blocking(&self) -> JoinHandle<io::Result<Bytes>> {
        let (file, at, left) = (Arc::clone(&self.file), self.at, self.left);
        let readers = Arc::clone(&self.readers.0);
        tokio::spawn(async move {
            let _permit = readers.acquire_owned().await.map_err(io::Error::other)?;
            let read = spawn_blocking(move || read_at(&file, at, left, ReadWriteFlags::empty()));
            read.await.map_err(io::Error::other)?
        })
    }

    /// The next bytes; `None` at the end. A file that ends early is an error.
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let result = match &mut self.reading {
            Some(reading) => {
                let joined = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                joined.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match read_at(&self.file, self.at, self.left, ReadWriteFlags::NOWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_unsupported(&error) => {
                    let mut reading = self.read_blocking();
                    let poll = Pin::new(&mut reading).poll(context);
                    match poll {
                        Poll::Ready(joined) => joined.unwrap_or_else(|error| Err(io::Error::other(error))),
                        Poll::Pending => {
                            self.reading = Some(reading);
                            return Poll::Pending;
                        }
                    }
                }
                result => result,
            },
        };
        if let Ok(bytes) = &result {
            let count = len_u64(bytes.len());
            self.at = self.at.saturating_add(count);
            self.left = self.left.saturating_sub(count);
        }
        Poll::Ready(Some(result))
    }
}

/// Reads up to a chunk, and at least one byte.
fn read_at(file: &File, at: u64, left: u64, flags: ReadWriteFlags) -> io::Result<Bytes> {
    let size = usize::try_from(left.min(FILE_CHUNK)).unwrap_or(usize::MAX);
    let mut buffer = vec![0; size];
    let count = loop {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(&mut buffer)], at, flags) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    if count == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the blob is shorter than the catalog says",
        ));
    }
    buffer.truncate(count);
    Ok(buffer.into())
}

/// Whether the file system or kernel does not know `RWF_NOWAIT`.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL))
}
