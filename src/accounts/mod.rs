//! Access token → user, by asking the homeserver's `whoami`.
//!
//! Owns the cache of its answers. Refuses to keep a token: only its hash is remembered. Asking blocks; a cached answer
//! does not.
//! [Spec, whoami](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami).

pub(crate) mod homeserver;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::accounts::homeserver::Homeserver;
use crate::config::{self, Guests, Live};
use crate::error::{Error, Kind, Result};
use crate::matrix::{self, Moment, Monotonic, UserId};
use crate::outbound::OutboundError;

/// Tokens remembered; about 200 bytes each.
const CACHED_TOKENS: usize = 4096;

/// Longest access token passed on, bytes. No homeserver gives out one of more than a few hundred; a JWT of a login service may have a
/// few thousand.
const MAX_TOKEN: usize = 4096;

/// How long a bad token stays bad without asking again: long enough for a burst, short enough for a token just issued.
const BAD_TOKEN_CACHE: Duration = Duration::from_secs(5);

/// How long a homeserver that did not answer in time is not asked again: callers would queue for the next time-out.
const SILENCE: Duration = Duration::from_secs(5);

/// Largest `whoami` answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// How long it is remembered what the homeserver is.
const NATURE_KEPT: Duration = Duration::from_hours(1);

/// How long it is remembered that it does not say so.
const NO_NATURE_KEPT: Duration = Duration::from_mins(1);

/// Homeservers that call every account without a password a guest, those of bridges and bots too, and let them upload: Conduit and
/// what grew out of it. Their names for themselves, in lower case.
const CALL_BOTS_GUESTS: [&str; 5] = ["conduit", "conduwuit", "continuwuity", "tuwunel", "grapevine"];

/// Where the homeserver says what it is.
const VERSION: &str = "/_matrix/federation/v1/version";

/// Where the homeserver says what it can.
const VERSIONS: &str = "/_matrix/client/versions";

/// The homeserver's view of tokens.
pub(crate) struct Accounts {
    /// Whom to ask.
    homeserver: Arc<Homeserver>,
    /// The operator's word.
    terms: Live<Terms>,
    /// Answers by credential.
    cache: Cache<CredentialHash, Remembered<Result<Account>>>,
    /// Whether the homeserver leaves questions without an answer.
    silence: Silence,
    /// What guests may do by what the homeserver is.
    nature: Cache<(), Remembered<Guests>>,
    /// For how long they are remembered.
    clock: Monotonic,
}

/// What a client presents, in the form that a homeserver can have given out.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Credential {
    /// The access token.
    token: String,
    /// The user an application service acts for (`user_id` query parameter).
    user_id: Option<String>,
}

/// SHA-256 of token and `user_id`.
pub(crate) type CredentialHash = [u8; 32];

/// Whose token it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The user.
    pub(crate) user_id: UserId,
    /// Whether the account is a guest's.
    pub(crate) is_guest: bool,
}

/// A remembered answer.
#[derive(Clone)]
struct Remembered<T> {
    /// Forget it then.
    until: Moment,
    /// The answer.
    result: T,
}

/// The body of `whoami`.
#[derive(Deserialize)]
struct WhoAmI {
    /// The user.
    user_id: String,
    /// Since spec 1.2; some say `null` for no.
    #[serde(default)]
    is_guest: Option<bool>,
}

/// The body of `/_matrix/federation/v1/version`.
#[derive(Deserialize)]
struct Version {
    /// The software.
    server: Software,
}

/// What the homeserver is.
#[derive(Deserialize)]
struct Software {
    /// Its name for itself.
    name: String,
}

/// The operator's word on accounts.
struct Terms {
    /// How long a good answer is believed.
    good_for: Duration,
    /// What guests may do; without a word it depends on what the homeserver is.
    guests: Option<Guests>,
}

