//! Receiving an upload: HTTP body → blob.
//!
//! Owns how much of a body is collected in memory before it is written, and how long a client may take. Refuses to know what the blob is
//! for.

use std::io;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};
use crate::matrix::len_u64;
use crate::store::blobs::{Ingest, IngestError};
use crate::sync::pools::{Pool, Pools};

/// Longest silence of a client that uploads.
const UPLOAD_STALL: Duration = Duration::from_mins(1);

/// Time after which the average rate of an upload is checked.
const UPLOAD_GRACE: Duration = Duration::from_mins(1);

/// The slowest average rate after that, bytes a second. A slower client would hold its connection for ever.
const MIN_UPLOAD_RATE: u64 = 1024;

/// Size of a batch: bytes of an upload collected before they are written. Each upload has at most two batches in memory.
const UPLOAD_BATCH: usize = 256 * 1024;

/// Uploads that may have batches of that size at the same time; further ones use [`SMALL_BATCH`]. So clients that stall hold at most
/// 16 MiB, and 32 KiB for each further upload.
const LARGE_UPLOADS: usize = 32;

/// Size of a batch while many uploads are in progress, bytes.
const SMALL_BATCH: usize = 16 * 1024;

/// Receives bodies.
#[derive(Debug)]
pub(crate) struct BodyReceiver {
    /// A permit for each of [`LARGE_UPLOADS`].
    large_uploads: Semaphore,
}

impl BodyReceiver {
    pub(crate) fn new() -> Self {
        Self { large_uploads: Semaphore::new(LARGE_UPLOADS) }
    }

    /// Writes a whole body to the ingest that `begin` opens, then passes the ingest to `finish`. The next batch is received while the previous
    /// one is written. No thread waits for the client, and no file is opened before the first batch is there.
    ///
    /// # Errors
    /// `UploadTooLarge`; `RequestTimeout` when the client stops sending or is too slow; `BadRequest` when it aborts the body.
    pub(crate) async fn receive<B, T>(
        &self,
        pools: &Pools,
        body: &mut B,
        begin: impl FnOnce() -> Result<Ingest> + Send + 'static,
        finish: impl FnOnce(Ingest) -> Result<T> + Send + 'static,
    ) -> Result<T>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + Send + Sync + 'static,
        T: Send + 'static,
    {
        let large = self.large_uploads.try_acquire().ok();
        let mut batches = BodyBatches::new(body, if large.is_some() { UPLOAD_BATCH } else { SMALL_BATCH });
        let mut batch = batches.next_batch(Vec::new()).await?;
        if batches.is_over {
            let work = move || {
                let mut ingest = begin()?;
                ingest.write(&batch).map_err(refused)?;
                finish(ingest)
            };
            return pools.run(Pool::Disk, work).await;
        }
        let mut pending = pools.run(Pool::Disk, move || begin().map(PendingIngest::new)).await?;
        let mut spare = Vec::new();
        while !batch.is_empty() {
            let writing = pools.run(Pool::Disk, move || {
                let mut ingest = pending.take()?;
                ingest.write(&batch).map_err(refused)?;
                Ok((PendingIngest::new(ingest), batch))
            });
            ((pending, spare), batch) = tokio::try_join!(writing, batches.next_batch(spare))?;
        }
        pools.run(Pool::Disk, move || finish(pending.take()?)).await
    }
}

/// An ingest owned by async code. Dropping an ingest removes a file, so this moves the drop to a blocking thread.
struct PendingIngest(Option<Ingest>);

impl PendingIngest {
    fn new(ingest: Ingest) -> Self {
        Self(Some(ingest))
    }

    /// Call this on a blocking thread.
    fn take(mut self) -> Result<Ingest> {
        self.0.take().ok_or_else(|| Error::internal("storing an upload", io::Error::other("taken before")))
    }
}

impl Drop for PendingIngest {
    fn drop(&mut self) {
        if let (Some(ingest), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            drop(runtime.spawn_blocking(move || drop(ingest)));
        }
    }
}

/// Reads an upload's body in batches.
struct BodyBatches<'a, B> {
    body: &'a mut B,
    /// The part of the last frame that did not fit.
    rest: Bytes,
    /// Most bytes in a batch.
    room: usize,
    /// Whether the body has ended.
    is_over: bool,
    started: Instant,
    /// Bytes so far.
    size: u64,
}

