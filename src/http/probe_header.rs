//! How `check` recognises a sidecar through the reverse proxy.
//!
//! Owns the header in which a sidecar says who it is and how a request arrived (as digests, never as values), and the header by which a
//! sidecar notices that it is asking itself.

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::HEXLOWER;
use hyper::Version;
use hyper::header::{HeaderMap, HeaderName};
use sha2::{Digest as _, Sha256};

/// Sent with responses to unknown paths, so that `check` can see from outside whether and how requests arrive here.
pub(crate) const NAME: HeaderName = HeaderName::from_static("x-media-sidecar");

/// Sent with all requests of a sidecar to its homeserver. A sidecar that receives it refuses the request: `homeserver.url` is wrong and
/// leads back to a sidecar.
pub(crate) const ASKING: &str = "x-media-sidecar-asks";

/// Request headers that media needs and that a proxy may drop or change.
pub(crate) const WATCHED: [&str; 6] =
    ["authorization", "content-type", "range", "if-none-match", "if-range", "if-modified-since"];

/// The content of [`NAME`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProbeHeader {
    /// Fingerprint of the sidecar's signing key.
    pub(crate) fingerprint: String,
    /// Digest of the request's target as it arrived.
    pub(crate) target: String,
    /// The HTTP version of the proxy's request, for example `HTTP/1.1`.
    pub(crate) version: String,
    /// Digests of the values of the [`WATCHED`] headers that arrived, by header.
    pub(crate) headers: BTreeMap<String, String>,
}

impl ProbeHeader {
    /// Of a request that came to the sidecar with this fingerprint.
    pub(crate) fn of(fingerprint: &str, target: &str, version: Version, headers: &HeaderMap) -> Self {
        let arrived = WATCHED.iter().filter_map(|name| {
            let value = headers.get(*name)?;
            Some(((*name).to_owned(), digest(value.as_bytes())))
        });
        Self {
            fingerprint: fingerprint.to_owned(),
            target: digest(target.as_bytes()),
            version: format!("{version:?}"),
            headers: arrived.collect(),
        }
    }

    /// Parses the header; `None` if another version of this program sent it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ').map(str::to_owned);
        let (fingerprint, target, version) = (words.next()?, words.next()?, words.next()?);
        let headers =
            words.map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())));
        Some(Self { fingerprint, target, version, headers: headers.collect::<Option<_>>()? })
    }

    /// Whether the request's target arrived as `target`.
    pub(crate) fn has_target(&self, target: &str) -> bool {
        self.target == digest(target.as_bytes())
    }

    /// Whether this header arrived with this value.
    pub(crate) fn has_header(&self, name: &str, value: &str) -> bool {
        self.headers
            .get(&name.to_ascii_lowercase())
            .is_some_and(|arrived| *arrived == digest(value.as_bytes()))
    }
}

impl fmt::Display for ProbeHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.fingerprint, self.target, self.version)?;
        self.headers.iter().try_for_each(|(name, digest)| write!(f, " {name}={digest}"))
    }
}

/// 16 hex digits that no other bytes are likely to have.
fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    HEXLOWER.encode(digest.first_chunk::<8>().unwrap_or(&[0; 8]))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn it_tells_what_arrived_and_no_secret() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
        headers.insert("range", HeaderValue::from_static("bytes=0-1"));
        headers.insert("cookie", HeaderValue::from_static("a=b"));
        let mark = ProbeHeader::of("0123", "/a%2Fb?c", Version::HTTP_10, &headers);
        let text = mark.to_string();
        assert!(!text.contains("secret") && !text.contains("cookie"), "{text}");
        let read = ProbeHeader::parse(&text).unwrap();
        assert_eq!(read, mark);
        assert!(read.fingerprint == "0123" && read.version == "HTTP/1.0");
        assert!(read.has_target("/a%2Fb?c") && !read.has_target("/a/b?c"));
        assert!(read.has_header("Authorization", "Bearer secret") && read.has_header("Range", "bytes=0-1"));
        assert!(!read.has_header("Range", "bytes=0-2") && !read.has_header("Content-Type", ""));
        for other in ["", "0123 4567", "0123 4567 HTTP/1.1 range"] {
            assert_eq!(ProbeHeader::parse(other), None, "{other}");
        }
    }
}
