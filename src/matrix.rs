//! The vocabulary of Matrix: server names, media IDs, MXC URIs, user IDs; and the two kinds of time.
//!
//! Owns the grammars and what a clock may be used for. Refuses to know where a value came from: it is parsed once, where it enters, and
//! never validated again.
//! [Appendices, identifier grammar](https://spec.matrix.org/v1.19/appendices/#identifier-grammar).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Not `host[:port]` as the appendices have it.
    #[error("not a Matrix server name (expected host or host:port)")]
    ServerName,
    /// Not one or more of `A-Za-z0-9_-`, or longer than 255.
    #[error("not a media ID")]
    MediaId,
}

/// A server name: `host[:port]`, compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(Arc<str>);

/// The local part of an MXC URI: one or more of `A-Za-z0-9_-`, at most 255 (MSC2703's cap).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MediaId(Arc<str>);

/// `mxc://server_name/media_id`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mxc {
    /// The server the media was uploaded to.
    pub server_name: ServerName,
    /// The ID of the media there.
    pub media_id: MediaId,
}

/// A user ID as the homeserver's `whoami` gave it. Only compared, never taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserId(Arc<str>);

/// The host of a [`ServerName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host<'a> {
    /// An IP literal: no discovery, no SNI.
    Ip(IpAddr),
    /// A DNS name.
    Name(&'a str),
}

/// The time of day, from the system or from a test. For what is stored and shown.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A clock that nobody sets, from the system or from a test. For spans inside the process.
pub type Monotonic = Arc<dyn Fn() -> Moment + Send + Sync>;

/// Fills a buffer with unpredictable bytes, from the system or from a test.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Milliseconds since 1970-01-01T00:00:00Z, as everywhere in Matrix. The clock may be set forwards and backwards: a machine without a
/// battery for its clock starts with a wrong time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The time since the machine started, by a clock that nobody sets. Spans inside the process are measured with it. It means nothing
/// after a restart, so it is never stored, and it cannot be compared with a [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

/// A stored time at which something ends. The clock may have been wrong when it was written, so two of them cannot be compared, and
/// whether one lies ahead can only be asked together with the longest time that it can lie ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(Timestamp);

impl ServerName {
    /// Parses `host[:port]`: a name that DNS can have, an IPv4 address or a bracketed IPv6 address, and a port of 1 to 5 digits.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        let (host, port) = split_port(text).ok_or(GrammarError::ServerName)?;
        let port_fits = port.is_none_or(|p| (1..=5).contains(&p.len()) && p.parse::<u16>().is_ok());
        if text.len() > 255 || !port_fits || !is_host(host) {
            return Err(GrammarError::ServerName);
        }
        Ok(Self(text.into()))
    }

    /// With the port, as it was parsed.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its port, brackets kept.
    pub fn host_str(&self) -> &str {
        split_port(&self.0).map_or(&self.0, |(host, _)| host)
    }

    /// The host, as an address or a name.
    pub fn host(&self) -> Host<'_> {
        let host = self.host_str();
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        bare.parse().map_or(Host::Name(host), Host::Ip)
    }

    /// The explicit port, if the name carries one.
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).and_then(|(_, port)| port)?.parse().ok()
    }
}

/// Splits at the colon of a port, never inside brackets. `None` when brackets do not close.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let after_host = match text.strip_prefix('[') {
        Some(rest) => text.len().checked_sub(rest.split_once(']')?.1.len())?,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(after_host)?;
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None if rest.is_empty() => Some((host, None)),
        None => None,
    }
}

/// Whether `host` is a bracketed IPv6 address, an IPv4 address or a DNS name.
fn is_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok();
    }
    host.parse::<Ipv4Addr>().is_ok() || is_dns_name(host)
}

/// Whether `host` is a name that DNS can have: labels of 1 to 63 characters (RFC 1035 §2.3.4), with at most one dot at the end. The
/// appendices' grammar lists only characters, and would allow `.` and `..`.
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

impl TryFrom<String> for ServerName {
    type Error = GrammarError;

    fn try_from(text: String) -> Result<Self, GrammarError> {
        Self::parse(&text)
    }
}

impl FromStr for ServerName {
    type Err = GrammarError;

