//! Outgoing HTTP requests, blocking, each connection checked against an address list.
//!
//! Owns ureq, the TLS roots and the connections. The address that is checked is the address that is connected to, after name
//! resolution and on every redirect. Proxy environment variables are ignored, because a proxy would connect elsewhere. Refuses
//! to know what is requested and why.

mod bounded_decoder;
mod content_coding;
mod deadline_reader;
pub mod dns;
mod error;
mod guard;
mod happy_eyeballs;
mod response;
mod response_head;
mod tls;
mod transport;
mod unix;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use ureq::{Agent, RequestBuilder, SendBody};
use url::Url;

use self::guard::CheckedResolver;
use self::happy_eyeballs::AddressHistory;
use self::transport::TcpConnector;
use self::unix::{NoLookup, UnixConnector};

pub(crate) use self::bounded_decoder::decode_body;
pub(crate) use self::content_coding::{ACCEPT_ENCODING, is_encoded};
pub(crate) use self::deadline_reader::ReadDeadline;
pub(crate) use self::error::OutboundError;
pub(crate) use self::guard::{Denied, Guard};
pub(crate) use self::response::OutboundResponse;
pub(crate) use self::tls::TlsSetupError;
use crate::outbound::dns::Lookups;

/// Limit for connecting to one address list, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Read buffer of a connection, bytes. Larger ones do not fetch faster and cost memory for every fetch in progress.
const INPUT_BUFFER: usize = 32 * 1024;

/// Write buffer of a connection, bytes. ureq fails on a request line or header line that does not fit. The longest are the URL
/// of a previewed page (4096 bytes, each of which may be percent-encoded as three) and an access token.
const OUTPUT_BUFFER: usize = 16 * 1024;

/// Redirects that [`Outbound::follow`] takes for one request.
const MAX_REDIRECTS: usize = 5;

/// Upper bound of [`Outbound::small_body_timeout`].
const SMALL_BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle connections kept open for reuse.
const MAX_IDLE: usize = 4;

/// An HTTP client with one set of rules: address list, TLS roots and time limits. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    /// Connects where the URL says.
    agent: Agent,
    /// Builds further agents, for requests that connect elsewhere than the URL says.
    rules: Arc<ConnectionRules>,
}

/// What all connections of an [`Outbound`] share.
#[derive(Debug)]
struct ConnectionRules {
    guard: Arc<Guard>,
    tls: Arc<ClientConfig>,
    timeouts: Timeouts,
    dns: Lookups,
    history: Arc<AddressHistory>,
    /// If set, every connection goes to this Unix socket, whatever the URL says.
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
    /// Limit for each single read or write, and for the wait for the response head.
    pub(crate) stall: Duration,
    /// Limit for the whole exchange, body included; `None` for bodies of any length.
    pub(crate) total: Option<Duration>,
}

/// A request without a body; [`Outbound`]'s methods add the HTTP method.
#[derive(Clone, Debug)]
pub(crate) struct OutboundRequest<'a> {
    /// `https://host:port/path`; the host is the name that the certificate must carry.
    pub(crate) url: &'a str,
    /// Further header fields. `Host` replaces the one that the URL gives.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Hosts and ports to connect to instead of the URL's, tried in order; empty: the URL's.
    pub(crate) via: &'a [(String, u16)],
    /// Limit for the whole exchange, body included, where it is shorter than [`Timeouts::total`].
    pub(crate) timeout: Option<Duration>,
}

impl Outbound {
    /// A client that connects only to addresses that `guard` permits, and trusts the public roots and those in `ca_file`.
    ///
    /// # Errors
    /// `CaFile` when `ca_file` cannot be used.
    pub(crate) fn new(
        guard: Guard,
        ca_file: Option<CaFile<'_>>,
        timeouts: Timeouts,
        dns: impl Into<Lookups>,
    ) -> Result<Self, TlsSetupError> {
        let tls = tls::client_config(ca_file)?;
        let (guard, history) = (Arc::new(guard), Arc::new(AddressHistory::new()));
        let rules = ConnectionRules { guard, tls, timeouts, dns: dns.into(), history, socket: None };
        Ok(Self { agent: rules.agent(Vec::new(), MAX_IDLE), rules: Arc::new(rules) })
    }

