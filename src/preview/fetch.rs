//! The way to a page: which URLs may be asked for, and the asking, one hop at a time.
//!
//! Owns the rules of `previews.*` about hosts, ports and manners. The address of every hop is checked by `outbound`, on the
//! very address it connects to; no cookie, token or credential ever goes along.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use url::Url;

use crate::config::host_list::HostList;
use crate::config::{self, Ports, Previews};
use crate::error::{Error, Kind, Result};
use crate::outbound::dns::Lookups;
use crate::outbound::{
    ACCEPT_ENCODING, CaFile, Denied, Guard, Outbound, OutboundError, OutboundRequest, OutboundResponse,
    Timeouts,
};

/// Redirects followed on the way to one body, as browsers do.
const MAX_REDIRECTS: u32 = 20;

/// Longest URL, bytes: what browsers take and a little more.
const MAX_URL: usize = 4096;

/// A URL that can be asked for: `http` or `https`, without credentials and fragment, normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HttpUrl(Url);

/// What is asked for, which decides what `Accept` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Whatever a link leads to, a page if possible.
    Page,
    /// A picture to show.
    Image,
    /// An oEmbed description.
    Oembed,
}

/// One body on its way here: where to ask next.
#[derive(Clone, Debug)]
pub(crate) struct RedirectChain {
    /// Admitted.
    link: HttpUrl,
    /// For what.
    wants: Accept,
    /// Redirects that may still come.
    redirects: u32,
}

/// What came of one hop.
#[derive(Debug)]
pub(crate) enum Followed<T> {
    /// The next one.
    Redirected(RedirectChain),
    /// What was made of the body.
    Fetched(T),
}

/// An answer with success, its body still to be read.
pub(crate) struct FetchedBody {
    /// Where it came from.
    pub(crate) url: Url,
    /// `Content-Type`
    pub(crate) content_type: Option<String>,
    /// `Content-Disposition`
    pub(crate) disposition: Option<String>,
    /// `Refresh`
    pub(crate) refresh: Option<String>,
    /// Announced length, bytes, where the body is not packed.
    pub(crate) size: Option<u64>,
    /// When reading must end.
    pub(crate) deadline: Instant,
    /// Unpacked, of any length. It ends, or fails, when the time is over.
    pub(crate) body: Box<dyn Read + Send>,
}

/// Asks, by the operator's rules.
#[derive(Debug)]
pub(crate) struct Fetcher {
    /// The way out.
    outbound: Outbound,
    /// Hosts.
    hosts: HostList,
    /// Ports.
    ports: Ports,
    /// `User-Agent`
    user_agent: String,
    /// `Accept-Language`
    accept_language: String,
    /// Most bytes on the wire, whatever is asked for: packed without end they could unpack to nothing.
    max_wire: u64,
}

impl HttpUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// `InvalidParam` for what cannot be asked for: another scheme, credentials, no URL at all.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refused = |why: &'static str| Error::new(Kind::InvalidParam, why);
        if text.len() > MAX_URL {
            return Err(refused("the URL is too long"));
        }
        let mut url =
            Url::parse(text.trim()).map_err(|error| refused("the URL is malformed").caused_by(error))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refused("only http and https URLs are previewed"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("a URL with a user name or password is not previewed"));
        }
        url.set_fragment(None);
        let link = Self(url);
        if link.host().is_empty() {
            return Err(refused("the URL names no host"));
        }
        Ok(link)
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// As a URL.
    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// The host as lists and lanes have it: an IPv6 address without brackets, a name without a trailing dot.
    pub(crate) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.')
    }
}

impl RedirectChain {
    /// Where the next hop goes.
    pub(crate) fn host(&self) -> &str {
        self.link.host()
    }
}

