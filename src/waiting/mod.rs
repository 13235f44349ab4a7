//! Who waits for what: questions asked once for many, work done in one go, uploads that are pending, remote files that
//! are arriving, what is put off until nobody wants anything, and how many uploads each user has under way.
//!
//! Owns the meeting points between requests, all in memory and bounded. Waiting holds no thread.

mod gathering;
mod idle;
mod uploads;

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

pub(crate) use self::gathering::{Gathering, Ticket};
pub(crate) use self::idle::{Activity, Backlog, Busy};
pub(crate) use self::uploads::{UnderWay, Uploads};
use crate::bridge::{FileStream, Readers};
use crate::error::{Error, Kind, Result};
use crate::matrix::Mxc;
use crate::media::{FetchListener, RemoteHead};

/// Requests that may wait for pending uploads at the same time; further ones are told "not yet" at once. A flood of
/// never-filled IDs is the threat MSC2246 names.
const MAX_WAITING: usize = 1024;

/// Chunks read ahead for a client that receives an arriving file.
const READ_AHEAD: usize = 2;

/// Shared answers under way at the same time; who asks for a further one is told to come back.
const MAX_FLIGHTS: usize = 1024;

/// Remote files on their way in at the same time, fetched or waiting to be; who asks for a further one is told to come back.
const MAX_ARRIVALS: usize = 256;

/// The same from one server, so that a slow one does not take all the places.
const MAX_ARRIVALS_OF_SERVER: usize = 32;

/// When to come back.
const RETRY: Duration = Duration::from_secs(5);

/// Places whose lanes are kept while nobody is in them.
const IDLE_LANES: usize = 256;

/// One answer under way, for all who ask.
type Under<V> = watch::Receiver<Option<Result<V>>>;

/// Runs one future for each key at a time; whoever asks meanwhile shares its answer.
#[derive(Debug)]
pub(crate) struct SingleFlight<K, V> {
    /// Answers under way.
    flights: Arc<Mutex<HashMap<K, Under<V>>>>,
    /// Most of them.
    limit: usize,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self::at_most(MAX_FLIGHTS)
    }
}

impl<K, V> SingleFlight<K, V> {
    /// One that has at most `limit` answers under way; who asks for a further one is told to come back.
    pub(crate) fn at_most(limit: usize) -> Self {
        Self { flights: Arc::default(), limit }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// The answer of the future under way for `key`, or of `start()` if there is none. The future runs to its end even if
    /// all who asked go away.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<V>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut answer = self.join(key, start)?;
        let outcome = answer.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(result)) => result.clone(),
            Ok(None) | Err(_) => {
                Err(Error::internal("sharing an answer", io::Error::other("its task ended")))
            }
        }
    }

    /// Joins or starts.
    fn join<F>(&self, key: K, start: impl FnOnce() -> F) -> Result<Under<V>>
    where
        F: Future<Output = Result<V>> + Send + 'static,
    {
        let mut flights = lock(&self.flights);
        if let Some(answer) = flights.get(&key) {
            return Ok(answer.clone());
        }
        if flights.len() >= self.limit {
            let message = "too many questions are waiting for an answer";
            return Err(Error::new(Kind::LimitExceeded, message).retry_after(RETRY));
        }
        let (sender, answer) = watch::channel(None);
        flights.insert(key.clone(), answer.clone());
        let landing = Landing { flights: Arc::clone(&self.flights), key };
        let future = start();
        tokio::spawn(async move {
            let result = future.await;
            // From here on, who asks asks anew.
            drop(landing);
            sender.send_replace(Some(result));
        });
        Ok(answer)
    }
}

/// Takes an entry out of the table when its future ends, however it does.
struct Landing<K: Eq + Hash, V> {
    /// The table.
    flights: Arc<Mutex<HashMap<K, Under<V>>>>,
    /// The entry.
    key: K,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

/// Requests that wait for a pending media ID to be filled.
#[derive(Debug)]
pub(crate) struct PendingUploads {
    /// Who waits for which ID.
    awaited: Awaited,
    /// Places to wait.
    places: Arc<Semaphore>,
}

/// For each awaited ID, what wakes its waiters.
type Awaited = Arc<Mutex<HashMap<Mxc, watch::Sender<()>>>>;

/// A place among those who wait. Taken before the catalog is asked, so that nothing is missed in between.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Where the place is noted.
    awaited: Awaited,
    /// For which ID.
    mxc: Mxc,
    /// Hears of the upload.
    filled: watch::Receiver<()>,
    /// The place.
    _place: OwnedSemaphorePermit,
}

