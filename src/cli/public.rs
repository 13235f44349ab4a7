//! The server's public address: what the proxy must listen on, and the well-known documents that lead there.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Failure;
use super::delegation::{Delegation, base_host, can_delegate, port};
use crate::app::Environment;
use crate::config::Config;
use crate::matrix::ServerName;
use crate::outbound::{CaFile, Guard, Outbound, Timeouts};

/// Ports of a server name without a port: for clients, for servers (spec, Resolving server names).
const DEFAULT_PORTS: [u16; 2] = [443, 8448];

/// Longest wait for each well-known document.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where clients and servers connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Public {
    /// The hosts that the certificate must contain; at least one.
    pub(super) hosts: Vec<String>,
    pub(super) ports: Vec<u16>,
    /// What `server_name` itself must serve, if it is delegated.
    pub(super) documents: Option<Documents>,
}

/// The JSON documents below `/.well-known/matrix/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Documents {
    /// `server`
    pub(super) server: String,
    /// `client`
    pub(super) client: String,
}

impl Public {
    /// Not delegated: `server_name` itself on 443 and 8448, or on its own port.
    pub(super) fn own(server_name: &ServerName) -> Self {
        Self {
            hosts: vec![server_name.host_str().to_owned()],
            ports: server_name.port().map_or(DEFAULT_PORTS.to_vec(), |port| vec![port]),
            documents: None,
        }
    }

    /// Delegated to `host`, on its port or 443.
    pub(super) fn at(host: &ServerName, server_name: &ServerName) -> Result<Self, Failure> {
        if host == server_name {
            return Ok(Self::own(server_name));
        }
        if !can_delegate(server_name) {
            let told = format!(
                "server_name {server_name} has a port or is an IP address, and such a name cannot be delegated; leave --public-host out"
            );
            return Err(told.into());
        }
        let port = host.port().unwrap_or(443);
        let base_url = if port == 443 {
            format!("https://{}", host.host_str())
        } else {
            format!("https://{}:{port}", host.host_str())
        };
        Ok(Self {
            hosts: vec![host.host_str().to_owned()],
            ports: vec![port],
            documents: Some(Documents::new(&format!("{}:{port}", host.host_str()), &base_url)),
        })
    }

    /// Looks up the delegation by DNS and the well-known documents.
    pub(super) fn find(config: &Config) -> Result<Self, Failure> {
        if !can_delegate(&config.server_name) {
            return Ok(Self::own(&config.server_name));
        }
        let runtime = super::runtime()?;
        // SRV look-ups need the runtime.
        let _inside = runtime.enter();
        let timeouts = Timeouts { stall: TIMEOUT, total: Some(TIMEOUT) };
        let ca_file =
            config.federation.ca_file.as_deref().map(|path| CaFile { key: "federation.ca_file", path });
        let dns = Environment::system().dns;
        let outbound = Outbound::new(Guard::permit_all(), ca_file, timeouts, Arc::clone(&dns))?;
        Ok(Self::of(&Delegation::find(config, &outbound, dns), &config.server_name))
    }

    /// The address that a delegation leads to.
    fn of(delegation: &Delegation, server_name: &ServerName) -> Self {
        let Delegation { servers, clients, .. } = delegation;
        let mut ports = vec![port(clients), port(servers)];
        ports.sort_unstable();
        ports.dedup();
        // What a document says is printed into a configuration: only what means nothing but itself there.
        let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:[]~".contains(c));
        let are_plain = [&clients.base_url, &servers.base_url].into_iter().all(|url| is_plain(url));
        if !delegation.leads_elsewhere(server_name) || !are_plain {
            return Self { ports, ..Self::own(server_name) };
        }
        let mut hosts = vec![base_host(clients).to_owned(), base_host(servers).to_owned()];
        hosts.dedup();
        let server = format!("{}:{}", base_host(servers), port(servers));
        Self { hosts, ports, documents: Some(Documents::new(&server, &clients.base_url)) }
    }

    /// The host that certbot names its folder after.
    pub(super) fn first_host(&self) -> &str {
        self.hosts.first().map_or("", String::as_str)
    }
}

impl Documents {
    /// Documents that delegate servers to `server`, `host:port`, and clients to `base_url`.
    fn new(server: &str, base_url: &str) -> Self {
        let text = |document: Value| document.to_string();
        Self {
            server: text(json!({"m.server": server})),
            client: text(json!({"m.homeserver": {"base_url": base_url}})),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::federation::ServerAddress;

    fn name(text: &str) -> ServerName {
        ServerName::parse(text).unwrap()
    }

    #[test]
    fn a_public_host_is_where_both_documents_lead() {
        let public = Public::at(&name("matrix.example.org"), &name("example.org")).unwrap();
        assert_eq!((public.first_host(), &public.ports[..]), ("matrix.example.org", &[443][..]));
        let documents = public.documents.unwrap();
        assert_eq!(documents.server, r#"{"m.server":"matrix.example.org:443"}"#);
        assert_eq!(documents.client, r#"{"m.homeserver":{"base_url":"https://matrix.example.org"}}"#);
        let public = Public::at(&name("matrix.example.org:8443"), &name("example.org")).unwrap();
        let documents = public.documents.unwrap();
        assert_eq!(public.ports, [8443]);
        assert!(documents.server.contains("matrix.example.org:8443"), "{documents:?}");
        assert!(documents.client.contains("https://matrix.example.org:8443"), "{documents:?}");
        assert_eq!(
            Public::at(&name("example.org"), &name("example.org")).unwrap(),
            Public::own(&name("example.org"))
        );
        for fixed in ["example.org:8448", "192.0.2.7", "[::1]"] {
            let why = Public::at(&name("matrix.example.org"), &name(fixed)).unwrap_err().to_string();
            assert!(why.contains("leave --public-host out"), "{why}");
        }
    }

    #[test]
    fn what_is_found_decides_hosts_ports_and_documents() {
        let endpoint = |base_url: &str, via: &[(&str, u16)]| ServerAddress {
            base_url: base_url.to_owned(),
            host: String::new(),
            via: via.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect(),
        };
        let found = |servers, clients| {
            Public::of(&Delegation { servers, clients, problems: Vec::new() }, &name("example.org"))
        };
        let own = endpoint("https://example.org", &[]);
        assert_eq!(
            found(endpoint("https://example.org:8448", &[]), own.clone()),
            Public::own(&name("example.org"))
        );
        let srv = found(endpoint("https://example.org:8448", &[("a.example", 444)]), own);
        assert_eq!((&srv.ports[..], srv.documents), (&[443, 444][..], None));
        let matrix = endpoint("https://matrix.example.org", &[]);
        let delegated = found(endpoint("https://matrix.example.org:443", &[]), matrix.clone());
        assert_eq!(
            (&delegated.hosts[..], &delegated.ports[..]),
            (&["matrix.example.org".to_owned()][..], &[443][..])
        );
        let apart = found(endpoint("https://fed.example.org:8449", &[]), matrix);
        assert_eq!(apart.hosts, ["matrix.example.org", "fed.example.org"]);
        assert_eq!(apart.ports, [443, 8449]);
        assert!(apart.documents.unwrap().server.contains("fed.example.org:8449"));
    }
}