impl Fetcher {
    /// Asks as `config` says.
    pub(crate) fn new(
        config: &Previews,
        names: impl Into<Lookups>,
    ) -> std::result::Result<Self, OutboundError> {
        let guard = Guard::new(&config.ip_deny, &config.ip_allow);
        let limits = Timeouts { stall: config.timeout.0, total: Some(config.timeout.0) };
        let ca_file = config.ca_file.as_deref().map(|path| CaFile { key: "previews.ca_file", path });
        Ok(Self {
            outbound: Outbound::new(guard, ca_file, limits, names)?,
            hosts: HostList::new(&config.allow_hosts, &config.deny_hosts),
            ports: config.ports.clone(),
            user_agent: config.user_agent.clone(),
            accept_language: config::accept_language(&config.accept_language).unwrap_or_default(),
            // One more than fits, so that what is too large does not look whole.
            max_wire: config.max_page.0.max(config.max_image.0).saturating_add(1),
        })
    }

    /// The beginning of the way to `link`.
    ///
    /// # Errors
    /// `Forbidden` for a host or port that the operator excludes.
    pub(crate) fn start(&self, link: HttpUrl, wants: Accept) -> Result<RedirectChain> {
        self.check_allowed(&link)?;
        Ok(RedirectChain { link, wants, redirects: MAX_REDIRECTS })
    }

    /// Goes one hop, until `deadline` at most; `land` makes something of the body at the end. Blocks.
    ///
    /// # Errors
    /// `Forbidden` for a place where nothing may be asked, `PageFailed` for one where nothing is to be had,
    /// `PageUnavailable` for one where something may be had later.
    pub(crate) fn follow_once<T>(
        &self,
        trip: &RedirectChain,
        deadline: Instant,
        land: impl FnOnce(FetchedBody) -> Result<T>,
    ) -> Result<Followed<T>> {
        let within = deadline.saturating_duration_since(Instant::now());
        if within.is_zero() {
            return Err(timed_out());
        }
        let answer = self.ask(trip, within)?;
        match answer.status() {
            200..=299 => land(self.landing(&trip.link, answer, deadline)?).map(Followed::Fetched),
            301 | 302 | 303 | 307 | 308 => self.redirect(trip, &answer).map(Followed::Redirected),
            status => Err(unsuccessful(status)),
        }
    }

    /// `Forbidden` for a host or port that the operator excludes.
    pub(crate) fn check_allowed(&self, link: &HttpUrl) -> Result<()> {
        if !self.hosts.permit(link.host()) {
            return Err(Error::new(Kind::Forbidden, "this server does not preview that host"));
        }
        if !link.0.port_or_known_default().is_some_and(|port| self.ports.permit(port)) {
            return Err(Error::new(Kind::Forbidden, "this server does not preview that port"));
        }
        Ok(())
    }

