//! From a server name to where it is reached.
//!
//! Owns the choice of address, `Host` and certificate name, step by step as the specification numbers them. Refuses to
//! know what is asked there.
//! [Spec, resolving server names](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

mod well_known;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::well_known::WellKnown;
#[cfg(any(fuzzing, test))]
pub(crate) use self::well_known::{lifetime as well_known_lifetime, read as read_well_known};
use crate::matrix::{Clock, Host, Monotonic, Random, ServerName};
use crate::outbound::Outbound;
use crate::outbound::dns::{Lookups, Service};

/// Port of a server whose name carries none.
const DEFAULT_PORT: u16 = 8448;

/// SRV targets tried for one connection.
const MAX_TARGETS: usize = 8;

/// Longest wait for SRV records.
const SRV_TIMEOUT: Duration = Duration::from_secs(3);

/// Where a server is reached, and under which names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    /// `https://host:port`; the certificate must carry the host.
    pub(crate) base_url: String,
    /// For the `Host` header.
    pub(crate) host: String,
    /// Where to connect instead of `base_url`, in the order to try; empty without SRV records.
    pub(crate) via: Vec<(String, u16)>,
}

/// Resolves names to endpoints. Blocks.
#[derive(Debug)]
pub(crate) struct Discovery {
    well_known: WellKnown,
    dns: Lookups,
    random: RandomNumbers,
}

/// Random numbers in a range, from random bytes.
struct RandomNumbers(Random);

impl Discovery {
    /// Asks for well-known documents through `outbound`.
    pub(crate) fn new(
        outbound: Outbound,
        dns: impl Into<Lookups>,
        clock: Clock,
        monotonic: Monotonic,
        random: Random,
    ) -> Self {
        let well_known = WellKnown::new(outbound, clock, monotonic, Arc::clone(&random));
        Self { well_known, dns: dns.into(), random: RandomNumbers(random) }
    }

    /// Where `server_name` is reached. Waits for documents and DNS within the time left until `deadline`; what does not arrive by then is
    /// treated as absent.
    pub(crate) fn resolve(&self, server_name: &ServerName, deadline: Option<Instant>) -> ServerAddress {
        match (server_name.host(), server_name.port()) {
            // Step 3: only a bare DNS name may be delegated.
            (Host::Name(_), None) => match self.well_known.delegated(server_name, deadline) {
                Some(delegated) => self.reach(&delegated, deadline),
                None => self.reach(server_name, deadline),
            },
            (Host::Ip(_), _) | (Host::Name(_), Some(_)) => self.reach(server_name, deadline),
        }
    }

    /// Where a name is reached that is not delegated further: the server's own (steps 1, 2, 4 to 6) or the one it delegates to
    /// (steps 3.1 to 3.5). `Host` and certificate are for this name, never for an SRV target.
    fn reach(&self, name: &ServerName, deadline: Option<Instant>) -> ServerAddress {
        let host = name.host_str();
        let direct = |port: u16| ServerAddress {
            base_url: format!("https://{host}:{port}"),
            host: name.to_string(),
            via: Vec::new(),
        };
        match (name.host(), name.port()) {
            (_, Some(port)) => direct(port),
            (Host::Ip(_), None) => direct(DEFAULT_PORT),
            (Host::Name(_), None) => {
                let via = self.targets(host, deadline);
                if via.is_empty() {
                    direct(DEFAULT_PORT)
                } else {
                    ServerAddress { via, ..direct(DEFAULT_PORT) }
                }
            }
        }
    }

    /// The SRV targets of a host in the order to try them. Where the new record exists, the old one is not asked for, even if all targets
    /// of the new one are down. None when DNS does not answer.
    fn targets(&self, host: &str, deadline: Option<Instant>) -> Vec<(String, u16)> {
        let now = Instant::now();
        let latest = now.checked_add(SRV_TIMEOUT).unwrap_or(now);
        let deadline = deadline.map_or(latest, |deadline| deadline.min(latest));
        let ask = |service: &str| self.dns.services(&format!("{service}._tcp.{host}"), deadline);
        let services = match ask("_matrix-fed") {
            Ok(new) if !new.is_empty() => new,
            // A resolver that drops one query drops the other as well.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Vec::new(),
            Ok(_) | Err(_) => ask("_matrix").unwrap_or_default(),
        };
        let ordered = in_order(services, |below| self.random.below(below));
        // The root as target means that the service is not offered. It resolves to nothing, and nothing else is tried.
        let host = |host: String| if host.is_empty() { ".".to_owned() } else { host };
        ordered.into_iter().take(MAX_TARGETS).map(|service| (host(service.host), service.port)).collect()
    }
}

/// SRV records by priority, those of equal priority in a random order that follows their weights (RFC 2782). `below(n)` returns a random
/// number below `n`.
fn in_order(mut services: Vec<Service>, below: impl Fn(u64) -> u64) -> Vec<Service> {
    let mut ordered = Vec::with_capacity(services.len());
    while let Some(priority) = services.iter().map(|service| service.priority).min() {
        // One more than its weight, so that records of weight 0 have a small chance.
        let share = |service: &Service| u64::from(service.weight).saturating_add(1);
        let equals = || services.iter().enumerate().filter(|(_, service)| service.priority == priority);
        let total = equals().map(|(_, service)| share(service)).fold(0, u64::saturating_add);
        let drawn = below(total);
        let mut passed = 0_u64;
        let index = equals().find(|(_, service)| {
            passed = passed.saturating_add(share(service));
            passed > drawn
        });
        let Some((index, _)) = index else { break };
        ordered.push(services.remove(index));
    }
    ordered
}

impl RandomNumbers {
    /// A random number below `limit`, which is not 0. The bias of the remainder does not matter here.
    fn below(&self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        (self.0)(&mut bytes);
        u64::from_le_bytes(bytes).checked_rem(limit).unwrap_or(0)
    }
}

impl std::fmt::Debug for RandomNumbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RandomNumbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(priority: u16, weight: u16, host: &str) -> Service {
        Service { priority, weight, host: host.to_owned(), port: 1 }
    }

    fn hosts(services: Vec<Service>, drawn: u64) -> Vec<String> {
        in_order(services, |below| drawn.min(below.saturating_sub(1)))
            .into_iter()
            .map(|service| service.host)
            .collect()
    }

    #[test]
    fn lower_priorities_come_first_and_weights_share_among_equals() {
        let services = vec![service(20, 0, "last"), service(10, 1, "light"), service(10, 9, "heavy")];
        assert_eq!(hosts(services.clone(), 0), ["light", "heavy", "last"]);
        assert_eq!(hosts(services.clone(), 1), ["light", "heavy", "last"]);
        assert_eq!(hosts(services.clone(), 2), ["heavy", "light", "last"]);
        assert_eq!(hosts(services, 99), ["heavy", "light", "last"]);
        assert!(hosts(Vec::new(), 0).is_empty());
    }
}
