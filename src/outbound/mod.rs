//! The one way out: blocking HTTP requests whose every connection is checked against an address list.
//!
//! Owns `ureq`. Checks the very address it connects to, after resolution; follows no redirect by itself; ignores proxy
//! variables, which would connect elsewhere. Refuses to know what is asked and why.

mod coding;
mod deadline_reader;
pub mod dns;
mod guard;
mod head;
mod plain;
mod race;
mod tls;
mod unix;
mod wire;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, percent_encode};
use rustls::ClientConfig;
use ureq::http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode};
use ureq::{Agent, Body, SendBody};
use url::Url;

use self::guard::CheckedResolver;
use self::race::Memory;
use self::unix::{NoLookup, UnixConnector};
use self::wire::Wires;

pub(crate) use self::coding::{ACCEPT_ENCODING, is_encoded};
pub(crate) use self::deadline_reader::{DeadlineReader, ReadDeadline};
pub(crate) use self::guard::{Denied, Guard};
pub(crate) use self::plain::decode_body;
use crate::outbound::dns::Lookups;

/// Longest wait for a connection to one address list, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Read buffer of a connection, bytes. Larger ones do not fetch faster and multiply by the fetches under way.
const INPUT_BUFFER: usize = 32 * 1024;

/// Write buffer of a connection, bytes. A line of a request that does not fit fails: the longest are the target of a linked page, 4096
/// bytes of which each may be written as three, and an access token.
const OUTPUT_BUFFER: usize = 16 * 1024;

/// Redirects followed for one answer.
const MAX_REDIRECTS: usize = 5;

/// Longest wait for a small part of a large answer.
const SMALL_PART: Duration = Duration::from_secs(30);

/// Idle connections kept for the next request.
const IDLE: usize = 4;

/// Makes requests under one set of rules.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// Connections that go where the URL says.
    agent: Agent,
    /// What agents are made of, for requests that connect elsewhere than the URL says.
    rules: Arc<Rules>,
}

/// What every connection of an [`Outbound`] has in common.
#[derive(Debug)]
struct Rules {
    /// Which addresses may be connected to.
    guard: Arc<Guard>,
    /// Roots to trust.
    tls: Arc<ClientConfig>,
    /// Time limits.
    limits: Timeouts,
    /// Where names lead.
    names: Lookups,
    /// Which addresses were slow.
    memory: Arc<Memory>,
    /// The one Unix socket to connect to instead, whatever a URL says.
    socket: Option<PathBuf>,
}

/// A PEM file of root certificates to trust besides the public ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CaFile<'a> {
    /// The configuration key that names the file, for error messages.
    pub(crate) key: &'static str,
    pub(crate) path: &'a Path,
}

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Longest silence while sending or receiving.
    pub(crate) stall: Duration,
    /// For the whole exchange, body included; `None` for bodies of any length.
    pub(crate) total: Option<Duration>,
}

/// A GET request.
#[derive(Clone, Debug)]
pub(crate) struct OutboundRequest<'a> {
    /// `https://host:port/path`; the host is the name the certificate must carry.
    pub(crate) url: &'a str,
    /// Further headers. `Host` replaces the one the URL gives.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Where to connect instead, tried in order; empty: where the URL says.
    pub(crate) via: &'a [(String, u16)],
    /// Longest time for all of it, body included, where that is less than [`Timeouts`] say.
    pub(crate) timeout: Option<Duration>,
}

