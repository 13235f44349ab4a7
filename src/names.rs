//! DNS: names to addresses, and SRV records.
//!
//! Owns the two resolvers: the system's for addresses, hickory's for SRV records, which the system's cannot ask for.
//! Refuses to judge what it finds: `outbound` does. Blocks.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use tokio::runtime::Handle;

/// SRV answers remembered, as long as their records allow.
const CACHED_ANSWERS: u64 = 512;

/// Where the system says whom to ask.
const SYSTEM_CONFIGURATION: &str = "/etc/resolv.conf";

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
    /// Made when first needed, inside the runtime, and anew when the system's configuration changed.
    srv: Renewed<Option<SystemTime>, TokioResolver>,
}

/// What is made from a source and made anew when that changes. What could not be made is tried again.
struct Renewed<M, T>(Mutex<Option<(M, T)>>);

impl<M, T> Default for Renewed<M, T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<M: PartialEq, T: Clone> Renewed<M, T> {
    /// What was made when the source's mark was `mark`, else what `make` makes; if it makes nothing, what there was before.
    fn get(&self, mark: M, make: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|(of, _)| *of != mark)
            && let Some(made) = make()
        {
            *kept = Some((mark, made));
        }
        kept.as_ref().map(|(_, made)| made.clone())
    }
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
        let changed = std::fs::metadata(SYSTEM_CONFIGURATION).and_then(|file| file.modified()).ok();
        let Some(resolver) = self.srv.get(changed, resolver) else { return Vec::new() };
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

    /// Started before the network was configured, it never asked for SRV records.
    #[test]
    fn what_could_not_be_made_is_tried_again_and_a_change_makes_it_anew() {
        let kept = Renewed::<u8, &str>::default();
        assert_eq!(kept.get(1, || None), None);
        assert_eq!(kept.get(1, || Some("a")), Some("a"));
        assert_eq!(kept.get(1, || panic!("nothing changed")), Some("a"));
        assert_eq!(kept.get(2, || None), Some("a"), "better than nothing");
        assert_eq!(kept.get(2, || Some("b")), Some("b"));
    }

    #[test]
    fn literals_need_no_resolver() {
        let names = SystemNames::default();
        for (host, address) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80"), ("::1", "[::1]:80")] {
            assert_eq!(names.addresses(host, 80).unwrap(), [address.parse().unwrap()], "{host}");
        }
    }
}
