//! DNS: names to addresses, and SRV records.
//!
//! Owns the two resolvers: the system's for addresses, our own for SRV records, which the system's cannot ask for (`srv.rs`); and the
//! deadlines of both (`lookups.rs`). Refuses to judge what it finds: `outbound` does. Blocks.

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

/// Where the system names its DNS servers.
const SYSTEM_CONFIGURATION: &str = "/etc/resolv.conf";

/// Where names lead. Tests put a table in its place. Questions block for as long as DNS takes; `Lookups` keeps the callers' deadlines.
pub trait Dns: Send + Sync + fmt::Debug + 'static {
    /// The addresses of `host`, an IP literal or a DNS name, with `port`. Literals are answered at once.
    fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

    /// The SRV records of `name`, or of what it is an alias of; none when there are none.
    ///
    /// # Errors
    /// `TimedOut` when no DNS server answers, others when all fail.
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

/// The system's resolver and, for SRV, the DNS servers that the system names.
#[derive(Default)]
pub struct SystemDns {
    /// Made when first needed, and anew when the system's configuration changed.
    srv: Renewed<Option<SystemTime>, Arc<Srv>>,
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

/// The address that a host spells out, with or without brackets.
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