    fn from_str(text: &str) -> Result<Self, GrammarError> {
        Self::parse(text)
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.as_str().to_owned()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl MediaId {
    /// Characters of an ID this server hands out: 24, as Synapse's; 142 bits.
    const GENERATED_LEN: usize = 24;

    /// Parses a media ID.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        let fits = (1..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits { Ok(Self(text.into())) } else { Err(GrammarError::MediaId) }
    }

    /// A fresh ID of letters. `random` is called until enough of its bytes could be used.
    pub(crate) fn generate(mut random: impl FnMut(&mut [u8])) -> Self {
        const LETTERS: [u8; 52] = *b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let mut id = String::with_capacity(Self::GENERATED_LEN);
        let mut pool = [0; 64];
        while id.len() < Self::GENERATED_LEN {
            random(&mut pool);
            // 208 = 4 × 52: larger bytes would favour some letters.
            let fair = pool.iter().filter(|byte| **byte < 208);
            let letters = fair.filter_map(|byte| LETTERS.get(usize::from(byte.rem_euclid(52))));
            let missing = Self::GENERATED_LEN.saturating_sub(id.len());
            id.extend(letters.take(missing).map(|letter| char::from(*letter)));
        }
        Self(id.into())
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MediaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Mxc {
    /// Parses `mxc://server_name/media_id`.
    ///
    /// # Errors
    /// When it is not of this form, or a part of it is malformed.
    pub fn parse(text: &str) -> Result<Self, GrammarError> {
        let parts = text.strip_prefix("mxc://").and_then(|rest| rest.split_once('/'));
        let (server_name, media_id) = parts.ok_or(GrammarError::MediaId)?;
        Ok(Self { server_name: ServerName::parse(server_name)?, media_id: MediaId::parse(media_id)? })
    }
}

impl fmt::Display for Mxc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mxc://{}/{}", self.server_name, self.media_id)
    }
}

impl UserId {
    /// Whether `text` can be a user ID: `@localpart:server_name`, at most 255 bytes. Historical local parts have more characters than
    /// new ones may have, so only control characters and blanks are refused.
    pub(crate) fn is_well_formed(text: &str) -> bool {
        let parts = text.strip_prefix('@').and_then(|rest| rest.split_once(':'));
        let is_local = |local: &str| !local.contains(|char: char| char.is_control() || char.is_whitespace());
        text.len() <= 255
            && parts.is_some_and(|(local, server)| is_local(local) && ServerName::parse(server).is_ok())
    }

    pub(crate) fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Timestamp {
    /// By the system's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// This time plus `span`, at most the end of time.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This time less `span`.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long until `later`; zero when it has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }

    /// The same moment for `Last-Modified`.
    pub(crate) fn system_time(self) -> SystemTime {
        let since = Duration::from_millis(u64::try_from(self.0).unwrap_or(0));
        UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH)
    }
}

impl Moment {
    /// By the system's clock. Time during which the machine is suspended counts.
    pub fn now() -> Self {
        let since = clock_gettime(ClockId::Boottime);
        let nanos = u32::try_from(since.tv_nsec).unwrap_or(0);
        Self(Duration::new(u64::try_from(since.tv_sec).unwrap_or(0), nanos))
    }

    /// The moment `span` after the machine started.
    pub fn since_start(span: Duration) -> Self {
        Self(span)
    }

    /// This moment plus `span`, at most the end of time.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// How long until `later`; zero when it has passed.
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_sub(self.0)
    }
}

/// How far a clock may have been set back since an end was stored, as happens at the start of a machine without a battery for its
/// clock. An end this much further ahead than it can be is still believed.
const DRIFT: Duration = Duration::from_mins(10);

impl Expiry {
    /// An end that will be stored, or was read back.
    pub fn at(time: Timestamp) -> Self {
        Self(time)
    }

    /// The time itself, to store or show it.
    pub fn time(self) -> Timestamp {
        self.0
    }

    /// The time left, at most `longest`. Zero when the end has passed, and also when it lies further ahead than `longest`: then the clock
    /// was wrong when it was stored, or is wrong now.
    pub fn left(self, now: Timestamp, longest: Duration) -> Duration {
        let left = now.until(self.0);
        if left <= longest.saturating_add(DRIFT) { left.min(longest) } else { Duration::ZERO }
    }

    /// Whether any time is [`left`](Self::left).
    pub fn lies_ahead(self, now: Timestamp, longest: Duration) -> bool {
        !self.left(now, longest).is_zero()
    }
}

/// How long to wait for a server that answers 429 without saying how long.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest wait that a server can impose.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How long to wait after a server answered 429: by its `Retry-After`, or by the `retry_after_ms` of its error body, which is older and
/// [deprecated](https://spec.matrix.org/v1.19/client-server-api/#rate-limiting).
pub(crate) fn retry_after(header: Option<&str>, body: &[u8]) -> Duration {
    let by_header = header.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    let by_body = || {
        let body: Value = serde_json::from_slice(body).ok()?;
        let ms = body.get("retry_after_ms")?;
        let whole = ms.as_u64().map(Duration::from_millis);
        whole.or_else(|| Duration::try_from_secs_f64(ms.as_f64()? / 1000.0).ok())
    };
    by_header.or_else(by_body).unwrap_or(DEFAULT_RETRY_AFTER).min(MAX_RETRY_AFTER)
}

