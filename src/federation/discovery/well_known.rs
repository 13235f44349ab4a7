//! `/.well-known/matrix/server`: fetched, judged, remembered.
//!
//! [Spec, server discovery](https://spec.matrix.org/v1.19/server-server-api/#getwell-knownmatrixserver). The bounds are
//! Synapse's.

use std::fmt;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use serde::Deserialize;

use crate::matrix::{Clock, Moment, Monotonic, Random, ServerName, Timestamp};
use crate::outbound::{Outbound, OutboundError};

/// Servers remembered; about 300 bytes each.
const CACHED: usize = 2048;

/// Largest document, bytes.
const MAX_DOCUMENT: u64 = 50 * 1024;

/// How long a document is believed that does not say.
const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);

/// The shortest time it is believed, whatever it says.
const MIN_LIFETIME: Duration = Duration::from_mins(5);

/// The longest, whatever it says; also how long an old answer is used while no new one can be had.
const MAX_LIFETIME: Duration = Duration::from_hours(48);

/// A time-out within less than this says nothing of the server.
const LEAST_TIME: Duration = Duration::from_secs(3);

/// How long the first failure is believed; each further one twice as long.
const FIRST_FAILURE: Duration = Duration::from_mins(2);

/// The longest a failure is believed.
const MAX_FAILURE: Duration = Duration::from_hours(1);

/// Delegations of server names.
pub(super) struct WellKnown {
    /// To port 443 of other servers.
    outbound: Outbound,
    /// What was found.
    cache: Cache<ServerName, Remembered>,
    /// For the dates that documents come with.
    clock: Clock,
    /// For how long they are remembered.
    monotonic: Monotonic,
    /// For jitter: servers that were all asked at once are not all asked again at once.
    random: Random,
}

/// What was found of one server.
#[derive(Clone)]
struct Remembered {
    /// The delegation, if there is one.
    delegated: Option<ServerName>,
    /// Ask again then.
    until: Moment,
    /// While asking fails for a reason that may pass, the delegation is believed until then.
    stale_until: Moment,
    /// Failures in a row.
    failures: u32,
}

/// The document.
#[derive(Deserialize)]
struct Document {
    /// `host[:port]`
    #[serde(rename = "m.server")]
    server: String,
}

/// Why there is no delegation.
#[derive(Debug, PartialEq, Eq)]
enum Absence {
    /// The server says so, or says nonsense.
    Decided,
    /// It could not be asked.
    Passing,
}

impl WellKnown {
    /// Asks through `outbound`.
    pub(super) fn new(outbound: Outbound, (clock, monotonic): (Clock, Monotonic), random: Random) -> Self {
        Self { outbound, cache: Cache::new(CACHED), clock, monotonic, random }
    }

    /// What `server_name` delegates to, remembered or asked until then.
    pub(super) fn delegated(&self, server_name: &ServerName, until: Option<Instant>) -> Option<ServerName> {
        let now = (self.monotonic)();
        let old = self.cache.get(server_name);
        if let Some(known) = old.as_ref().filter(|known| now < known.until) {
            return known.delegated.clone();
        }
        let given = until.map(|until| until.saturating_duration_since(Instant::now()));
        let failures = old.as_ref().map_or(0, |old| old.failures).saturating_add(1);
        let new = match self.fetch(server_name, until) {
            Ok((delegated, lifetime)) => Remembered {
                delegated: Some(delegated),
                until: now.after(self.jitter(lifetime)),
                stale_until: now.after(MAX_LIFETIME),
                failures: 0,
            },
            // Who had no time to hear an answer cannot say that there is none.
            Err(Absence::Passing) if given.is_some_and(|given| given < LEAST_TIME) => {
                return old.filter(|old| now < old.stale_until).and_then(|old| old.delegated);
            }
            Err(absence) => {
                let stale = old.filter(|old| absence == Absence::Passing && now < old.stale_until);
                let wait =
                    FIRST_FAILURE.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_FAILURE);
                Remembered {
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

    /// Asks the server until then. The lifetime is what its headers say, within our bounds.
    fn fetch(
        &self,
        server_name: &ServerName,
        until: Option<Instant>,
    ) -> Result<(ServerName, Duration), Absence> {
        let url = format!("https://{}/.well-known/matrix/server", server_name.host_str());
        let answer = self.outbound.follow(&url, until).map_err(|error| {
            tracing::debug!(%server_name, error = error.to_string(), "no well-known document");
            match error {
                OutboundError::Redirect(_) | OutboundError::Denied(_) => Absence::Decided,
                OutboundError::Unresolved
                | OutboundError::Timeout
                | OutboundError::Tls(_)
                | OutboundError::Malformed(_)
                | OutboundError::Failed(_) => Absence::Passing,
            }
        })?;
        match answer.status() {
            200 => {}
            500..=599 | 429 => return Err(Absence::Passing),
            _ => return Err(Absence::Decided),
        }
        let now = (self.clock)();
        let lifetime = lifetime(answer.header("cache-control"), answer.header("expires"), now);
        let body =
            answer.read_at_most(MAX_DOCUMENT).map_err(|_io| Absence::Passing)?.ok_or(Absence::Decided)?;
        Ok((read(&body).ok_or(Absence::Decided)?, lifetime))
    }

    /// `span`, up to a tenth longer or shorter.
    fn jitter(&self, span: Duration) -> Duration {
        let mut byte = [0];
        (self.random)(&mut byte);
        let [byte] = byte;
        span.mul_f64(0.9 + 0.2 * f64::from(byte) / 255.0)
    }
}

/// What a document delegates to. JSON whatever the content type says.
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