    /// Sends the request of one hop.
    fn ask(&self, trip: &RedirectChain, within: Duration) -> Result<OutboundResponse> {
        let (accept, encoding) = match trip.wants {
            Accept::Page => ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", ACCEPT_ENCODING),
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
        let get =
            OutboundRequest { url: trip.link.as_str(), headers: &headers, via: &[], timeout: Some(within) };
        self.outbound.get(&get).map_err(|error| failed(trip.host(), error))
    }

    /// What is to be read.
    fn landing(&self, link: &HttpUrl, answer: OutboundResponse, deadline: Instant) -> Result<FetchedBody> {
        let content_type = answer.header_lossy("content-type");
        let disposition = answer.header_lossy("content-disposition");
        let refresh = answer.header_lossy("refresh");
        let size = answer.content_length();
        let body = answer.into_decoded(self.max_wire).map_err(body_error)?;
        Ok(FetchedBody { url: link.0.clone(), content_type, disposition, refresh, size, deadline, body })
    }

    /// The next hop: checked like the first.
    fn redirect(&self, trip: &RedirectChain, answer: &OutboundResponse) -> Result<RedirectChain> {
        let elsewhere = |why: &'static str| Error::new(Kind::PageFailed, why);
        let redirects =
            trip.redirects.checked_sub(1).ok_or_else(|| elsewhere("the site redirects too often"))?;
        let target = answer.redirect().ok_or_else(|| elsewhere("the site redirects to nowhere"))?;
        let link = HttpUrl::parse(&target)
            .map_err(|error| elsewhere("the site redirects to what cannot be asked for").caused_by(error))?;
        self.check_allowed(&link)?;
        Ok(RedirectChain { link, redirects, wants: trip.wants })
    }
}

/// A status other than success. Trouble of the site's own, or too many requests to it, may pass.
fn unsuccessful(status: u16) -> Error {
    let kind = if matches!(status, 408 | 429 | 500..) { Kind::PageUnavailable } else { Kind::PageFailed };
    Error::new(kind, format!("the site answered with status {status}"))
}

/// Silence.
pub(crate) fn timed_out() -> Error {
    Error::new(Kind::PageUnavailable, "the site did not answer in time")
}

/// A body that cannot be read.
pub(crate) fn body_error(source: io::Error) -> Error {
    if source.kind() == io::ErrorKind::TimedOut {
        return timed_out().caused_by(source);
    }
    if source.kind() == io::ErrorKind::Unsupported {
        let why = "the site packs its answer in a way that was not asked for";
        return Error::new(Kind::PageFailed, why).caused_by(source);
    }
    Error::new(Kind::PageUnavailable, "the site broke off its answer").caused_by(source)
}

/// A hop that did not succeed. Whether a name leads to a forbidden address or nowhere is none of the client's business.
fn failed(host: &str, error: OutboundError) -> Error {
    match error {
        OutboundError::Denied(Denied::Literal) => {
            Error::new(Kind::Forbidden, "this server does not connect to that address")
        }
        OutboundError::Denied(Denied::Resolved) => {
            tracing::info!(host, "a preview of a host with a forbidden address was asked for");
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
            Error::new(Kind::PageFailed, "the site's answer cannot be understood").caused_by(error)
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

    fn fetcher(change: impl FnOnce(&mut Previews)) -> Fetcher {
        let mut config = Config::defaults(ServerName::parse("example.org").unwrap()).previews;
        change(&mut config);
        Fetcher::new(&config, Arc::new(SystemDns::default())).unwrap()
    }

    #[test]
    fn links_are_normalised_and_lose_their_fragment() {
        for (text, normal) in [
            ("HTTP://Example.ORG:80/a/../b#c", "http://example.org/b"),
            (" https://example.org ", "https://example.org/"),
            ("http://2130706433/", "http://127.0.0.1/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://0177.0.0.1:8080/", "http://127.0.0.1:8080/"),
            ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
            ("https://пример.рф/", "https://xn--e1afmkfd.xn--p1ai/"),
        ] {
            assert_eq!(HttpUrl::parse(text).unwrap().as_str(), normal, "{text}");
        }
        assert_eq!(HttpUrl::parse("http://Example.org./").unwrap().host(), "example.org");
        assert_eq!(HttpUrl::parse("http://[::1]/").unwrap().host(), "::1");
    }

    #[test]
    fn what_cannot_be_asked_for_is_an_invalid_parameter() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_URL));
        for text in [
            "",
            "example.org",
            "/page",
            "http://",
            "http://[::1",
            "http://a b/",
            "ftp://example.org/",
            "file:///etc/passwd",
            "data:text/html,x",
            "javascript:alert(1)",
            "gopher://example.org/",
            "https://user@example.org/",
            "https://user:secret@example.org/",
            "https://:secret@example.org/",
            &long,
        ] {
            assert_eq!(HttpUrl::parse(text).unwrap_err().kind(), Kind::InvalidParam, "{text}");
        }
    }

    #[test]
    fn hosts_and_ports_are_let_in_by_list() {
        let fetcher = fetcher(|config| config.deny_hosts = vec!["*.evil.org".to_owned(), "::1".to_owned()]);
        let admits = |text: &str| fetcher.check_allowed(&HttpUrl::parse(text).unwrap()).is_ok();
        assert!(admits("https://example.org/") && admits("http://example.org:3000/"));
        for text in
            ["http://a.EVIL.org./", "http://[::1]/", "http://example.org:22/", "http://example.org:6667/"]
        {
            assert!(!admits(text), "{text}");
        }
    }
}
