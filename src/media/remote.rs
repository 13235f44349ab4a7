//! Fetching another server's media. All requests for the same media share one fetch; they get the file while it arrives, and it is stored.
//!
//! A fetch waits in three places: for being begun at all, for its turn at its server, and for its bytes. Only bytes in motion hold one of the
//! few places for transfers; a server that is silent holds a thread that sleeps.

mod anonymous_bucket;
mod in_flight;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::anonymous_bucket::AnonymousBucket;
pub(crate) use self::in_flight::ArrivingFile;
use self::in_flight::{FetchHandle, Progress, ProgressReporter};
use super::Media;
use super::download::{AccessOptions, WaitFor};
use crate::config::LeakyBucket;
use crate::error::{Error, Kind, Result};
use crate::federation::{self, FetchOptions, GRACE, MIN_RATE, RemoteMedia};
use crate::matrix::Mxc;
use crate::store::blobs::{Ingest, IngestError};
use crate::store::stored_media::StoredMedia;
use crate::store::{Incoming, Lookup};
use crate::sync::Flights;
use crate::sync::admission::{Ask, Class, Share, Work, WorkKind};

/// How long a remote may be slow with a file while others wait for the place of its transfer.
const CONTENDED_GRACE: Duration = Duration::from_secs(5);

/// The slowest average rate after that, bytes a second. While nobody waits, [`MIN_RATE`] after [`GRACE`] counts.
const CONTENDED_RATE: u64 = 64 * 1024;

/// How long a fetch goes on that a user stopped waiting for: players ask for a first piece, and then for the rest.
const LINGER: Duration = Duration::from_secs(5);

/// How often the pace of a transfer is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The least time for which a remote is asked again to wait for an upload.
const LEAST_WAIT: Duration = Duration::from_secs(1);

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

/// The fetches under way, and what callers without a token may cause.
#[derive(Debug)]
pub(super) struct RemoteFetches {
    in_flight: Flights<Mxc, Progress>,
    bucket: AnonymousBucket,
}

impl RemoteFetches {
    pub(super) fn new(anonymous: &LeakyBucket) -> Self {
        Self { in_flight: Flights::default(), bucket: AnonymousBucket::new(anonymous) }
    }

    /// Drops callers that fetched nothing for a while.
    pub(super) fn tidy(&self) {
        self.bucket.tidy();
    }
}

impl Media {
    /// Fetches media of another server, or joins a fetch that is under way and gives it this caller's standing and deadline. A fetch that
    /// nobody waits for any more ends, unless a user wanted it and more than half of it is here.
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
        let start = |work: Work, progress| {
            work.linger(LINGER);
            async move { media.run_fetch(&remote, &work, &ProgressReporter(progress)).await }
        };
        let until = Instant::now().checked_add(options.timeout);
        let joined = self.fetches.in_flight.join(
            mxc.clone(),
            (options.caller, until),
            start,
            |progress: &Progress, outcome| progress.ended(outcome),
        );
        let handle = FetchHandle::new(joined, until);
        let fetched = match wait_for {
            WaitFor::Stored => Fetched::Stored(handle.stored().await?),
            WaitFor::FirstByte => handle.first_byte(&self.readers).await?,
        };
        if let Fetched::Stored(stored) = &fetched {
            // The fetch may have been started by a request with other rights.
            self.admit(mxc, options.viewer(), stored.open)?;
        }
        Ok(fetched)
    }

    /// Runs the fetch, again if a caller with more rights joined one that was refused for want of them.
    async fn run_fetch(
        self: &Arc<Self>,
        mxc: &Mxc,
        work: &Work,
        progress: &ProgressReporter,
    ) -> Result<StoredMedia> {
        loop {
            let was_for_unknown = work.is_for_unknown();
            let outcome = self.try_fetch(mxc, work, progress).await;
            let is_promoted = was_for_unknown && !work.is_for_unknown();
            if outcome.is_ok() || !is_promoted || !progress.is_requested() {
                return outcome;
            }
        }
    }

    /// Runs the fetch when there is a place for it and its server has not too many requests of ours.
    async fn try_fetch(
        self: &Arc<Self>,
        mxc: &Mxc,
        work: &Work,
        progress: &ProgressReporter,
    ) -> Result<StoredMedia> {
        let to_server = Ask::to(Share::of_server(&mxc.server_name));
        let place = self.admission.enter(WorkKind::Fetch, work, to_server).await?;
        let asking = self.admission.take(WorkKind::Asking, work, to_server).await?;
        let (media, mxc, fetch) = (Arc::clone(self), mxc.clone(), work.clone());
        let reporter = progress.clone();
        let step = place.run(move || media.fetch_and_store(&mxc, &fetch, &reporter));
        asking.until_answered(self.at_pace(work, progress, step), progress.answered()).await
    }

    /// Ends a transfer that is slower than it may be. Between two reads of its bytes nobody could: a remote may be silent.
    async fn at_pace<T>(&self, work: &Work, progress: &ProgressReporter, step: impl Future<Output = T>) -> T {
        let mut step = pin!(step);
        tokio::select! {
            biased;
            outcome = &mut step => return outcome,
            () = progress.answered() => {}
        }
        let started = tokio::time::Instant::now();
        loop {
            tokio::select! {
                biased;
                outcome = &mut step => return outcome,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let elapsed = started.elapsed();
            let slower_than = |rate: u64| {
                progress.arrived().is_some_and(|size| size < elapsed.as_secs().saturating_mul(rate))
            };
            let is_contended = || self.admission.is_contended(WorkKind::Transfer, work.caller().class);
            if elapsed > GRACE && slower_than(MIN_RATE)
                || elapsed > CONTENDED_GRACE && slower_than(CONTENDED_RATE) && is_contended()
            {
                work.give_up();
            }
        }
    }
}

