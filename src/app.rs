//! Wiring: builds the parts of a running sidecar and connects them.
//!
//! Owns no behaviour. Every field is immutable; a reload replaces what is behind [`Live`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::available_parallelism;
use std::time::Duration;

use quick_cache::sync::Cache;

use crate::accounts::homeserver::HomeserverClient;
use crate::accounts::{Account, Accounts, CredentialHash};
use crate::config::{self, Config, Live};
use crate::error::{Error, Result};
use crate::federation::{Federation, FederationParts, KeyFile, SigningKey};
use crate::http::file_stream::Readers;
use crate::matrix::{Clock, Moment, Monotonic, Random, ServerName, Timestamp};
use crate::media::{ANIMATION_TIMEOUT, Media, MediaParts};
use crate::outbound::dns::{Dns, Lookups, SystemDns};
use crate::preview::Fetcher;
use crate::store::Store;
use crate::store::fs::{Fs, SystemFs};
use crate::sync::admission::{ClassPlaces, MAX_CONNECTIONS, Share, WorkKind};
use crate::sync::pools::{Pools, READ_THREADS};
use crate::sync::{Activity, Admission, SingleFlight};

/// Blocks of addresses remembered from which a good token came; about 50 bytes each.
const KNOWN_CLIENTS: usize = 2048;

/// The parts of a running sidecar.
pub struct App {
    /// The name of this homeserver.
    pub(crate) server_name: ServerName,
    config: Live<Config>,
    dns: Lookups,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) federation: Arc<Federation>,
    pub(crate) media: Arc<Media>,
    pub(crate) store: Arc<Store>,
    pub(crate) pools: Arc<Pools>,
    pub(crate) admission: Arc<Admission>,
    /// For bodies that read files.
    pub(crate) readers: Readers,
    /// `whoami` requests in flight.
    pub(crate) token_checks: SingleFlight<CredentialHash, Account>,
    /// Servers whose keys are being fetched.
    pub(crate) key_fetches: SingleFlight<ServerName, ()>,
    /// Addresses, by their blocks, from which a good token came lately.
    pub(crate) known_clients: Cache<Share, ()>,
    pub(crate) activity: Arc<Activity>,
    /// Whether the last health check found something.
    pub(crate) is_failing: AtomicBool,
    /// For multipart boundaries.
    pub(crate) random: Random,
}

/// What an [`App`] does not make itself: clocks, DNS, the file system. Tests put their own in its place.
#[derive(Clone)]
pub struct Environment {
    /// The time of day.
    pub clock: Clock,
    /// Monotonic time.
    pub monotonic: Monotonic,
    /// Unpredictable bytes.
    pub random: Random,
    /// DNS.
    pub dns: Arc<dyn Dns>,
    /// The machine's load over the last minute, percent of its processors.
    pub load: Arc<dyn Fn() -> u32 + Send + Sync>,
    /// How long an animated thumbnail may take to be made.
    pub animation_time: Arc<dyn Fn() -> Duration + Send + Sync>,
    /// The file system for blobs.
    pub fs: Arc<dyn Fs>,
}

impl Environment {
    /// The system's time, randomness, DNS, load and disk; the documented time for animations.
    ///
    /// # Panics
    /// `random` panics when the system has no randomness: media IDs must not be predictable.
    pub fn system() -> Self {
        Self {
            clock: Arc::new(Timestamp::now),
            monotonic: Arc::new(Moment::now),
            #[expect(
                clippy::expect_used,
                reason = "a system without randomness must not hand out predictable media IDs"
            )]
            random: Arc::new(|bytes| getrandom::fill(bytes).expect("the system's random source works")),
            dns: Arc::new(SystemDns::default()),
            load: Arc::new(system_load),
            animation_time: Arc::new(|| ANIMATION_TIMEOUT),
            fs: Arc::new(SystemFs),
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
        let Environment { clock, monotonic, random, dns, load, animation_time, fs } = environment;
        let store = Arc::new(Store::open(&config.data_dir, fs)?);
        let admission = Arc::new(Admission::new(|kind| places(config, kind)));
        let dns_lookups = Lookups::new(Arc::clone(&dns), Arc::clone(&admission));

        let homeserver = HomeserverClient::new(&config.homeserver.url, dns)
            .map_err(|error| Error::internal("preparing requests to the homeserver", error))?;
        let homeserver = Arc::new(homeserver);
        let accounts =
            Accounts::new(Arc::clone(&homeserver), config.homeserver.token_cache.0, Arc::clone(&monotonic));
        accounts.reload(&config.homeserver);
        let parts = FederationParts {
            signing_key,
            key_file: KeyFile::locate(&config.homeserver.signing_key),
            homeserver,
            catalog: store.servers(),
            dns: dns_lookups.clone(),
            clock: Arc::clone(&clock),
            monotonic: Arc::clone(&monotonic),
            random: Arc::clone(&random),
        };
        let federation = Federation::new(config.server_name.clone(), &config.federation, parts)
            .map_err(|error| Error::internal("preparing requests to other servers", error))?;
        let federation = Arc::new(federation);
        let fetcher = Fetcher::new(&config.previews, dns_lookups.clone())
            .map_err(|error| Error::internal("preparing requests to linked pages", error))?;

