//! `media-sidecar proxy-config …`: the whole configuration of a reverse proxy, for the configuration in force.
//!
//! Owns what differs between installations; the rest stands in `assets/proxy/`. Refuses to know how proxies are installed.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Failure, load_config_quietly};
use crate::config::{Config, ListenAddr, reachable, redacted};
use crate::server::PROXY_PREFIXES;

/// Ports of a server whose name carries none: what clients try, what other servers try (spec, Resolving server names).
const DEFAULT_PORTS: [u16; 2] = [443, 8448];

/// A proxy there is a template for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// 1.22 (Debian 12) or later.
    Nginx,
    /// 2.6 (Debian 12) or later.
    Caddy,
    /// 3.6.7 or later; earlier ones refuse `%2F` in paths, or do not know `sanitizePath`.
    Traefik,
}

/// The files that TLS needs; those not given are where certbot puts them.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Certificate with its chain, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// Prints the configuration.
pub fn proxy_config(
    config: Option<&Path>,
    proxy: Proxy,
    tls: &TlsFiles,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let config = load_config_quietly(config)?;
    Ok(out.write_all(render(&config, proxy, tls)?.as_bytes())?)
}

/// The template of `proxy`, filled.
fn render(config: &Config, proxy: Proxy, tls: &TlsFiles) -> Result<String, Failure> {
    let template = match proxy {
        Proxy::Nginx => include_str!("../../assets/proxy/nginx.conf"),
        Proxy::Caddy => include_str!("../../assets/proxy/Caddyfile"),
        Proxy::Traefik => include_str!("../../assets/proxy/traefik.yml"),
    };
    let sidecar = Sidecar::of(config, proxy)?;
    let homeserver = Homeserver::of(config)?;
    let host = config.server_name.host_str();
    let ports = config.server_name.port().map_or(DEFAULT_PORTS.to_vec(), |port| vec![port]);
    let certbot = |file: &str| PathBuf::from(format!("/etc/letsencrypt/live/{host}/{file}"));
    let tls_file = |given: &Option<PathBuf>, file| plain_path(given.clone().unwrap_or_else(|| certbot(file)));
    let values = [
        ("server_name", config.server_name.to_string()),
        ("host", host.to_owned()),
        ("tls_cert", tls_file(&tls.cert, "fullchain.pem")?),
        ("tls_key", tls_file(&tls.key, "privkey.pem")?),
        ("max_body_mib", config.uploads.max_size.0.div_euclid(1 << 20).saturating_add(1).to_string()),
        ("homeserver_scheme", homeserver.scheme),
        ("homeserver_authority", homeserver.authority),
        ("homeserver_tls_nginx", homeserver.tls_nginx),
        ("sidecar_nginx", sidecar.nginx),
        ("sidecar_caddy", sidecar.caddy),
        ("sidecar_tcp", sidecar.tcp),
        ("listen_nginx", each(&ports, "\n", |port| listen_nginx(*port))),
        ("locations_nginx", locations_nginx()),
        ("sites_caddy", each(&ports, ", ", |port| format!("https://:{port}"))),
        ("prefixes_caddy", each(&PROXY_PREFIXES, " ", |prefix| format!("{prefix}*"))),
        ("entry_points_traefik", each(&ports, "\n", |port| entry_point_traefik(*port))),
        ("entry_point_names", each(&ports, ", ", |port| format!("https-{port}"))),
        ("rule_traefik", each(&PROXY_PREFIXES, "\n        || ", |prefix| format!("PathPrefix(`{prefix}`)"))),
    ];
    Ok(values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value)))
}

/// Where the proxy reaches the sidecar, in each one's notation.
struct Sidecar {
    /// For `server` in an upstream.
    nginx: String,
    /// For `reverse_proxy`.
    caddy: String,
    /// `address:port`; empty for a Unix socket.
    tcp: String,
}

impl Sidecar {
    /// The first address of `listen` that `proxy` can connect to.
    fn of(config: &Config, proxy: Proxy) -> Result<Self, Failure> {
        let usable = |address: &&ListenAddr| matches!(address, ListenAddr::Tcp(_)) || proxy != Proxy::Traefik;
        match config.listen.iter().find(usable) {
            Some(ListenAddr::Tcp(address)) if address.port() == 0 => {
                Err(format!("`listen: {address}` stands for any free port; name one there").into())
            }
            Some(ListenAddr::Tcp(address)) => {
                let tcp = reachable(*address).to_string();
                Ok(Self { nginx: tcp.clone(), caddy: tcp.clone(), tcp })
            }
            Some(ListenAddr::Unix(path)) => {
                let path = plain_path(path.clone())?;
                Ok(Self { nginx: format!("unix:{path}"), caddy: format!("unix/{path}"), tcp: String::new() })
            }
            None => Err("Traefik cannot use a Unix socket; add a TCP address to `listen`".into()),
        }
    }
}