impl<'a, B> BodyBatches<'a, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    fn new(body: &'a mut B, room: usize) -> Self {
        Self { body, rest: Bytes::new(), room, is_over: false, started: Instant::now(), size: 0 }
    }

    /// Clears `batch` and fills it with what arrives; it stays empty at the end of the body. The bytes are copied, because each small frame
    /// would otherwise keep a whole read buffer in memory.
    async fn next_batch(&mut self, mut batch: Vec<u8>) -> Result<Vec<u8>> {
        batch.clear();
        while batch.len() < self.room && !self.is_over {
            if self.rest.is_empty() {
                self.next_frame().await?;
            }
            let free = self.room.saturating_sub(batch.len());
            let taken = self.rest.split_to(free.min(self.rest.len()));
            if batch.capacity().saturating_sub(batch.len()) < taken.len() {
                // Reserved at once for what is announced, but never more than a batch.
                let announced = self.body.size_hint().upper().unwrap_or(u64::MAX);
                let wanted = usize::try_from(announced).unwrap_or(usize::MAX).saturating_add(taken.len());
                batch.reserve_exact(free.min(wanted));
            }
            batch.extend_from_slice(&taken);
        }
        Ok(batch)
    }

    async fn next_frame(&mut self) -> Result<()> {
        let stalled = || Error::new(Kind::RequestTimeout, "the upload stalled");
        let elapsed = self.started.elapsed();
        if elapsed > UPLOAD_GRACE && self.size < elapsed.as_secs().saturating_mul(MIN_UPLOAD_RATE) {
            return Err(stalled());
        }
        let frame =
            tokio::time::timeout(UPLOAD_STALL, self.body.frame()).await.map_err(|_elapsed| stalled())?;
        let Some(frame) = frame else {
            self.is_over = true;
            return Ok(());
        };
        let frame =
            frame.map_err(|error| Error::new(Kind::BadRequest, "the upload was aborted").caused_by(error))?;
        self.rest = frame.into_data().unwrap_or_default();
        self.size = self.size.saturating_add(len_u64(self.rest.len()));
        Ok(())
    }
}

/// The error for a client whose upload could not be written.
fn refused(error: IngestError) -> Error {
    match error {
        IngestError::TooLarge(limit) => too_large(limit),
        IngestError::Io(error) => Error::storing("storing an upload", error),
    }
}

