//! Fetching another server's media. All requests for the same media share one fetch; they get the file while it arrives, and it is stored.

mod in_flight;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

pub(crate) use self::in_flight::ArrivingFile;
use self::in_flight::{InFlightFetches, ProgressReporter};
use super::download::{AccessOptions, WaitFor};
use super::{Media, Viewer};
use crate::error::{Error, Kind, Result};
use crate::federation::{self, FetchOptions, GRACE, MIN_RATE, RemoteMedia};
use crate::matrix::{Mxc, ServerName};
use crate::store::blobs::{Ingest, IngestError};
use crate::store::stored_media::StoredMedia;
use crate::store::{Incoming, Lookup};
use crate::sync::KeyedSemaphore;
use crate::sync::pools::Pool;

/// Running fetches from one server, so that a slow one does not take up all threads.
const FETCHES_PER_SERVER: usize = 4;

/// Running fetches for callers without a token, from all servers: half of the threads stay free for others.
const ANONYMOUS_FETCHES: usize = 8;

/// How much is written at once, bytes.
const CHUNK: usize = 64 * 1024;

/// What the response head says about a remote file, before its bytes arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteHead {
    /// As the remote server claims it.
    pub(crate) content_type: String,
    /// The file name at the remote server.
    pub(crate) upload_name: Option<String>,
    /// Announced length, bytes.
    pub(crate) size: Option<u64>,
}

/// The result of a fetch.
#[derive(Debug)]
pub(super) enum Fetched {
    Stored(StoredMedia),
    Arriving(ArrivingFile),
}

/// The fetches under way, and how many may run.
#[derive(Debug)]
pub(super) struct RemoteFetches {
    in_flight: InFlightFetches,
    per_server: KeyedSemaphore<ServerName>,
    anonymous: Semaphore,
}

impl RemoteFetches {
    pub(super) fn new() -> Self {
        Self {
            in_flight: InFlightFetches::default(),
            per_server: KeyedSemaphore::new(FETCHES_PER_SERVER),
            anonymous: Semaphore::new(ANONYMOUS_FETCHES),
        }
    }
}

impl Media {
    /// Fetches media of another server, or joins a fetch that is under way. A fetch runs to its end even if all requests for it go away.
    ///
    /// # Errors
    /// Those of [`Federation::fetch`](federation::Federation::fetch) and of storing, `LimitExceeded` for too many fetches, `NotFound`
    /// for a viewer that may not see what is stored by then.
    pub(super) async fn fetch(
        self: &Arc<Self>,
        mxc: &Mxc,
        options: AccessOptions,
        wait_for: WaitFor,
    ) -> Result<Fetched> {
        let (media, remote) = (Arc::clone(self), mxc.clone());
        let start = |progress| async move { media.run_fetch(remote, options, progress).await };
        // Only the first request for a file starts a fetch. Its timeout counts; later requests share the result.
        let handle = self.fetches.in_flight.join(mxc, options.viewer, start).await?;
        let fetched = match wait_for {
            WaitFor::Stored => Fetched::Stored(handle.stored().await?),
            WaitFor::FirstByte => handle.first_byte(&self.readers).await?,
        };
        if let Fetched::Stored(stored) = &fetched {
            // The fetch may have been started by a request with other rights.
            self.admit(mxc, options.viewer, stored.open)?;
        }
        Ok(fetched)
    }

    /// Runs the fetch when a thread is free, within the limits for this server and this kind of caller.
    async fn run_fetch(
        self: Arc<Self>,
        mxc: Mxc,
        options: AccessOptions,
        progress: ProgressReporter,
    ) -> Result<StoredMedia> {
        let _anonymous = match options.viewer {
            Viewer::Anonymous => {
                let permit = self.fetches.anonymous.acquire().await;
                Some(permit.map_err(|error| Error::internal("waiting for a permit", error))?)
            }
            Viewer::Known => None,
        };
        // Waited for without a thread: a slow server's queue must not use up threads.
        let _of_server = self.fetches.per_server.acquire(&mxc.server_name).await?;
        let timeout = options.timeout;
        let step = move |media: &Arc<Self>| media.fetch_and_store(&mxc, timeout, &progress);
        self.blocking(Pool::Federation, step).await
    }
}

