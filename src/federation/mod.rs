//! Other servers: who they are, whether a request is theirs, and their media.
//!
//! Owns the signing key, other servers' keys, discovery, and who may exchange media with us at all. Refuses to know what is
//! stored here. Everything in it blocks.
//! [Server-Server API](https://spec.matrix.org/v1.19/server-server-api/).

mod answer;
mod backoff;
mod conduit_key;
mod discovery;
mod fetch;
mod inbound;
mod keys;
mod policy;
mod signed_json;
mod signing_key;
mod standing;
mod x_matrix;

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use self::backoff::Backoff;
use self::policy::Policy;
use self::x_matrix::SignedRequest;
use crate::accounts::homeserver::{HomeserverClient, HomeserverError};
use crate::config::{self, Family, Live};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Clock, Moment, Monotonic, Mxc, Random, ServerName};
use crate::outbound::dns::{Dns, Lookups};
use crate::outbound::{
    self, CaFile, Guard, Outbound, OutboundError, OutboundRequest, OutboundResponse, Timeouts, TlsSetupError,
};
use crate::store::catalog::{ServerRows, StoredKey};

pub(crate) use self::answer::RemoteMedia;
pub(crate) use self::discovery::{Discovery, Endpoint};
#[cfg(any(fuzzing, test))]
pub(crate) use self::discovery::{read_well_known, well_known_lifetime};
pub(crate) use self::inbound::{Claim, InboundRequest, Verdict};
#[cfg(any(fuzzing, test))]
pub(crate) use self::keys::{check_document, check_testimony};
#[cfg(any(fuzzing, test))]
pub(crate) use self::signed_json::{Object, canonical, decode_base64, signable};
pub(crate) use self::signing_key::KeyFile;
pub use self::signing_key::{KeyError, LoadedKey, Overwrite, SigningKey};
pub(crate) use self::standing::{Standing, compare_published_key};
#[cfg(any(fuzzing, test))]
pub(crate) use self::x_matrix::XMatrix;

/// Longest wait for a server's keys, well-known document and the like, for the whole exchange; no longer than
/// `federation.timeout`.
const SMALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a remote may be slow with a file before its average rate is looked at.
pub(crate) const GRACE: Duration = Duration::from_mins(1);

/// The slowest average rate after that, bytes a second. A remote that trickles would hold one of few places for days.
pub(crate) const MIN_RATE: u64 = 8 * 1024;

/// Media IDs remembered as asked for in vain; about 150 bytes each.
const CACHED_VAIN: usize = 4096;

/// Servers whose keys are kept in memory while they cannot be stored; about 2 KiB each at most.
const UNSTORED_KEYS: usize = 512;

/// Servers of which it is remembered whether they were asked for MSC1902's unstable endpoint; about 150 bytes each.
const UNSTABLE_ASKED: usize = 4096;

/// The door to other servers.
pub(crate) struct Federation {
    /// Our own name.
    server_name: ServerName,
    /// The homeserver's key. Read again while it is not the one the homeserver publishes.
    signing_key: RwLock<Arc<SigningKey>>,
    /// Where it was read.
    key_file: KeyFile,
    /// Whether it is the one the homeserver publishes.
    standing: RwLock<Standing>,
    /// What follows from the configuration.
    rules: Live<Rules>,
    /// DNS.
    names: Lookups,
    /// The neighbour, which is a notary too.
    homeserver: Arc<HomeserverClient>,
    /// Servers that do not give media.
    backoff: Backoff,
    /// Servers that do not give their keys.
    key_backoff: Backoff,
    /// Keys that could not be stored.
    unstored_keys: Cache<ServerName, Vec<StoredKey>>,
    /// Whether servers have MSC1902's endpoints under the unstable version, and until when that is believed.
    unstable: Cache<ServerName, (bool, Moment)>,
    /// Media asked for in vain, and until when it is not asked for again.
    in_vain: Cache<Mxc, (Vain, Moment)>,
    /// Remembers keys and families.
    catalog: Arc<dyn ServerRows>,
    /// For validity.
    clock: Clock,
    /// For what is remembered a while.
    monotonic: Monotonic,
    /// Unpredictable bytes.
    random: Random,
}

