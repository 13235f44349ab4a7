//! Access token → user, by asking the homeserver's `whoami`.
//!
//! Owns the cache of the results. Refuses to keep a token: only its hash is cached. Asking the homeserver blocks; reading the cache does
//! not.
//! [Spec, whoami](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami).

mod answer;
pub(crate) mod homeserver;
mod pause;
mod software;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use self::answer::{HomeserverReply, HomeserverRequest, NoReply};
use self::homeserver::HomeserverClient;
use self::pause::Pause;
use self::software::VersionDocument;
pub(crate) use self::software::{Software, strangers};
use crate::config::{self, Guests, Live};
use crate::error::{Error, Kind, Result};
use crate::matrix::{self, Moment, Monotonic, UserId};

/// Cached tokens; about 200 bytes each.
const CACHED_TOKENS: usize = 4096;

/// Longest access token, bytes. Homeservers issue tokens of at most a few hundred bytes; a JWT of a login service may have a few thousand.
const MAX_TOKEN: usize = 4096;

/// How long a bad token is cached: long enough for a burst of requests, short enough for a token that is issued meanwhile.
const BAD_TOKEN_CACHE: Duration = Duration::from_secs(5);

/// Largest answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// How long the name of the homeserver's software is cached.
const SOFTWARE_CACHE: Duration = Duration::from_hours(1);

/// How long it is cached that the homeserver does not name its software.
const NO_SOFTWARE_CACHE: Duration = Duration::from_mins(1);

/// Where the homeserver names its software.
const VERSION_PATH: &str = "/_matrix/federation/v1/version";

/// Where the homeserver says which versions and features of the specification it has.
const VERSIONS_PATH: &str = "/_matrix/client/versions";

const WHOAMI: HomeserverRequest = HomeserverRequest {
    name: "whoami",
    failed: "the homeserver cannot be asked about the access token; try again later",
};

const VERSIONS: HomeserverRequest =
    HomeserverRequest { name: VERSIONS_PATH, failed: "the homeserver cannot be reached" };

/// Checks access tokens with the homeserver and caches the results.
pub(crate) struct Accounts {
    homeserver: Arc<HomeserverClient>,
    options: Live<AccountOptions>,
    /// Results of `whoami`, good and bad.
    cache: Cache<CredentialHash, Expiring<Result<Account>>>,
    pause: Pause,
    /// The homeserver's software: what guests and callers without a token may do depends on it if the operator has not configured it.
    software: Cache<(), Expiring<Option<Software>>>,
    clock: Monotonic,
}

/// What a client presents: a token with a valid form.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credential {
    token: String,
    /// The user an application service acts for (`user_id` query parameter).
    user_id: Option<String>,
}

/// SHA-256 of token and `user_id`.
pub(crate) type CredentialHash = [u8; 32];

/// The owner of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user_id: UserId,
    /// Whether guest restrictions apply. `homeserver.guests` may exempt accounts that the homeserver reports as guests.
    pub(crate) is_guest: bool,
}

/// A cached value with its expiry.
#[derive(Clone)]
struct Expiring<T> {
    until: Moment,
    value: T,
}

/// The body of `whoami`.
#[derive(Deserialize)]
struct WhoAmI {
    user_id: String,
    /// Since spec 1.2; some homeservers send `null` for no.
    #[serde(default)]
    is_guest: Option<bool>,
}

/// What the configuration says about accounts.
struct AccountOptions {
    /// How long a good result is cached.
    token_cache: Duration,
    /// What guests may do; `None`: it depends on the homeserver's software.
    guests: Option<Guests>,
}

impl Accounts {
    /// Asks `homeserver`, and caches good results for `token_cache`.
    pub(crate) fn new(homeserver: Arc<HomeserverClient>, token_cache: Duration, clock: Monotonic) -> Self {
        let (cache, software) = (Cache::new(CACHED_TOKENS), Cache::new(1));
        let options = Live::new(AccountOptions { token_cache, guests: None });
        Self { homeserver, options, cache, pause: Pause::default(), software, clock }
    }

    /// Applies a changed configuration. Cached results keep their expiry.
    pub(crate) fn reload(&self, config: &config::Homeserver) {
        self.options.set(AccountOptions { token_cache: config.token_cache.0, guests: config.guests });
    }

