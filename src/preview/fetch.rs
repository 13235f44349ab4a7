//! Fetching pages, images and oEmbed documents: one request at a time, redirects included.
//!
//! Owns the rules of `previews.*` about hosts, ports and request headers, and how a failure reads to the client. The address of
//! every request is checked by `outbound`, on the very address it connects to; no cookie, token or credential is ever sent.
//! Refuses to know what is made of a body.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use url::Url;

use super::HttpUrl;
use crate::config::host_list::HostList;
use crate::config::{self, Ports, Previews};
use crate::error::{Error, Kind, Result};
use crate::outbound::dns::Lookups;
use crate::outbound::{
    ACCEPT_ENCODING, CaFile, Denied, Guard, Outbound, OutboundError, OutboundRequest, OutboundResponse,
    Timeouts, TlsSetupError,
};

/// Redirects followed for one body, as in the [Fetch standard](https://fetch.spec.whatwg.org/#http-redirect-fetch).
const MAX_REDIRECTS: u32 = 20;

/// What a request is for, which decides its `Accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Whatever a link leads to, a page if possible.
    Page,
    /// An image to show.
    Image,
    /// An oEmbed description in JSON.
    Oembed,
}

/// A chain of redirects so far: the URL to request next, and how many redirects may still follow.
#[derive(Clone, Debug)]
pub(crate) struct RedirectChain {
    next: HttpUrl,
    accept: Accept,
    redirects_left: u32,
}

/// What one request of a [`RedirectChain`] led to.
#[derive(Debug)]
pub(crate) enum Followed<T> {
    /// A redirect; the chain goes on.
    Redirected(RedirectChain),
    /// A successful response, and what was read from its body.
    Fetched(T),
}

/// A response with status 2xx, its body still to be read.
pub(crate) struct FetchedBody {
    /// The URL that gave this response, after redirects.
    pub(crate) url: Url,
    /// `Content-Type`
    pub(crate) content_type: Option<String>,
    /// `Content-Disposition`
    pub(crate) disposition: Option<String>,
    /// `Refresh`
    pub(crate) refresh: Option<String>,
    /// `Content-Length`, bytes, unless the body has a content coding.
    pub(crate) size: Option<u64>,
    /// When reading must end.
    pub(crate) deadline: Instant,
    /// The decoded body, of any length. Reading fails once the deadline has passed.
    pub(crate) body: Box<dyn Read + Send>,
}

/// An HTTP client that keeps the operator's rules for previews.
#[derive(Debug)]
pub(crate) struct Fetcher {
    outbound: Outbound,
    hosts: HostList,
    ports: Ports,
    /// `User-Agent`
    user_agent: String,
    /// `Accept-Language`
    accept_language: String,
    /// The largest body that anybody reads, bytes. Of an encoded body little more is read, whatever it decodes to.
    max_body: u64,
}

impl RedirectChain {
    /// The host of the next request.
    pub(crate) fn host(&self) -> &str {
        self.next.host()
    }
}

impl Fetcher {
    /// A client with the rules of `config`.
    ///
    /// # Errors
    /// `CaFile` when `previews.ca_file` cannot be used.
    pub(crate) fn new(
        config: &Previews,
        dns: impl Into<Lookups>,
    ) -> std::result::Result<Self, TlsSetupError> {
        let guard = Guard::new(&config.ip_deny, &config.ip_allow);
        let timeouts = Timeouts { stall: config.timeout.0, total: Some(config.timeout.0) };
        let ca_file = config.ca_file.as_deref().map(|path| CaFile { key: "previews.ca_file", path });
        Ok(Self {
            outbound: Outbound::new(guard, ca_file, timeouts, dns)?,
            hosts: HostList::new(&config.allow_hosts, &config.deny_hosts),
            ports: config.ports.clone(),
            user_agent: config.user_agent.clone(),
            accept_language: config::accept_language(&config.accept_language).unwrap_or_default(),
            // One byte over the limit, so that a body that is too large is not taken for a whole one.
            max_body: config.max_page.0.max(config.max_image.0).saturating_add(1),
        })
    }

    /// A chain that begins at `url`.
    ///
    /// # Errors
    /// `Forbidden` for a host or port that the operator excludes.
    pub(crate) fn start(&self, url: HttpUrl, accept: Accept) -> Result<RedirectChain> {
        self.check_allowed(&url)?;
        Ok(RedirectChain { next: url, accept, redirects_left: MAX_REDIRECTS })
    }

    /// Sends one request of `chain`, until `deadline` at most. A redirect gives the chain to go on with; a successful response
    /// is handed to `read`. Blocks.
    ///
    /// # Errors
    /// `Forbidden` for a host, port or literal address that the operator excludes, `PageFailed` for a failure that will last,
    /// `PageUnavailable` for one that may pass; and those of `read`.
    pub(crate) fn follow_once<T>(
        &self,
        chain: &RedirectChain,
        deadline: Instant,
        read: impl FnOnce(FetchedBody) -> Result<T>,
    ) -> Result<Followed<T>> {
        let timeout = deadline.saturating_duration_since(Instant::now());
        if timeout.is_zero() {
            return Err(timed_out());
        }
        let response = self.request(chain, timeout)?;
        match response.status() {
            200..=299 => read(self.fetched(&chain.next, response, deadline)?).map(Followed::Fetched),
            // All are followed with GET, which is what was sent.
            301 | 302 | 303 | 307 | 308 => self.redirect(chain, &response).map(Followed::Redirected),
            status => Err(unsuccessful(status)),
        }
    }

