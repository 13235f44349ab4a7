//! Fetching another server's media: to the disk, and on the way to whoever listens.

use std::io;
use std::time::{Duration, Instant};

use super::Library;
use crate::error::{Error, Kind, Result};
use crate::federation::{self, GRACE, MIN_RATE, RemoteMedia, Wish};
use crate::matrix::Mxc;
use crate::store::blobs::{BlobReader, Ingest, IngestError};
use crate::store::catalog::{Content, Media, NewMedia};

/// How much is moved at once, bytes.
const CHUNK: usize = 64 * 1024;

/// What is known of a remote file before its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteHead {
    /// As the remote claims it.
    pub(crate) content_type: String,
    /// The remote's file name.
    pub(crate) upload_name: Option<String>,
    /// Announced length, bytes.
    pub(crate) size: Option<u64>,
}

/// Hears of a fetch while it goes on. Its calls must not block.
pub(crate) trait FetchListener {
    /// The remote has begun to answer; its bytes will appear in `file`.
    fn started(&self, head: RemoteHead, file: BlobReader);
    /// `file` has `size` bytes by now.
    fn advanced(&self, size: u64);
    /// The remote has sent everything; only storing remains.
    fn complete(&self);
}

impl Library {
    /// Fetches `mxc` from its origin, which waits up to `timeout` for a pending upload, and stores it. Blocks until the
    /// row is committed; on any failure nothing is stored.
    pub(crate) fn fetch(&self, mxc: &Mxc, timeout: Duration, listener: &impl FetchListener) -> Result<()> {
        // Another request's fetch may have ended just before this one began.
        if self.is_here(mxc)? {
            return Ok(());
        }
        let too_large = |error: &Error| {
            if error.kind() == Kind::RemoteTooLarge {
                self.federation.too_large(mxc);
            }
        };
        let max_size = self.config.get().federation.max_size.0;
        let remote = self.federation.fetch(mxc, Wish { timeout, max_size })?;
        let mut ingest = self
            .blobs
            .ingest(max_size, remote.size)
            .map_err(|error| Error::storing("storing remote media", error))?;
        let file = ingest.reader().map_err(|error| Error::storing("storing remote media", error))?;
        let RemoteMedia { content_type, upload_name, size, body } = remote;
        listener.started(
            RemoteHead { content_type: content_type.clone(), upload_name: upload_name.clone(), size },
            file,
        );
        match pour(body, &mut ingest, size, listener) {
            Ok(()) => self.federation.sent_whole(&mxc.server_name),
            Err(error) => {
                too_large(&error);
                if error.kind() == Kind::RemoteFailed {
                    self.federation.broke_off(&mxc.server_name);
                }
                return Err(error);
            }
        }
        listener.complete();

        let (created, open) = ((self.clock)(), self.is_open());
        self.store(ingest, content_type, upload_name, |filled| {
            let media = NewMedia { mxc: mxc.clone(), filled, user_id: None, created, open };
            // A row that is there has lost its blob.
            Ok(self.catalog.add(media.clone())? || self.catalog.refill(media)?.is_some())
        })?;
        Ok(())
    }

    /// Whether media is stored, row and blob.
    fn is_here(&self, mxc: &Mxc) -> Result<bool> {
        match self.catalog.media(mxc)? {
            Some(Media { content: Content::Stored(filled), .. }) => {
                let blob = self.blobs.get(&filled.sha256, filled.size);
                Ok(blob.map_err(|error| Error::internal("opening a blob", error))?.is_ok())
            }
            _ => Ok(false),
        }
    }
}

/// Moves all of `body` through the gate: as many bytes as are announced, no fewer and no more.
fn pour(
    mut body: impl io::Read,
    ingest: &mut Ingest,
    announced: Option<u64>,
    listener: &impl FetchListener,
) -> Result<()> {
    let is_other = |size: u64| announced.is_some_and(|announced| announced != size);
    let is_more = |size: u64| announced.is_some_and(|announced| announced < size);
    let another_length = || Err(broke_off(io::Error::other("another length than announced")));
    let started = Instant::now();
    let mut chunk = vec![0; CHUNK];
    loop {
        let elapsed = started.elapsed();
        if elapsed > GRACE && ingest.size() < elapsed.as_secs().saturating_mul(MIN_RATE) {
            return Err(broke_off(io::Error::other("it sends too slowly")));
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
        // Clients were told the length.
        if is_more(ingest.size()) {
            return another_length();
        }
        listener.advanced(ingest.size());
    }
}

/// A remote that did not send all it announced.
fn broke_off(source: io::Error) -> Error {
    Error::new(Kind::RemoteFailed, "the remote server broke off").caused_by(source)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use super::*;
    use crate::store::blobs::Blobs;
    use crate::store::fs::SystemFs;

    /// Collects what it hears.
    #[derive(Default)]
    struct Ear(RefCell<Vec<u64>>);

    impl FetchListener for Ear {
        fn started(&self, _head: RemoteHead, _file: BlobReader) {}

        fn advanced(&self, size: u64) {
            self.0.borrow_mut().push(size);
        }

        fn complete(&self) {}
    }

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
        let blobs = Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        let mut ingest = blobs.ingest(100, None).unwrap();
        let ear = Ear::default();
        let error = pour(Failing(vec![b"abc", b"de"]), &mut ingest, None, &ear).unwrap_err();
        assert_eq!(error.kind(), Kind::RemoteFailed);
        assert_eq!(*ear.0.borrow(), [3, 5]);
        drop(ingest);
        assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_short_source_is_taken_as_it_is_and_a_long_one_is_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        let mut ingest = blobs.ingest(4, None).unwrap();
        pour(&b"1234"[..], &mut ingest, Some(4), &Ear::default()).unwrap();
        assert_eq!(ingest.finish().unwrap().size(), 4);
        let mut ingest = blobs.ingest(4, None).unwrap();
        let error = pour(&b"12345"[..], &mut ingest, None, &Ear::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::RemoteTooLarge);
    }

    #[test]
    fn what_is_announced_comes_or_the_remote_broke_off_and_nobody_hears_of_more() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path(), Arc::new(SystemFs)).unwrap();
        for announced in [2, 4] {
            let (mut ingest, ear) = (blobs.ingest(10, None).unwrap(), Ear::default());
            let error = pour(&b"123"[..], &mut ingest, Some(announced), &ear).unwrap_err();
            assert_eq!(error.kind(), Kind::RemoteFailed);
            assert!(ear.0.borrow().iter().all(|size| *size <= announced));
        }
    }
}