/// What follows from the configuration; made anew when that is read again.
pub(crate) struct Rules {
    /// For media: bounded by what the largest file may take.
    outbound: Outbound,
    /// For keys and the like.
    outbound_small: Outbound,
    /// Where servers are.
    discovery: Discovery,
    /// Who may exchange media with us.
    policy: Policy,
    /// Order of outbound attempts.
    families: Vec<Family>,
    /// Longest silence of a remote server.
    patience: Duration,
    /// Longest wait for keys and the like.
    small_patience: Duration,
    /// Key servers besides the homeserver.
    notaries: Vec<ServerName>,
}

impl Rules {
    /// The rules of `config`.
    fn new(
        config: &config::Federation,
        names: &Lookups,
        clocks: (Clock, Monotonic),
        random: Random,
    ) -> std::result::Result<Self, TlsSetupError> {
        let outbound = |stall, total| {
            let guard = Guard::new(&config.ip_deny, &config.ip_allow);
            let ca_file = config.ca_file.as_deref().map(|path| CaFile { key: "federation.ca_file", path });
            Outbound::new(guard, ca_file, Timeouts { stall, total }, names.clone())
        };
        let small_patience = SMALL_TIMEOUT.min(config.timeout.0);
        let small = outbound(small_patience, Some(small_patience))?;
        Ok(Self {
            outbound: outbound(config.timeout.0, Some(longest_fetch(config)))?,
            discovery: Discovery::new(small.clone(), names.clone(), clocks, random),
            outbound_small: small,
            policy: Policy::new(&config.allow, &config.deny),
            families: config.families.clone(),
            patience: config.timeout.0,
            small_patience,
            notaries: config.notaries.clone(),
        })
    }
}

/// Why media was asked for in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vain {
    /// Its server does not have it.
    Absent,
    /// It is larger than we take, or its server gives.
    TooLarge,
}

/// How a file is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// How long its server may wait for it to be uploaded.
    pub(crate) timeout: Duration,
    /// Largest one that is taken, bytes.
    pub(crate) max_size: u64,
}

/// What a [`Federation`] is made of besides its configuration.
pub(crate) struct Parts {
    /// The homeserver's key.
    pub(crate) signing_key: SigningKey,
    /// Where it was read.
    pub(crate) key_file: KeyFile,
    /// The neighbour.
    pub(crate) homeserver: Arc<HomeserverClient>,
    /// Remembers keys and families.
    pub(crate) catalog: Arc<dyn ServerRows>,
    /// DNS.
    pub(crate) names: Arc<dyn Dns>,
    /// The time of day.
    pub(crate) clock: Clock,
    /// Time that nobody sets.
    pub(crate) monotonic: Monotonic,
    /// Unpredictable bytes.
    pub(crate) random: Random,
}

/// Why a remote server gave no usable answer, for the journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It could not be asked.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The homeserver, as a notary, could not be asked.
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
    /// Its answer is of no use.
    #[error("{0}")]
    Answer(String),
    /// It failed before and is left alone.
    #[error("it failed before and is left alone for {} s", .0.as_secs())]
    BackingOff(Duration),
}

impl Federation {
    /// Signs as `server_name`, under the rules of `config`.
    pub(crate) fn new(
        server_name: ServerName,
        config: &config::Federation,
        parts: Parts,
    ) -> std::result::Result<Self, TlsSetupError> {
        let Parts { signing_key, key_file, homeserver, catalog, names, clock, monotonic, random } = parts;
        let names = Lookups::from(names);
        let clocks = (Arc::clone(&clock), Arc::clone(&monotonic));
        Ok(Self {
            server_name,
            signing_key: RwLock::new(Arc::new(signing_key)),
            key_file,
            standing: RwLock::new(Standing::Unknown("not yet compared".to_owned())),
            rules: Live::new(Rules::new(config, &names, clocks, Arc::clone(&random))?),
            names,
            homeserver,
            backoff: Backoff::new(),
            key_backoff: Backoff::new(),
            unstored_keys: Cache::new(UNSTORED_KEYS),
            unstable: Cache::new(UNSTABLE_ASKED),
            in_vain: Cache::new(CACHED_VAIN),
            catalog,
            clock,
            monotonic,
            random,
        })
    }