/// Where the proxy reaches the homeserver.
struct Homeserver {
    /// `http` or `https`
    scheme: String,
    /// `host:port`
    authority: String,
    /// What nginx needs to be told for `https`.
    tls_nginx: String,
}

impl Homeserver {
    /// As `homeserver.url` says.
    fn of(config: &Config) -> Result<Self, Failure> {
        let uri: hyper::Uri = config.homeserver.url.parse()?;
        let url = redacted(&config.homeserver.url);
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(format!("`homeserver.url: {url}` is not a URL (like http://127.0.0.1:6167)").into());
        };
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(format!(
                "`homeserver.url: {url}` has a path; a proxy must pass paths on as they are, so name the homeserver without"
            )
            .into());
        }
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let tls_nginx = match scheme {
            "https" => format!("\n            proxy_ssl_server_name on;\n            proxy_ssl_name {host};"),
            _ => String::new(),
        };
        Ok(Self { scheme: scheme.to_owned(), authority: format!("{}:{port}", plain(host)?), tls_nginx })
    }
}

/// `listen` lines for IPv4 and IPv6. In nginx 1.22 HTTP/2 is switched on here and nowhere else.
fn listen_nginx(port: u16) -> String {
    format!("        listen {port} ssl http2;\n        listen [::]:{port} ssl http2;")
}

/// A line for each media path.
fn locations_nginx() -> String {
    let location = |path: &str| format!("        location {path} {{ proxy_pass http://media_sidecar; }}");
    let prefixes = each(&PROXY_PREFIXES, "\n", |prefix| location(prefix));
    format!("{prefixes}\n{}", location("= /_matrix/client/versions"))
}

/// An entry point for all interfaces.
fn entry_point_traefik(port: u16) -> String {
    format!(
        "  https-{port}:
    address: \":{port}\"
    http:
      # Servers sign the request target: it goes on as it came. (Traefik still writes %2f as %2F and decodes %41; no server is
      # known to send such.)
      sanitizePath: false
    transport:
      respondingTimeouts:
        # Counts the whole upload, which may be slow; the sidecar ends silent ones.
        readTimeout: 0s"
    )
}

/// The texts of all `items`, joined.
fn each<T>(items: &[T], separator: &str, text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(separator)
}

/// An absolute path that can stand in every proxy's configuration without quotes.
fn plain_path(path: PathBuf) -> Result<String, Failure> {
    let path = std::path::absolute(path)?;
    let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8; use another path", path.display()))?;
    Ok(plain(text)?.to_owned())
}

/// `text` if it needs no quotes in any proxy's configuration.
fn plain(text: &str) -> Result<&str, Failure> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+=,@~[]".contains(c);
    match text.chars().find(|c| !is_plain(*c)) {
        None => Ok(text),
        Some(c) => Err(format!("`{text}` contains {c:?}, which a proxy's configuration would take for something else; use another").into()),
    }
}

#[cfg(test)]
mod tests {
    use saphyr::LoadableYamlNode as _;

    use super::*;
    use crate::matrix::ServerName;

    const ALL: [Proxy; 3] = [Proxy::Nginx, Proxy::Caddy, Proxy::Traefik];

    fn config(server_name: &str) -> Config {
        Config::defaults(ServerName::parse(server_name).unwrap())
    }

    fn rendered(config: &Config, proxy: Proxy) -> String {
        render(config, proxy, &TlsFiles::default()).unwrap()
    }

    fn refused(config: &Config, proxy: Proxy) -> String {
        render(config, proxy, &TlsFiles::default()).unwrap_err().to_string()
    }

    #[test]
    fn every_gap_is_filled_and_every_media_path_stands_in_it() {
        for proxy in ALL {
            let text = rendered(&config("example.org"), proxy);
            assert!(!text.contains("{{") && !text.contains("}}"), "{text}");
            assert!(text.ends_with('\n') && !text.contains("\n\n\n"), "{text}");
            for path in PROXY_PREFIXES.iter().chain(&["/_matrix/client/versions", "/_sidecar/"]) {
                assert!(text.contains(path), "{proxy:?} lacks {path}");
            }
            for part in [
                "127.0.0.1:8090",
                "127.0.0.1:6167",
                "/etc/letsencrypt/live/example.org/fullchain.pem",
                "/etc/letsencrypt/live/example.org/privkey.pem",
            ] {
                assert!(text.contains(part), "{proxy:?} lacks {part}");
            }
        }
    }

    #[test]
    fn the_ports_are_443_and_8448_or_the_one_in_the_name() {
        for (proxy, of_443, of_8448, of_9000) in [
            (Proxy::Nginx, "listen [::]:443 ssl http2;", "listen 8448 ssl http2;", "listen 9000 ssl http2;"),
            (Proxy::Caddy, "https://:443", "https://:8448", "https://:9000"),
            (Proxy::Traefik, "address: \":443\"", "address: \":8448\"", "address: \":9000\""),
        ] {
            let text = rendered(&config("example.org"), proxy);
            assert!(text.contains(of_443) && text.contains(of_8448), "{text}");
            let text = rendered(&config("example.org:9000"), proxy);
            assert!(text.contains(of_9000) && !text.contains(":443") && !text.contains("8448"), "{text}");
        }
    }

