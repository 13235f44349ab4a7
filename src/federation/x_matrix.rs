//! The `Authorization: X-Matrix` header: what is signed, how it is written, how it is read.
//!
//! Owns header text and the signed object. Refuses to know where keys come from. It writes the one form that every server's parser
//! accepts and reads every form that servers write.
//! [Spec, request authentication](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).

use std::fmt;

use serde_json::Value;

use super::signed_json::{self, Object};
use super::signing_key::{SigningKey, is_version};
use crate::matrix::ServerName;

/// A parsed header.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct XMatrix {
    /// The server that signed.
    pub(crate) origin: ServerName,
    /// The server it is addressed to; absent before spec 1.3.
    pub(crate) destination: Option<ServerName>,
    pub(crate) key_id: String,
    pub(crate) signature: String,
}

/// Why a header is not an X-Matrix authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XMatrixError {
    /// Another scheme, or none.
    #[error("not an X-Matrix authorization")]
    Scheme,
    /// A parameter that does not parse.
    #[error("malformed X-Matrix authorization")]
    Malformed,
    /// A parameter given twice.
    #[error("X-Matrix authorization has {0} twice")]
    Duplicate(&'static str),
    /// A parameter not given.
    #[error("X-Matrix authorization lacks {0}")]
    Missing(&'static str),
    /// Not a server name.
    #[error("X-Matrix origin is not a server name")]
    Origin,
}

/// The signed parts of a request without a body: they make the signature valid for this one request to this one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignedRequest<'a> {
    /// Upper case.
    pub(crate) method: &'a str,
    /// Path and query exactly as on the wire.
    pub(crate) uri: &'a str,
    /// The signing server's name.
    pub(crate) origin: &'a ServerName,
    /// The receiving server's name, before any delegation.
    pub(crate) destination: &'a ServerName,
}

impl SignedRequest<'_> {
    /// The header that authorises this request.
    pub(crate) fn authorization(&self, key: &SigningKey) -> String {
        // Quoted values, lower-case names, no blanks at commas: older parsers want exactly this.
        format!(
            "X-Matrix origin=\"{}\",destination=\"{}\",key=\"{}\",sig=\"{}\"",
            self.origin,
            self.destination,
            key.key_id(),
            key.sign(&self.canonical_json()),
        )
    }

    /// Whether `signature` was made over this request with `public_key`.
    pub(crate) fn is_signed_by(&self, public_key: &[u8; 32], signature: &str) -> bool {
        signed_json::verifies(public_key, &self.canonical_json(), signature)
    }

    /// What is signed. Signing and verifying both use this, so that they cannot differ.
    fn canonical_json(&self) -> Vec<u8> {
        let text = |text: &str| Value::String(text.to_owned());
        let object = Object::from_iter([
            ("method".to_owned(), text(self.method)),
            ("uri".to_owned(), text(self.uri)),
            ("origin".to_owned(), text(self.origin.as_str())),
            ("destination".to_owned(), text(self.destination.as_str())),
        ]);
        // Strings always have a canonical form.
        signed_json::canonical(&object).unwrap_or_default()
    }
}

impl XMatrix {
    /// Parses the value of an `Authorization` header: RFC 9110 §11.4 credentials, more liberally: unquoted values may contain
    /// `:` `/` `+` `=`, blanks may stand around commas, names come in any case and order, unknown ones are ignored.
    pub(crate) fn parse(header: &str) -> Result<Self, XMatrixError> {
        let (scheme, rest) = header.trim_start().split_once([' ', '\t']).ok_or(XMatrixError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return Err(XMatrixError::Scheme);
        }
        let (mut origin, mut destination, mut key, mut sig) = (None, None, None, None);
        for (name, value) in parameters(rest)? {
            let (slot, name) = match name.to_ascii_lowercase().as_str() {
                "origin" => (&mut origin, "origin"),
                "destination" => (&mut destination, "destination"),
                "key" => (&mut key, "key"),
                "sig" => (&mut sig, "sig"),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(XMatrixError::Duplicate(name));
            }
        }
        let origin = origin.ok_or(XMatrixError::Missing("origin"))?;
        let (key_id, signature) =
            (key.ok_or(XMatrixError::Missing("key"))?, sig.ok_or(XMatrixError::Missing("sig"))?);
        // Error texts and log lines repeat names and key IDs, so nothing else may stand in them.
        if !key_id.strip_prefix("ed25519:").is_some_and(is_version) {
            return Err(XMatrixError::Malformed);
        }
        let destination = destination.map(|name| ServerName::parse(&name)).transpose();
        Ok(Self {
            origin: ServerName::parse(&origin).map_err(|_grammar| XMatrixError::Origin)?,
            destination: destination.map_err(|_grammar| XMatrixError::Malformed)?,
            key_id,
            signature,
        })
    }
}

impl fmt::Debug for XMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XMatrix")
            .field("origin", &self.origin)
            .field("destination", &self.destination)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// Every `name=value` between commas.
fn parameters(text: &str) -> Result<Vec<(String, String)>, XMatrixError> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(XMatrixError::Malformed)?;
        let (value, after) = match after.trim_start_matches([' ', '\t']).strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => match after.split_once(',') {
                Some((value, after)) => (value.trim().to_owned(), after),
                None => (after.trim().to_owned(), ""),
            },
        };
        found.push((name.trim().to_owned(), value));
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    Ok(found)
}

