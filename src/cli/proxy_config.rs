//! `media-sidecar proxy-config …`: prints the complete configuration of a reverse proxy.
//!
//! Owns what differs between installations; the templates are in `assets/proxy/`. Refuses to know how proxies are installed.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::public::{Documents, Public};
use super::{Failure, load_config_quietly};
use crate::config::{Config, HomeserverUrl, ListenAddr, reachable, redacted};
use crate::matrix::ServerName;
use crate::server::PROXY_PREFIXES;

/// The supported proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// 1.22 (Debian 12) or later.
    Nginx,
    /// 2.6 (Debian 12) or later.
    Caddy,
    /// 3.6.7 or later; earlier ones refuse `%2F` in paths, or do not know `sanitizePath`.
    Traefik,
}

/// TLS files; by default those of certbot.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Certificate with its chain, PEM.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
}

/// What the proxy does when the sidecar answers 404.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It passes the 404 on.
    #[default]
    Off,
    /// It asks the homeserver, which may have media from before.
    Homeserver,
}

/// The options of `proxy-config`.
#[derive(Clone, Debug, Default)]
pub struct ProxyOptions {
    /// Certificate and key of the proxy.
    pub tls: TlsFiles,
    /// The host that `server_name` delegates to; looked up if `None`.
    pub public_host: Option<ServerName>,
    /// What happens to requests for media that is not here.
    pub fallback: Fallback,
}

/// Prints the configuration of `proxy` to `out`.
pub fn proxy_config(
    config: Option<&Path>,
    proxy: Proxy,
    options: &ProxyOptions,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let config = load_config_quietly(config)?;
    let public = if let Some(host) = &options.public_host {
        Public::at(host, &config.server_name)?
    } else {
        let found = Public::find(&config)?;
        if found.documents.is_some() {
            let (name, hosts) = (&config.server_name, found.hosts.join(" and "));
            writeln!(
                std::io::stderr(),
                "media-sidecar: {name} delegates to {hosts}; this file is for that host"
            )?;
        }
        found
    };
    Ok(out.write_all(render(&config, proxy, &public, options)?.as_bytes())?)
}

/// Fills the template of `proxy`.
fn render(config: &Config, proxy: Proxy, public: &Public, options: &ProxyOptions) -> Result<String, Failure> {
    let template = match proxy {
        Proxy::Nginx => include_str!("../../assets/proxy/nginx.conf"),
        Proxy::Caddy => include_str!("../../assets/proxy/Caddyfile"),
        Proxy::Traefik => include_str!("../../assets/proxy/traefik.yml"),
    };
    if options.fallback == Fallback::Homeserver && proxy != Proxy::Nginx {
        return Err("--fallback is for nginx".into());
    }
    let sidecar = Sidecar::of(config, proxy)?;
    let homeserver = HomeserverAddress::of(config, proxy)?;
    let Public { hosts, ports, documents } = public;
    let certbot = |file: &str| PathBuf::from(format!("/etc/letsencrypt/live/{}/{file}", public.first_host()));
    let tls_file = |given: &Option<PathBuf>, file| plain_path(given.clone().unwrap_or_else(|| certbot(file)));
    let fallback = match options.fallback {
        Fallback::Off => String::new(),
        Fallback::Homeserver => fallback_nginx(&homeserver),
    };
    let name = &config.server_name;
    let well_known = |form: fn(&ServerName, &Documents) -> String| {
        documents.as_ref().map(|documents| form(name, documents)).unwrap_or_default()
    };
    let values = [
        ("server_name", name.to_string()),
        ("hosts", hosts.join(" ")),
        ("tls_cert", tls_file(&options.tls.cert, "fullchain.pem")?),
        ("tls_key", tls_file(&options.tls.key, "privkey.pem")?),
        ("homeserver_scheme", homeserver.scheme),
        ("homeserver_nginx", homeserver.nginx),
        ("homeserver_tls_nginx", homeserver.tls_nginx),
        ("homeserver_caddy", homeserver.caddy),
        ("homeserver_tcp", homeserver.tcp),
        ("sidecar_nginx", sidecar.nginx),
        ("sidecar_caddy", sidecar.caddy),
        ("sidecar_tcp", sidecar.tcp),
        ("listen_nginx", each(ports, "\n", |port| listen_nginx(*port))),
        ("locations_nginx", locations_nginx()),
        ("fallback_nginx", fallback),
        ("well_known_nginx", well_known(well_known_nginx)),
        ("sites_caddy", each(ports, ", ", |port| format!("https://:{port}"))),
        ("prefixes_caddy", each(&PROXY_PREFIXES, " ", |prefix| format!("{prefix}*"))),
        ("well_known_caddy", well_known(well_known_caddy)),
        ("entry_points_traefik", each(ports, "\n", |port| entry_point_traefik(*port))),
        ("entry_point_names", each(ports, ", ", |port| format!("https-{port}"))),
        ("rule_traefik", each(&PROXY_PREFIXES, "\n        || ", |prefix| format!("PathPrefix(`{prefix}`)"))),
        ("well_known_traefik", well_known(well_known_traefik)),
    ];
    Ok(values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value)))
}