impl Accounts {
    /// Asks `homeserver` and believes good answers for `good_for`.
    pub(crate) fn new(homeserver: Arc<Homeserver>, good_for: Duration, clock: Monotonic) -> Self {
        let (cache, nature) = (Cache::new(CACHED_TOKENS), Cache::new(1));
        let terms = Live::new(Terms { good_for, guests: None });
        Self { homeserver, terms, cache, silence: Silence::default(), nature, clock }
    }

    /// Goes by `config` from now on.
    pub(crate) fn reload(&self, config: &config::Homeserver) {
        self.terms.set(Terms { good_for: config.token_cache.0, guests: config.guests });
    }

    /// The remembered answer, if there is one. Never blocks.
    pub(crate) fn cached(&self, credential: &CredentialHash) -> Option<Result<Account>> {
        self.cache
            .get(credential)
            .filter(|verdict| (self.clock)() < verdict.until)
            .map(|verdict| verdict.result)
    }

    /// Asks the homeserver. Blocks.
    ///
    /// # Errors
    /// `UnknownToken` with the homeserver's own body (it may carry `soft_logout`); `Forbidden`, with its own status and body, for
    /// whatever else it has against the caller, such as an application service outside its namespace; `LimitExceeded`;
    /// `HomeserverFailed` when it does not answer. That is remembered for no token, but one that is silent is left alone
    /// for a moment.
    pub(crate) fn ask(&self, credential: &Credential) -> Result<Account> {
        let result = self.whoami(credential);
        let good_for = match &result {
            Ok(_) => self.terms.get().good_for,
            Err(error) if matches!(error.kind(), Kind::UnknownToken | Kind::Forbidden) => BAD_TOKEN_CACHE,
            Err(_) => return result,
        };
        let until = (self.clock)().after(good_for);
        self.cache.insert(credential.hash(), Remembered { until, result: result.clone() });
        result
    }

    /// The homeserver's `/_matrix/client/versions`, which may depend on who asks. Blocks.
    pub(crate) fn versions(&self, credential: Option<&Credential>) -> Result<serde_json::Map<String, Value>> {
        let token = credential.map(|credential| credential.token.as_str());
        read_versions(self.ask_unless_silent(VERSIONS, token))
    }

    /// Whether the homeserver answers now, for the health check. Blocks.
    pub(crate) fn check(&self) -> Result<()> {
        read_versions(self.exchange(VERSIONS, None)).map(drop)
    }

    /// One question to the homeserver.
    fn whoami(&self, credential: &Credential) -> Result<Account> {
        let mut path = "/_matrix/client/v3/account/whoami".to_owned();
        if let Some(user_id) = &credential.user_id {
            path.push_str("?user_id=");
            path.extend(utf8_percent_encode(user_id, NON_ALPHANUMERIC));
        }
        let said = self.ask_unless_silent(&path, Some(&credential.token)).map_err(homeserver_failed)?;
        let Said { status, retry_after, .. } = said;
        let body = said.into_json()?;
        match status {
            200 => {
                let whoami: WhoAmI = serde_json::from_str(&body).map_err(homeserver_failed)?;
                let is_guest = whoami.is_guest == Some(true) && self.guests() == Guests::Spec;
                Ok(Account { user_id: UserId::new(&whoami.user_id), is_guest })
            }
            status => {
                let why = format!("status {status}: {body}");
                Err(refusal(status, body, retry_after).unwrap_or_else(|| homeserver_failed(why)))
            }
        }
    }

    /// What guests may do. Asked only about a guest.
    fn guests(&self) -> Guests {
        if let Some(guests) = self.terms.get().guests {
            return guests;
        }
        let now = (self.clock)();
        if let Some(known) = self.nature.get(&()).filter(|known| now < known.until) {
            return known.result;
        }
        let (result, good_for) = match self.ask_unless_silent(VERSION, None).and_then(read_software) {
            Ok(name) if CALL_BOTS_GUESTS.contains(&name.as_str()) => (Guests::Allow, NATURE_KEPT),
            Ok(_) => (Guests::Spec, NATURE_KEPT),
            Err(why) => {
                tracing::info!(
                    why,
                    "the homeserver does not say what it is, so its guests may only download; set homeserver.guests if they are bots"
                );
                (Guests::Spec, NO_NATURE_KEPT)
            }
        };
        self.nature.insert((), Remembered { until: now.after(good_for), result });
        result
    }