impl Default for PendingUploads {
    fn default() -> Self {
        Self { awaited: Arc::default(), places: Arc::new(Semaphore::new(MAX_WAITING)) }
    }
}

impl PendingUploads {
    /// A place for `mxc`; `None` when too many wait already.
    pub(crate) fn waiter(&self, mxc: &Mxc) -> Option<Waiter> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let filled =
            lock(&self.awaited).entry(mxc.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Some(Waiter { awaited: Arc::clone(&self.awaited), mxc: mxc.clone(), filled, _place: place })
    }

    /// Wakes everybody who waits for `mxc`.
    pub(crate) fn filled(&self, mxc: &Mxc) {
        if let Some(sender) = lock(&self.awaited).get(mxc) {
            sender.send_replace(());
        }
    }
}

impl Waiter {
    /// Waits until the ID is filled, or for `timeout`. Says whether it was.
    pub(crate) async fn filled_within(&mut self, timeout: Duration) -> bool {
        tokio::time::timeout(timeout, self.filled.changed()).await.is_ok_and(|changed| changed.is_ok())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut awaited = lock(&self.awaited);
        // This one still counts as a receiver.
        if awaited.get(&self.mxc).is_some_and(|sender| sender.receiver_count() <= 1) {
            awaited.remove(&self.mxc);
        }
    }
}

/// Remote files on their way in.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Arc<Mutex<HashMap<Mxc, watch::Receiver<Progress>>>>);

/// One remote file on its way in, as one of those sees it who asked for it.
#[derive(Debug)]
pub(crate) struct Arrival {
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
        file: Arc<File>,
        /// How many there are.
        size: u64,
        /// Whether these are all.
        complete: bool,
    },
    /// The row is committed.
    Stored,
    /// It came to nothing.
    Failed(Error),
}

/// Chunks of a remote file as they arrive. An error means that the connection to the client must break too.
pub(crate) type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// What there is to serve of an arrival.
#[derive(Debug)]
pub(crate) enum Served {
    /// The file while it comes.
    Coming(RemoteHead, Chunks),
    /// It is in the library by now.
    Stored,
}

impl Arrivals {
    /// Joins the fetch of `mxc`, or starts one: `fetch` reports to the listener it is given and ends when the row is
    /// committed. It runs to its end even if all who asked go away.
    ///
    /// # Errors
    /// `LimitExceeded` when too many are on their way.
    pub(crate) fn join<F>(&self, mxc: &Mxc, fetch: impl FnOnce(Reporter) -> F) -> Result<Arrival>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut arrivals = lock(&self.0);
        if let Some(progress) = arrivals.get(mxc) {
            return Ok(Arrival { progress: progress.clone(), is_first: false });
        }
        let of_server = arrivals.keys().filter(|other| other.server_name == mxc.server_name).count();
        if arrivals.len() >= MAX_ARRIVALS || of_server >= MAX_ARRIVALS_OF_SERVER {
            let message = "too many remote files are being fetched";
            return Err(Error::new(Kind::LimitExceeded, message).retry_after(RETRY));
        }
        let (sender, progress) = watch::channel(Progress::Asked);
        arrivals.insert(mxc.clone(), progress.clone());
        let (table, mxc, sender) = (Arc::clone(&self.0), mxc.clone(), Arc::new(sender));
        let fetch = fetch(Reporter(Arc::clone(&sender)));
        tokio::spawn(async move {
            let outcome = fetch.await;
            lock(&table).remove(&mxc);
            sender.send_replace(match outcome {
                Ok(()) => Progress::Stored,
                Err(error) => Progress::Failed(error),
            });
        });
        Ok(Arrival { progress, is_first: true })
    }
}