    /// The cached result, if there is one. Never blocks.
    pub(crate) fn cached(&self, credential: &CredentialHash) -> Option<Result<Account>> {
        let cached = self.cache.get(credential).filter(|cached| (self.clock)() < cached.until)?;
        Some(cached.value)
    }

    /// Asks the homeserver. Blocks.
    ///
    /// # Errors
    /// `UnknownToken` with the homeserver's own response; `Forbidden`, also with its response, for other refusals, for example of an
    /// application service outside its namespace; `LimitExceeded`; `HomeserverFailed` if there is no usable response. That is not cached.
    pub(crate) fn ask(&self, credential: &Credential) -> Result<Account> {
        let answer = self.whoami(credential);
        let lifetime = match &answer {
            Ok(_) => self.options.get().token_cache,
            Err(error) if matches!(error.kind(), Kind::UnknownToken | Kind::Forbidden) => BAD_TOKEN_CACHE,
            Err(_) => return answer,
        };
        let until = (self.clock)().after(lifetime);
        self.cache.insert(credential.hash(), Expiring { until, value: answer.clone() });
        answer
    }

    /// The homeserver's `/_matrix/client/versions`, which may differ between users. Blocks.
    pub(crate) fn versions(&self, credential: Option<&Credential>) -> Result<Map<String, Value>> {
        let token = credential.map(|credential| credential.token.as_str());
        let reply = self.get_unless_paused(VERSIONS_PATH, token);
        reply.map_err(|why| VERSIONS.unanswered(why))?.into_object(&VERSIONS)
    }

    /// Whether the homeserver responds, for the health check. Asks even during a pause. Blocks.
    pub(crate) fn check(&self) -> Result<()> {
        let reply = self.get(VERSIONS_PATH, None).map_err(|why| VERSIONS.unanswered(why))?;
        reply.into_object(&VERSIONS).map(drop)
    }

    /// The homeserver's software, if it names it: cached, else asked for. Blocks.
    pub(crate) fn software(&self) -> Option<Software> {
        let now = (self.clock)();
        if let Some(known) = self.software.get(&()).filter(|known| now < known.until) {
            return known.value;
        }
        let (software, lifetime) = match self.get_unless_paused(VERSION_PATH, None).and_then(read_software) {
            Ok(software) => (Some(software), SOFTWARE_CACHE),
            Err(why) => {
                tracing::info!(
                    why = why.to_string(),
                    "the homeserver does not name its software at {VERSION_PATH}, so its guests may only download; if they are bots, set homeserver.guests"
                );
                (None, NO_SOFTWARE_CACHE)
            }
        };
        self.software.insert((), Expiring { until: now.after(lifetime), value: software.clone() });
        software
    }

    fn whoami(&self, credential: &Credential) -> Result<Account> {
        let mut path = "/_matrix/client/v3/account/whoami".to_owned();
        if let Some(user_id) = &credential.user_id {
            path.push_str("?user_id=");
            path.extend(utf8_percent_encode(user_id, NON_ALPHANUMERIC));
        }
        let reply = self.get_unless_paused(&path, Some(&credential.token));
        let object = reply.map_err(|why| WHOAMI.unanswered(why))?.into_object(&WHOAMI)?;
        let whoami: WhoAmI =
            serde_json::from_value(Value::Object(object)).map_err(|error| WHOAMI.unanswered(error))?;
        let is_guest = whoami.is_guest == Some(true) && self.guests() == Guests::Spec;
        Ok(Account { user_id: UserId::new(&whoami.user_id), is_guest })
    }

    /// What guests may do. Call this only for a guest, because it may ask the homeserver.
    fn guests(&self) -> Guests {
        if let Some(guests) = self.options.get().guests {
            return guests;
        }
        match self.software() {
            Some(software) if software.calls_bots_guests() => Guests::Allow,
            Some(_) | None => Guests::Spec,
        }
    }

    fn get_unless_paused(
        &self,
        path: &str,
        token: Option<&str>,
    ) -> std::result::Result<HomeserverReply, NoReply> {
        if self.pause.try_pass((self.clock)()) { self.get(path, token) } else { Err(NoReply::Paused) }
    }

    /// Asks the homeserver even during a pause. A time-out starts a pause, anything else ends it.
    fn get(&self, path: &str, token: Option<&str>) -> std::result::Result<HomeserverReply, NoReply> {
        let reply = self.exchange(path, token);
        if reply.as_ref().is_err_and(NoReply::is_timeout) {
            self.pause.begin((self.clock)());
        } else {
            self.pause.end();
        }
        reply
    }

