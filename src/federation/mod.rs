//! Other servers: where they are, whether a request is theirs, and their media.
//!
//! Owns the signing key, other servers' keys, discovery, and which servers may exchange media with us at all. Refuses to know what is
//! stored here. Everything in it blocks.
//! [Server-Server API](https://spec.matrix.org/v1.19/server-server-api/).

mod backoff;
mod conduit_key;
mod discovery;
mod fetch;
mod inbound;
mod key_check;
mod key_document;
mod key_file;
mod keys;
mod policy;
mod remote_error;
mod response;
mod signed_json;
mod signing_key;
mod x_matrix;

use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use self::backoff::{Backoff, Failures};
use self::policy::Policy;
use self::remote_error::RemoteError;
use self::x_matrix::SignedRequest;
use crate::accounts::homeserver::HomeserverClient;
use crate::config::{self, Family, Live};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Clock, Moment, Monotonic, Mxc, Random, ServerName};
use crate::outbound::dns::Lookups;
use crate::outbound::{
    self, CaFile, Guard, Outbound, OutboundRequest, OutboundResponse, Timeouts, TlsSetupError,
};
use crate::store::catalog::{ServerRows, StoredKey};

pub(crate) use self::discovery::{Discovery, ServerAddress};
#[cfg(any(fuzzing, test))]
pub(crate) use self::discovery::{read_well_known, well_known_lifetime};
pub(crate) use self::inbound::{InboundRequest, UnverifiedRequest, Verification};
pub(crate) use self::key_check::{KeyCheck, check_published_key};
#[cfg(any(fuzzing, test))]
pub(crate) use self::key_document::{Notary, check_document, check_notary_response};
pub(crate) use self::key_file::KeyFile;
pub use self::key_file::{ConduitKeyError, KeyError, LoadedKey, Overwrite};
pub(crate) use self::response::RemoteMedia;
#[cfg(any(fuzzing, test))]
pub(crate) use self::signed_json::{Object, canonical, decode_base64, signable};
pub use self::signing_key::{KeyFormatError, SigningKey};
#[cfg(any(fuzzing, test))]
pub(crate) use self::x_matrix::XMatrix;

/// Longest wait for a server's keys, well-known document and the like, for the whole exchange; no longer than
/// `federation.timeout`.
const SMALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a remote may be slow with a file before its average rate is looked at.
pub(crate) const GRACE: Duration = Duration::from_mins(1);

/// The slowest average rate after that, bytes a second. A slower remote would keep one of few threads busy for days.
pub(crate) const MIN_RATE: u64 = 8 * 1024;

/// Entries of the negative cache; about 150 bytes each.
const NEGATIVE_CACHE: usize = 4096;

/// Servers whose keys are kept in memory while they cannot be stored; about 2 KiB each at most.
const UNSTORED_KEYS: usize = 512;

/// Servers remembered in [`Federation::unstable_prefix`]; about 150 bytes each.
const UNSTABLE_PREFIX_CACHE: usize = 4096;

/// Requests to other servers, and the verification of theirs.
pub(crate) struct Federation {
    server_name: ServerName,
    /// The homeserver's key. Read again while it is not the one the homeserver publishes.
    signing_key: RwLock<Arc<SigningKey>>,
    key_file: KeyFile,
    /// Whether `signing_key` is the one the homeserver publishes.
    key_check: RwLock<KeyCheck>,
    rules: Live<FederationRules>,
    dns: Lookups,
    homeserver: Arc<HomeserverClient>,
    /// Servers and files that failed.
    failures: Failures,
    /// Servers whose keys could not be fetched.
    key_backoff: Backoff<ServerName>,
    /// Keys that could not be stored.
    unstored_keys: Cache<ServerName, Vec<StoredKey>>,
    /// Whether a server has MSC1902's endpoints under the unstable prefix, and until when that is cached.
    unstable_prefix: Cache<ServerName, (bool, Moment)>,
    /// Media that its server does not send us, and until when it is not requested again; `true` for what callers without rights saw.
    negative_cache: Cache<(Mxc, bool), (Unavailable, Moment)>,
    catalog: Arc<dyn ServerRows>,
    clock: Clock,
    monotonic: Monotonic,
    random: Random,
}

/// Everything that follows from the configuration; replaced as a whole when that is read again.
pub(crate) struct FederationRules {
    /// For media: an exchange may take as long as the largest file does.
    outbound: Outbound,
    /// For keys and the like.
    outbound_small: Outbound,
    discovery: Discovery,
    policy: Policy,
    /// In the order in which they are tried.
    families: Vec<Family>,
    /// Longest silence of a remote server.
    timeout: Duration,
    /// Longest exchange for keys and the like.
    small_timeout: Duration,
    /// Key servers besides the homeserver.
    notaries: Vec<ServerName>,
}

impl FederationRules {
    fn new(
        config: &config::Federation,
        dns: &Lookups,
        clock: Clock,
        monotonic: Monotonic,
        random: Random,
    ) -> std::result::Result<Self, TlsSetupError> {
        let outbound = |stall, total| {
            let guard = Guard::new(&config.ip_deny, &config.ip_allow);
            let ca_file = config.ca_file.as_deref().map(|path| CaFile { key: "federation.ca_file", path });
            Outbound::new(guard, ca_file, Timeouts { stall, total }, dns.clone())
        };
        let small_timeout = SMALL_TIMEOUT.min(config.timeout.0);
        let small = outbound(small_timeout, Some(small_timeout))?;
        Ok(Self {
            outbound: outbound(config.timeout.0, Some(longest_fetch(config)))?,
            discovery: Discovery::new(small.clone(), dns.clone(), clock, monotonic, random),
            outbound_small: small,
            policy: Policy::new(&config.allow, &config.deny),
            families: config.families.clone(),
            timeout: config.timeout.0,
            small_timeout,
            notaries: config.notaries.clone(),
        })
    }
}

