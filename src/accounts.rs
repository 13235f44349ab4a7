//! Access token → user, by asking the homeserver's `whoami`.
//!
//! Owns the cache of its answers. Refuses to keep a token: only its hash is remembered. Asking blocks; a cached answer
//! does not.
//! [Spec, whoami](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami).

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result};
use crate::homeserver::Homeserver;
use crate::matrix::{Clock, Timestamp, UserId};
use crate::outbound::{Answer, OutboundError};

/// Tokens remembered; about 200 bytes each.
const CACHED_TOKENS: usize = 4096;

/// How long a bad token stays bad without asking again: long enough for a burst, short enough for a token just issued.
const BAD_TOKEN_CACHE: Duration = Duration::from_secs(5);

/// How long a homeserver that did not answer in time is not asked again: callers would queue for the next time-out.
const SILENCE: Duration = Duration::from_secs(5);

/// Largest `whoami` answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Where the homeserver says what it can.
const VERSIONS: &str = "/_matrix/client/versions";

/// The homeserver's view of tokens.
pub(crate) struct Accounts {
    /// Whom to ask.
    homeserver: Arc<Homeserver>,
    /// How long a good answer is believed.
    good_for: Duration,
    /// Answers by credential.
    cache: Cache<CredentialHash, Remembered>,
    /// Whether the homeserver leaves questions without an answer.
    silence: Silence,
    /// For expiry.
    clock: Clock,
}

/// What a client presents.
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
struct Remembered {
    /// Forget it then.
    until: Timestamp,
    /// The answer.
    result: Result<Account>,
}

/// The body of `whoami`.
#[derive(Deserialize)]
struct WhoAmI {
    /// The user.
    user_id: String,
    /// Since spec 1.2.
    #[serde(default)]
    is_guest: bool,
}

impl Accounts {
    /// Asks `homeserver` and believes good answers for `good_for`.
    pub(crate) fn new(homeserver: Arc<Homeserver>, good_for: Duration, clock: Clock) -> Self {
        let cache = Cache::new(CACHED_TOKENS);
        Self { homeserver, good_for, cache, silence: Silence::default(), clock }
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
    /// `UnknownToken` with the homeserver's own body (it may carry `soft_logout`); `Forbidden` for an application service
    /// outside its namespace; `LimitExceeded`; `HomeserverFailed` when it does not answer. That is remembered for
    /// no token, but one that is silent is left alone for a moment.
    pub(crate) fn ask(&self, credential: &Credential) -> Result<Account> {
        let result = self.whoami(credential);
        let good_for = match &result {
            Ok(_) => self.good_for,
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
                Ok(Account { user_id: UserId::new(&whoami.user_id), is_guest: whoami.is_guest })
            }
            status => {
                let why = format!("status {status}: {body}");
                Err(refusal(status, body, retry_after).unwrap_or_else(|| homeserver_failed(why)))
            }
        }
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
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        let body = answer.read_at_most(MAX_ANSWER);
        let is_late = body.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
        self.silence.note(is_late, (self.clock)());
        let body = body.map_err(|error| error.to_string())?;
        Ok(Said { status, retry_after, body: body.and_then(|body| String::from_utf8(body).ok()) })
    }
}

/// Whether the homeserver is silent. One that refuses or breaks off costs nobody time and is asked again at once: else
/// whoever sends a token that makes it do so would lock out all others.
#[derive(Default)]
struct Silence(Mutex<Option<Timestamp>>);

impl Silence {
    /// Whether others need not ask now. Once it is over, the first who hears so finds out for all of them.
    fn lasts(&self, now: Timestamp) -> bool {
        let mut since = self.since();
        // A clock that was set back does not prolong it.
        let lasts = since.is_some_and(|since| since <= now && now < since.after(SILENCE));
        if since.is_some() && !lasts {
            *since = Some(now);
        }
        lasts
    }

    /// Notes how a question ended.
    fn note(&self, is_late: bool, now: Timestamp) {
        *self.since() = is_late.then_some(now);
    }

    /// When the homeserver was last late, or asked again. A panic elsewhere cannot leave it half-changed.
    fn since(&self) -> MutexGuard<'_, Option<Timestamp>> {
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

/// What the homeserver has against a caller, in its own words.
fn refusal(status: u16, body: String, retry_after: Duration) -> Option<Error> {
    match status {
        401 => Some(Error::new(Kind::UnknownToken, "unknown access token").passing_through(body)),
        403 => Some(Error::new(Kind::Forbidden, "the homeserver refuses this user").passing_through(body)),
        429 => {
            Some(Error::new(Kind::LimitExceeded, "the homeserver asks to slow down").retry_after(retry_after))
        }
        _ => None,
    }
}

/// When to come back, if the homeserver says so.
fn retry_after(answer: &Answer) -> Duration {
    let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

impl Credential {
    /// A token and, from application services, the user they act for.
    pub(crate) fn new(token: String, user_id: Option<String>) -> Self {
        Self { token, user_id }
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
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::names::{Names, Service};

    /// Literal addresses only.
    #[derive(Debug)]
    struct Literals;

    impl Names for Literals {
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
        let time = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&time);
        let clock: Clock = Arc::new(move || Timestamp(clock.load(Ordering::SeqCst)));
        let accounts = Accounts::new(Arc::new(homeserver), Duration::from_mins(2), clock);
        let ask = |token: &str| {
            let error = accounts.ask(&Credential::new(token.to_owned(), None)).unwrap_err();
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
        time.fetch_sub(1, Ordering::SeqCst);
        assert_eq!(ask("e"), 1, "the clock was set back");
    }

    #[test]
    fn one_question_ends_a_silence_for_all() {
        let silence = Silence::default();
        let at = |seconds: i64| Timestamp(seconds * 1000);
        assert!(!silence.lasts(at(0)));
        silence.note(true, at(10));
        assert!(silence.lasts(at(14)));
        assert!(!silence.lasts(at(15)), "this one asks");
        assert!(silence.lasts(at(16)), "others do not wait for it");
        silence.note(false, at(16));
        assert!(!silence.lasts(at(16)));
    }
}
