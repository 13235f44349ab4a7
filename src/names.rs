//! DNS: names to addresses, and SRV records.
//!
//! Owns the two resolvers: the system's for addresses, hickory's for SRV records, which the system's cannot ask for.
//! Refuses to judge what it finds: `outbound` does. Blocks.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::OnceLock;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use tokio::runtime::Handle;

/// SRV answers remembered, as long as their records allow.
const CACHED_ANSWERS: u64 = 512;

/// Where names lead. Tests put a table in its place.
pub trait Names: Send + Sync + fmt::Debug {
    /// The addresses of `host`, an IP literal or a DNS name, with `port`.
    fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The SRV records of `name`; none when there are none or DNS does not say.
    fn services(&self, name: &str) -> Vec<Service>;
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower is tried first.
    pub priority: u16,
    /// Share of attempts among equals.
    pub weight: u16,
    /// Target, without a trailing dot; empty means that the service is decidedly not available.
    pub host: String,
    /// Target port.
    pub port: u16,
}

/// The system's resolver and, for SRV, hickory with the system's configuration.
#[derive(Default)]
pub struct SystemNames {
    /// Made when first needed, inside the runtime.
    srv: OnceLock<Option<TokioResolver>>,
}

impl Names for SystemNames {
    fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let bare = host.trim_matches(['[', ']']);
        match bare.parse::<IpAddr>() {
            Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
            Err(_name) => (host, port).to_socket_addrs().map(Iterator::collect),
        }
    }

    fn services(&self, name: &str) -> Vec<Service> {
        let Ok(runtime) = Handle::try_current() else { return Vec::new() };
        let Some(resolver) = self.srv.get_or_init(resolver) else { return Vec::new() };
        // With a trailing dot the name is complete: no search domain is tried.
        let records = match runtime.block_on(resolver.srv_lookup(format!("{name}."))) {
            Ok(records) => records,
            Err(error) => {
                tracing::debug!(name, %error, "no SRV records");
                return Vec::new();
            }
        };
        let services = records.answers().iter().filter_map(|record| {
            let RData::SRV(srv) = &record.data else { return None };
            let host = srv.target.to_utf8().trim_end_matches('.').to_owned();
            Some(Service { priority: srv.priority, weight: srv.weight, host, port: srv.port })
        });
        services.collect()
    }
}

/// A resolver with the system's configuration, if it can be read.
fn resolver() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        builder.options_mut().cache_size = CACHED_ANSWERS;
        builder.build()
    });
    built.inspect_err(|error| tracing::warn!(%error, "cannot ask for SRV records")).ok()
}

impl fmt::Debug for SystemNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemNames").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_need_no_resolver() {
        let names = SystemNames::default();
        for (host, address) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80"), ("::1", "[::1]:80")] {
            assert_eq!(names.addresses(host, 80).unwrap(), [address.parse().unwrap()], "{host}");
        }
    }
}
