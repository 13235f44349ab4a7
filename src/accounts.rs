//! Access token → user, by asking the homeserver's `whoami`.
//!
//! Owns the cache of its answers. Refuses to keep a token: only its hash is remembered. Asking blocks; a cached answer
//! does not.
//! [Spec, whoami](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3accountwhoami).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result};
use crate::homeserver::Homeserver;
use crate::matrix::{Clock, Timestamp, UserId};
use crate::outbound::Answer;

/// Tokens remembered; about 200 bytes each.
const CACHED_TOKENS: usize = 4096;

/// How long a bad token stays bad without asking again: long enough for a burst, short enough for a token just issued.
const BAD_TOKEN_CACHE: Duration = Duration::from_secs(5);

/// Largest `whoami` answer read, bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// The homeserver's view of tokens.
pub(crate) struct Accounts {
    /// Whom to ask.
    homeserver: Arc<Homeserver>,
    /// How long a good answer is believed.
    good_for: Duration,
    /// Answers by credential.
    cache: Cache<CredentialHash, Verdict>,
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
struct Verdict {
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
        Self { homeserver, good_for, cache: Cache::new(CACHED_TOKENS), clock }
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
    /// outside its namespace; `LimitExceeded`; `HomeserverFailed` when it does not answer, which is not remembered.
    pub(crate) fn ask(&self, credential: &Credential) -> Result<Account> {
        let result = self.whoami(credential);
        let good_for = match &result {
            Ok(_) => self.good_for,
            Err(error) if matches!(error.kind(), Kind::UnknownToken | Kind::Forbidden) => BAD_TOKEN_CACHE,
            Err(_) => return result,
        };
        let until = (self.clock)().after(good_for);
        self.cache.insert(credential.hash(), Verdict { until, result: result.clone() });
        result
    }

    /// The homeserver's `/_matrix/client/versions`, which may depend on who asks. Blocks.
    pub(crate) fn versions(&self, credential: Option<&Credential>) -> Result<serde_json::Map<String, Value>> {
        let failed = |why: String| {
            Error::new(Kind::HomeserverFailed, "the homeserver cannot be reached")
                .caused_by(HomeserverFailed(why))
        };
        let token = credential.map(|credential| credential.token.as_str());
        let answer = self
            .homeserver
            .get("/_matrix/client/versions", token)
            .map_err(|error| failed(error.to_string()))?;
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        let body = answer.read_at_most(MAX_ANSWER).map_err(|error| failed(error.to_string()))?;
        let body = body.and_then(|body| String::from_utf8(body).ok()).unwrap_or_default();
        match (status, serde_json::from_str(&body)) {
            (200, Ok(versions)) => Ok(versions),
            (status, Ok(_)) if let Some(refusal) = refusal(status, body, retry_after) => Err(refusal),
            (status, _) => Err(failed(format!("status {status} for /_matrix/client/versions"))),
        }
    }

    /// One question to the homeserver.
    fn whoami(&self, credential: &Credential) -> Result<Account> {
        let mut path = "/_matrix/client/v3/account/whoami".to_owned();
        if let Some(user_id) = &credential.user_id {
            path.push_str("?user_id=");
            path.extend(utf8_percent_encode(user_id, NON_ALPHANUMERIC));
        }
        let answer = self.homeserver.get(&path, Some(&credential.token)).map_err(homeserver_failed)?;
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        let body = read_json(answer)?;
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

/// The body as JSON text, or a failure of the homeserver: a proxy's error page is not its word.
fn read_json(answer: Answer) -> Result<String> {
    let status = answer.status();
    let bytes = answer.read_at_most(MAX_ANSWER).map_err(homeserver_failed)?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    let is_object = |text: &String| serde_json::from_str::<serde_json::Map<_, _>>(text).is_ok();
    text.filter(is_object).ok_or_else(|| homeserver_failed(format!("status {status} without JSON")))
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