    fn exchange(&self, path: &str, token: Option<&str>) -> std::result::Result<HomeserverReply, NoReply> {
        let answer = self.homeserver.get(path, token)?;
        let (status, retry_after) = (answer.status(), answer.header("retry-after").map(str::to_owned));
        let body = answer.read_at_most(MAX_ANSWER)?;
        let retry_after = matrix::retry_after(retry_after.as_deref(), body.as_deref().unwrap_or_default());
        Ok(HomeserverReply { status, retry_after, body: body.and_then(|body| String::from_utf8(body).ok()) })
    }
}

/// The software of the homeserver behind a client, if it names it. Blocks.
pub(crate) fn software_of(homeserver: &HomeserverClient) -> Option<Software> {
    let answer = homeserver.get(VERSION_PATH, None).ok().filter(|answer| answer.status() == 200)?;
    let body = answer.read_at_most(MAX_ANSWER).ok()??;
    Some(serde_json::from_slice::<VersionDocument>(&body).ok()?.server)
}

/// The homeserver's software.
fn read_software(reply: HomeserverReply) -> std::result::Result<Software, NoReply> {
    let HomeserverReply { status, body, .. } = reply;
    match (status, body) {
        (200, Some(body)) => Ok(serde_json::from_str::<VersionDocument>(&body)?.server),
        (status, body) => Err(NoReply::failed(status, &body.unwrap_or_default())),
    }
}

impl Credential {
    /// A token and, from application services, the user they act for. Text that cannot be a token is refused here without asking the
    /// homeserver.
    ///
    /// # Errors
    /// `UnknownToken` for text that cannot be a token or a user ID.
    pub(crate) fn new(token: String, user_id: Option<String>) -> Result<Self> {
        // More than RFC 6750 allows: tokens of some homeservers contain other visible characters, too.
        let is_token =
            (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_token {
            return Err(Error::new(Kind::UnknownToken, "unknown access token"));
        }
        if user_id.as_deref().is_some_and(|user_id| !UserId::is_well_formed(user_id)) {
            return Err(Error::new(Kind::UnknownToken, "user_id is not a user ID"));
        }
        Ok(Self { token, user_id })
    }

    /// The key of the cache.
    pub(crate) fn hash(&self) -> CredentialHash {
        let mut hasher = Sha256::new();
        hasher.update(self.token.as_bytes());
        // Header and query values cannot contain a NUL, so it separates the two parts unambiguously.
        hasher.update([0]);
        hasher.update(self.user_id.as_deref().unwrap_or_default().as_bytes());
        hasher.finalize().into()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{SocketAddr, TcpListener};
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::outbound::dns::{Dns, Service};

    /// Literal addresses only.
    #[derive(Debug)]
    struct Literals;

    impl Dns for Literals {
        fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            Ok(vec![SocketAddr::new(host.parse().unwrap(), port)])
        }

        fn services(&self, _name: &str) -> io::Result<Vec<Service>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_homeserver_that_times_out_is_asked_once_every_few_seconds_and_the_health_check_asks_always() {
        // Connections are made by the kernel and never answered.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        silent.set_nonblocking(true).unwrap();
        let asked = || std::iter::from_fn(|| silent.accept().ok()).count();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let timeout = Duration::from_millis(50);
        let homeserver = HomeserverClient::with_timeout(&url, Arc::new(Literals), timeout).unwrap();
        let time = Arc::new(AtomicU64::new(1_000_000));
        let clock = Arc::clone(&time);
        let clock: Monotonic =
            Arc::new(move || Moment::since_start(Duration::from_millis(clock.load(Ordering::SeqCst))));
        let accounts = Accounts::new(Arc::new(homeserver), Duration::from_mins(2), clock);
        let ask = |token: &str| {
            let error = accounts.ask(&Credential::new(token.to_owned(), None).unwrap()).unwrap_err();
            assert_eq!(error.kind(), Kind::HomeserverFailed);
            asked()
        };
        assert_eq!((ask("a"), ask("b"), ask("a")), (1, 0, 0));
        assert!(accounts.versions(None).is_err());
        assert_eq!(asked(), 0);
        assert!(accounts.check().is_err());
        assert_eq!(asked(), 1, "the health check asks");
        time.fetch_add(5000, Ordering::SeqCst);
        assert_eq!((ask("c"), ask("d")), (1, 0));
    }
}
