//! Remote files that are arriving: fetched once, given to all who want them as they come.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tracing::Instrument as _;

use crate::error::{Error, Kind, Result};
use crate::http::file_stream::{FileStream, Readers};
use crate::log;
use crate::matrix::Mxc;
use crate::media::{FetchListener, RemoteHead, Viewer};
use crate::store::blobs::BlobReader;
use crate::sync::{Entry, RETRY, lock};

/// Chunks read ahead for a client that receives an arriving file.
const READ_AHEAD: usize = 2;

/// Remote files on their way in at the same time, fetched or waiting to be; who asks for a further one is told to come back.
const MAX_ARRIVALS: usize = 256;

/// The same from one server, so that a slow one does not take all the places.
const MAX_ARRIVALS_OF_SERVER: usize = 32;

/// The same that were asked for without a token, so that those who have one still find a place in a flood.
const MAX_ANONYMOUS_ARRIVALS: usize = 128;

/// Those who may wait until a further one is begun, of those with a token; who comes then is told to come back. A room full of pictures
/// is opened at once, and many of them are of one server.
const MAX_WAITING: usize = 256;

/// The longest that one of them waits.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Remote files on their way in.
#[derive(Debug)]
pub(crate) struct InFlightFetches {
    /// All of them.
    table: Arc<Mutex<HashMap<Mxc, InFlightFetch>>>,
    /// Wakes those who wait, whenever one has ended.
    ended: Arc<Notify>,
    /// A place for each who waits.
    queue: Semaphore,
}

impl Default for InFlightFetches {
    fn default() -> Self {
        Self { table: Arc::default(), ended: Arc::default(), queue: Semaphore::new(MAX_WAITING) }
    }
}

/// Wakes those who wait when it is dropped, however the task ends that holds it.
struct Waking(Arc<Notify>);

impl Drop for Waking {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

/// One of them.
#[derive(Debug)]
struct InFlightFetch {
    /// How far it is.
    progress: watch::Receiver<Progress>,
    /// Who asked first.
    viewer: Viewer,
}

/// One remote file on its way in, as one of those sees it who asked for it.
#[derive(Debug)]
pub(crate) struct FetchHandle {
    /// How far it is.
    progress: watch::Receiver<Progress>,
    /// Whether this one caused the fetch.
    is_first: bool,
}

/// How far a fetch has come.
#[derive(Clone, Debug)]
enum Progress {
    /// The remote has not answered.
    Asked,
    /// Bytes are coming.
    Coming {
        /// What is known of the file.
        head: RemoteHead,
        /// Where the bytes appear.
        file: BlobReader,
        /// How many there are.
        size: u64,
        /// Whether these are all.
        complete: bool,
    },
    /// The row is committed.
    Stored,
    /// All bytes came, and could not be stored: who wanted them to be read gets them.
    Unstored {
        /// What is known of the file.
        head: RemoteHead,
        /// Where the bytes are.
        file: BlobReader,
        /// How many there are.
        size: u64,
        /// Why.
        error: Error,
    },
    /// It came to nothing.
    Failed(Error),
}

impl Progress {
    /// Whether more than `size` bytes have come, or no more will.
    fn reaches(&self, size: u64) -> bool {
        match self {
            Self::Asked => false,
            Self::Coming { size: come, complete, .. } => *complete || *come > size,
            Self::Stored | Self::Unstored { .. } | Self::Failed(_) => true,
        }
    }

    /// How it goes on when the fetch has ended.
    fn ended(&self, outcome: Result<()>) -> Self {
        match (outcome, self) {
            (Ok(()), _) => Self::Stored,
            (Err(error), Self::Coming { head, file, size, complete: true }) => {
                Self::Unstored { head: head.clone(), file: file.clone(), size: *size, error }
            }
            (Err(error), _) => Self::Failed(error),
        }
    }
}

/// Chunks of a remote file as they arrive. An error means that the connection to the client must break too.
pub(crate) type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// What there is to serve of an arrival.
#[derive(Debug)]
pub(crate) enum Served {
    /// The file while it comes.
    Coming(Coming),
    /// It is in the library by now.
    Stored,
}

/// A remote file that is coming, to be passed on.
#[derive(Debug)]
pub(crate) struct Coming {
    /// What is known of it.
    pub(crate) head: RemoteHead,
    /// How far it is.
    progress: watch::Receiver<Progress>,
    /// Where the bytes appear.
    file: BlobReader,
    /// For reading them.
    readers: Readers,
}

impl InFlightFetches {
    /// Joins the fetch of `mxc` for `viewer`, or starts one, after a while if too many are on their way: `fetch` reports to the
    /// listener it is given and ends when the row is committed. It runs to its end even if all who asked go away.
    ///
    /// # Errors
    /// `LimitExceeded` when too many are on their way and nobody may wait any more, or has waited long enough. Who has no token does not
    /// wait.
    pub(crate) async fn join<F>(
        &self,
        mxc: &Mxc,
        viewer: Viewer,
        fetch: impl FnOnce(Reporter) -> F,
    ) -> Result<FetchHandle>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut fetch = Some(fetch);
        let refused = || {
            let message = "too many remote files are being fetched";
            Error::new(Kind::LimitExceeded, message).retry_after(RETRY)
        };
        if let Some(arrival) = self.enter(mxc, viewer, &mut fetch) {
            return Ok(arrival);
        }
        let place = (viewer == Viewer::Known).then(|| self.queue.try_acquire().ok()).flatten();
        let _waiting = place.ok_or_else(refused)?;
        let wait = async {
            loop {
                // Listened for before the look, so that nothing is missed in between.
                let mut ended = pin!(self.ended.notified());
                ended.as_mut().enable();
                if let Some(arrival) = self.enter(mxc, viewer, &mut fetch) {
                    return arrival;
                }
                ended.await;
            }
        };
        tokio::time::timeout(LONGEST_WAIT, wait).await.map_err(|_elapsed| refused())
    }

