//! The homeserver this sidecar stands beside, as an HTTP peer.
//!
//! Owns `homeserver.url`, the one outbound address that is exempt from the address lists: the operator wrote it. It may be a
//! Unix socket. Refuses to know what is asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::HomeserverUrl;
use crate::http::probe_header;
use crate::outbound::dns::Dns;
use crate::outbound::{self, Guard, Outbound, OutboundError, OutboundRequest, OutboundResponse, Timeouts};

/// Longest wait for the homeserver, for a whole exchange.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is said of a `homeserver.url` that leads to ourselves, or to another sidecar.
pub(crate) const IN_CIRCLES: &str = "media-sidecar itself answers there, not the homeserver";

/// Asks the homeserver. Blocks.
#[derive(Debug)]
pub(crate) struct Homeserver {
    /// To anywhere.
    outbound: Outbound,
    /// Without a trailing slash; for a Unix socket one whose host is connected to by nobody.
    base_url: String,
}

impl Homeserver {
    /// The homeserver at `url`, as `homeserver.url` has it.
    pub(crate) fn new(url: &str, names: Arc<dyn Dns>) -> Result<Self, OutboundError> {
        Self::with_timeout(url, names, TIMEOUT)
    }

    /// The same, with another longest wait for a whole exchange.
    pub(crate) fn with_timeout(
        url: &str,
        names: Arc<dyn Dns>,
        timeout: Duration,
    ) -> Result<Self, OutboundError> {
        let limits = Timeouts { stall: timeout, total: Some(timeout) };
        let outbound = Outbound::new(Guard::permit_all(), None, limits, names)?;
        let url = HomeserverUrl::parse(url)
            .map_err(|why| OutboundError::Failed(format!("homeserver.url {why}")))?;
        Ok(match url {
            HomeserverUrl::Web(base_url) => Self { outbound, base_url },
            HomeserverUrl::Unix(socket) => {
                Self { outbound: outbound.through_socket(socket), base_url: "http://localhost".to_owned() }
            }
        })
    }

    /// Asks for `path`, with an access token if there is one; once more when an idle connection was closed just as it was
    /// used again.
    pub(crate) fn get(&self, path: &str, token: Option<&str>) -> Result<OutboundResponse, OutboundError> {
        self.ask(path, token, None)
    }

    /// Asks for `path` without a token, waiting until then at most.
    pub(crate) fn get_until(&self, path: &str, until: Instant) -> Result<OutboundResponse, OutboundError> {
        self.ask(path, None, Some(until))
    }

    /// Asks, at most twice.
    fn ask(
        &self,
        path: &str,
        token: Option<&str>,
        until: Option<Instant>,
    ) -> Result<OutboundResponse, OutboundError> {
        let url = format!("{}{path}", self.base_url);
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![(probe_header::ASKING, "1")];
        headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
        let get = || {
            self.outbound.get(&OutboundRequest {
                url: &url,
                headers: &headers,
                via: &[],
                timeout: outbound::time_left(until)?,
            })
        };
        let answer = match get() {
            Err(OutboundError::Failed(_)) => get(),
            other => other,
        }?;
        match answer.header(probe_header::NAME.as_str()) {
            Some(_) => Err(OutboundError::Failed(IN_CIRCLES.to_owned())),
            None => Ok(answer),
        }
    }
}