/// The head of an answer, its body still to be read.
#[derive(Debug)]
pub(crate) struct OutboundResponse {
    /// As ureq has it.
    response: HttpResponse<Body>,
    /// What was asked for.
    url: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// The address list forbids it.
    #[error(transparent)]
    Denied(Denied),
    /// The name does not resolve.
    #[error("the name does not resolve")]
    Unresolved,
    /// Silence.
    #[error("no answer in time")]
    Timeout,
    /// Certificate or handshake.
    #[error("TLS: {0}")]
    Tls(String),
    /// A redirect that is not followed.
    #[error("a redirect is not followed: {0}")]
    Redirect(&'static str),
    /// An answer that is none.
    #[error("{0}")]
    Malformed(&'static str),
    /// Anything else on the wire.
    #[error("{0}")]
    Failed(String),
}

impl Outbound {
    /// Requests to addresses that `guard` permits, trusting the public roots and those in `ca_file`.
    pub(crate) fn new(
        guard: Guard,
        ca_file: Option<CaFile<'_>>,
        limits: Timeouts,
        names: impl Into<Lookups>,
    ) -> Result<Self, OutboundError> {
        let tls = tls::client_config(ca_file).map_err(OutboundError::Tls)?;
        let (guard, memory) = (Arc::new(guard), Arc::new(Memory::new()));
        let rules = Rules { guard, tls, limits, names: names.into(), memory, socket: None };
        Ok(Self { agent: rules.agent(Vec::new(), IDLE), rules: Arc::new(rules) })
    }

    /// The same, with every connection to one Unix socket that the operator named; no address is looked up or judged.
    pub(crate) fn through_socket(self, socket: PathBuf) -> Self {
        let Rules { guard, tls, limits, names, memory, .. } = &*self.rules;
        let (guard, tls, memory) = (Arc::clone(guard), Arc::clone(tls), Arc::clone(memory));
        let (limits, names) = (*limits, names.clone());
        let rules = Rules { guard, tls, limits, names, memory, socket: Some(socket) };
        Self { agent: rules.agent(Vec::new(), IDLE), rules: Arc::new(rules) }
    }

    /// The longest that a small part of an answer may take, such as an error's words or what comes before a file: a while, and
    /// no longer than silence may last.
    pub(crate) fn small_body_timeout(&self) -> Duration {
        SMALL_PART.min(self.rules.limits.stall)
    }

    /// Asks for `url` and goes where its redirects lead, over `https` only and at most [`MAX_REDIRECTS`] times. No header of
    /// ours goes along. All of it together takes at most as long as [`Timeouts`] and `until` allow.
    pub(crate) fn follow(
        &self,
        url: &str,
        until: Option<Instant>,
    ) -> Result<OutboundResponse, OutboundError> {
        let total = self.rules.limits.total.and_then(|total| Instant::now().checked_add(total));
        let until = [total, until].into_iter().flatten().min();
        let mut url = Url::parse(url).map_err(|error| OutboundError::Failed(error.to_string()))?;
        for _hop in 0..=MAX_REDIRECTS {
            if url.scheme() != "https" {
                return Err(OutboundError::Redirect("it leads away from https"));
            }
            let timeout = time_left(until)?;
            let answer = self.get(&OutboundRequest { url: url.as_str(), headers: &[], via: &[], timeout })?;
            if !matches!(answer.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let target = answer.redirect().and_then(|target| Url::parse(&target).ok());
            url = target.ok_or(OutboundError::Redirect("it names no place"))?;
        }
        Err(OutboundError::Redirect("it goes on and on"))
    }

    /// Asks. Redirects are answers like any other.
    pub(crate) fn get(&self, get: &OutboundRequest<'_>) -> Result<OutboundResponse, OutboundError> {
        let mut request = self.agent_for(get).get(get.url);
        for (name, value) in get.headers {
            request = request.header(*name, *value);
        }
        let total = self.rules.limits.total.unwrap_or(Duration::MAX);
        if let Some(timeout) = get.timeout.filter(|timeout| *timeout < total) {
            request = request.config().timeout_global(Some(timeout)).build();
        }
        Ok(OutboundResponse { response: request.call()?, url: get.url.to_owned() })
    }
}

impl Outbound {
    /// Sends `body` with POST. Redirects are answers like any other; [`OutboundRequest::within`] is not heeded.
    pub(crate) fn post(
        &self,
        get: &OutboundRequest<'_>,
        body: &[u8],
    ) -> Result<OutboundResponse, OutboundError> {
        let agent = self.agent_for(get);
        let request = get
            .headers
            .iter()
            .fold(agent.post(get.url), |request, (name, value)| request.header(*name, *value));
        Ok(OutboundResponse { response: request.send(body)?, url: get.url.to_owned() })
    }

    /// Announces a body of `length` bytes with POST and does not send it. `None` when the other end would have taken it;
    /// [`OutboundRequest::within`] is not heeded.
    pub(crate) fn expect_continue(
        &self,
        get: &OutboundRequest<'_>,
        length: u64,
    ) -> Result<Option<OutboundResponse>, OutboundError> {
        let agent = self.agent_for(get);
        let request =
            agent.post(get.url).header("Expect", "100-continue").header("Content-Length", length.to_string());
        let request =
            get.headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let mut body = Unsent { is_asked_for: false };
        match request.send(SendBody::from_reader(&mut body)) {
            Ok(response) => Ok(Some(OutboundResponse { response, url: get.url.to_owned() })),
            Err(_) if body.is_asked_for => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks what may be done there, with OPTIONS; [`OutboundRequest::within`] is not heeded.
    pub(crate) fn options(&self, get: &OutboundRequest<'_>) -> Result<OutboundResponse, OutboundError> {
        let agent = self.agent_for(get);
        let request = get
            .headers
            .iter()
            .fold(agent.options(get.url), |request, (name, value)| request.header(*name, *value));
        Ok(OutboundResponse { response: request.call()?, url: get.url.to_owned() })
    }

    /// What connects where a request leads.
    fn agent_for(&self, get: &OutboundRequest<'_>) -> Agent {
        if get.via.is_empty() { self.agent.clone() } else { self.rules.agent(get.via.to_vec(), 0) }
    }
}

impl Rules {
    /// An agent that connects to `via`, or where the URL says.
    fn agent(&self, via: Vec<(String, u16)>, idle: usize) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("media-sidecar/", env!("CARGO_PKG_VERSION")))
            // Unless a request says otherwise: silence lets a server choose.
            .accept_encoding("identity")
            .max_response_header_size(INPUT_BUFFER)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(idle)
            .max_idle_connections_per_host(idle)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(self.limits.stall))
            .timeout_per_read(Some(self.limits.stall))
            .timeout_per_write(Some(self.limits.stall))
            .timeout_global(self.limits.total)
            .build();
        if let Some(socket) = &self.socket {
            return Agent::with_parts(config, UnixConnector(socket.clone()), NoLookup);
        }
        let (guard, memory) = (Arc::clone(&self.guard), Arc::clone(&self.memory));
        let wires = Wires { guard, tls: Arc::clone(&self.tls), memory };
        let (guard, memory) = (Arc::clone(&self.guard), Arc::clone(&self.memory));
        let resolver = CheckedResolver { guard, via, names: self.names.clone(), memory };
        Agent::with_parts(config, wires, resolver)
    }
}

impl OutboundResponse {
    /// HTTP status.
    pub(crate) fn status(&self) -> u16 {
        StatusCode::as_u16(&self.response.status())
    }

    /// Where a redirect leads: `Location`, relative to what was asked for. Bytes beyond ASCII mean themselves, as in browsers.
    pub(crate) fn redirect(&self) -> Option<String> {
        let location = self.response.headers().get("location")?.as_bytes();
        let location = percent_encode(location, &AsciiSet::EMPTY).to_string();
        Url::parse(&self.url).ok()?.join(&location).ok().map(String::from)
    }

    /// A header's value, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers: &HeaderMap = self.response.headers();
        headers.get(name)?.to_str().ok()
    }

    /// The lines of a header, as they came.
    pub(crate) fn header_lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.response.headers().get_all(name).iter().map(HeaderValue::as_bytes)
    }