/// The error for a client whose upload exceeds the limit.
pub(crate) fn too_large(limit: u64) -> Error {
    Error::new(Kind::UploadTooLarge, format!("the upload is larger than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use hyper::body::Frame;
    use tokio::sync::mpsc;

    use super::*;
    use crate::store::blobs::{BlobStore as _, DirectoryBlobs};
    use crate::store::fs::SystemFs;

    /// A body that a test feeds.
    struct Fed(mpsc::UnboundedReceiver<Vec<u8>>);

    impl Body for Fed {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes.into()))))
        }
    }

    /// Runs with time that passes at once when nothing else happens.
    fn run<F: Future>(future: F) -> F::Output {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(future)
    }

    /// A blob store in a folder that is removed with the first value.
    fn store() -> (tempfile::TempDir, Arc<DirectoryBlobs>) {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        (folder, blobs)
    }

    /// Receives a whole body. Gives its size.
    async fn receive(pools: &Pools, blobs: &Arc<DirectoryBlobs>, body: Fed) -> Result<u64> {
        receive_by(&BodyReceiver::new(), pools, blobs, body).await
    }

    async fn receive_by(
        receiver: &BodyReceiver,
        pools: &Pools,
        blobs: &Arc<DirectoryBlobs>,
        mut body: Fed,
    ) -> Result<u64> {
        let blobs = Arc::clone(blobs);
        let begin = move || blobs.begin(10 << 20, None).map_err(|error| Error::internal("test", error));
        receiver.receive(pools, &mut body, begin, |ingest| Ok(ingest.size())).await
    }

    /// A body, what feeds it, and the end of it when that is dropped.
    fn fed() -> (mpsc::UnboundedSender<Vec<u8>>, Fed) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Fed(receiver))
    }

    /// Names of the files in `tmp`.
    fn leftovers(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("tmp")).unwrap().count()
    }

    #[test]
    fn a_body_of_any_size_is_taken_in_whole() {
        run(async {
            let ((_folder, blobs), pools) = (store(), Pools::new());
            for size in [0, 1, SMALL_BATCH, UPLOAD_BATCH, UPLOAD_BATCH + 1, 3 * UPLOAD_BATCH + 7] {
                let (feed, body) = fed();
                vec![7; size].chunks(50_000).for_each(|piece| feed.send(piece.to_vec()).unwrap());
                drop(feed);
                assert_eq!(receive(&pools, &blobs, body).await.unwrap(), len_u64(size), "{size}");
            }
        });
    }

    #[test]
    fn an_upload_that_stalls_is_given_up_and_leaves_nothing() {
        run(async {
            let ((folder, blobs), pools) = (store(), Pools::new());
            let (feed, body) = fed();
            feed.send(vec![7; UPLOAD_BATCH]).unwrap();
            let began = Instant::now();
            let error = receive(&pools, &blobs, body).await.unwrap_err();
            assert_eq!((error.kind(), began.elapsed().as_secs()), (Kind::RequestTimeout, 60));
            while leftovers(&folder) > 0 {
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn an_upload_that_trickles_is_given_up() {
        run(async {
            let ((_folder, blobs), pools) = (store(), Pools::new());
            let (feed, body) = fed();
            let trickle = tokio::spawn(async move {
                while feed.send(vec![7; 1000]).is_ok() {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                }
            });
            let began = Instant::now();
            let error = receive(&pools, &blobs, body).await.unwrap_err();
            assert_eq!(error.kind(), Kind::RequestTimeout);
            assert!((60..=64).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
            trickle.await.unwrap();
        });
    }

    #[test]
    fn an_upload_whose_request_is_gone_leaves_nothing() {
        run(async {
            let ((folder, blobs), pools) = (store(), Pools::new());
            let (feed, body) = fed();
            feed.send(vec![7; UPLOAD_BATCH]).unwrap();
            {
                let mut request = std::pin::pin!(receive(&pools, &blobs, body));
                while leftovers(&folder) == 0 {
                    assert!(poll_once(request.as_mut()).await.is_none());
                }
            }
            while leftovers(&folder) > 0 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Polls once, and lets others go on.
    async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        let polled = std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
        tokio::task::yield_now().await;
        match polled {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_batch_keeps_no_more_memory_than_its_room_however_small_the_frames() {
        run(async {
            let (feed, mut body) = fed();
            (0..SMALL_BATCH + 5).for_each(|_| feed.send(vec![7]).unwrap());
            drop(feed);
            let mut batches = BodyBatches::new(&mut body, SMALL_BATCH);
            let batch = batches.next_batch(Vec::new()).await.unwrap();
            assert_eq!((batch.len(), batch.capacity()), (SMALL_BATCH, SMALL_BATCH));
            assert_eq!(batches.next_batch(batch).await.unwrap().len(), 5);
        });
    }

    #[test]
    fn uploads_past_the_first_ones_gather_less_and_get_the_same() {
        run(async {
            let ((_folder, blobs), pools) = (store(), Pools::new());
            let receiver = BodyReceiver::new();
            let feeds: Vec<_> = (0..LARGE_UPLOADS).map(|_| fed()).collect();
            let (feeds, stalled): (Vec<_>, Vec<_>) = feeds.into_iter().unzip();
            let mut stalled: Vec<_> = stalled
                .into_iter()
                .map(|body| Box::pin(receive_by(&receiver, &pools, &blobs, body)))
                .collect();
            for upload in &mut stalled {
                assert!(poll_once(upload.as_mut()).await.is_none());
            }
            assert_eq!(receiver.large_uploads.available_permits(), 0);
            let (feed, body) = fed();
            feed.send(vec![7; UPLOAD_BATCH]).unwrap();
            drop(feed);
            assert_eq!(receive_by(&receiver, &pools, &blobs, body).await.unwrap(), len_u64(UPLOAD_BATCH));
            drop(feeds);
            for upload in stalled {
                assert_eq!(upload.await.unwrap(), 0);
            }
            assert_eq!(receiver.large_uploads.available_permits(), LARGE_UPLOADS);
        });
    }
}
