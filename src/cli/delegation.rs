//! Delegation of the server name, resolved as other servers and clients do it.
//!
//! Owns the judgement of the two well-known documents. Refuses to know what the proxy does with requests.
//! [Spec, resolving server names](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names),
//! [client discovery](https://spec.matrix.org/v1.19/client-server-api/#well-known-uris).

use std::sync::Arc;

use serde_json::Value;

use crate::app::Environment;
use crate::config::Config;
use crate::federation::{Discovery, ServerAddress};
use crate::matrix::{Host, ServerName};
use crate::outbound::Outbound;
use crate::outbound::dns::Dns;

/// Largest document read, bytes.
const MAX_DOCUMENT: u64 = 64 * 1024;

const CLIENT: &str = "/.well-known/matrix/client";

const SERVER: &str = "/.well-known/matrix/server";

/// Where a server name delegates to.
#[derive(Clone, Debug)]
pub(super) struct Delegation {
    /// The endpoint for other servers.
    pub(super) servers: ServerAddress,
    /// The endpoint for clients.
    pub(super) clients: ServerAddress,
    /// Problems of the well-known documents, each with how to fix it.
    pub(super) problems: Vec<String>,
}

impl Delegation {
    /// Resolves `config.server_name` by its well-known documents and DNS. Without either, the name itself is the endpoint.
    pub(super) fn find(config: &Config, outbound: &Outbound, dns: Arc<dyn Dns>) -> Self {
        let Environment { clock, monotonic, random, .. } = Environment::system();
        let discovery = Discovery::new(outbound.clone(), dns, clock, monotonic, random);
        let server_name = &config.server_name;
        let servers = discovery.resolve(server_name, None);
        let mut problems = Vec::new();
        if can_delegate(server_name)
            && let Some(document) = fetch(outbound, server_name, SERVER)
            && read_server(&document).is_none()
        {
            problems.push(format!(
                "https://{server_name}{SERVER} does not have the form {{\"m.server\": \"matrix.example.org:443\"}}"
            ));
        }
        let clients = fetch(outbound, server_name, CLIENT);
        let base_url = clients.as_ref().and_then(base_url);
        if clients.is_some() && base_url.is_none() {
            problems.push(format!(
                "https://{server_name}{CLIENT} does not have the form {{\"m.homeserver\": {{\"base_url\": \"https://matrix.example.org\"}}}}"
            ));
        }
        let clients = endpoint_of(base_url.unwrap_or_else(|| format!("https://{server_name}")));
        if base_host(&servers) != server_name.host_str() && base_host(&clients) == server_name.host_str() {
            problems.push(format!(
                "servers are sent to {}, clients are not: serve https://{server_name}{CLIENT} too (`media-sidecar proxy-config` prints it)",
                servers.base_url
            ));
        }
        Self { servers, clients, problems }
    }

    /// Whether servers or clients go to another host than the one in `server_name`.
    pub(super) fn leads_elsewhere(&self, server_name: &ServerName) -> bool {
        [&self.servers, &self.clients].iter().any(|endpoint| base_host(endpoint) != server_name.host_str())
    }

    /// Whether servers and clients go to the same host and port.
    pub(super) fn is_one(&self) -> bool {
        let with_port = |endpoint: &ServerAddress| (base_host(endpoint).to_owned(), port(endpoint));
        with_port(&self.servers) == with_port(&self.clients)
    }
}