/// Why media cannot be fetched from its server. Cached, so that not each view of a message causes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unavailable {
    /// Its server does not have it.
    NotFound,
    /// It is larger than we accept, or than its server sends.
    TooLarge,
}

/// Limits for fetching one file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FetchOptions {
    /// How long its server may wait for it to be uploaded.
    pub(crate) timeout: Duration,
    /// Largest file accepted, bytes.
    pub(crate) max_size: u64,
}

/// What a [`Federation`] is made of besides its configuration.
pub(crate) struct FederationParts {
    pub(crate) signing_key: SigningKey,
    /// Where `signing_key` was read.
    pub(crate) key_file: KeyFile,
    pub(crate) homeserver: Arc<HomeserverClient>,
    pub(crate) catalog: Arc<dyn ServerRows>,
    pub(crate) dns: Lookups,
    pub(crate) clock: Clock,
    pub(crate) monotonic: Monotonic,
    pub(crate) random: Random,
}

impl Federation {
    /// Signs as `server_name`, under the rules of `config`.
    pub(crate) fn new(
        server_name: ServerName,
        config: &config::Federation,
        parts: FederationParts,
    ) -> std::result::Result<Self, TlsSetupError> {
        let FederationParts { signing_key, key_file, homeserver, catalog, dns, clock, monotonic, random } =
            parts;
        let rules = FederationRules::new(
            config,
            &dns,
            Arc::clone(&clock),
            Arc::clone(&monotonic),
            Arc::clone(&random),
        )?;
        Ok(Self {
            server_name,
            signing_key: RwLock::new(Arc::new(signing_key)),
            key_file,
            key_check: RwLock::new(KeyCheck::Unknown("not yet compared".to_owned())),
            rules: Live::new(rules),
            dns,
            homeserver,
            failures: Failures::new(),
            key_backoff: Backoff::for_keys(),
            unstored_keys: Cache::new(UNSTORED_KEYS),
            unstable_prefix: Cache::new(UNSTABLE_PREFIX_CACHE),
            negative_cache: Cache::new(NEGATIVE_CACHE),
            catalog,
            clock,
            monotonic,
            random,
        })
    }

    /// The rules of another configuration, for [`reload`](Self::reload).
    pub(crate) fn prepare(
        &self,
        config: &config::Federation,
    ) -> std::result::Result<FederationRules, TlsSetupError> {
        let (clock, monotonic) = (Arc::clone(&self.clock), Arc::clone(&self.monotonic));
        FederationRules::new(config, &self.dns, clock, monotonic, Arc::clone(&self.random))
    }

    /// Follows `rules` from now on.
    pub(crate) fn reload(&self, rules: FederationRules) {
        self.rules.set(rules);
    }

    /// See [`SigningKey::fingerprint`].
    pub(crate) fn fingerprint(&self) -> String {
        self.signing_key().fingerprint(&self.server_name)
    }

    fn signing_key(&self) -> Arc<SigningKey> {
        Arc::clone(&self.signing_key.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// `Forbidden` for a server whose media, stored or not, the configuration excludes.
    pub(crate) fn check_policy(&self, server_name: &ServerName) -> Result<()> {
        self.rules.get().policy.check(server_name)
    }

    /// Sends an unsigned request for something small to `server_name`, within the time left until `deadline`. With no time left nothing
    /// is sent: a failure that is our own must not be remembered as the server's.
    fn ask_small(
        &self,
        server_name: &ServerName,
        path: &str,
        deadline: Instant,
    ) -> std::result::Result<OutboundResponse, RemoteError> {
        outbound::time_left(Some(deadline))?;
        let rules = self.rules.get();
        let ServerAddress { base_url, host, via } = rules.discovery.resolve(server_name, Some(deadline));
        let url = format!("{base_url}{path}");
        let timeout = outbound::time_left(Some(deadline))?;
        Ok(rules.outbound_small.get(&OutboundRequest {
            url: &url,
            headers: &[("Host", &host)],
            via: &via,
            timeout,
        })?)
    }

    /// Sends a request for media to `server_name`, signed if there is a `key`.
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

/// The longest that one file may take, from the first byte of the request to the last of the body. A server that is still sending then
/// was slower than [`MIN_RATE`].
fn longest_fetch(config: &config::Federation) -> Duration {
    let sending = Duration::from_secs(config.max_size.0.div_ceil(MIN_RATE));
    config.timeout.0.saturating_add(GRACE).saturating_add(sending)
}

/// The error for a remote file over the limit.
pub(crate) fn too_large() -> Error {
    Error::new(Kind::RemoteTooLarge, "the remote file is too large")
}

/// The error for what failed before and is not asked for during `wait`.
fn backing_off(failed: &str, wait: Duration) -> Error {
    Error::new(Kind::RemoteFailed, format!("{failed}; it will be tried again in {} s", wait.as_secs().max(1)))
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