    /// The same client with every connection going to `socket`. No name is resolved and no address checked: the operator
    /// configured the socket.
    pub(crate) fn through_socket(self, socket: PathBuf) -> Self {
        let ConnectionRules { guard, tls, timeouts, dns, history, .. } = &*self.rules;
        let (guard, tls, history) = (Arc::clone(guard), Arc::clone(tls), Arc::clone(history));
        let (timeouts, dns) = (*timeouts, dns.clone());
        let rules = ConnectionRules { guard, tls, timeouts, dns, history, socket: Some(socket) };
        Self { agent: rules.agent(Vec::new(), MAX_IDLE), rules: Arc::new(rules) }
    }

    /// Limit for a short body, such as an error document or what precedes a file: 30 s, or [`Timeouts::stall`] if that is less.
    pub(crate) fn small_body_timeout(&self) -> Duration {
        SMALL_BODY_TIMEOUT.min(self.rules.timeouts.stall)
    }

    /// GETs `url` and follows up to 5 redirects, `https` only. Sends no header fields of the caller's, so no credentials reach
    /// a redirect target. [`Timeouts::total`] and `deadline` hold for all requests together.
    ///
    /// # Errors
    /// `Redirect` for one that is not followed, else those of [`get`](Self::get).
    pub(crate) fn follow(
        &self,
        url: &str,
        deadline: Option<Instant>,
    ) -> Result<OutboundResponse, OutboundError> {
        // ureq counts the total time of one request, and here there are several.
        let total = self.rules.timeouts.total.and_then(|total| Instant::now().checked_add(total));
        let deadline = [total, deadline].into_iter().flatten().min();
        let mut url = Url::parse(url).map_err(|error| OutboundError::Failed(error.to_string()))?;
        for _request in 0..=MAX_REDIRECTS {
            if url.scheme() != "https" {
                return Err(OutboundError::Redirect("its target is not an https URL"));
            }
            let timeout = time_left(deadline)?;
            let response =
                self.get(&OutboundRequest { url: url.as_str(), headers: &[], via: &[], timeout })?;
            if !matches!(response.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let target = response.redirect().and_then(|target| Url::parse(&target).ok());
            url = target.ok_or(OutboundError::Redirect("its Location is missing or not a URL"))?;
        }
        Err(OutboundError::Redirect("there were 5 before it"))
    }

    /// Sends a GET request. A redirect is returned like any other response.
    pub(crate) fn get(&self, request: &OutboundRequest<'_>) -> Result<OutboundResponse, OutboundError> {
        let builder = self.prepare(self.agent_for(request).get(request.url), request);
        Ok(OutboundResponse::new(builder.call()?, request.url))
    }

    /// Sends `body` in a POST request. A redirect is returned like any other response.
    pub(crate) fn post(
        &self,
        request: &OutboundRequest<'_>,
        body: &[u8],
    ) -> Result<OutboundResponse, OutboundError> {
        let builder = self.prepare(self.agent_for(request).post(request.url), request);
        Ok(OutboundResponse::new(builder.send(body)?, request.url))
    }

    /// Sends the head of a POST request with `Expect: 100-continue` and a `Content-Length` of `length` bytes, and never the
    /// body. `None` when the server asks for the body, else its final response.
    pub(crate) fn expect_continue(
        &self,
        request: &OutboundRequest<'_>,
        length: u64,
    ) -> Result<Option<OutboundResponse>, OutboundError> {
        let builder = self.agent_for(request).post(request.url);
        let builder = builder.header("Expect", "100-continue").header("Content-Length", length.to_string());
        let mut body = UnsentBody { is_requested: false };
        match self.prepare(builder, request).send(SendBody::from_reader(&mut body)) {
            Ok(response) => Ok(Some(OutboundResponse::new(response, request.url))),
            Err(_) if body.is_requested => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends an OPTIONS request.
    pub(crate) fn options(&self, request: &OutboundRequest<'_>) -> Result<OutboundResponse, OutboundError> {
        let builder = self.prepare(self.agent_for(request).options(request.url), request);
        Ok(OutboundResponse::new(builder.call()?, request.url))
    }

    /// The agent that connects where `request` goes.
    fn agent_for(&self, request: &OutboundRequest<'_>) -> Agent {
        // A connection made by way of other hosts must not be reused for requests without, nor the reverse.
        if request.via.is_empty() { self.agent.clone() } else { self.rules.agent(request.via.to_vec(), 0) }
    }

    /// Adds header fields and time limit.
    fn prepare<B>(&self, builder: RequestBuilder<B>, request: &OutboundRequest<'_>) -> RequestBuilder<B> {
        let fields = request.headers.iter();
        let builder = fields.fold(builder, |builder, (name, value)| builder.header(*name, *value));
        let total = self.rules.timeouts.total.unwrap_or(Duration::MAX);
        match request.timeout.filter(|timeout| *timeout < total) {
            Some(timeout) => builder.config().timeout_global(Some(timeout)).build(),
            None => builder,
        }
    }
}

impl ConnectionRules {
    /// An agent that connects to `via`, or where the URL says if `via` is empty.
    fn agent(&self, via: Vec<(String, u16)>, max_idle: usize) -> Agent {
        let config = Agent::config_builder()
            // Callers read error bodies and decide about redirects.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Set explicitly: the default reads `HTTP_PROXY` and others.
            .proxy(None)
            .user_agent(concat!("media-sidecar/", env!("CARGO_PKG_VERSION")))
            // A request without `Accept-Encoding` would let the server choose any coding (RFC 9110 §12.5.3).
            .accept_encoding("identity")
            .max_response_header_size(INPUT_BUFFER)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .max_idle_connections(max_idle)
            .max_idle_connections_per_host(max_idle)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(self.timeouts.stall))
            .timeout_per_read(Some(self.timeouts.stall))
            .timeout_per_write(Some(self.timeouts.stall))
            .timeout_global(self.timeouts.total)
            .build();
        if let Some(socket) = &self.socket {
            return Agent::with_parts(config, UnixConnector(socket.clone()), NoLookup);
        }
        let (guard, history) = (Arc::clone(&self.guard), Arc::clone(&self.history));
        let connector = TcpConnector { guard, tls: Arc::clone(&self.tls), history };
        let (guard, history) = (Arc::clone(&self.guard), Arc::clone(&self.history));
        let resolver = CheckedResolver { guard, via, dns: self.dns.clone(), history };
        Agent::with_parts(config, connector, resolver)
    }
}

/// A body that is announced and never sent.
struct UnsentBody {
    /// Whether ureq tried to read it, which it does once the server has sent 100 (Continue) or has not replied in time.
    is_requested: bool,
}

impl Read for UnsentBody {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.is_requested = true;
        Err(io::Error::other("the body is not sent"))
    }
}

/// The time left until `deadline`, for [`OutboundRequest::timeout`]; `None` without a deadline.
///
/// # Errors
/// `Timeout` when it has passed.
pub(crate) fn time_left(deadline: Option<Instant>) -> Result<Option<Duration>, OutboundError> {
    let Some(deadline) = deadline else { return Ok(None) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(OutboundError::Timeout) } else { Ok(Some(left)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_has_passed_is_a_timeout() {
        let now = Instant::now();
        assert_eq!(time_left(None).unwrap(), None);
        assert!(time_left(Some(now + Duration::from_secs(9))).unwrap() <= Some(Duration::from_secs(9)));
        assert!(matches!(time_left(Some(now)), Err(OutboundError::Timeout)));
    }
}