    /// Joins, or starts; `None` when too many are on their way.
    fn enter<F>(
        &self,
        mxc: &Mxc,
        viewer: Viewer,
        fetch: &mut Option<impl FnOnce(Reporter) -> F>,
    ) -> Option<FetchHandle>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut arrivals = lock(&self.table);
        if let Some(arrival) = arrivals.get(mxc) {
            return Some(FetchHandle { progress: arrival.progress.clone(), is_first: false });
        }
        let of_server = arrivals.keys().filter(|other| other.server_name == mxc.server_name).count();
        let of_anonymous = || arrivals.values().filter(|other| other.viewer == Viewer::Anonymous).count();
        if arrivals.len() >= MAX_ARRIVALS
            || of_server >= MAX_ARRIVALS_OF_SERVER
            || viewer == Viewer::Anonymous && of_anonymous() >= MAX_ANONYMOUS_ARRIVALS
        {
            return None;
        }
        let fetch = fetch.take()?;
        let (sender, progress) = watch::channel(Progress::Asked);
        arrivals.insert(mxc.clone(), InFlightFetch { progress: progress.clone(), viewer });
        let sender = Arc::new(sender);
        let fetch = fetch(Reporter(Arc::clone(&sender)));
        // In this order: there is room when those who wait are woken.
        let entry = (Entry::new(&self.table, mxc.clone()), Waking(Arc::clone(&self.ended)));
        let span = log::request_span();
        tokio::spawn(async move {
            let outcome = fetch.instrument(span).await;
            // From here on, who asks asks anew.
            drop(entry);
            sender.send_modify(|progress| *progress = progress.ended(outcome));
        });
        Some(FetchHandle { progress, is_first: true })
    }
}

impl FetchHandle {
    /// Waits until the file is in the library.
    pub(crate) async fn stored(mut self) -> Result<()> {
        let is_over = |progress: &Progress| !matches!(progress, Progress::Asked | Progress::Coming { .. });
        match self.progress.wait_for(is_over).await.as_deref() {
            Ok(Progress::Failed(error) | Progress::Unstored { error, .. }) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(lost()),
        }
    }

    /// Waits for the remote's answer. Who joins after its last byte waits until it is stored: then there is more to give.
    pub(crate) async fn served(mut self, readers: &Readers) -> Result<Served> {
        let is_first = self.is_first;
        let to_be_told = |progress: &Progress| match progress {
            Progress::Asked => false,
            Progress::Coming { complete, .. } => is_first || !complete,
            Progress::Stored | Progress::Unstored { .. } | Progress::Failed(_) => true,
        };
        let progress = match self.progress.wait_for(to_be_told).await {
            Ok(progress) => progress.clone(),
            Err(_) => return Err(lost()),
        };
        match progress {
            Progress::Coming { head, file, .. } | Progress::Unstored { head, file, .. } => {
                let (progress, readers) = (self.progress, readers.clone());
                Ok(Served::Coming(Coming { head, progress, file, readers }))
            }
            Progress::Stored | Progress::Asked => Ok(Served::Stored),
            Progress::Failed(error) => Err(error),
        }
    }
}

impl Coming {
    /// Waits until more than `size` bytes have come, or all there are.
    pub(crate) async fn reaches(&mut self, size: u64) -> Result<()> {
        let reached = self.progress.wait_for(|progress| progress.reaches(size)).await;
        match reached.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(lost()),
        }
    }

    /// The bytes from `start` on as they come, all or `length` of them.
    pub(crate) fn chunks(self, start: u64, length: Option<u64>) -> Chunks {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let end = length.map_or(u64::MAX, |length| start.saturating_add(length));
        tokio::spawn(tail(self, (start, end), sender));
        receiver
    }
}

