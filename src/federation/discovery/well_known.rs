//! `/.well-known/matrix/server`: which other server name a server delegates to.
//!
//! Owns how long a document, or its absence, is believed. Refuses to know where the delegated name is reached.
//! [Spec, server discovery](https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver). The bounds are
//! Synapse's.

use std::fmt;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use serde::Deserialize;

use crate::federation::backoff;
use crate::matrix::{Clock, Moment, Monotonic, Random, ServerName, Timestamp};
use crate::outbound::{Outbound, OutboundError};
use crate::sync::admission::Work;

/// Servers remembered; about 300 bytes each.
const CACHED: usize = 2048;

/// Largest document, bytes.
const MAX_DOCUMENT: u64 = 50 * 1024;

/// How long a document is believed whose headers do not say.
const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);

/// The shortest time it is believed, whatever its headers say.
const MIN_LIFETIME: Duration = Duration::from_mins(5);

/// The longest time, whatever its headers say; also how long an old document is used while no new one can be fetched.
const MAX_LIFETIME: Duration = Duration::from_hours(48);

/// With less time than this, a time-out says nothing about the server.
const MIN_TIMEOUT: Duration = Duration::from_secs(3);

/// How long nothing is asked after the first failure; twice as long after each further one.
const FIRST_FAILURE: Duration = Duration::from_mins(2);

/// The longest that nothing is asked after failures.
const MAX_FAILURE: Duration = Duration::from_hours(1);

/// Fetches the documents and remembers what they say.
pub(super) struct WellKnown {
    outbound: Outbound,
    cache: Cache<ServerName, CachedDelegation>,
    /// For the `Expires` header.
    clock: Clock,
    monotonic: Monotonic,
    /// For jitter: servers that were all asked at once are not all asked again at once.
    random: Random,
}

/// What was found of one server.
#[derive(Clone)]
struct CachedDelegation {
    /// `None` when the server does not delegate.
    delegated: Option<ServerName>,
    /// When to ask again.
    until: Moment,
    /// How long the delegation is believed while asking fails temporarily.
    stale_until: Moment,
    /// Failures in a row.
    failures: u32,
}

#[derive(Deserialize)]
struct Document {
    /// `host[:port]`
    #[serde(rename = "m.server")]
    server: String,
}

/// Why there is no delegation.
#[derive(Debug, PartialEq, Eq)]
enum Absence {
    /// The server does not delegate, or its document is malformed.
    Definite,
    /// The server could not be asked.
    Temporary,
}

impl WellKnown {
    pub(super) fn new(outbound: Outbound, clock: Clock, monotonic: Monotonic, random: Random) -> Self {
        Self { outbound, cache: Cache::new(CACHED), clock, monotonic, random }
    }

    /// The name that `server_name` delegates to: remembered, else fetched within the time left until `deadline`.
    pub(super) fn delegated(
        &self,
        server_name: &ServerName,
        deadline: Option<Instant>,
    ) -> Option<ServerName> {
        let now = (self.monotonic)();
        let old = self.cache.get(server_name);
        if let Some(known) = old.as_ref().filter(|known| now < known.until) {
            return known.delegated.clone();
        }
        let given = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let failures = old.as_ref().map_or(0, |old| old.failures).saturating_add(1);
        let new = match self.fetch(server_name, deadline) {
            Ok((delegated, lifetime)) => CachedDelegation {
                delegated: Some(delegated),
                until: now.after(self.jitter(lifetime)),
                stale_until: now.after(MAX_LIFETIME),
                failures: 0,
            },
            // Too little time was left to conclude anything from the failure, or we broke off ourselves.
            Err(Absence::Temporary)
                if given.is_some_and(|given| given < MIN_TIMEOUT) || Work::current_should_end() =>
            {
                return old.filter(|old| now < old.stale_until).and_then(|old| old.delegated);
            }
            Err(absence) => {
                let stale = old.filter(|old| absence == Absence::Temporary && now < old.stale_until);
                let wait = backoff::doubled(FIRST_FAILURE, MAX_FAILURE, failures);
                CachedDelegation {
                    stale_until: stale.as_ref().map_or(now, |old| old.stale_until),
                    delegated: stale.and_then(|old| old.delegated),
                    until: now.after(self.jitter(wait)),
                    failures,
                }
            }
        };
        self.cache.insert(server_name.clone(), new.clone());
        new.delegated
    }

    /// The delegation and how long it is believed: what the headers say, within our bounds.
    fn fetch(
        &self,
        server_name: &ServerName,
        deadline: Option<Instant>,
    ) -> Result<(ServerName, Duration), Absence> {
        let url = format!("https://{}/.well-known/matrix/server", server_name.host_str());
        let answer = self.outbound.follow(&url, deadline).map_err(|error| {
            tracing::debug!(%server_name, error = error.to_string(), "no well-known document");
            match error {
                OutboundError::Redirect(_) | OutboundError::Denied(_) => Absence::Definite,
                OutboundError::Unresolved
                | OutboundError::Timeout
                | OutboundError::Tls(_)
                | OutboundError::Malformed(_)
                | OutboundError::Failed(_) => Absence::Temporary,
            }
        })?;
        match answer.status() {
            200 => {}
            500..=599 | 429 => return Err(Absence::Temporary),
            _ => return Err(Absence::Definite),
        }
        let now = (self.clock)();
        let lifetime = lifetime(answer.header("cache-control"), answer.header("expires"), now);
        let body =
            answer.read_at_most(MAX_DOCUMENT).map_err(|_io| Absence::Temporary)?.ok_or(Absence::Definite)?;
        Ok((read(&body).ok_or(Absence::Definite)?, lifetime))
    }

    /// `span`, up to a tenth longer or shorter.
    fn jitter(&self, span: Duration) -> Duration {
        let mut byte = [0];
        (self.random)(&mut byte);
        let [byte] = byte;
        span.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)
    }
}

/// The name that a document delegates to. It is read as JSON whatever its content type: servers send many.
pub(crate) fn read(document: &[u8]) -> Option<ServerName> {
    let document: Document = serde_json::from_slice(document).ok()?;
    ServerName::parse(&document.server).ok()
}

/// How long an answer with these headers is believed, within our bounds.
pub(crate) fn lifetime(cache_control: Option<&str>, expires: Option<&str>, now: Timestamp) -> Duration {
    said_lifetime(cache_control, expires, now).clamp(MIN_LIFETIME, MAX_LIFETIME)
}

/// How long an answer says it may be kept: `Cache-Control` before `Expires` (RFC 9111 §4.2.1).
fn said_lifetime(cache_control: Option<&str>, expires: Option<&str>, now: Timestamp) -> Duration {
    let control = cache_control.unwrap_or_default().to_ascii_lowercase();
    let mut directives = control.split(',').map(str::trim);
    if directives.clone().any(|directive| directive == "no-store" || directive == "no-cache") {
        return Duration::ZERO;
    }
    let max_age =
        directives.find_map(|directive| directive.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    if let Some(seconds) = max_age {
        return Duration::from_secs(seconds);
    }
    match expires.map(httpdate::parse_http_date) {
        Some(Ok(at)) => at.duration_since(now.system_time()).unwrap_or_default(),
        Some(Err(_)) => Duration::ZERO,
        None => DEFAULT_LIFETIME,
    }
}

impl fmt::Debug for WellKnown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WellKnown").field("cached", &self.cache.len()).finish_non_exhaustive()
    }
}
