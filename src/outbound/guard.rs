//! Which addresses may be connected to, and the resolver that asks.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

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
pub(super) struct CheckedResolver {
    /// Who permits.
    pub(super) guard: Arc<Guard>,
    /// Hosts and ports to connect to instead of the URL's; empty: the URL's.
    pub(super) via: Vec<(String, u16)>,
    /// `getaddrinfo`
    pub(super) system: DefaultResolver,
}

impl CheckedResolver {
    /// The permitted addresses of one URL.
    fn resolve_one(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<Vec<SocketAddr>, ureq::Error> {
        let found = self.system.resolve(uri, config, timeout)?;
        let permitted: Vec<SocketAddr> =
            found.iter().copied().filter(|address| self.guard.permits(address.ip())).collect();
        if permitted.is_empty() {
            let host = uri.host().unwrap_or_default();
            let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            let denied = if is_literal { Denied::Literal } else { Denied::Resolved };
            return Err(ureq::Error::Other(Box::new(denied)));
        }
        Ok(permitted)
    }
}

impl Resolver for CheckedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut addresses = self.empty();
        let mut last_error = None;
        if self.via.is_empty() {
            self.resolve_one(uri, config, timeout)?
                .into_iter()
                .take(16)
                .for_each(|address| addresses.push(address));
            return Ok(addresses);
        }
        for (host, port) in &self.via {
            let stand_in =
                format!("https://{host}:{port}/").parse::<Uri>().map_err(ureq::http::Error::from)?;
            match self.resolve_one(&stand_in, config, timeout) {
                Ok(found) => {
                    let room = 16_usize.saturating_sub(addresses.len());
                    found.into_iter().take(room).for_each(|address| addresses.push(address));
                }
                Err(error) => last_error = Some(error),
            }
        }
        match last_error {
            Some(error) if addresses.is_empty() => Err(error),
            _ => Ok(addresses),
        }
    }
}

impl fmt::Debug for CheckedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckedResolver").field("via", &self.via).finish_non_exhaustive()
    }
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
            "2001:db8::1",
        ] {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "10.1.2.3"] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
    }
}