pub(super) fn base_host(endpoint: &ServerAddress) -> &str {
    let authority = authority(endpoint);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The port that is connected to: of the SRV record, of the URL, or the scheme's default.
pub(super) fn port(endpoint: &ServerAddress) -> u16 {
    if let Some((_, port)) = endpoint.via.first() {
        return *port;
    }
    let host = base_host(endpoint);
    let port = authority(endpoint).strip_prefix(host).and_then(|rest| rest.strip_prefix(':'));
    let meant = if endpoint.base_url.starts_with("http://") { 80 } else { 443 };
    port.and_then(|port| port.parse().ok()).unwrap_or(meant)
}

/// `host[:port]` as written in the endpoint's URL.
fn authority(endpoint: &ServerAddress) -> &str {
    let url = endpoint.base_url.as_str();
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn endpoint_of(base_url: String) -> ServerAddress {
    let endpoint = ServerAddress { host: String::new(), base_url, via: Vec::new() };
    ServerAddress { host: authority(&endpoint).to_owned(), ..endpoint }
}

/// Whether the name can be delegated: it is a DNS name without a port (spec, Resolving server names).
pub(super) fn can_delegate(server_name: &ServerName) -> bool {
    matches!((server_name.host(), server_name.port()), (Host::Name(_), None))
}

/// Fetches the document at `path`: `None` if there is none, `null` if it is not JSON.
fn fetch(outbound: &Outbound, server_name: &ServerName, path: &str) -> Option<Value> {
    let answer = outbound.follow(&format!("https://{server_name}{path}"), None).ok()?;
    if answer.status() != 200 {
        return None;
    }
    let body = answer.read_at_most(MAX_DOCUMENT).ok()?.unwrap_or_default();
    Some(serde_json::from_slice(&body).unwrap_or_default())
}

fn read_server(document: &Value) -> Option<ServerName> {
    ServerName::parse(document.get("m.server")?.as_str()?).ok()
}

fn base_url(document: &Value) -> Option<String> {
    let url = document.get("m.homeserver")?.get("base_url")?.as_str()?;
    let parsed = url::Url::parse(url).ok()?;
    let is_web = matches!(parsed.scheme(), "http" | "https") && parsed.has_host();
    is_web.then(|| url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::outbound::dns::Service;
    use crate::outbound::{CaFile, Guard, Timeouts};

    /// DNS that knows only `example.org` on port 443, which is one listener.
    #[derive(Debug)]
    struct OnlyExampleOrg(SocketAddr);

    impl Dns for OnlyExampleOrg {
        fn addresses(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
            let is_it = (host, port) == ("example.org", 443);
            is_it.then(|| vec![self.0]).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        }

        fn services(&self, _: &str) -> std::io::Result<Vec<Service>> {
            Ok(Vec::new())
        }
    }

    /// The delegation found when `example.org` serves these documents; an empty one is 404.
    fn found(server: &'static str, client: &'static str) -> Delegation {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let (tls, listener) = (Arc::new(tls), TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&tls)).unwrap(), stream);
                let mut request = [0; 4096];
                let length = stream.read(&mut request).unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let document = if request.starts_with(&format!("GET {SERVER} ")) { server } else { client };
                let status = if document.is_empty() { "404 Not Found" } else { "200 OK" };
                let length = document.len();
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{document}"
                )
                .unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        });
        let ca_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca_file.path(), cert.pem()).unwrap();
        let dns: Arc<dyn Dns> = Arc::new(OnlyExampleOrg(address));
        let timeouts = Timeouts { stall: Duration::from_secs(10), total: Some(Duration::from_secs(10)) };
        let outbound = Outbound::new(
            Guard::permit_all(),
            Some(CaFile { key: "ca", path: ca_file.path() }),
            timeouts,
            Arc::clone(&dns),
        )
        .unwrap();
        Delegation::find(&Config::defaults(ServerName::parse("example.org").unwrap()), &outbound, dns)
    }

    #[test]
    fn both_documents_are_followed() {
        let client = r#"{"m.homeserver": {"base_url": "https://matrix.example.org/"}}"#;
        let delegation = found(r#"{"m.server": "matrix.example.org:443"}"#, client);
        assert_eq!(delegation.servers.base_url, "https://matrix.example.org:443");
        assert_eq!(delegation.clients.base_url, "https://matrix.example.org");
        assert_eq!(delegation.clients.host, "matrix.example.org");
        assert!(delegation.is_one() && delegation.problems.is_empty(), "{delegation:?}");
        assert!(delegation.leads_elsewhere(&ServerName::parse("example.org").unwrap()));
    }

    #[test]
    fn without_documents_the_name_itself_is_where_they_go() {
        let delegation = found("", "");
        assert_eq!(delegation.servers.base_url, "https://example.org:8448");
        assert_eq!(delegation.clients.base_url, "https://example.org");
        assert!(!delegation.is_one() && delegation.problems.is_empty(), "{delegation:?}");
        assert!(!delegation.leads_elsewhere(&ServerName::parse("example.org").unwrap()));
    }

    #[test]
    fn documents_of_no_use_are_faults_and_so_is_one_without_the_other() {
        let server = r#"{"m.server": "matrix.example.org:443"}"#;
        for (server, client, words) in [
            ("<html>", "", "/.well-known/matrix/server does not have the form"),
            (r#"{"m.server": "https://matrix.example.org"}"#, "", "/.well-known/matrix/server does not have"),
            (server, "<html>", "/.well-known/matrix/client does not have the form"),
            (
                server,
                r#"{"m.homeserver": {"base_url": "matrix.example.org"}}"#,
                "client does not have the form",
            ),
            (server, "", "servers are sent to https://matrix.example.org:443, clients are not"),
        ] {
            let problems = found(server, client).problems;
            assert!(problems.iter().any(|problem| problem.contains(words)), "{words}: {problems:?}");
        }
    }

    #[test]
    fn hosts_and_ports_of_endpoints() {
        for (url, host, expected) in [
            ("https://example.org", "example.org", 443),
            ("https://example.org:8448", "example.org", 8448),
            ("http://example.org", "example.org", 80),
            ("https://[::1]:8448", "[::1]", 8448),
            ("https://[::1]", "[::1]", 443),
            ("https://example.org/base", "example.org", 443),
        ] {
            let endpoint = endpoint_of(url.to_owned());
            assert_eq!((base_host(&endpoint), port(&endpoint)), (host, expected), "{url}");
        }
        let srv = ServerAddress {
            via: vec![("a".to_owned(), 444)],
            ..endpoint_of("https://example.org:8448".to_owned())
        };
        assert_eq!(port(&srv), 444);
    }
}
