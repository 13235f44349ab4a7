//! DNS: names to addresses, and SRV records.
//!
//! Owns the two resolvers and their deadlines (`lookups.rs`): the system's resolver for addresses, and our own for SRV records (`srv.rs`),
//! which the system's API does not offer. Refuses to judge what it finds: `outbound` does. Blocks.

mod exchange;
mod lookups;
mod message;
mod srv;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use self::exchange::Servers;
pub(crate) use self::lookups::Lookups;
use self::srv::{QUESTION_TIME, Srv};

/// The file with the system's DNS servers.
const SYSTEM_CONFIGURATION: &str = "/etc/resolv.conf";

/// Name resolution. Tests use a table instead. Lookups block for as long as DNS takes; `Lookups` adds deadlines.
pub trait Dns: Send + Sync + fmt::Debug + 'static {
    /// The addresses of `host`, an IP literal or a DNS name, with `port`. Literals do not block.
    fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The SRV records of `name`, or of the name that it is an alias of. May be empty.
    ///
    /// # Errors
    /// `TimedOut` when no DNS server responds, other errors when all fail.
    fn services(&self, name: &str) -> io::Result<Vec<Service>>;
}

/// One SRV record (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Lower is tried first.
    pub priority: u16,
    /// Share of attempts among equals.
    pub weight: u16,
    /// Target, without a trailing dot; empty means that the service is not available at this domain.
    pub host: String,
    /// Target port.
    pub port: u16,
}

/// The system's resolver and, for SRV records, the DNS servers in `resolv.conf`.
#[derive(Default)]
pub struct SystemDns {
    /// Created when first needed, and again when `resolv.conf` has changed.
    srv: Renewed<Option<SystemTime>, Arc<Srv>>,
}

/// A value that is built from a source, and built again when the source changes or building has failed.
struct Renewed<M, T>(Mutex<Option<(M, T)>>);

impl<M, T> Default for Renewed<M, T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<M: PartialEq, T: Clone> Renewed<M, T> {
    /// The value if it was built when the source had this `mark`, else the result of `make`; if that is `None`, the previous value.
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

impl Dns for SystemDns {
    fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match literal(host) {
            Some(address) => Ok(vec![SocketAddr::new(address, port)]),
            None => (host, port).to_socket_addrs().map(Iterator::collect),
        }
    }

    fn services(&self, name: &str) -> io::Result<Vec<Service>> {
        let changed = std::fs::metadata(SYSTEM_CONFIGURATION).and_then(|file| file.modified()).ok();
        let make = || {
            let text = std::fs::read(SYSTEM_CONFIGURATION);
            let text = text.inspect_err(
                |error| tracing::warn!(%error, "cannot read {SYSTEM_CONFIGURATION}: no SRV records"),
            );
            Some(Arc::new(Srv::new(Servers::from_config(&text.ok()?, QUESTION_TIME))))
        };
        let srv = self.srv.get(changed, make).ok_or_else(|| io::Error::other("no resolver"))?;
        srv.services(name).inspect_err(|error| tracing::debug!(name, %error, "no SRV records"))
    }
}

/// The address of a host that is an IP literal, with or without brackets.
fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

impl fmt::Debug for SystemDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemDns").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

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
    fn srv_records_are_asked_for_without_a_runtime() {
        let lookups = Lookups::from(Arc::new(SystemDns::default()));
        let until = Instant::now().checked_add(Duration::from_secs(20)).unwrap();
        let found = lookups.services("_matrix-fed._tcp.nowhere.invalid", until);
        assert!(found.is_ok_and(|found| found.is_empty()) || !Path::new(SYSTEM_CONFIGURATION).exists());
    }

    #[test]
    fn literals_need_no_resolver() {
        let dns = SystemDns::default();
        for (host, address) in [("127.0.0.1", "127.0.0.1:80"), ("[::1]", "[::1]:80"), ("::1", "[::1]:80")] {
            assert_eq!(dns.addresses(host, 80).unwrap(), [address.parse().unwrap()], "{host}");
        }
    }
}