        let (pools, readers) = (Arc::new(Pools::new()), Readers::new(READ_THREADS));
        let activity = Arc::new(Activity::new(Arc::clone(&monotonic), load));
        let parts = MediaParts {
            store: Arc::clone(&store),
            federation: Arc::clone(&federation),
            fetcher,
            pools: Arc::clone(&pools),
            admission: Arc::clone(&admission),
            readers: readers.clone(),
            activity: Arc::clone(&activity),
            animation_time,
            clock,
            monotonic,
            random: Arc::clone(&random),
        };
        Ok(Arc::new(Self {
            server_name: config.server_name.clone(),
            config: Live::new(config.clone()),
            dns: dns_lookups,
            accounts: Arc::new(accounts),
            federation,
            media: Media::new(config, parts),
            store,
            pools,
            admission,
            readers,
            token_checks: SingleFlight::default(),
            key_fetches: SingleFlight::default(),
            known_clients: Cache::new(KNOWN_CLIENTS),
            activity,
            is_failing: AtomicBool::new(false),
            random,
        }))
    }
}

impl App {
    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.get()
    }

    /// Applies a changed configuration, as far as that is possible without a restart. Returns the changed keys that need one.
    ///
    /// # Errors
    /// When a file or name in it cannot be used; then nothing changes.
    pub fn reload(&self, config: &Config) -> Result<Vec<&'static str>> {
        let mut config = config.clone();
        let fixed = config.keep_fixed(&self.config.get());
        // Everything that can fail comes first, so that either all of it changes or nothing does.
        let rules = self
            .federation
            .prepare(&config.federation)
            .map_err(|error| Error::internal("preparing requests to other servers", error))?;
        let fetcher = Fetcher::new(&config.previews, self.dns.clone())
            .map_err(|error| Error::internal("preparing requests to linked pages", error))?;
        self.federation.reload(rules);
        self.accounts.reload(&config.homeserver);
        self.media.reload(&config, fetcher);
        self.config.set(config);
        Ok(fixed)
    }
}

/// The places for one kind of work.
fn places(config: &Config, kind: WorkKind) -> ClassPlaces {
    let Config { limits, thumbnails, .. } = config;
    let places = |users: u32, servers: u32, unknown: u32| {
        let [users, servers, unknown] =
            [users, servers, unknown].map(|count| usize::try_from(count).unwrap_or(usize::MAX));
        ClassPlaces { users, servers, unknown }
    };
    let of = |configured: &config::Places| places(configured.users, configured.servers, configured.unknown);
    match kind {
        WorkKind::Connection => places(0, 0, MAX_CONNECTIONS.into()),
        WorkKind::Fetch => of(&limits.fetches),
        // Bounded by the number of fetches, and for each destination.
        WorkKind::Asking => places(u32::MAX, u32::MAX, u32::MAX),
        WorkKind::Transfer => of(&limits.transfers),
        WorkKind::KeyLookup => of(&limits.key_lookups),
        WorkKind::DnsLookup => of(&limits.dns_lookups),
        WorkKind::HomeserverRequest => of(&limits.homeserver_requests),
        WorkKind::HeaderRead => of(&limits.header_reads),
        WorkKind::Still => places(thumbnails.workers, limits.stills.servers, limits.stills.unknown),
        WorkKind::Animation => of(&limits.animations),
        WorkKind::Preview => places(limits.previews.users, 0, 0),
        WorkKind::PageFetch => places(limits.page_fetches.users, 0, 0),
        WorkKind::PendingWait => of(&limits.pending_waits),
        WorkKind::Upload => places(limits.uploads.users, 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The README's table of places has the numbers of the code.
    #[test]
    fn the_readme_has_the_places_of_each_kind_of_work() {
        let config = Config::defaults(ServerName::parse("example.org").unwrap());
        let readme = include_str!("../README.md");
        for kind in WorkKind::ALL {
            let (start, end) = (format!("| `{}`: ", kind.name()), kind.readme_cells(places(&config, kind)));
            let has_it = readme.lines().any(|line| line.starts_with(&start) && line.ends_with(&end));
            assert!(has_it, "README.md lacks a line\n{start}…{end}");
        }
    }
}
