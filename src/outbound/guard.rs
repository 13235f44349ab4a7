//! The address list, and ureq's resolver, which returns only addresses that the list permits.
//!
//! Owns the decision whether an address may be connected to. Refuses to know name lookups ([`super::dns`]) and the order in which
//! addresses are tried ([`super::happy_eyeballs`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::unversioned::transport::time::Duration as Span;

use super::CONNECT_TIMEOUT;
use super::happy_eyeballs::AddressHistory;
use crate::outbound::dns::Lookups;

/// Most addresses tried for one connection; ureq accepts no more.
const MAX_ADDRESSES: usize = 16;

/// A list of addresses that are never connected to, with exceptions: `ip_deny` and `ip_allow` of the configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    deny: Vec<IpNet>,
    /// Exceptions to `deny`.
    allow: Vec<IpNet>,
}

/// Why no connection was made. The two are told apart because only the first may be told to a client: the second would reveal
/// what a name resolves to inside this network.
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
    /// Permits the addresses in `allow`, and all that are not in `deny`.
    pub(crate) fn new(deny: &[IpNet], allow: &[IpNet]) -> Self {
        Self { deny: deny.to_vec(), allow: allow.to_vec() }
    }

    /// Permits every address: for `homeserver.url`, which the operator configured.
    pub(crate) fn permit_all() -> Self {
        Self::default()
    }

    /// Whether `address` may be connected to. An IPv4-mapped IPv6 address is judged as the IPv4 address it reaches.
    pub(crate) fn permits(&self, address: IpAddr) -> bool {
        // Else `::ffff:127.0.0.1` would pass a list of IPv4 networks.
        let address = address.to_canonical();
        let contains = |net: &IpNet| net.contains(&address);
        self.allow.iter().any(contains) || !self.deny.iter().any(contains)
    }
}

/// Resolves the URL's host, or the hosts in `via`, to permitted addresses in the order in which to try them.
#[derive(Debug)]
pub(super) struct CheckedResolver {
    pub(super) guard: Arc<Guard>,
    /// [`via`](super::OutboundRequest::via) of the request.
    pub(super) via: Vec<(String, u16)>,
    pub(super) dns: Lookups,
    pub(super) history: Arc<AddressHistory>,
}

impl Resolver for CheckedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let own = (uri.host().unwrap_or_default().to_owned(), port(uri));
        let hosts = if self.via.is_empty() { std::slice::from_ref(&own) } else { &self.via };
        let after = if let Span::Exact(after) = timeout.after { after } else { CONNECT_TIMEOUT };
        let now = Instant::now();
        let found = self.dns.addresses(hosts, now.checked_add(after).unwrap_or(now));
        let mut permitted = Vec::with_capacity(hosts.len());
        let mut last_error = ureq::Error::HostNotFound;
        for ((host, _), found) in hosts.iter().zip(found) {
            match found {
                Ok(found) => match self.permitted(host, found) {
                    Ok(found) => permitted.push(found),
                    Err(denied) => last_error = ureq::Error::Other(Box::new(denied)),
                },
                Err(error) => {
                    tracing::debug!(host, %error, "cannot resolve");
                    // The last host decides which error is reported.
                    let is_timeout = error.kind() == std::io::ErrorKind::TimedOut;
                    let timeout = ureq::Error::Timeout(timeout.reason);
                    last_error = if is_timeout { timeout } else { ureq::Error::HostNotFound };
                }
            }
        }
        if permitted.is_empty() {
            return Err(last_error);
        }
        let mut addresses = self.empty();
        self.history.order(&permitted, MAX_ADDRESSES).into_iter().for_each(|address| addresses.push(address));
        Ok(addresses)
    }
}

impl CheckedResolver {
    /// The permitted addresses of a host; an error if there are none.
    fn permitted(&self, host: &str, mut found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Denied> {
        found.retain(|address| self.guard.permits(address.ip()));
        if found.is_empty() {
            // The client wrote it, so that it is forbidden gives nothing away.
            let is_literal = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
            return Err(if is_literal { Denied::Literal } else { Denied::Resolved });
        }
        Ok(found)
    }
}

/// The port of a URL, or the default of its scheme.
fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config as Sidecar;
    use crate::matrix::ServerName;

    #[test]
    fn the_default_list_denies_every_address_that_is_not_public() {
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
            "100::1",
            "100:0:0:1::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:30::1",
            "2002:7f00:1::",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "3fff::1",
            "5f00::1",
            "2620:4f:8000::1",
            "1fff::1",
            "4000::1",
            "8000::1",
            "e000::1",
            "fec0::1",
            "192.0.0.9",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.99.1",
            "192.175.48.1",
            "198.18.0.1",
            "240.0.0.1",
        ] {
            assert!(!guard.permits(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450:4001::1",
            "3ffe:ffff::1",
            "::ffff:8.8.8.8",
            "10.1.2.3",
        ] {
            assert!(guard.permits(address.parse().unwrap()), "{address}");
        }
    }
}