    /// Checks `url` against the operator's lists of hosts and ports.
    ///
    /// # Errors
    /// `Forbidden` for one that they exclude.
    pub(crate) fn check_allowed(&self, url: &HttpUrl) -> Result<()> {
        if !self.hosts.permit(url.host()) {
            return Err(Error::new(Kind::Forbidden, "this server does not preview that host"));
        }
        if !url.port().is_some_and(|port| self.ports.permit(port)) {
            return Err(Error::new(Kind::Forbidden, "this server does not preview that port"));
        }
        Ok(())
    }

    /// Sends the next request of `chain`.
    fn request(&self, chain: &RedirectChain, timeout: Duration) -> Result<OutboundResponse> {
        let (accept, encoding) = match chain.accept {
            Accept::Page => ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", ACCEPT_ENCODING),
            // Images are compressed already. A coding would only hide their length.
            Accept::Image => ("image/webp,image/png,image/jpeg,image/gif,*/*;q=0.5", "identity"),
            Accept::Oembed => ("application/json", ACCEPT_ENCODING),
        };
        let headers = [
            ("User-Agent", self.user_agent.as_str()),
            ("Accept", accept),
            ("Accept-Encoding", encoding),
            ("Accept-Language", &self.accept_language),
        ];
        let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let request =
            OutboundRequest { url: chain.next.as_str(), headers: &headers, via: &[], timeout: Some(timeout) };
        self.outbound.get(&request).map_err(|error| request_error(chain.host(), error))
    }

    /// A successful response with its body to be read.
    fn fetched(&self, url: &HttpUrl, response: OutboundResponse, deadline: Instant) -> Result<FetchedBody> {
        let content_type = response.header_lossy("content-type");
        let disposition = response.header_lossy("content-disposition");
        let refresh = response.header_lossy("refresh");
        let size = response.content_length();
        let body = response.into_body(self.max_body).map_err(body_error)?;
        Ok(FetchedBody { url: url.url().clone(), content_type, disposition, refresh, size, deadline, body })
    }

    /// The chain after a redirect, whose target is checked like the first URL.
    fn redirect(&self, chain: &RedirectChain, response: &OutboundResponse) -> Result<RedirectChain> {
        let failed = |why: &'static str| Error::new(Kind::PageFailed, why);
        let redirects_left =
            chain.redirects_left.checked_sub(1).ok_or_else(|| failed("the site redirects too often"))?;
        let target = response.redirect().ok_or_else(|| failed("the site redirects to an invalid URL"))?;
        let next = HttpUrl::parse(&target)
            .map_err(|error| failed("the site redirects to a URL that is not previewed").caused_by(error))?;
        // A redirect must not lead where the operator forbids to go.
        self.check_allowed(&next)?;
        Ok(RedirectChain { next, redirects_left, accept: chain.accept })
    }
}

/// The error for a status other than success. 5xx, 408 (Request Timeout) and 429 (Too Many Requests) may pass.
fn unsuccessful(status: u16) -> Error {
    let kind = if matches!(status, 408 | 429 | 500..) { Kind::PageUnavailable } else { Kind::PageFailed };
    Error::new(kind, format!("the site answered with status {status}"))
}

/// The error for a site that takes too long.
pub(crate) fn timed_out() -> Error {
    Error::new(Kind::PageUnavailable, "the site did not answer in time")
}

/// The error for a body that cannot be read.
pub(crate) fn body_error(source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::TimedOut {
        return timed_out().caused_by(source);
    }
    if source.kind() == io::ErrorKind::Unsupported {
        let why = "the site uses a content encoding that was not asked for";
        return Error::new(Kind::PageFailed, why).caused_by(source);
    }
    Error::new(Kind::PageUnavailable, "the site's response was truncated").caused_by(source)
}

/// The error for a request without a response. A name that resolves to a forbidden address reads like one that does not exist:
/// clients must not learn what names resolve to inside this network.
fn request_error(host: &str, error: OutboundError) -> Error {
    match error {
        OutboundError::Denied(Denied::Literal) => {
            Error::new(Kind::Forbidden, "this server does not connect to that address")
        }
        OutboundError::Denied(Denied::Resolved) => {
            tracing::info!(host, "a preview was requested of a host that resolves to a forbidden address");
            Error::new(Kind::PageUnavailable, "the host cannot be found").caused_by(error)
        }
        OutboundError::Unresolved => {
            Error::new(Kind::PageUnavailable, "the host cannot be found").caused_by(error)
        }
        OutboundError::Timeout => timed_out().caused_by(error),
        OutboundError::Failed(_) => {
            Error::new(Kind::PageUnavailable, "the site cannot be reached").caused_by(error)
        }
        OutboundError::Tls(_) | OutboundError::Redirect(_) => {
            Error::new(Kind::PageFailed, "the site cannot be reached").caused_by(error)
        }
        OutboundError::Malformed(_) => {
            Error::new(Kind::PageFailed, "the site sent an invalid response").caused_by(error)
        }
    }
}

impl fmt::Debug for FetchedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchedBody").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::matrix::ServerName;
    use crate::outbound::dns::SystemDns;

    #[test]
    fn hosts_and_ports_are_checked_against_the_lists() {
        let mut config = Config::defaults(ServerName::parse("example.org").unwrap()).previews;
        config.deny_hosts = vec!["*.evil.org".to_owned(), "::1".to_owned()];
        let fetcher = Fetcher::new(&config, Arc::new(SystemDns::default())).unwrap();
        let is_allowed = |text: &str| fetcher.check_allowed(&HttpUrl::parse(text).unwrap()).is_ok();
        assert!(is_allowed("https://example.org/") && is_allowed("http://example.org:3000/"));
        for text in
            ["http://a.EVIL.org./", "http://[::1]/", "http://example.org:22/", "http://example.org:6667/"]
        {
            assert!(!is_allowed(text), "{text}");
        }
    }
}