/// The blocking steps.
impl Media {
    /// Fetches `mxc` from its origin and stores it. On any failure nothing is stored.
    fn fetch_and_store(&self, mxc: &Mxc, work: &Work, progress: &ProgressReporter) -> Result<StoredMedia> {
        // Another fetch of the same media may have ended between the look-up and the start of this one.
        match self.store.find(mxc)? {
            Lookup::Stored(stored) => return Ok(stored),
            Lookup::Withheld => return Err(Error::not_found()),
            Lookup::Pending { .. } | Lookup::Lost { .. } | Lookup::Unknown => {}
        }
        let failed = |error| Error::storing("storing remote media", error);
        let max_size = self.config.get().federation.max_size.0;
        let RemoteMedia { content_type, upload_name, size, body } = self.ask_origin(mxc, work, max_size)?;
        let to_server = Ask::to(Share::of_server(&mxc.server_name));
        // From here on bytes are in motion.
        let _transfer = self.admission.take_blocking(WorkKind::Transfer, work, to_server)?;
        let mut charged = size.unwrap_or(0);
        self.charge(work, charged)?;
        self.make_room(size, max_size);
        let mut ingest = self.store.begin(max_size, size).map_err(failed)?;
        let head = RemoteHead { content_type: content_type.clone(), upload_name: upload_name.clone(), size };
        progress.started(head, ingest.reader().map_err(failed)?);
        let advanced = |arrived: u64| {
            self.charge(work, arrived.saturating_sub(charged))?;
            charged = charged.max(arrived);
            let is_past_half = size.is_some_and(|size| arrived > size.div_ceil(2));
            if is_past_half && work.caller().class == Class::User {
                work.keep();
            }
            if work.should_end() {
                return Err(broke_off(io::Error::other("it arrives too slowly, or nobody waits for it")));
            }
            progress.advanced(arrived);
            Ok(())
        };
        let copied = copy_body(body, &mut ingest, size, advanced);
        // Told before the error is returned: federation learns of failures as well.
        self.note_outcome(mxc, work, copied.as_ref().err());
        copied?;
        progress.complete();
        let (mxc, created, open) = (mxc.clone(), (self.clock)(), self.is_open());
        let (user_id, anonymous) = (None, work.is_for_unknown());
        let incoming = Incoming { mxc, content_type, upload_name, user_id, created, open, anonymous };
        // `None`: the row was committed, and its blob was removed from the disk right after.
        self.store.add_remote(ingest, incoming)?.ok_or_else(Error::not_found)
    }

