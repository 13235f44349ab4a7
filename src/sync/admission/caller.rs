//! Who asks: the class of a caller, and who counts as one caller inside it.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use crate::matrix::{Host, ServerName, UserId};

/// Bits of an IPv4 address that name a block: one network of one customer.
const IPV4_BLOCK: u32 = 24;

/// The same of an IPv6 address: providers give a customer a /56 or more.
const IPV6_BLOCK: u32 = 56;

/// What callers are known as. Each class has places of its own, so that none waits behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Holders of a valid access token.
    User,
    /// Servers that proved who they are: by a good signature, or by a file that they sent.
    Server,
    /// Callers without a token, and servers that proved nothing yet.
    Unknown,
}

impl Class {
    /// All classes, the one with most rights first.
    pub(crate) const ALL: [Self; 3] = [Self::User, Self::Server, Self::Unknown];

    /// The name in the configuration and in counters.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::User => "users",
            Self::Server => "servers",
            Self::Unknown => "unknown",
        }
    }
}

/// A caller. Inside a class, callers with the same share count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) class: Class,
    pub(crate) share: Share,
}

/// A user, a server's host, or a block of addresses, as a hash with a key of this process. Two that collide share their places, which
/// nobody can bring about, since the key is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Share(u64);

impl Caller {
    /// A holder of an access token.
    pub(crate) fn user(user_id: &UserId) -> Self {
        Self { class: Class::User, share: Share::of(("user", user_id.as_str())) }
    }

    /// A guest: anyone may have any number of guest accounts, so those of one block of addresses count as one user.
    pub(crate) fn guest(client: Option<IpAddr>) -> Self {
        Self { class: Class::User, share: Share::of(("guest", Share::of_client(client))) }
    }

    /// A server that proved who it is. All ports of a host are one caller.
    pub(crate) fn server(name: &ServerName) -> Self {
        Self { class: Class::Server, share: Share::of_server(name) }
    }

    /// A caller without credentials, or with some that are not yet checked.
    pub(crate) fn unknown(client: Option<IpAddr>) -> Self {
        Self { class: Class::Unknown, share: Share::of_client(client) }
    }

    /// A client at addresses from which a good token came lately.
    pub(crate) fn known_client(client: Option<IpAddr>) -> Self {
        Self { class: Class::User, ..Self::unknown(client) }
    }

    /// The service itself, on behalf of the operator.
    pub(crate) fn operator() -> Self {
        Self { class: Class::User, share: Share::of("operator") }
    }

    /// Work that nobody waits for. It gets in nobody's way.
    pub(crate) fn background() -> Self {
        Self { class: Class::Unknown, share: Share::of("background") }
    }
}

impl Share {
    fn of(name: impl Hash) -> Self {
        /// The secret key of the hashes.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEY.hash_one(name))
    }

    /// The host of a server, without the port: 65 535 ports are one. Addresses count by their block.
    pub(crate) fn of_server(name: &ServerName) -> Self {
        match name.host() {
            Host::Ip(address) => Self::of_address(address),
            Host::Name(_) => Self::of_host(name.host_str()),
        }
    }

    /// A host of the web.
    pub(crate) fn of_host(host: &str) -> Self {
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => Self::of_address(address),
            Err(_) => Self::of(("host", host.to_ascii_lowercase())),
        }
    }

    /// A client by its address; all whose address is not known count as one.
    fn of_client(client: Option<IpAddr>) -> Self {
        client.map_or_else(|| Self::of("no address"), Self::of_address)
    }

    /// The block of an address: /24 of IPv4, /56 of IPv6.
    fn of_address(address: IpAddr) -> Self {
        let block = match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX << u32::BITS.saturating_sub(IPV4_BLOCK);
                IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX << u128::BITS.saturating_sub(IPV6_BLOCK);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self::of(("block", block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_addresses_of_a_block_and_cases_of_a_host_are_one_caller() {
        let server = |name: &str| Share::of_server(&ServerName::parse(name).unwrap());
        let client = |address: &str| Caller::unknown(Some(address.parse().unwrap())).share;
        for (one, other) in [
            (server("a.example:1"), server("a.example:65535")),
            (server("127.0.1.1:1"), server("127.0.1.200")),
            (server("[2001:db8::1]:9"), server("[2001:db8:0:ff::2]")),
            (client("192.0.2.1"), client("192.0.2.255")),
            (client("::ffff:192.0.2.1"), client("192.0.2.9")),
            (client("2001:db8::1"), client("2001:db8:0:ff::")),
            (Share::of_host("Example.org"), Share::of_host("example.org")),
        ] {
            assert_eq!(one, other);
        }
        for (one, other) in [
            (server("a.example"), server("b.example")),
            (server("127.0.1.1"), server("127.0.2.1")),
            (client("192.0.2.1"), client("192.0.3.1")),
            (client("2001:db8::1"), client("2001:db8:0:100::1")),
        ] {
            assert_ne!(one, other);
        }
    }
}