impl Arrival {
    /// Waits until the file is in the library.
    pub(crate) async fn stored(mut self) -> Result<()> {
        let is_over = |progress: &Progress| matches!(progress, Progress::Stored | Progress::Failed(_));
        match self.progress.wait_for(is_over).await.as_deref() {
            Ok(Progress::Failed(error)) => Err(error.clone()),
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
            Progress::Stored | Progress::Failed(_) => true,
        };
        let progress = match self.progress.wait_for(to_be_told).await {
            Ok(progress) => progress.clone(),
            Err(_) => return Err(lost()),
        };
        match progress {
            Progress::Coming { head, file, .. } => {
                let (sender, receiver) = mpsc::channel(READ_AHEAD);
                tokio::spawn(relay(self.progress, file, sender, readers.clone()));
                Ok(Served::Coming(head, receiver))
            }
            Progress::Stored | Progress::Asked => Ok(Served::Stored),
            Progress::Failed(error) => Err(error),
        }
    }
}

/// Reads an arriving file to one client, as fast as it comes and as the client takes it.
async fn relay(
    mut progress: watch::Receiver<Progress>,
    file: Arc<File>,
    client: mpsc::Sender<io::Result<Bytes>>,
    readers: Readers,
) {
    let mut sent = 0;
    loop {
        let reached = progress.wait_for(|progress| match progress {
            Progress::Asked => false,
            Progress::Coming { size, complete, .. } => *complete || *size > sent,
            Progress::Stored | Progress::Failed(_) => true,
        });
        let reached =
            reached.await.map_or_else(|_lost| Progress::Failed(lost()), |progress| progress.clone());
        let (until, complete) = match reached {
            Progress::Coming { size, complete, .. } => (size, complete),
            // Everything came before it was stored.
            Progress::Stored | Progress::Asked => match file.metadata() {
                Ok(metadata) => (metadata.len(), true),
                Err(error) => return give_up(&client, error).await,
            },
            Progress::Failed(error) => return give_up(&client, io::Error::other(error)).await,
        };
        let mut stream = FileStream::new(Arc::clone(&file), sent, until.saturating_sub(sent), &readers);
        while let Some(chunk) = std::future::poll_fn(|context| stream.poll_chunk(context)).await {
            // A client that is gone ends this relay and nothing else.
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
    fn started(&self, head: RemoteHead, file: File) {
        self.0.send_replace(Progress::Coming { head, file: Arc::new(file), size: 0, complete: false });
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

/// Memory for decoding pictures, over all requests: who needs more than is free waits.
#[derive(Debug)]
pub(crate) struct Memory {
    /// One permit for each KiB.
    permits: Arc<Semaphore>,
    /// All of them.
    total: u32,
}

impl Memory {
    /// `bytes` of memory.
    pub(crate) fn new(bytes: u64) -> Self {
        let total = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX >> 4).min(u32::MAX >> 4);
        Self { permits: Arc::new(Semaphore::new(usize::try_from(total).unwrap_or(0))), total }
    }

    /// Waits until `bytes` are free; they are free again when the permit is dropped.
    pub(crate) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.total);
        let permits = Arc::clone(&self.permits);
        permits.acquire_many_owned(wanted).await.map_err(|error| Error::internal("waiting for memory", error))
    }
}

/// A few lanes to each place.
#[derive(Debug)]
pub(crate) struct Lanes<K> {
    /// The lanes of places where somebody is.
    table: Mutex<HashMap<K, Arc<Semaphore>>>,
    /// Lanes to each place.
    count: usize,
}

impl<K: Clone + Eq + Hash> Lanes<K> {
    /// `count` lanes to each place.
    pub(crate) fn new(count: usize) -> Self {
        Self { table: Mutex::default(), count }
    }

    /// Waits for a lane to `place`; it is free again when the permit is dropped.
    pub(crate) async fn enter(&self, place: &K) -> Result<OwnedSemaphorePermit> {
        let lanes = {
            let mut table = lock(&self.table);
            if table.len() >= IDLE_LANES {
                table.retain(|_, lanes| Arc::strong_count(lanes) > 1);
            }
            let new = || Arc::new(Semaphore::new(self.count));
            Arc::clone(table.entry(place.clone()).or_insert_with(new))
        };
        lanes.acquire_owned().await.map_err(|error| Error::internal("waiting for a lane", error))
    }
}

/// A table's lock. A panic elsewhere cannot leave it half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