/// A length as 64 bits. A `usize` fits on every platform of Rust.
pub(crate) fn len_u64(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn server_names_of_the_appendices_parse() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(60));
        for (text, host, port) in [
            ("matrix.org", Host::Name("matrix.org"), None),
            ("matrix.org:8888", Host::Name("matrix.org"), Some(8888)),
            ("1.2.3.4", Host::Ip("1.2.3.4".parse().unwrap()), None),
            ("1.2.3.4:1234", Host::Ip("1.2.3.4".parse().unwrap()), Some(1234)),
            ("[1234:5678::abcd]", Host::Ip("1234:5678::abcd".parse().unwrap()), None),
            ("[1234:5678::abcd]:5678", Host::Ip("1234:5678::abcd".parse().unwrap()), Some(5678)),
            ("localhost", Host::Name("localhost"), None),
            ("matrix.org.", Host::Name("matrix.org."), None),
            ("a-.-b.1", Host::Name("a-.-b.1"), None),
            (longest.as_str(), Host::Name(&longest), None),
        ] {
            let name = ServerName::parse(text).unwrap();
            assert_eq!((name.host(), name.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn other_texts_are_not_server_names() {
        for text in [
            "",
            ":80",
            "a:",
            "a:123456",
            "a:99999",
            "a:b",
            "a/b",
            "a b",
            "..%2f",
            "[::1",
            "[::1]x",
            "[zz]",
            "user@host",
            "a\0b",
            "ex\u{e4}mple.org",
            "a:1:2",
            ".",
            "..",
            "...",
            "..:8448",
            ".a",
            ".a.b",
            "a..",
            "a..b",
            "a..b:8448",
            "a.b..",
            "[]",
            &"a".repeat(64),
            &format!("{}.org", "a".repeat(64)),
            &"a.".repeat(128),
        ] {
            assert_eq!(ServerName::parse(text), Err(GrammarError::ServerName), "{text:?}");
        }
    }

    #[test]
    fn media_ids_follow_the_grammar() {
        assert!(MediaId::parse("AQwafuaFswefuhsfAFAgsw_-9").is_ok());
        for text in ["", "..", "a/b", "a.b", "a\0", "\u{e9}", &"a".repeat(256)] {
            assert_eq!(MediaId::parse(text), Err(GrammarError::MediaId), "{text:?}");
        }
    }

    #[test]
    fn generated_ids_follow_the_grammar_and_differ() {
        let generate = || MediaId::generate(|pool| getrandom::fill(pool).unwrap());
        let (one, two) = (generate(), generate());
        assert_eq!(one.as_str().len(), 24);
        assert_eq!(MediaId::parse(one.as_str()), Ok(one.clone()));
        assert_ne!(one, two);
    }

    #[test]
    fn a_stored_end_further_ahead_than_it_can_be_has_passed() {
        let (now, hour) = (Timestamp(1_000_000_000), Duration::from_hours(1));
        for (end, left) in [
            (now.before(hour), Duration::ZERO),
            (now, Duration::ZERO),
            (now.after(Duration::from_millis(1)), Duration::from_millis(1)),
            (now.after(hour), hour),
            (now.after(hour + DRIFT), hour),
            (now.after(hour + DRIFT + Duration::from_millis(1)), Duration::ZERO),
            (now.after(hour * 24 * 30), Duration::ZERO),
            (Timestamp(i64::MAX), Duration::ZERO),
        ] {
            assert_eq!(Expiry::at(end).left(now, hour), left, "{end:?}");
            assert_eq!(Expiry::at(end).lies_ahead(now, hour), !left.is_zero(), "{end:?}");
        }
    }

    #[test]
    fn moments_only_go_forward() {
        let (one, two) = (Moment::now(), Moment::now());
        assert!(one <= two);
        let later = one.after(Duration::from_secs(3));
        assert_eq!((one.until(later), later.until(one)), (Duration::from_secs(3), Duration::ZERO));
        assert_eq!(one.after(Duration::MAX).after(Duration::MAX), Moment::since_start(Duration::MAX));
    }

    proptest! {
        #[test]
        fn parsing_a_server_name_never_panics_and_keeps_the_text(text in "\\PC{0,40}") {
            if let Ok(name) = ServerName::parse(&text) {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert!(!text.contains(['/', '%', '?', '#', '@', ' ']));
                prop_assert!(!text.contains("..") && !text.starts_with('.'));
            }
        }
    }
}
