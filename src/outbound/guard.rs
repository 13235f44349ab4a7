//! Which addresses may be connected to, and the resolver that asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::names::Names;

/// Addresses tried for one connection; ureq takes no more.
const MAX_ADDRESSES: usize = 16;

/// Addresses allowed and denied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// Never connected to.
    deny: Vec<IpNet>,
    /// Exceptions.
    allow: Vec<IpNet>,
}

/// A connection that was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// The URL itself names a denied address.
    #[error("the address is not allowed")]
    Literal,
    /// The name resolves to denied addresses only.
    #[error("the name resolves to an address that is not allowed")]
    Resolved,
}

impl Guard {
    /// Permits what no net of `deny` contains, and what a net of `allow` contains.
    pub(crate) fn new(deny: &[IpNet], allow: &[IpNet]) -> Self {
        Self { deny: deny.to_vec(), allow: allow.to_vec() }
    }

    /// Permits everything: for the one URL the operator wrote, `homeserver.url`.
    pub(crate) fn permit_all() -> Self {
        Self::default()
    }

    /// Whether `address` may be connected to. An IPv4-mapped IPv6 address is judged as the IPv4 address it reaches.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let contains = |net: &IpNet| net.contains(&address);
        self.allow.iter().any(contains) || !self.deny.iter().any(contains)
    }
}

/// Resolves a URL's host, or what stands in its place, and lets through only addresses the guard permits.
#[derive(Debug)]
pub(super) struct CheckedResolver {
    /// Who permits.
    pub(super) guard: Arc<Guard>,
    /// Hosts and ports to connect to instead of the URL's; empty: the URL's.
    pub(super) via: Vec<(String, u16)>,
    /// Where names lead.
    pub(super) names: Arc<dyn Names>,
}

impl CheckedResolver {
    /// The permitted addresses of one host.
    fn permitted(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ureq::Error> {
        let mut found = self.names.addresses(host, port).map_err(|error| {
            tracing::debug!(host, %error, "cannot resolve");
            ureq::Error::HostNotFound
        })?;
        found.retain(|address| self.guard.permits(address.ip()));
        if found.is_empty() {
            let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            let denied = if is_literal { Denied::Literal } else { Denied::Resolved };
            return Err(ureq::Error::Other(Box::new(denied)));
        }
        Ok(found)
    }
}

impl Resolver for CheckedResolver {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let own = (uri.host().unwrap_or_default().to_owned(), port(uri));
        let targets = if self.via.is_empty() { std::slice::from_ref(&own) } else { &self.via };
        let mut addresses = self.empty();
        let mut last_error = ureq::Error::HostNotFound;
        for (host, port) in targets {
            match self.permitted(host, *port) {
                Ok(found) => {
                    let room = MAX_ADDRESSES.saturating_sub(addresses.len());
                    found.into_iter().take(room).for_each(|address| addresses.push(address));
                }
                Err(error) => last_error = error,
            }
        }
        if addresses.is_empty() { Err(last_error) } else { Ok(addresses) }
    }
}

/// The port a URL says or means.
fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config as Sidecar;
    use crate::matrix::ServerName;

    #[test]
    fn the_default_list_denies_everything_that_is_not_public() {
        let config = Sidecar::defaults(ServerName::parse("example.org").unwrap());
        let guard = Guard::new(&config.federation.ip_deny, &["10.1.0.0/16".parse().unwrap()]);
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:192.168.0.1",
            "64:ff9b::7f00:1",
            "::ffff:0:7f00:1",
            "2001:0:4136:e378:8000:63bf:80ff:fffe",
            "2001:db8::1",
        ] {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "10.1.2.3"] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
    }
}