    /// The rules of another configuration, for [`reload`](Self::reload).
    pub(crate) fn prepare(&self, config: &config::Federation) -> std::result::Result<Rules, TlsSetupError> {
        let clocks = (Arc::clone(&self.clock), Arc::clone(&self.monotonic));
        Rules::new(config, &self.names, clocks, Arc::clone(&self.random))
    }

    /// Goes by `rules` from now on.
    pub(crate) fn reload(&self, rules: Rules) {
        self.rules.set(rules);
    }

    /// Tells this server's sidecar from any other, see [`SigningKey::fingerprint`].
    pub(crate) fn fingerprint(&self) -> String {
        self.signing_key().fingerprint(&self.server_name)
    }

    /// The key in force.
    fn signing_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.signing_key.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Whether configuration lets us exchange media of `server_name` at all, stored or not.
    pub(crate) fn check_policy(&self, server_name: &ServerName) -> Result<()> {
        self.rules.get().policy.check(server_name)
    }

    /// Asks `server_name` for something small, unsigned, waiting until then at most. Without time it is not asked: that it
    /// does not answer would be remembered.
    fn ask_small(
        &self,
        server_name: &ServerName,
        path: &str,
        until: Instant,
    ) -> std::result::Result<OutboundResponse, RemoteError> {
        outbound::time_left(Some(until))?;
        let rules = self.rules.get();
        let Endpoint { base_url, host, via } = rules.discovery.resolve(server_name, Some(until));
        let url = format!("{base_url}{path}");
        let timeout = outbound::time_left(Some(until))?;
        Ok(rules.outbound_small.get(&OutboundRequest {
            url: &url,
            headers: &[("Host", &host)],
            via: &via,
            timeout,
        })?)
    }

    /// Asks `server_name` for media, signed when there is a key.
    fn ask(
        &self,
        server_name: &ServerName,
        path: &str,
        key: Option<&SigningKey>,
    ) -> std::result::Result<OutboundResponse, RemoteError> {
        let rules = self.rules.get();
        let endpoint = rules.discovery.resolve(server_name, None);
        let url = format!("{}{path}", endpoint.base_url);
        let request =
            SignedRequest { method: "GET", uri: path, origin: &self.server_name, destination: server_name };
        let authorization = key.map(|key| request.authorization(key));
        let mut headers = vec![("Host", endpoint.host.as_str())];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        Ok(rules.outbound.get(&OutboundRequest {
            url: &url,
            headers: &headers,
            via: &endpoint.via,
            timeout: None,
        })?)
    }
}

/// The longest that one file may take, from the first byte of the request to the last of the body: whoever still sends then was
/// slower than [`MIN_RATE`].
fn longest_fetch(config: &config::Federation) -> Duration {
    let sending = Duration::from_secs(config.max_size.0.div_ceil(MIN_RATE));
    config.timeout.0.saturating_add(GRACE).saturating_add(sending)
}

/// What a client reads of a file over the limit.
pub(crate) fn too_large() -> Error {
    Error::new(Kind::RemoteTooLarge, "the remote file is too large")
}

/// What a client reads of a server that is left alone for `wait`.
fn left_alone(server_name: &ServerName, wait: Duration) -> Error {
    Error::new(
        Kind::RemoteFailed,
        format!("cannot reach {server_name}; it will be tried again in {} s", wait.as_secs().max(1)),
    )
    .caused_by(RemoteError::BackingOff(wait))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_file_may_take_what_the_largest_takes_at_the_slowest_rate() {
        let mut config = Config::defaults(ServerName::parse("example.org").unwrap()).federation;
        config.timeout.0 = Duration::from_secs(5);
        config.max_size.0 = 10 * MIN_RATE + 1;
        assert_eq!(longest_fetch(&config), Duration::from_secs(5 + 60 + 11));
        config.max_size.0 = u64::MAX;
        assert!(longest_fetch(&config) > Duration::from_hours(24), "and no overflow");
    }
}
