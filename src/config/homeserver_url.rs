//! `homeserver.url`: the address of the homeserver, TCP or a Unix socket.
//!
//! Owns its grammar. Refuses to know what is requested there.

use std::net::IpAddr;
use std::path::PathBuf;

use super::ListenAddr;

/// The address of the homeserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HomeserverUrl {
    /// A base URL, `http` or `https`, without a trailing slash.
    Web(String),
    /// A Unix socket that speaks HTTP.
    Unix(PathBuf),
}

/// Why a text is not a [`HomeserverUrl`]. Each message ends a sentence that begins with the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HomeserverUrlError {
    /// Neither a URL with `http` or `https` nor a socket.
    #[error("is not a URL (like http://127.0.0.1:6167 or unix:/run/conduwuit/conduwuit.sock)")]
    NotAUrl,
    /// Port 0.
    #[error("has an invalid port (use 1 to 65535)")]
    Port,
    /// A query or fragment.
    #[error("has a query or fragment; end it after host and port (like http://127.0.0.1:6167)")]
    QueryOrFragment,
    /// A socket whose path depends on the working directory, or holds a NUL.
    #[error("needs an absolute path (like unix:/run/conduwuit/conduwuit.sock)")]
    SocketPath,
}

impl HomeserverUrl {
    /// Parses `http://127.0.0.1:6167` or `unix:/run/conduwuit/conduwuit.sock`.
    pub(crate) fn parse(text: &str) -> Result<Self, HomeserverUrlError> {
        if let Some(path) = text.strip_prefix("unix:") {
            // Some operators write it as a URL with an empty authority.
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') && !path.contains('\0') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(HomeserverUrlError::SocketPath)
            };
        }
        let url = url::Url::parse(text).map_err(|error| {
            let is_port = error == url::ParseError::InvalidPort;
            if is_port { HomeserverUrlError::Port } else { HomeserverUrlError::NotAUrl }
        })?;
        let is_web = matches!(url.scheme(), "http" | "https") && url.has_host() && text.contains("://");
        if !is_web || text.parse::<hyper::Uri>().is_err() {
            return Err(HomeserverUrlError::NotAUrl);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(HomeserverUrlError::QueryOrFragment);
        }
        if url.port() == Some(0) {
            return Err(HomeserverUrlError::Port);
        }
        Ok(Self::Web(text.trim_end_matches('/').to_owned()))
    }

    /// Whether this is an address that we listen on: requests to it would go round in circles.
    pub(crate) fn is_ours(&self, listen: &[ListenAddr]) -> bool {
        match self {
            Self::Unix(path) => listen.contains(&ListenAddr::Unix(path.clone())),
            Self::Web(text) => {
                let Ok(url) = url::Url::parse(text) else { return false };
                let (host, port) = (url.host(), url.port_or_known_default());
                listen.iter().any(|address| match address {
                    ListenAddr::Tcp(address) => {
                        Some(address.port()) == port && reaches(host.as_ref(), address.ip())
                    }
                    ListenAddr::Unix(_) => false,
                })
            }
        }
    }
}

/// Whether a URL's host is `ours`, as far as that is known without DNS.
fn reaches(host: Option<&url::Host<&str>>, ours: IpAddr) -> bool {
    let theirs = match host {
        Some(url::Host::Ipv4(ip)) => IpAddr::V4(*ip),
        Some(url::Host::Ipv6(ip)) => IpAddr::V6(*ip).to_canonical(),
        Some(url::Host::Domain(name)) => {
            return *name == "localhost" && (ours.is_loopback() || ours.is_unspecified());
        }
        None => return false,
    };
    // All of 127.0.0.0/8 is this machine, but a socket listens on one of these addresses only.
    theirs == ours
        || (ours.is_unspecified() && theirs.is_loopback())
        || (theirs.is_unspecified() && ours.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_sockets_are_told_apart_and_nonsense_is_refused() {
        let web = |text: &str| Ok(HomeserverUrl::Web(text.to_owned()));
        let unix = |text: &str| Ok(HomeserverUrl::Unix(text.into()));
        for (text, expected) in [
            ("http://127.0.0.1:6167", web("http://127.0.0.1:6167")),
            ("http://127.0.0.1:6167/", web("http://127.0.0.1:6167")),
            ("https://user:secret@[::1]:8448/matrix/", web("https://user:secret@[::1]:8448/matrix")),
            ("unix:/run/conduwuit/conduwuit.sock", unix("/run/conduwuit/conduwuit.sock")),
            ("unix:///run/conduwuit.sock", unix("/run/conduwuit.sock")),
        ] {
            assert_eq!(HomeserverUrl::parse(text), expected, "{text}");
        }
        for (text, words) in [
            ("", "is not a URL"),
            ("127.0.0.1:6167", "is not a URL"),
            ("localhost:6167", "is not a URL"),
            ("http:127.0.0.1", "is not a URL"),
            ("ftp://127.0.0.1", "is not a URL"),
            ("http://", "is not a URL"),
            ("http://a b", "is not a URL"),
            ("http://[::1", "is not a URL"),
            ("http://127.0.0.1:66167", "has an invalid port"),
            ("http://127.0.0.1:0", "has an invalid port"),
            ("http://127.0.0.1:6167/?a=b", "has a query"),
            ("http://127.0.0.1:6167#a", "has a query or fragment"),
            ("unix:conduwuit.sock", "absolute path"),
            ("unix:", "absolute path"),
        ] {
            let why = HomeserverUrl::parse(text).unwrap_err().to_string();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn our_own_addresses_are_recognised() {
        for (url, listen, expected) in [
            ("http://127.0.0.1:8090", "127.0.0.1:8090", true),
            ("http://127.0.0.1:8090/", "127.0.0.1:8090", true),
            ("http://localhost:8090", "127.0.0.1:8090", true),
            ("http://localhost:8090", "[::1]:8090", true),
            ("http://127.0.0.1:8090", "0.0.0.0:8090", true),
            ("http://[::1]:8090", "[::]:8090", true),
            ("http://127.0.0.1:8090", "[::]:8090", true),
            ("http://[::ffff:127.0.0.1]:8090", "127.0.0.1:8090", true),
            ("http://0.0.0.0:8090", "127.0.0.1:8090", true),
            ("http://127.0.0.1", "127.0.0.1:80", true),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
            ("unix:/run/b.sock", "unix:/run/a.sock", false),
            ("http://127.0.0.1:6167", "127.0.0.1:8090", false),
            ("http://127.0.0.2:8090", "127.0.0.1:8090", false),
            ("http://192.0.2.7:8090", "0.0.0.0:8090", false),
            ("http://homeserver.internal:8090", "127.0.0.1:8090", false),
        ] {
            let parsed = HomeserverUrl::parse(url).unwrap();
            assert_eq!(parsed.is_ours(&[listen.parse().unwrap()]), expected, "{url} and {listen}");
        }
    }
}