    /// Asks the origin, which waits for a pending upload as long as the most patient caller does; again if one joined meanwhile who is
    /// more patient, or who has rights that the others lacked.
    fn ask_origin(&self, mxc: &Mxc, work: &Work, max_size: u64) -> Result<RemoteMedia> {
        loop {
            let (until, was_for_unknown) = (work.until(), work.is_for_unknown());
            let left = |until: Option<Instant>| {
                until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
            };
            // In whole seconds, as clients give it: waiting for our turn takes a moment.
            let timeout =
                Duration::from_secs(left(until).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX));
            let fetched = self.federation.fetch(mxc, FetchOptions { timeout, max_size });
            let is_more_patient = |error: &Error| {
                error.kind() == Kind::NotYetUploaded
                    && work.until() > until
                    && left(work.until()) > LEAST_WAIT
            };
            let is_promoted = was_for_unknown && !work.is_for_unknown();
            match fetched {
                Err(error) if is_more_patient(&error) || is_promoted && !work.should_end() => {}
                fetched => return fetched,
            }
        }
    }

    /// Counts bytes that are fetched for callers without a token.
    fn charge(&self, work: &Work, bytes: u64) -> Result<()> {
        if work.is_for_unknown() { self.fetches.bucket.take(work.caller().share, bytes) } else { Ok(()) }
    }

    /// Tells federation whether the server sent the whole file: repeated failures make us back off. What we broke off says nothing.
    fn note_outcome(&self, mxc: &Mxc, work: &Work, error: Option<&Error>) {
        match error.map(Error::kind) {
            None => self.federation.record_success(&mxc.server_name),
            Some(Kind::RemoteTooLarge) => self.federation.record_too_large(mxc),
            Some(Kind::RemoteFailed) if work.is_too_slow() => self.federation.record_slow(mxc),
            Some(Kind::RemoteFailed) if error.is_some_and(is_silence) => {
                self.federation.record_silence(&mxc.server_name);
            }
            Some(Kind::RemoteFailed) => self.federation.record_failure(mxc),
            Some(_) => {}
        }
    }
}

/// Whether a server fell silent in the middle of a file.
fn is_silence(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| source.kind() == io::ErrorKind::TimedOut)
}

/// Writes all of `body` to `ingest`: exactly as many bytes as announced. Calls `advanced` with the number of bytes so far, which may end it.
fn copy_body(
    mut body: impl io::Read,
    ingest: &mut Ingest,
    announced: Option<u64>,
    mut advanced: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    let is_other = |size: u64| announced.is_some_and(|announced| announced != size);
    let is_more = |size: u64| announced.is_some_and(|announced| announced < size);
    // A server that sends more or less than it announced is broken or hostile: neither may become a stored file.
    let another_length = || Err(broke_off(io::Error::other("the length differs from the announced one")));
    let mut chunk = vec![0; CHUNK];
    loop {
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
        advanced(ingest.size())?;
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
        let error = copy_body(Failing(vec![b"abc", b"de"]), &mut ingest, None, |size| {
            sizes.push(size);
            Ok(())
        });
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
        copy_body(&b"1234"[..], &mut ingest, Some(4), |_| Ok(())).unwrap();
        assert_eq!(ingest.finish().unwrap().size(), 4);
        let mut ingest = Arc::clone(&blobs).begin(4, None).unwrap();
        let error = copy_body(&b"12345"[..], &mut ingest, None, |_| Ok(())).unwrap_err();
        assert_eq!(error.kind(), Kind::RemoteTooLarge);
    }

    #[test]
    fn what_is_announced_comes_or_the_remote_broke_off_and_nobody_hears_of_more() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = DirectoryBlobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        for announced in [2, 4] {
            let mut ingest = Arc::clone(&blobs).begin(10, None).unwrap();
            let advanced = |size| {
                assert!(size <= announced, "{size}");
                Ok(())
            };
            let error = copy_body(&b"123"[..], &mut ingest, Some(announced), advanced).unwrap_err();
            assert_eq!(error.kind(), Kind::RemoteFailed);
        }
    }
}