    /// The values of a header that stands there several times, or lists several, each by itself.
    pub(crate) fn header_list(&self, name: &str) -> Vec<&str> {
        let values = self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',').map(str::trim)).collect()
    }

    /// A header's value with bytes that are not UTF-8 replaced.
    pub(crate) fn header_lossy(&self, name: &str) -> Option<String> {
        self.response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// The length of the body, if announced; of an encoded one it is not.
    pub(crate) fn content_length(&self) -> Option<u64> {
        if self.is_encoded() {
            return None;
        }
        self.header("content-length")?.parse().ok()
    }

    /// `Content-Encoding`, all its lines as one list, in lower case.
    pub(crate) fn content_encoding(&self) -> String {
        let lines: Vec<_> = self.header_lines("content-encoding").map(String::from_utf8_lossy).collect();
        lines.join(",").to_ascii_lowercase()
    }

    /// The whole body, without its encoding, if it has at most `limit` bytes; `None` if it has more.
    pub(crate) fn read_at_most(self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        read_at_most(self.into_body(limit)?, limit)
    }

    /// As [`read_at_most`](Self::read_at_most), given up after `within`.
    pub(crate) fn read_at_most_within(self, limit: u64, within: Duration) -> io::Result<Option<Vec<u8>>> {
        read_at_most(self.into_body_within(limit, within)?, limit)
    }

    /// [`into_body`](Self::into_body), to be read within that time until its deadline is over.
    pub(crate) fn into_body_within(
        self,
        limit: u64,
        within: Duration,
    ) -> io::Result<DeadlineReader<Box<dyn Read + Send>>> {
        let until = Instant::now().checked_add(within);
        Ok(DeadlineReader::new(self.into_body(limit)?, until))
    }

    /// The body as it arrives, without an encoding, which was not asked for and comes now and then. Only `limit` bytes of it are
    /// wanted: whoever reads stops there, and nobody sends many more than that for it. A body shorter than announced ends in
    /// an error. Silence is an error of `TimedOut` kind.
    ///
    /// # Errors
    /// One of `Unsupported` kind for an encoding that cannot be undone.
    pub(crate) fn into_body(self, limit: u64) -> io::Result<Box<dyn Read + Send>> {
        let codings = self.content_encoding();
        decode_body(&codings, self.into_wire(), limit)
    }

    /// Whether the body's bytes are others than those that are meant.
    fn is_encoded(&self) -> bool {
        is_encoded(&self.content_encoding())
    }

    /// The body as it was before `Content-Encoding`: what can be is undone, of at most `limit` bytes on the wire.
    /// Unpacked it may be of any length.
    ///
    /// # Errors
    /// One of `Unsupported` kind for an encoding that was not asked for.
    pub(crate) fn into_decoded(self, limit: u64) -> io::Result<Box<dyn Read + Send>> {
        coding::undo(&self.content_encoding(), self.into_wire().take(limit))
    }

    /// The body's bytes as they come.
    fn into_wire(self) -> impl Read + Send + 'static {
        Plain(self.response.into_body().into_reader())
    }
}