    /// Asks the homeserver, unless it was silent a moment ago. The error says why there is no answer.
    fn ask_unless_silent(&self, path: &str, token: Option<&str>) -> std::result::Result<Said, String> {
        if self.silence.lasts((self.clock)()) {
            return Err("it did not answer in time a moment ago".to_owned());
        }
        self.exchange(path, token)
    }

    /// Asks the homeserver in any case, and notes whether it answers in time.
    fn exchange(&self, path: &str, token: Option<&str>) -> std::result::Result<Said, String> {
        let answer = match self.homeserver.get(path, token) {
            Ok(answer) => answer,
            Err(error) => {
                self.silence.note(matches!(error, OutboundError::Timeout), (self.clock)());
                return Err(error.to_string());
            }
        };
        let (status, retry_after) = (answer.status(), answer.header("retry-after").map(str::to_owned));
        let body = answer.read_at_most(MAX_ANSWER);
        let is_late = body.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
        self.silence.note(is_late, (self.clock)());
        let body = body.map_err(|error| error.to_string())?;
        let retry_after = matrix::retry_after(retry_after.as_deref(), body.as_deref().unwrap_or_default());
        Ok(Said { status, retry_after, body: body.and_then(|body| String::from_utf8(body).ok()) })
    }
}

/// Whether the homeserver is silent. One that refuses or breaks off costs nobody time and is asked again at once: else
/// whoever sends a token that makes it do so would lock out all others.
#[derive(Default)]
struct Silence(Mutex<Option<Moment>>);

impl Silence {
    /// Whether others need not ask now. Once it is over, the first who hears so finds out for all of them.
    fn lasts(&self, now: Moment) -> bool {
        let mut since = self.since();
        let lasts = since.is_some_and(|since| now < since.after(SILENCE));
        if since.is_some() && !lasts {
            *since = Some(now);
        }
        lasts
    }

    /// Notes how a question ended.
    fn note(&self, is_late: bool, now: Moment) {
        *self.since() = is_late.then_some(now);
    }