    #[test]
    fn nginx_passes_the_target_on_and_buffers_nothing() {
        let mut config = config("example.org");
        config.uploads.max_size = crate::config::Size(7 << 20);
        let text = rendered(&config, Proxy::Nginx);
        for line in [
            "merge_slashes off;",
            "proxy_request_buffering off;",
            "proxy_buffering off;",
            "client_max_body_size 8m;",
            "proxy_read_timeout 120s;",
            "proxy_set_header Host $http_host;",
            "proxy_set_header X-Forwarded-For $remote_addr;",
            "location /_matrix/federation/v1/media/ { proxy_pass http://media_sidecar; }",
            "location = /_matrix/client/versions { proxy_pass http://media_sidecar; }",
            "proxy_pass http://homeserver;\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let passes = text.lines().filter(|line| line.contains("proxy_pass http"));
        for line in passes {
            let target = line.split("://").nth(1).unwrap().split(';').next().unwrap();
            assert!(!target.contains('/'), "a path would be decoded and written anew: {line}");
        }
    }

    #[test]
    fn traefiks_is_yaml_with_routers_for_every_entry_point() {
        let text = rendered(&config("example.org"), Proxy::Traefik);
        let yaml = saphyr::Yaml::load_from_str(&text).unwrap();
        let root = &yaml[0];
        assert!(root["entryPoints"]["https-443"]["address"].as_str() == Some(":443"));
        let media = &root["http"]["routers"]["media"];
        assert_eq!(media["entryPoints"][1].as_str(), Some("https-8448"));
        let rule = media["rule"].as_str().unwrap();
        assert!(rule.starts_with("PathPrefix(`/_matrix/media/`) || PathPrefix(`"), "{rule}");
        assert!(rule.ends_with("`) || Path(`/_matrix/client/versions`)"), "{rule}");
        let url = &root["http"]["services"]["media-sidecar"]["loadBalancer"]["servers"][0]["url"];
        assert_eq!(url.as_str(), Some("http://127.0.0.1:8090"));
    }

    #[test]
    fn the_sidecar_is_reached_where_it_listens() {
        let mut config = config("example.org");
        config.listen = vec!["unix:/run/media-sidecar/http.sock".parse().unwrap()];
        assert!(rendered(&config, Proxy::Nginx).contains("server unix:/run/media-sidecar/http.sock;"));
        assert!(
            rendered(&config, Proxy::Caddy).contains("reverse_proxy unix//run/media-sidecar/http.sock {")
        );
        assert!(refused(&config, Proxy::Traefik).contains("add a TCP address"));
        config.listen.push("0.0.0.0:8091".parse().unwrap());
        assert!(rendered(&config, Proxy::Traefik).contains("url: http://127.0.0.1:8091"));
        config.listen = vec!["[::]:8092".parse().unwrap()];
        assert!(rendered(&config, Proxy::Nginx).contains("server [::1]:8092;"));
        config.listen = vec!["127.0.0.1:0".parse().unwrap()];
        assert!(refused(&config, Proxy::Caddy).contains("any free port"));
    }

    #[test]
    fn the_homeserver_is_reached_where_its_url_says() {
        let mut config = config("example.org");
        config.homeserver.url = "https://matrix.internal".to_owned();
        let nginx = rendered(&config, Proxy::Nginx);
        assert!(
            nginx.contains("server matrix.internal:443;") && nginx.contains("proxy_pass https://homeserver;")
        );
        assert!(nginx.contains("proxy_ssl_name matrix.internal;"));
        assert!(rendered(&config, Proxy::Caddy).contains("reverse_proxy https://matrix.internal:443 {"));
        assert!(rendered(&config, Proxy::Traefik).contains("url: https://matrix.internal:443\n"));
        config.homeserver.url = "http://[::1]:8008/".to_owned();
        assert!(rendered(&config, Proxy::Nginx).contains("server [::1]:8008;"));
        config.homeserver.url = "http://127.0.0.1/matrix".to_owned();
        assert!(refused(&config, Proxy::Nginx).contains("has a path"));
    }

    #[test]
    fn tls_files_are_named_in_full_and_nothing_slips_in_through_them() {
        let tls = TlsFiles { cert: Some("cert.pem".into()), key: Some("/etc/key.pem".into()) };
        for proxy in ALL {
            let text = render(&config("example.org"), proxy, &tls).unwrap();
            let folder = std::env::current_dir().unwrap();
            assert!(text.contains(&format!(" {}/cert.pem", folder.display())), "{text}");
            assert!(text.contains(" /etc/key.pem"), "{text}");
            let tls = TlsFiles { cert: Some("/a; include /etc/passwd".into()), key: None };
            assert!(render(&config("example.org"), proxy, &tls).unwrap_err().to_string().contains("';'"));
        }
    }
}
