//! URLs that may be fetched for a preview.
//!
//! Owns the syntax: `http` or `https`, no credentials, no fragment, bounded length. Refuses to know which hosts and ports the
//! operator permits, which is [`super::Fetcher`]'s.

use url::Url;

use crate::error::{Error, Kind, Result};

/// Longest URL, bytes: what browsers take and a little more.
const MAX_URL: usize = 4096;

/// An `http` or `https` URL without credentials and fragment, normalised as the
/// [WHATWG URL standard](https://url.spec.whatwg.org/) has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HttpUrl(Url);

impl HttpUrl {
    /// Parses a URL of at most 4096 bytes. A fragment is dropped.
    ///
    /// # Errors
    /// `InvalidParam` for what is not a URL, is longer, has another scheme, credentials, or no host.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let refused = |why: &'static str| Error::new(Kind::InvalidParam, why);
        if text.len() > MAX_URL {
            return Err(refused("the URL is too long"));
        }
        let mut url =
            Url::parse(text.trim()).map_err(|error| refused("the URL is malformed").caused_by(error))?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(refused("only http and https URLs are previewed"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(refused("a URL with a user name or password is not previewed"));
        }
        url.set_fragment(None);
        let url = Self(url);
        if url.host().is_empty() {
            return Err(refused("the URL names no host"));
        }
        Ok(url)
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn url(&self) -> &Url {
        &self.0
    }

    /// The host as host lists and per-host limits have it: an IPv6 address without brackets, a name without a trailing dot.
    pub(crate) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.')
    }

    /// The port, or the default of the scheme.
    pub(super) fn port(&self) -> Option<u16> {
        self.0.port_or_known_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_normalised_and_lose_their_fragment() {
        for (text, normal) in [
            ("HTTP://Example.ORG:80/a/../b#c", "http://example.org/b"),
            (" https://example.org ", "https://example.org/"),
            ("http://2130706433/", "http://127.0.0.1/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://0177.0.0.1:8080/", "http://127.0.0.1:8080/"),
            ("http://[::FFFF:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
            ("https://пример.рф/", "https://xn--e1afmkfd.xn--p1ai/"),
        ] {
            assert_eq!(HttpUrl::parse(text).unwrap().as_str(), normal, "{text}");
        }
        assert_eq!(HttpUrl::parse("http://Example.org./").unwrap().host(), "example.org");
        assert_eq!(HttpUrl::parse("http://[::1]/").unwrap().host(), "::1");
    }

    #[test]
    fn what_is_not_an_http_url_is_an_invalid_parameter() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_URL));
        for text in [
            "",
            "example.org",
            "/page",
            "http://",
            "http://[::1",
            "http://a b/",
            "ftp://example.org/",
            "file:///etc/passwd",
            "data:text/html,x",
            "javascript:alert(1)",
            "gopher://example.org/",
            "https://user@example.org/",
            "https://user:secret@example.org/",
            "https://:secret@example.org/",
            &long,
        ] {
            assert_eq!(HttpUrl::parse(text).unwrap_err().kind(), Kind::InvalidParam, "{text}");
        }
    }
}
