//! Whose request it is.
//!
//! In two steps, so that nobody waits for another server without need: what the request claims, then whether the catalog's
//! keys prove it. Between the two the keys may have to be fetched.
//! [Spec, request authentication](https://spec.matrix.org/v1.19/server-server-api/#request-authentication).

use super::Federation;
use super::keys::KnownKey;
use super::x_matrix::{SignedRequest, XMatrix, XMatrixError};
use crate::error::{Error, Kind, Result};
use crate::matrix::ServerName;

/// What of an inbound request its signature covers.
#[derive(Clone, Debug)]
pub(crate) struct InboundRequest {
    /// Upper case.
    pub(crate) method: String,
    /// Path and query exactly as on the wire.
    pub(crate) uri: String,
    /// The `Authorization` headers, as they came.
    pub(crate) authorization: Vec<String>,
}

/// A request that says whose it is, not yet proven.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// Who is said to have signed.
    pub(crate) origin: ServerName,
    /// Method of the request.
    method: String,
    /// Target of the request.
    uri: String,
    /// At least one, all of `origin`.
    signatures: Vec<XMatrix>,
}

/// Whether a claim is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    Authentic,
    /// It is, and the keys that prove it should be fetched anew soon.
    AuthenticAging,
    /// The keys must be fetched first.
    KeysMissing,
}

impl Federation {
    /// What a request claims: signatures of one server, addressed to us, which configuration does not exclude. Excluded servers
    /// are refused here, before anything is asked of them.
    ///
    /// # Errors
    /// `BadSignature` with the reason, `Forbidden` for an excluded server.
    pub(crate) fn identify(&self, request: InboundRequest) -> Result<Claim> {
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
        Ok(Claim { origin, method: request.method, uri: request.uri, signatures })
    }

    /// Whether the keys in the catalog prove a claim: every signature must be good.
    ///
    /// # Errors
    /// `BadSignature` with the reason.
    pub(crate) fn verify(&self, claim: &Claim) -> Result<Verdict> {
        let Claim { origin, method, uri, signatures } = claim;
        let signed = SignedRequest { method, uri, origin, destination: &self.server_name };
        let mut verdict = Verdict::Authentic;
        for signature in signatures {
            let (key, is_aging) = match self.known_key(origin, &signature.key_id)? {
                KnownKey::Good { public_key, is_aging } => (public_key, is_aging),
                KnownKey::Missing => return Ok(Verdict::KeysMissing),
            };
            if !signed.is_signed_by(&key, &signature.signature) {
                let why = format!("the X-Matrix signature of {origin} with {} is wrong", signature.key_id);
                return Err(refuse(why));
            }
            if is_aging {
                verdict = Verdict::AuthenticAging;
            }
        }
        // It is there and speaks to us: worth asking again.
        self.backoff.alive(origin);
        Ok(verdict)
    }
}

/// A request that is not believed.
fn refuse(why: String) -> Error {
    Error::new(Kind::BadSignature, why)
}