    /// When the homeserver was last late, or asked again. A panic elsewhere cannot leave it half-changed.
    fn since(&self) -> MutexGuard<'_, Option<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer of the homeserver.
struct Said {
    /// HTTP status.
    status: u16,
    /// When to come back.
    retry_after: Duration,
    /// The body, if it is text and not too long.
    body: Option<String>,
}

impl Said {
    /// The body as JSON text, or a failure of the homeserver: a proxy's error page is not its word.
    fn into_json(self) -> Result<String> {
        let is_object = |text: &String| serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok();
        let status = self.status;
        let text = self.body.filter(is_object);
        text.ok_or_else(|| homeserver_failed(format!("status {status} without JSON")))
    }
}

/// What came of the question for the homeserver's versions.
fn read_versions(said: std::result::Result<Said, String>) -> Result<serde_json::Map<String, Value>> {
    let failed = |why: String| {
        Error::new(Kind::HomeserverFailed, "the homeserver cannot be reached")
            .caused_by(HomeserverFailed(why))
    };
    let Said { status, retry_after, body } = said.map_err(failed)?;
    let body = body.unwrap_or_default();
    match (status, serde_json::from_str(&body)) {
        (200, Ok(versions)) => Ok(versions),
        (status, Ok(_)) if let Some(refusal) = refusal(status, body, retry_after) => Err(refusal),
        (status, _) => Err(failed(format!("status {status} for /_matrix/client/versions"))),
    }
}

/// What the homeserver calls itself: its first word, in lower case.
fn read_software(said: Said) -> std::result::Result<String, String> {
    let Said { status, body, .. } = said;
    let version = match (status, body) {
        (200, Some(body)) => serde_json::from_str::<Version>(&body).map_err(|error| error.to_string())?,
        (status, _) => return Err(format!("status {status} for {VERSION}")),
    };
    let mut words = version.server.name.split(|char: char| !char.is_alphanumeric());
    Ok(words.next().unwrap_or_default().to_ascii_lowercase())
}

/// What the homeserver has against a caller, in its own words.
fn refusal(status: u16, body: String, retry_after: Duration) -> Option<Error> {
    let forbidden = || Error::new(Kind::Forbidden, "the homeserver refuses this user");
    match status {
        401 => {
            let unknown = Error::new(Kind::UnknownToken, "unknown access token");
            Some(unknown.answered_by_homeserver(status, body))
        }
        403 => Some(forbidden().answered_by_homeserver(status, body)),
        429 => {
            Some(Error::new(Kind::LimitExceeded, "the homeserver asks to slow down").retry_after(retry_after))
        }
        // Of a user that an application service has not registered, a name that is not its own, and the like.
        400..=499 if is_about_the_caller(&body) => Some(forbidden().answered_by_homeserver(status, body)),
        _ => None,
    }
}

/// Whether an error of the homeserver's is about who asks, and not about what: an endpoint that it does not have is a matter for the
/// operator.
fn is_about_the_caller(body: &str) -> bool {
    let errcode = serde_json::from_str::<Value>(body).ok();
    let errcode = errcode.as_ref().and_then(|body| body.get("errcode")?.as_str());
    errcode.is_some_and(|errcode| !errcode.is_empty() && errcode != "M_UNRECOGNIZED")
}

impl Credential {
    /// A token and, from application services, the user they act for. What no homeserver can have given out is not asked about.
    ///
    /// # Errors
    /// `UnknownToken` for what is no token, or no user ID.
    pub(crate) fn new(token: String, user_id: Option<String>) -> Result<Self> {
        // More than the tokens of RFC 6750: those of some homeservers have other visible characters too.
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

    /// What the credential is remembered by.
    pub(crate) fn hash(&self) -> CredentialHash {
        let mut hasher = Sha256::new();
        hasher.update(self.token.as_bytes());
        // No header or query value carries a NUL: the two parts cannot run into each other.
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

/// What a client reads while the homeserver is down: never that its token is bad.
fn homeserver_failed(why: impl fmt::Display) -> Error {
    let message = "the homeserver cannot be asked about the access token; try again later";
    Error::new(Kind::HomeserverFailed, message).caused_by(HomeserverFailed(format!("whoami: {why}")))
}

/// For the journal.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct HomeserverFailed(String);

#[cfg(test)]
mod tests {
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
    fn a_silent_homeserver_is_asked_once_every_few_seconds_and_the_health_check_asks_always() {
        // Connections are made by the kernel and never answered.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        silent.set_nonblocking(true).unwrap();
        let asked = || std::iter::from_fn(|| silent.accept().ok()).count();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let timeout = Duration::from_millis(50);
        let homeserver = Homeserver::with_timeout(&url, Arc::new(Literals), timeout).unwrap();
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

    #[test]
    fn one_question_ends_a_silence_for_all() {
        let silence = Silence::default();
        let at = |seconds: u64| Moment::since_start(Duration::from_secs(seconds));
        assert!(!silence.lasts(at(0)));
        silence.note(true, at(10));
        assert!(silence.lasts(at(14)));
        assert!(!silence.lasts(at(15)), "this one asks");
        assert!(silence.lasts(at(16)), "others do not wait for it");
        silence.note(false, at(16));
        assert!(!silence.lasts(at(16)));
    }
}