/// The sidecar's address in each proxy's notation.
struct Sidecar {
    /// For `server` in an upstream.
    nginx: String,
    /// For `reverse_proxy`.
    caddy: String,
    /// `address:port`; empty for a Unix socket.
    tcp: String,
}

impl Sidecar {
    /// Takes the first address of `listen` that `proxy` can connect to.
    fn of(config: &Config, proxy: Proxy) -> Result<Self, Failure> {
        let usable = |address: &&ListenAddr| matches!(address, ListenAddr::Tcp(_)) || proxy != Proxy::Traefik;
        match config.listen.addresses.iter().find(usable) {
            Some(ListenAddr::Tcp(address)) if address.port() == 0 => {
                Err(format!("`listen: {address}` means any free port; set a port").into())
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

/// The homeserver's address in each proxy's notation.
struct HomeserverAddress {
    /// `http` or `https`
    scheme: String,
    /// For `server` in an upstream.
    nginx: String,
    /// Directives that nginx needs for `https`; else empty.
    tls_nginx: String,
    /// For `reverse_proxy`.
    caddy: String,
    /// A URL; empty for a Unix socket.
    tcp: String,
}

impl HomeserverAddress {
    fn of(config: &Config, proxy: Proxy) -> Result<Self, Failure> {
        let shown = redacted(&config.homeserver.url);
        match HomeserverUrl::parse(&config.homeserver.url) {
            Ok(HomeserverUrl::Web(url)) => Self::at(&url, &shown),
            Ok(HomeserverUrl::Unix(_)) if proxy == Proxy::Traefik => Err(format!(
                "Traefik cannot use a Unix socket, and `homeserver.url: {shown}` is one; let the homeserver listen on TCP"
            )
            .into()),
            Ok(HomeserverUrl::Unix(path)) => {
                let path = plain_path(path)?;
                Ok(Self {
                    scheme: "http".to_owned(),
                    nginx: format!("unix:{path}"),
                    tls_nginx: String::new(),
                    caddy: format!("unix/{path}"),
                    tcp: String::new(),
                })
            }
            Err(why) => Err(format!("`homeserver.url: {shown}` {why}").into()),
        }
    }

    fn at(url: &str, shown: &str) -> Result<Self, Failure> {
        let uri: hyper::Uri = url.parse()?;
        let scheme = uri.scheme_str().unwrap_or("http");
        let host = uri.host().unwrap_or_default();
        if uri.path_and_query().is_some_and(|rest| rest.as_str() != "/") {
            return Err(format!(
                "`homeserver.url: {shown}` has a path; a proxy must pass paths on as they are, so write the URL without it"
            )
            .into());
        }
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        let tls_nginx = match scheme {
            "https" => format!("\n            proxy_ssl_server_name on;\n            proxy_ssl_name {host};"),
            _ => String::new(),
        };
        let authority = format!("{}:{port}", plain(host)?);
        let tcp = format!("{scheme}://{authority}");
        Ok(Self { scheme: scheme.to_owned(), nginx: authority, tls_nginx, caddy: tcp.clone(), tcp })
    }
}

/// `listen` lines for IPv4 and IPv6. In nginx 1.22 HTTP/2 can be enabled only here.
fn listen_nginx(port: u16) -> String {
    format!("        listen {port} ssl http2;\n        listen [::]:{port} ssl http2;")
}

fn locations_nginx() -> String {
    let location = |path: &str| format!("        location {path} {{ proxy_pass http://media_sidecar; }}");
    let prefixes = each(&PROXY_PREFIXES, "\n", |prefix| location(prefix));
    format!("{prefixes}\n{}", location("= /_matrix/client/versions"))
}

/// Path prefixes that homeservers serve themselves: there, media from before may be found.
const FALLBACK_PREFIXES: [&str; 10] = [
    "/_matrix/media/r0/download/",
    "/_matrix/media/r0/thumbnail/",
    "/_matrix/media/v1/download/",
    "/_matrix/media/v1/thumbnail/",
    "/_matrix/media/v3/download/",
    "/_matrix/media/v3/thumbnail/",
    "/_matrix/client/v1/media/download/",
    "/_matrix/client/v1/media/thumbnail/",
    "/_matrix/federation/v1/media/download/",
    "/_matrix/federation/v1/media/thumbnail/",
];

/// Locations that pass a 404 of the sidecar on to the homeserver.
fn fallback_nginx(homeserver: &HomeserverAddress) -> String {
    let location = |path: &str| {
        format!(
            "        location {path} {{ proxy_pass http://media_sidecar; proxy_intercept_errors on; error_page 404 = @homeserver; }}"
        )
    };
    let HomeserverAddress { scheme, tls_nginx, .. } = homeserver;
    format!(
        "\n\n        # Media from before, which the sidecar does not have: its 404 is the homeserver's to answer.\n{}\n        \
         location @homeserver {{\n            proxy_pass {scheme}://homeserver;{tls_nginx}\n        }}",
        each(&FALLBACK_PREFIXES, "\n", |prefix| location(prefix))
    )
}

/// nginx locations for the well-known documents.
fn well_known_nginx(name: &ServerName, documents: &Documents) -> String {
    let location = |path: &str, body: &str| {
        format!(
            "\n        location = /.well-known/matrix/{path} {{\n            default_type application/json;\n            \
             add_header Access-Control-Allow-Origin *;\n            return 200 '{body}';\n        }}"
        )
    };
    format!(
        "\n\n        # {name} itself must answer these two, on port 443. If that name leads to this machine, they are answered here \
         (the\n        # certificate must carry it then); else copy them to where it lies.{}{}",
        location("server", &documents.server),
        location("client", &documents.client)
    )
}

/// Caddy handlers for the well-known documents.
fn well_known_caddy(name: &ServerName, documents: &Documents) -> String {
    let handle = |path: &str, body: &str| {
        format!(
            "\n\thandle /.well-known/matrix/{path} {{\n\t\theader Content-Type application/json\n\t\t\
             header Access-Control-Allow-Origin *\n\t\trespond `{body}`\n\t}}"
        )
    };
    format!(
        "\n\n\t# {name} itself must answer these two, on port 443. If that name leads to this machine, they are answered here (the\n\t# \
         certificate must carry it then); else copy them to where it lies.{}{}",
        handle("server", &documents.server),
        handle("client", &documents.client)
    )
}

/// A comment with the well-known documents: Traefik cannot serve them itself.
fn well_known_traefik(name: &ServerName, documents: &Documents) -> String {
    format!(
        "\n#\n# {name} itself must answer these two, on port 443, with Access-Control-Allow-Origin: *. Traefik cannot; let a web server:\n\
         #   /.well-known/matrix/server  {}\n#   /.well-known/matrix/client  {}",
        documents.server, documents.client
    )
}

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

fn each<T>(items: &[T], separator: &str, text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(separator)
}

/// The absolute path, if it needs no quotes in any proxy's configuration.
fn plain_path(path: PathBuf) -> Result<String, Failure> {
    let path = std::path::absolute(path)?;
    let text = path.to_str().ok_or_else(|| format!("{} is not UTF-8; use another path", path.display()))?;
    Ok(plain(text)?.to_owned())
}

/// `text`, if it needs no quotes in any proxy's configuration.
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

    const ALL: [Proxy; 3] = [Proxy::Nginx, Proxy::Caddy, Proxy::Traefik];

    fn config(server_name: &str) -> Config {
        Config::defaults(ServerName::parse(server_name).unwrap())
    }

    fn rendered(config: &Config, proxy: Proxy) -> String {
        rendered_with(config, proxy, &ProxyOptions::default())
    }

    fn rendered_with(config: &Config, proxy: Proxy, options: &ProxyOptions) -> String {
        let public = options.public_host.as_ref().map(|host| Public::at(host, &config.server_name).unwrap());
        let public = public.unwrap_or_else(|| Public::own(&config.server_name));
        render(config, proxy, &public, options).unwrap()
    }

    fn refused(config: &Config, proxy: Proxy) -> String {
        refused_with(config, proxy, &ProxyOptions::default())
    }

    fn refused_with(config: &Config, proxy: Proxy, options: &ProxyOptions) -> String {
        render(config, proxy, &Public::own(&config.server_name), options).unwrap_err().to_string()
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
        let text = rendered(&config("example.org"), Proxy::Nginx);
        for line in [
            "merge_slashes off;",
            "proxy_request_buffering off;",
            "proxy_buffering off;",
            "client_max_body_size 0;",
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
        config.listen.addresses = vec!["unix:/run/media-sidecar/http.sock".parse().unwrap()];
        assert!(rendered(&config, Proxy::Nginx).contains("server unix:/run/media-sidecar/http.sock;"));
        assert!(
            rendered(&config, Proxy::Caddy).contains("reverse_proxy unix//run/media-sidecar/http.sock {")
        );
        assert!(refused(&config, Proxy::Traefik).contains("add a TCP address"));
        config.listen.addresses.push("0.0.0.0:8091".parse().unwrap());
        assert!(rendered(&config, Proxy::Traefik).contains("url: http://127.0.0.1:8091"));
        config.listen.addresses = vec!["[::]:8092".parse().unwrap()];
        assert!(rendered(&config, Proxy::Nginx).contains("server [::1]:8092;"));
        config.listen.addresses = vec!["127.0.0.1:0".parse().unwrap()];
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
    fn a_homeserver_on_a_unix_socket_is_reached_in_each_proxys_notation() {
        let mut config = config("example.org");
        config.homeserver.url = "unix:/run/conduwuit/conduwuit.sock".to_owned();
        let nginx = rendered(&config, Proxy::Nginx);
        assert!(nginx.contains("server unix:/run/conduwuit/conduwuit.sock;"), "{nginx}");
        assert!(nginx.contains("proxy_pass http://homeserver;"), "{nginx}");
        assert!(
            rendered(&config, Proxy::Caddy).contains("reverse_proxy unix//run/conduwuit/conduwuit.sock {")
        );
        assert!(refused(&config, Proxy::Traefik).contains("let the homeserver listen on TCP"));
        config.homeserver.url = "unix:/run/a b.sock".to_owned();
        assert!(refused(&config, Proxy::Nginx).contains("' '"));
    }

    #[test]
    fn no_proxy_has_a_limit_of_its_own_for_media() {
        for (proxy, limit) in [(Proxy::Caddy, "max_size"), (Proxy::Traefik, "maxRequestBodyBytes")] {
            assert!(!rendered(&config("example.org"), proxy).contains(&format!("\t{limit} ")), "{proxy:?}");
        }
        let nginx = rendered(&config("example.org"), Proxy::Nginx);
        let limits: Vec<_> = nginx.lines().filter(|line| line.contains("client_max_body_size")).collect();
        assert_eq!(limits.len(), 2, "media, and everything else: {limits:?}");
        assert_eq!(limits[0].trim(), "client_max_body_size 0;");
    }

    #[test]
    fn a_public_host_takes_the_place_of_the_name_and_both_documents_are_printed() {
        let options = ProxyOptions {
            public_host: Some(ServerName::parse("matrix.example.org").unwrap()),
            ..ProxyOptions::default()
        };
        for proxy in ALL {
            let text = rendered_with(&config("example.org"), proxy, &options);
            for part in [
                "/etc/letsencrypt/live/matrix.example.org/fullchain.pem",
                r#"{"m.server":"matrix.example.org:443"}"#,
                r#"{"m.homeserver":{"base_url":"https://matrix.example.org"}}"#,
                "/.well-known/matrix/server",
                "/.well-known/matrix/client",
                "Access-Control-Allow-Origin",
                "example.org itself must answer these two",
            ] {
                assert!(text.contains(part), "{proxy:?} lacks {part}\n{text}");
            }
            assert!(!text.contains("8448") && !text.contains("{{") && !text.contains("\n\n\n"), "{text}");
            assert!(!rendered(&config("example.org"), proxy).contains("/.well-known/"), "{proxy:?}");
        }
        let nginx = rendered_with(&config("example.org"), Proxy::Nginx, &options);
        assert!(nginx.contains("server_name matrix.example.org;"), "{nginx}");
    }

    #[test]
    fn with_a_fallback_downloads_and_thumbnails_that_are_not_here_are_the_homeservers() {
        let options = ProxyOptions { fallback: Fallback::Homeserver, ..ProxyOptions::default() };
        let text = rendered_with(&config("example.org"), Proxy::Nginx, &options);
        for prefix in FALLBACK_PREFIXES {
            let line = format!(
                "location {prefix} {{ proxy_pass http://media_sidecar; proxy_intercept_errors on; error_page 404 = @homeserver; }}"
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
            assert!(PROXY_PREFIXES.iter().any(|media| prefix.starts_with(media)), "{prefix}");
        }
        assert!(
            text.contains("location @homeserver {\n            proxy_pass http://homeserver;\n        }"),
            "{text}"
        );
        assert!(!rendered(&config("example.org"), Proxy::Nginx).contains("intercept"));
        assert!(refused_with(&config("example.org"), Proxy::Caddy, &options).contains("for nginx"));
    }

    #[test]
    fn tls_files_are_named_in_full_and_nothing_slips_in_through_them() {
        let with = |cert: &str| {
            let tls = TlsFiles { cert: Some(cert.into()), key: Some("/etc/key.pem".into()) };
            ProxyOptions { tls, ..ProxyOptions::default() }
        };
        for proxy in ALL {
            let text = rendered_with(&config("example.org"), proxy, &with("cert.pem"));
            let folder = std::env::current_dir().unwrap();
            assert!(text.contains(&format!(" {}/cert.pem", folder.display())), "{text}");
            assert!(text.contains(" /etc/key.pem"), "{text}");
            let refused = refused_with(&config("example.org"), proxy, &with("/a; include /etc/passwd"));
            assert!(refused.contains("';'"), "{refused}");
        }
    }
}