/// Reads a stretch of an arriving file to one client, as fast as it comes and as the client takes it.
async fn tail(
    Coming { mut progress, file, readers, .. }: Coming,
    (start, end): (u64, u64),
    client: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut sent = start;
    while sent < end {
        let reached = progress.wait_for(|progress| progress.reaches(sent));
        let reached =
            reached.await.map_or_else(|_lost| Progress::Failed(lost()), |progress| progress.clone());
        let (until, complete) = match reached {
            Progress::Coming { size, complete, .. } => (size, complete),
            Progress::Unstored { size, .. } => (size, true),
            // Everything came before it was stored.
            Progress::Stored | Progress::Asked => match file.available() {
                Ok(size) => (size, true),
                Err(error) => return give_up(&client, error).await,
            },
            Progress::Failed(error) => return give_up(&client, io::Error::other(error)).await,
        };
        let until = until.min(end);
        let mut stream = FileStream::new(file.range(sent, until.saturating_sub(sent)), &readers);
        while let Some(chunk) = std::future::poll_fn(|context| stream.poll_chunk(context)).await {
            // A client that is gone ends this task and nothing else.
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

/// Breaks the client's connection off, so that a short file does not look whole.
async fn give_up(client: &mpsc::Sender<io::Result<Bytes>>, error: io::Error) {
    // A client that is gone needs no telling.
    drop(client.send(Err(error)).await);
}

/// The fetch's task ended without a word.
fn lost() -> Error {
    Error::internal("fetching remote media", io::Error::other("its task ended"))
}

/// Tells a fetch's progress to those who wait.
#[derive(Debug)]
pub(crate) struct Reporter(Arc<watch::Sender<Progress>>);

impl FetchListener for Reporter {
    fn started(&self, head: RemoteHead, file: BlobReader) {
        self.0.send_replace(Progress::Coming { head, file, size: 0, complete: false });
    }

    fn advanced(&self, to: u64) {
        self.0.send_modify(|progress| {
            if let Progress::Coming { size, .. } = progress {
                *size = to;
            }
        });
    }

    fn complete(&self) {
        self.0.send_modify(|progress| {
            if let Progress::Coming { complete, .. } = progress {
                *complete = true;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::matrix::{MediaId, ServerName};

    /// File `number` of a server of its own.
    fn file(number: usize) -> Mxc {
        let server_name = ServerName::parse(&format!("remote{number}.example")).unwrap();
        Mxc { server_name, media_id: MediaId::parse("abc").unwrap() }
    }

    #[tokio::test]
    async fn a_fetch_that_panics_is_an_error_and_leaves_its_place() {
        let arrivals = InFlightFetches::default();
        for _ in 0..2 {
            let fetch = |_reporter| async { panic!("on purpose") };
            let arrival = arrivals.join(&file(0), Viewer::Known, fetch).await.unwrap();
            assert!(arrival.is_first);
            arrival.stored().await.unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_without_tokens_leaves_places_to_those_who_have_one() {
        let arrivals = InFlightFetches::default();
        let join = async |number, viewer| {
            arrivals.join(&file(number), viewer, |_reporter| std::future::pending()).await
        };
        for number in 0..MAX_ANONYMOUS_ARRIVALS {
            join(number, Viewer::Anonymous).await.unwrap();
        }
        let started = Instant::now();
        let error = join(MAX_ANONYMOUS_ARRIVALS, Viewer::Anonymous).await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (Kind::LimitExceeded, Duration::ZERO));
        // What is under way is shared with everybody.
        assert!(!join(0, Viewer::Anonymous).await.unwrap().is_first);
        for number in MAX_ANONYMOUS_ARRIVALS..MAX_ARRIVALS {
            assert!(join(number, Viewer::Known).await.unwrap().is_first);
        }
        join(MAX_ARRIVALS, Viewer::Known).await.unwrap_err();
        assert_eq!(started.elapsed(), LONGEST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_a_token_waits_for_a_place_and_the_queue_is_bounded() {
        let (arrivals, gate) = (Arc::new(InFlightFetches::default()), Arc::new(Semaphore::new(0)));
        let ask = |number: usize| {
            let (arrivals, gate) = (Arc::clone(&arrivals), Arc::clone(&gate));
            let mxc = Mxc {
                server_name: ServerName::parse("remote.example").unwrap(),
                media_id: MediaId::parse(&format!("f{number}")).unwrap(),
            };
            let fetch = move |_reporter| async move {
                gate.acquire().await.unwrap().forget();
                // A fetch that panics makes room too.
                assert_ne!(number, 5, "on purpose");
                Ok(())
            };
            tokio::spawn(async move { arrivals.join(&mxc, Viewer::Known, fetch).await?.stored().await })
        };
        let asked: Vec<_> = (0..MAX_ARRIVALS_OF_SERVER + MAX_WAITING).map(ask).collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            (lock(&arrivals.table).len(), arrivals.queue.available_permits()),
            (MAX_ARRIVALS_OF_SERVER, 0)
        );
        let started = Instant::now();
        assert_eq!(ask(1000).await.unwrap().unwrap_err().kind(), Kind::LimitExceeded);
        assert_eq!(started.elapsed(), Duration::ZERO, "at once");
        gate.add_permits(asked.len());
        let mut stored = 0;
        for asked in asked {
            stored += usize::from(asked.await.unwrap().is_ok());
        }
        assert_eq!((stored, started.elapsed()), (MAX_ARRIVALS_OF_SERVER + MAX_WAITING - 1, Duration::ZERO));
        assert_eq!(arrivals.queue.available_permits(), MAX_WAITING);
        assert!(lock(&arrivals.table).is_empty());
    }
}
