//! Which server sent a request.
//!
//! Owns the two steps of authentication: which server the request names, then whether the keys in the catalog verify its signatures.
//! They are separate, because the keys may have to be fetched in between, which is slow. Refuses to know who fetches them.
//! [Spec, request authentication](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).

use super::Federation;
use super::keys::KnownKey;
use super::x_matrix::{SignedRequest, XMatrix, XMatrixError};
use crate::error::{Error, Kind, Result};
use crate::matrix::ServerName;

/// The parts of an inbound request that its signature covers.
#[derive(Clone, Debug)]
pub(crate) struct InboundRequest {
    /// Upper case.
    pub(crate) method: String,
    /// Path and query exactly as on the wire.
    pub(crate) uri: String,
    /// The values of its `Authorization` headers.
    pub(crate) authorization: Vec<String>,
}

/// A request that names the server it comes from; its signatures are not yet verified.
#[derive(Clone, Debug)]
pub(crate) struct UnverifiedRequest {
    /// The server it names.
    pub(crate) origin: ServerName,
    method: String,
    uri: String,
    /// At least one, all of `origin`.
    signatures: Vec<XMatrix>,
}

/// The outcome of verifying a request with the keys in the catalog. A bad signature is an error instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verification {
    /// Every signature is good.
    Verified,
    /// Every signature is good, and the validity of a key ends soon: fetch the keys again.
    VerifiedKeysExpireSoon,
    /// A key must be fetched first.
    KeysMissing,
}

impl Federation {
    /// Checks all of a request but its signatures: they name one server, are addressed to us, and the configuration does not exclude
    /// that server. An excluded server is refused before any request is sent to it.
    ///
    /// # Errors
    /// `BadSignature` with the reason, `Forbidden` for an excluded server.
    pub(crate) fn identify(&self, request: InboundRequest) -> Result<UnverifiedRequest> {
        let mut signatures = Vec::new();
        for header in &request.authorization {
            match XMatrix::parse(header) {
                Ok(parsed) => signatures.push(parsed),
                Err(XMatrixError::Scheme) => {}
                Err(error) => return Err(refuse(error.to_string())),
            }
        }
        let Some(first) = signatures.first() else {
            return Err(refuse("this endpoint is for servers and needs an X-Matrix signature".to_owned()));
        };
        let origin = first.origin.clone();
        if signatures.iter().any(|signature| signature.origin != origin) {
            return Err(refuse("the X-Matrix signatures name different servers".to_owned()));
        }
        let is_ours = |name: &ServerName| *name == self.server_name;
        if let Some(other) =
            signatures.iter().filter_map(|s| s.destination.as_ref()).find(|name| !is_ours(name))
        {
            return Err(refuse(format!(
                "the X-Matrix signature is addressed to {other}, this is {}",
                self.server_name
            )));
        }
        self.rules.get().policy.check(&origin)?;
        Ok(UnverifiedRequest { origin, method: request.method, uri: request.uri, signatures })
    }

    /// Verifies a request with the keys in the catalog: every signature must be good.
    ///
    /// # Errors
    /// `BadSignature` with the reason.
    pub(crate) fn verify(&self, request: &UnverifiedRequest) -> Result<Verification> {
        let UnverifiedRequest { origin, method, uri, signatures } = request;
        let signed = SignedRequest { method, uri, origin, destination: &self.server_name };
        let mut outcome = Verification::Verified;
        for signature in signatures {
            let (key, expires_soon) = match self.known_key(origin, &signature.key_id)? {
                KnownKey::Good { public_key, expires_soon } => (public_key, expires_soon),
                KnownKey::Missing => return Ok(Verification::KeysMissing),
            };
            if !signed.is_signed_by(&key, &signature.signature) {
                let why = format!("the X-Matrix signature of {origin} with {} is wrong", signature.key_id);
                return Err(refuse(why));
            }
            if expires_soon {
                outcome = Verification::VerifiedKeysExpireSoon;
            }
        }
        // A server that sends requests is up again, whatever failed before.
        self.failures.record_success(origin);
        self.key_backoff.record_success(origin);
        Ok(outcome)
    }
}

fn refuse(why: String) -> Error {
    Error::new(Kind::BadSignature, why)
}