/// The inside of a quoted string whose opening quote is gone, and what follows its closing one.
fn quoted_string(text: &str) -> Result<(String, &str), XMatrixError> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next().ok_or(XMatrixError::Malformed)? {
            '"' => break,
            '\\' => value.push(chars.next().ok_or(XMatrixError::Malformed)?),
            char => value.push(char),
        }
    }
    let rest = chars.as_str();
    let separated = rest.is_empty() || rest.starts_with([' ', '\t', ',']);
    if separated { Ok((value, rest)) } else { Err(XMatrixError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::super::signing_key::tests::VECTOR;
    use super::*;
    use proptest::prelude::*;

    fn server(name: &str) -> ServerName {
        ServerName::parse(name).unwrap()
    }

    #[test]
    fn known_answers() {
        let key = SigningKey::parse(VECTOR.as_bytes()).unwrap();
        let (origin, destination) = (server("domain"), server("remote.example.org"));
        for (uri, signature) in [
            (
                "/_matrix/federation/v1/media/download/AQwafuaFswefuhsfAFAgsw?timeout_ms=20000",
                "EFMRyVd5n6ee1LZvKRwIbT6e6K44UepF2EM0l4EDPU0m0D72kmq5G9qnVcit4e9/tDt6pe5WB705VhOQQy3+CA",
            ),
            (
                "/_matrix/federation/v1/remote_media/download/remote.example.org/AQwafuaFswefuhsfAFAgsw?timeout_ms=20000",
                "o82ngp7peG3vie8F3qqnm0sltE4qCmbnSQgnDFqOnqRfHCzGOORS1q5gcxuFi9g7qUkI58JLKL1TvqUyC84SDw",
            ),
        ] {
            let request = SignedRequest { method: "GET", uri, origin: &origin, destination: &destination };
            let header = request.authorization(&key);
            assert_eq!(
                header,
                format!(
                    "X-Matrix origin=\"domain\",destination=\"remote.example.org\",key=\"ed25519:1\",sig=\"{signature}\""
                )
            );
            let parsed = XMatrix::parse(&header).unwrap();
            let public_key = signed_json::decode_base64(&key.public_key()).unwrap().try_into().unwrap();
            assert!(request.is_signed_by(&public_key, &parsed.signature));
            let other = SignedRequest { uri: "/_matrix/federation/v1/media/download/other", ..request };
            assert!(!other.is_signed_by(&public_key, &parsed.signature));
        }
    }

    #[test]
    fn every_peers_form_is_read() {
        let expected = XMatrix {
            origin: server("a.example:8448"),
            destination: Some(server("b.example")),
            key_id: "ed25519:k_1".to_owned(),
            signature: "AB+/cd=".to_owned(),
        };
        for header in [
            r#"X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k_1",sig="AB+/cd=""#,
            "X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:k_1,sig=AB+/cd=",
            r#"x-matrix   destination=b.example , key="ed25519:k_1" ,	origin="a.example:8448", sig="AB+/cd=""#,
            r#"X-Matrix ORIGIN="a\.example:8448",Destination="b.example",KEY="ed25519:k_1",extra="x,y",sig="AB+/cd=""#,
        ] {
            assert_eq!(XMatrix::parse(header), Ok(expected.clone()), "{header}");
        }
        let old = XMatrix::parse("X-Matrix origin=a.example,key=ed25519:1,sig=x").unwrap();
        assert_eq!(old.destination, None);
    }

    #[test]
    fn other_headers_say_what_is_wrong() {
        for (header, error) in [
            ("", XMatrixError::Scheme),
            ("Bearer abc", XMatrixError::Scheme),
            ("X-Matrix origin=a", XMatrixError::Missing("key")),
            ("X-Matrix key=a,sig=b", XMatrixError::Missing("origin")),
            ("X-Matrix origin=a,key=b", XMatrixError::Missing("sig")),
            ("X-Matrix origin=a,origin=b,key=c,sig=d", XMatrixError::Duplicate("origin")),
            ("X-Matrix origin=\"a,key=c,sig=d", XMatrixError::Malformed),
            ("X-Matrix origin=\"a\"b,key=c,sig=d", XMatrixError::Malformed),
            ("X-Matrix origin", XMatrixError::Malformed),
            ("X-Matrix origin=a/b,key=ed25519:c,sig=d", XMatrixError::Origin),
            ("X-Matrix origin=a,key=ed25519:c,sig=d,destination=a/b", XMatrixError::Malformed),
            ("X-Matrix origin=a,key=ed25519:c,sig=d,destination=\"a\u{1b}[2J\"", XMatrixError::Malformed),
            ("X-Matrix origin=a,key=c,sig=d", XMatrixError::Malformed),
            ("X-Matrix origin=a,key=rsa:c,sig=d", XMatrixError::Malformed),
            ("X-Matrix origin=a,key=\"ed25519:c\u{1b}\",sig=d", XMatrixError::Malformed),
        ] {
            assert_eq!(XMatrix::parse(header), Err(error), "{header}");
        }
    }

    #[test]
    fn debug_shows_no_signature() {
        let parsed = XMatrix::parse("X-Matrix origin=a,key=ed25519:b,sig=secret").unwrap();
        assert!(!format!("{parsed:?}").contains("secret"));
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in "(X-Matrix )?\\PC{0,60}") {
            drop(XMatrix::parse(&header));
        }
    }
}
