//! From a server name to where it is reached.
//!
//! Owns the choice of address, `Host` and certificate name. Refuses to know what is asked there.
//! [Spec, resolving server names](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

use crate::error::{Error, Kind, Result};
use crate::matrix::{Host, ServerName};

/// Port of a server whose name carries none.
const DEFAULT_PORT: u16 = 8448;

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host:port`; the certificate must carry the host.
    pub(crate) base_url: String,
    /// The `Host` header.
    pub(crate) host: String,
    /// Where to connect, tried in order; empty: where `base_url` says.
    pub(crate) via: Vec<(String, u16)>,
}

/// Where `server_name` is reached. IP literals and names with a port are reached where they say (steps 1 and 2).
pub(crate) fn resolve(server_name: &ServerName) -> Result<Endpoint> {
    let direct = |port: u16| Endpoint {
        base_url: format!("https://{}:{port}", server_name.host_str()),
        host: server_name.to_string(),
        via: Vec::new(),
    };
    match (server_name.host(), server_name.port()) {
        (_, Some(port)) => Ok(direct(port)),
        (Host::Ip(_), None) => Ok(direct(DEFAULT_PORT)),
        (Host::Name(_), None) => Err(Error::new(
            Kind::RemoteFailed,
            "servers whose name carries no port cannot be reached yet by this version",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_literals_and_explicit_ports_are_reached_where_they_say() {
        for (name, base_url) in [
            ("1.2.3.4", "https://1.2.3.4:8448"),
            ("[::1]", "https://[::1]:8448"),
            ("[::1]:99", "https://[::1]:99"),
            ("example.org:443", "https://example.org:443"),
        ] {
            let endpoint = resolve(&ServerName::parse(name).unwrap()).unwrap();
            assert_eq!((endpoint.base_url.as_str(), endpoint.host.as_str()), (base_url, name));
        }
    }
}
