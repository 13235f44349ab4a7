//! HTTP client for our homeserver.
//!
//! Owns `homeserver.url`, the only outbound address that is exempt from the address lists, because the operator wrote it. It may be a Unix
//! socket. Refuses to know what is requested.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{HomeserverUrl, HomeserverUrlError};
use crate::http::probe_header;
use crate::outbound::dns::Dns;
use crate::outbound::{
    self, Guard, Outbound, OutboundError, OutboundRequest, OutboundResponse, Timeouts, TlsSetupError,
};

/// Longest wait for the homeserver, for a whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests to the homeserver. Blocks.
#[derive(Debug)]
pub(crate) struct HomeserverClient {
    outbound: Outbound,
    /// Without a trailing slash. For a Unix socket the host is a placeholder that nothing connects to.
    base_url: String,
}

/// Why no client for the homeserver can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeserverSetupError {
    /// Its address cannot be used.
    #[error("homeserver.url {0}")]
    Url(HomeserverUrlError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Why there is no response from the homeserver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeserverError {
    /// The request failed.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// `homeserver.url` leads to this sidecar or to another one, directly or through the proxy.
    #[error("media-sidecar itself answers there, not the homeserver")]
    Sidecar,
}

impl HomeserverClient {
    /// A client for the homeserver at `url`, the value of `homeserver.url`.
    pub(crate) fn new(url: &str, dns: Arc<dyn Dns>) -> Result<Self, HomeserverSetupError> {
        Self::with_timeout(url, dns, TIMEOUT)
    }

    /// The same with another limit for a whole exchange.
    pub(crate) fn with_timeout(
        url: &str,
        dns: Arc<dyn Dns>,
        timeout: Duration,
    ) -> Result<Self, HomeserverSetupError> {
        let limits = Timeouts { stall: timeout, total: Some(timeout) };
        let outbound = Outbound::new(Guard::permit_all(), None, limits, dns)?;
        Ok(match HomeserverUrl::parse(url).map_err(HomeserverSetupError::Url)? {
            HomeserverUrl::Web(base_url) => Self { outbound, base_url },
            HomeserverUrl::Unix(socket) => {
                Self { outbound: outbound.through_socket(socket), base_url: "http://localhost".to_owned() }
            }
        })
    }

    /// Gets `path`, with an access token if there is one.
    pub(crate) fn get(&self, path: &str, token: Option<&str>) -> Result<OutboundResponse, HomeserverError> {
        self.request(path, token, None)
    }

    /// Gets `path` without a token, within the time left until `deadline`.
    pub(crate) fn get_until(
        &self,
        path: &str,
        deadline: Instant,
    ) -> Result<OutboundResponse, HomeserverError> {
        self.request(path, None, Some(deadline))
    }

    fn request(
        &self,
        path: &str,
        token: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<OutboundResponse, HomeserverError> {
        let url = format!("{}{path}", self.base_url);
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![(probe_header::ASKING, "1")];
        headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
        let get = || {
            let timeout = outbound::time_left(deadline)?;
            self.outbound.get(&OutboundRequest { url: &url, headers: &headers, via: &[], timeout })
        };
        let answer = match get() {
            // The homeserver may have closed an idle connection just as we used it: the second try opens a new one.
            Err(OutboundError::Failed(_)) => get(),
            other => other,
        }?;
        match answer.header(probe_header::NAME.as_str()) {
            Some(_) => Err(HomeserverError::Sidecar),
            None => Ok(answer),
        }
    }
}
