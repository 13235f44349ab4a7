//! One running sidecar: its parts, wired.
//!
//! Owns nothing but the wiring. Every field is immutable.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::accounts::homeserver::HomeserverClient;
use crate::accounts::{Account, Accounts, CredentialHash};
use crate::config::{Config, Live};
use crate::error::{Error, Result};
use crate::federation::{Federation, KeyFile, Parts, SigningKey};
use crate::http::file_stream::Readers;
use crate::http::receive::BodyReceiver;
use crate::matrix::{Clock, Moment, Monotonic, Mxc, Random, ServerName, Timestamp};
use crate::media::in_flight::InFlightFetches;
use crate::media::pending::PendingUploads;
use crate::media::response_cache::ResponseCache;
use crate::media::upload_turns::Uploads;
use crate::media::{ANIMATION_TIMEOUT, Library, RenderTask};
use crate::outbound::dns::{Dns, SystemDns};
use crate::preview::{Fetcher, HttpUrl};
use crate::store::Store;
use crate::store::fs::{Fs, SystemFs};
use crate::store::sha256::Sha256;
use crate::sync::pools::Pools;
use crate::sync::pools::READ_THREADS;
use crate::sync::{Activity, Backlog, Batcher, KeyedSemaphore, Memory, SingleFlight};
use crate::thumbnail::RenderSpec;

/// Pictures being made or waiting for a worker; who asks for a further one waits for a place.
const MAX_MAKING: usize = 64;

/// Pictures that wait for a place; who asks for a further one is told to come back. A room full of pictures is opened at once.
const MAX_WAITING: usize = 256;

/// Uploads whose thumbnails are to be made when the machine is idle; of further ones they are made when asked for.
const MAX_BACKLOG: usize = 256;

/// Fetches from one server at the same time, so that a slow one does not take all the places.
const FETCHES_PER_SERVER: usize = 4;

/// Fetches at the same time for those without a token, from all servers: half of the threads stay free for others.
const ANONYMOUS_FETCHES: usize = 8;

/// Previews being made or waiting to be; who asks for a further one is told to come back.
const MAX_PREVIEWING: usize = 64;

/// Requests to one host at the same time, for previews: a guest does not crowd.
const REQUESTS_PER_HOST: usize = 2;

/// The parts of a running sidecar.
pub struct App {
    /// Our own name.
    pub(crate) server_name: ServerName,
    /// What is in force.
    config: Live<Config>,
    /// DNS.
    names: Arc<dyn Dns>,
    /// Who a client is.
    pub(crate) accounts: Arc<Accounts>,
    /// Who a server is.
    pub(crate) federation: Arc<Federation>,
    /// What can be done with media.
    pub(crate) library: Arc<Library>,
    /// Where all of it is kept.
    pub(crate) store: Arc<Store>,
    /// Held while this runs: two processes over one store would remove each other's files.
    _lock: File,
    /// Blocking work.
    pub(crate) pools: Pools,
    /// For bodies that read files.
    pub(crate) readers: Readers,
    /// For bodies that arrive.
    pub(crate) receiver: BodyReceiver,
    /// `whoami` under way.
    pub(crate) asking: SingleFlight<CredentialHash, Account>,
    /// Keys of other servers being fetched.
    pub(crate) fetching_keys: SingleFlight<ServerName, ()>,
    /// Pictures being made, by source and spec.
    pub(crate) making: SingleFlight<(Sha256, RenderSpec), ()>,
    /// Those of them that wait: one decode of a source may serve several.
    pub(crate) batcher: Batcher<RenderTask>,
    /// What they may take in all.
    pub(crate) picture_memory: Memory,
    /// Uploads whose thumbnails are made when the machine is idle (`thumbnails.pregenerate`).
    pub(crate) backlog: Backlog<Mxc>,
    /// Whether it is.
    pub(crate) activity: Arc<Activity>,
    /// What was served lately.
    pub(crate) response_cache: ResponseCache,
    /// Uploads under way, of each user.
    pub(crate) uploads: Uploads,
    /// Who waits for uploads.
    pub(crate) pending: PendingUploads,
    /// Fetches from each server.
    pub(crate) fetches_per_server: KeyedSemaphore<ServerName>,
    /// Fetches for those without a token.
    pub(crate) anonymous_fetches: KeyedSemaphore<()>,
    /// Remote files on their way in.
    pub(crate) in_flight_fetches: InFlightFetches,
    /// Previews being made.
    pub(crate) previewing: SingleFlight<HttpUrl, Arc<str>>,
    /// Requests to each host for them.
    pub(crate) requests_per_host: KeyedSemaphore<String>,
    /// Whether the last health check found something.
    pub(crate) is_failing: AtomicBool,
    /// For multipart boundaries.
    pub(crate) random: Random,
}

/// What an [`App`] is given by its environment, so that tests can give something else.
#[derive(Clone)]
pub struct Environment {
    /// The time of day.
    pub clock: Clock,
    /// Time that nobody sets.
    pub monotonic: Monotonic,
    /// Unpredictable bytes.
    pub random: Random,
    /// DNS.
    pub names: Arc<dyn Dns>,
    /// The machine's load over the last minute, percent of its processors.
    pub load: Arc<dyn Fn() -> u32 + Send + Sync>,
    /// How long an animated thumbnail may take to be made.
    pub animation_time: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// What blobs are written to.
    pub disk: Arc<dyn Fs>,
}