/// A body that is announced and never sent.
struct Unsent {
    /// Whether it would have been sent.
    is_asked_for: bool,
}

impl Read for Unsent {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.is_asked_for = true;
        Err(io::Error::other("the body is not sent"))
    }
}

/// The time left until then, for [`OutboundRequest::within`]; `None` for as long as it takes.
///
/// # Errors
/// `Timeout` when there is none left.
pub(crate) fn time_left(until: Option<Instant>) -> Result<Option<Duration>, OutboundError> {
    let Some(until) = until else { return Ok(None) };
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(OutboundError::Timeout) } else { Ok(Some(left)) }
}

/// All that `source` gives if that is at most `limit` bytes.
fn read_at_most(source: impl Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((crate::matrix::len_u64(bytes.len()) <= limit).then_some(bytes))
}

/// A body whose errors are of the plain kinds.
struct Plain<R>(R);

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
            match inner {
                Some(ureq::Error::Timeout(_)) => io::Error::new(io::ErrorKind::TimedOut, error),
                _ => error,
            }
        })
    }
}

impl From<ureq::Error> for OutboundError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "ureq's enum is non-exhaustive")]
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Other(inner) => match inner.downcast::<Denied>() {
                Ok(denied) => Self::Denied(*denied),
                Err(other) => match other.downcast::<Self>() {
                    Ok(own) => *own,
                    Err(other) => Self::Failed(other.to_string()),
                },
            },
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            ureq::Error::Io(error) => match tls::cause(&error) {
                Some(cause) => Self::Tls(cause),
                None => Self::Failed(error.to_string()),
            },
            ureq::Error::Timeout(_) => Self::Timeout,
            ureq::Error::HostNotFound => Self::Unresolved,
            ureq::Error::Tls(reason) => Self::Tls(reason.to_owned()),
            ureq::Error::Rustls(error) => Self::Tls(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_time_is_never_nothing() {
        let now = Instant::now();
        assert_eq!(time_left(None).unwrap(), None);
        assert!(time_left(Some(now + Duration::from_secs(9))).unwrap() <= Some(Duration::from_secs(9)));
        assert!(matches!(time_left(Some(now)), Err(OutboundError::Timeout)));
    }
}