/// The blocking steps.
impl Media {
    /// Fetches `mxc` from its origin, which waits up to `timeout` for a pending upload, and stores it. On any failure nothing is stored.
    fn fetch_and_store(
        &self,
        mxc: &Mxc,
        timeout: Duration,
        progress: &ProgressReporter,
    ) -> Result<StoredMedia> {
        // Another fetch of the same media may have ended between the look-up and the start of this one.
        if let Lookup::Stored(stored) = self.store.find(mxc)? {
            return Ok(stored);
        }
        let failed = |error| Error::storing("storing remote media", error);
        let max_size = self.config.get().federation.max_size.0;
        let remote = self.federation.fetch(mxc, FetchOptions { timeout, max_size })?;
        let RemoteMedia { content_type, upload_name, size, body } = remote;
        let mut ingest = self.store.begin(max_size, size).map_err(failed)?;
        let head = RemoteHead { content_type: content_type.clone(), upload_name: upload_name.clone(), size };
        progress.started(head, ingest.reader().map_err(failed)?);
        let copied = copy_body(body, &mut ingest, size, |size| progress.advanced(size));
        // Told before the error is returned: federation learns of failures as well.
        self.note_outcome(mxc, copied.as_ref().err());
        copied?;
        progress.complete();
        let (mxc, created, open) = (mxc.clone(), (self.clock)(), self.is_open());
        let incoming = Incoming { mxc, content_type, upload_name, user_id: None, created, open };
        // `None`: the row was committed, and its blob was removed from the disk right after.
        self.store.add_remote(ingest, incoming)?.ok_or_else(Error::not_found)
    }

    /// Tells federation whether the server sent the whole file: repeated failures make us back off.
    fn note_outcome(&self, mxc: &Mxc, error: Option<&Error>) {
        match error.map(Error::kind) {
            None => self.federation.record_success(&mxc.server_name),
            Some(Kind::RemoteTooLarge) => self.federation.record_too_large(mxc),
            Some(Kind::RemoteFailed) => self.federation.record_failure(&mxc.server_name),
            Some(_) => {}
        }
    }
}

/// Writes all of `body` to `ingest`: exactly as many bytes as announced. Calls `advanced` with the number of bytes so far.
fn copy_body(
    mut body: impl io::Read,
    ingest: &mut Ingest,
    announced: Option<u64>,
    mut advanced: impl FnMut(u64),
) -> Result<()> {
    let is_other = |size: u64| announced.is_some_and(|announced| announced != size);
    let is_more = |size: u64| announced.is_some_and(|announced| announced < size);
    // A server that sends more or less than it announced is broken or hostile: neither may become a stored file.
    let another_length = || Err(broke_off(io::Error::other("the length differs from the announced one")));
    let started = Instant::now();
    let mut chunk = vec![0; CHUNK];
    loop {
        // A server that sends one byte a second would otherwise keep a thread for days.
        let elapsed = started.elapsed();
        if elapsed > GRACE && ingest.size() < elapsed.as_secs().saturating_mul(MIN_RATE) {
            return Err(broke_off(io::Error::other("the body arrives too slowly")));
        }
        let count = match body.read(&mut chunk) {
            Ok(0) if is_other(ingest.size()) => return another_length(),
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broke_off(error)),
        };
        ingest.write(chunk.get(..count).unwrap_or_default()).map_err(|error| match error {
            IngestError::TooLarge(_) => federation::too_large(),
            IngestError::Io(error) => Error::storing("storing remote media", error),
        })?;
        // Clients already got the announced length as their `Content-Length`: no more bytes may follow.
        if is_more(ingest.size()) {
            return another_length();
        }
        advanced(ingest.size());
    }
}

/// The error for clients when a remote server sent less than it announced.
fn broke_off(source: io::Error) -> Error {
    Error::new(Kind::RemoteFailed, "the remote server's response was truncated").caused_by(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::blobs::{BlobStore as _, DirectoryBlobs};
    use crate::store::fs::SystemFs;

    /// Gives its pieces, then fails.
    struct Failing(Vec<&'static [u8]>);

    impl io::Read for Failing {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            self.0.remove(0).read(into)
        }
    }

    #[test]
    fn a_source_that_fails_is_the_remotes_fault_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        let mut ingest = Arc::clone(&blobs).begin(100, None).unwrap();
        let mut sizes = Vec::new();
        let error = copy_body(Failing(vec![b"abc", b"de"]), &mut ingest, None, |size| sizes.push(size));
        assert_eq!(error.unwrap_err().kind(), Kind::RemoteFailed);
        assert_eq!(sizes, [3, 5]);
        drop(ingest);
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_short_source_is_taken_as_it_is_and_a_long_one_is_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        let mut ingest = Arc::clone(&blobs).begin(4, None).unwrap();
        copy_body(&b"1234"[..], &mut ingest, Some(4), |_| {}).unwrap();
        assert_eq!(ingest.finish().unwrap().size(), 4);
        let mut ingest = Arc::clone(&blobs).begin(4, None).unwrap();
        let error = copy_body(&b"12345"[..], &mut ingest, None, |_| {}).unwrap_err();
        assert_eq!(error.kind(), Kind::RemoteTooLarge);
    }

    #[test]
    fn what_is_announced_comes_or_the_remote_broke_off_and_nobody_hears_of_more() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        for announced in [2, 4] {
            let mut ingest = Arc::clone(&blobs).begin(10, None).unwrap();
            let advanced = |size| assert!(size <= announced, "{size}");
            let error = copy_body(&b"123"[..], &mut ingest, Some(announced), advanced).unwrap_err();
            assert_eq!(error.kind(), Kind::RemoteFailed);
        }
    }
}