impl Environment {
    /// The system's time, randomness, DNS, load and disk; the documented time for animations.
    ///
    /// # Panics
    /// Its randomness does when the system has none: media IDs must not be predictable.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(Timestamp::now),
            monotonic: Arc::new(Moment::now),
            #[expect(
                clippy::expect_used,
                reason = "a system without randomness must not hand out predictable media IDs"
            )]
            random: Arc::new(|bytes| getrandom::fill(bytes).expect("the system's random source works")),
            names: Arc::new(SystemDns::default()),
            load: Arc::new(system_load),
            animation_time: Arc::new(|| ANIMATION_TIMEOUT),
            disk: Arc::new(SystemFs),
        }
    }
}

/// The system's load over the last minute, percent of its processors. The kernel counts in 65536ths.
fn system_load() -> u32 {
    let [last_minute, ..] = rustix::system::sysinfo().loads;
    let percent = u32::try_from(last_minute.saturating_mul(100) >> 16).unwrap_or(u32::MAX);
    let processors =
        available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    percent.div_euclid(processors)
}

impl App {
    /// Opens the store below `config.data_dir` and wires the parts. `signing_key` is the homeserver's.
    pub fn open(config: &Config, signing_key: SigningKey, environment: Environment) -> Result<Arc<Self>> {
        let Environment { clock, monotonic, random, names, load, animation_time, disk } = environment;
        let lock = lock_data_dir(&config.data_dir)?;
        let store = Store::open(&config.data_dir, disk)?;
        let (catalog, blobs) = (Arc::clone(&store.catalog), Arc::clone(&store.blobs));

        let homeserver = HomeserverClient::new(&config.homeserver.url, Arc::clone(&names))
            .map_err(|error| Error::internal("preparing requests to the homeserver", error))?;
        let homeserver = Arc::new(homeserver);
        let accounts =
            Accounts::new(Arc::clone(&homeserver), config.homeserver.token_cache.0, Arc::clone(&monotonic));
        accounts.reload(&config.homeserver);
        let parts = Parts {
            signing_key,
            key_file: KeyFile::locate(&config.homeserver.signing_key),
            homeserver,
            catalog: Arc::clone(&catalog),
            names: Arc::clone(&names),
            clock: Arc::clone(&clock),
            monotonic: Arc::clone(&monotonic),
            random: Arc::clone(&random),
        };
        let federation = Federation::new(config.server_name.clone(), &config.federation, parts)
            .map_err(|error| Error::internal("preparing requests to other servers", error))?;
        let federation = Arc::new(federation);
        let fetcher = Fetcher::new(&config.previews, Arc::clone(&names))
            .map_err(|error| Error::internal("preparing requests to linked pages", error))?;

        let parts = (Arc::clone(&catalog), Arc::clone(&blobs), Arc::clone(&federation), fetcher);
        let times = (clock, Arc::clone(&monotonic));
        let library = Library::new(config, parts, times, animation_time, Arc::clone(&random));
        let backlog = if config.thumbnails.pregenerate { MAX_BACKLOG } else { 0 };
        Ok(Arc::new(Self {
            server_name: config.server_name.clone(),
            config: Live::new(config.clone()),
            names: Arc::clone(&names),
            accounts: Arc::new(accounts),
            federation,
            library: Arc::new(library),
            store: Arc::new(store),
            _lock: lock,
            pools: Pools::new(config.thumbnails.workers),
            readers: Readers::new(READ_THREADS),
            receiver: BodyReceiver::new(),
            asking: SingleFlight::default(),
            fetching_keys: SingleFlight::default(),
            making: SingleFlight::at_most(MAX_MAKING).with_queue(MAX_WAITING),
            batcher: Batcher::default(),
            backlog: Backlog::at_most(backlog),
            activity: Arc::new(Activity::new(monotonic, load)),
            picture_memory: Memory::new(config.thumbnails.memory.0),
            response_cache: ResponseCache::new(),
            uploads: Uploads::default(),
            pending: PendingUploads::default(),
            fetches_per_server: KeyedSemaphore::new(FETCHES_PER_SERVER),
            anonymous_fetches: KeyedSemaphore::new(ANONYMOUS_FETCHES),
            in_flight_fetches: InFlightFetches::default(),
            previewing: SingleFlight::at_most(MAX_PREVIEWING),
            requests_per_host: KeyedSemaphore::new(REQUESTS_PER_HOST),
            is_failing: AtomicBool::new(false),
            random,
        }))
    }
}

impl App {
    /// What is in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.get()
    }

    /// Goes by `config` from now on, as far as that can be done without a restart. Names the keys that need one.
    ///
    /// # Errors
    /// When something that it names cannot be used; everything stays as it is then.
    pub fn reload(&self, config: &Config) -> Result<Vec<&'static str>> {
        let mut config = config.clone();
        let fixed = config.keep_fixed(&self.config.get());
        // What can fail comes first: then everything changes, or nothing.
        let rules = self
            .federation
            .prepare(&config.federation)
            .map_err(|error| Error::internal("preparing requests to other servers", error))?;
        let fetcher = Fetcher::new(&config.previews, Arc::clone(&self.names))
            .map_err(|error| Error::internal("preparing requests to linked pages", error))?;
        self.federation.reload(rules);
        self.accounts.reload(&config.homeserver);
        self.library.reload(&config, fetcher);
        self.config.set(config);
        Ok(fixed)
    }
}

/// Makes the data directory for the owner alone, its own name durable, and locks it against a second process.
pub(crate) fn lock_data_dir(path: &Path) -> Result<File> {
    let prepare = || {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        if let Some(parent) = path.canonicalize()?.parent() {
            File::open(parent)?.sync_all()?;
        }
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("lock"))
    };
    let lock = prepare().map_err(|error| Error::internal("creating data_dir", error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            let error = std::io::Error::other("another media-sidecar is running there");
            Err(Error::internal("locking data_dir", error))
        }
        Err(TryLockError::Error(error)) => Err(Error::internal("locking data_dir", error)),
    }
}
