//! Other servers: who they are, whether a request is theirs, and their media.
//!
//! Owns the signing key, other servers' keys, discovery, and who may exchange media with us at all. Refuses to know what is
//! stored here. Everything in it blocks.
//! [Server-Server API](https://spec.matrix.org/v1.19/server-server-api/).

mod discovery;
mod fetch;
mod keys;
mod policy;
mod signed_json;
mod signing_key;
mod x_matrix;

use std::sync::Arc;
use std::time::Duration;

use self::policy::Policy;
use crate::catalog::Catalog;
use crate::config::{self, Family};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Clock, ServerName};
use crate::outbound::{Answer, Get, Guard, Limits, Outbound, OutboundError};

pub(crate) use self::fetch::RemoteMedia;
pub use self::signing_key::{KeyError, LoadedKey, Overwrite, SigningKey};
pub(crate) use self::x_matrix::{SignedRequest, XMatrix};

/// The door to other servers.
pub(crate) struct Federation {
    /// Our own name.
    server_name: ServerName,
    /// The homeserver's key.
    signing_key: SigningKey,
    /// With the address list of `federation`.
    outbound: Outbound,
    /// Who may exchange media with us.
    policy: Policy,
    /// Order of outbound attempts.
    families: Vec<Family>,
    /// Longest silence of a remote server.
    patience: Duration,
    /// Remembers keys.
    catalog: Arc<Catalog>,
    /// For validity.
    clock: Clock,
}

/// Why a remote server gave no usable answer, for the journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It is not known where it is.
    #[error("discovery: {0}")]
    Discovery(#[source] Error),
    /// It could not be asked.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// Its answer is of no use.
    #[error("{0}")]
    Answer(String),
}

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

impl Federation {
    /// Signs as `server_name` with `signing_key`, under the rules of `config`.
    pub(crate) fn new(
        server_name: ServerName,
        signing_key: SigningKey,
        config: &config::Federation,
        catalog: Arc<Catalog>,
        clock: Clock,
    ) -> std::result::Result<Self, OutboundError> {
        let guard = Guard::new(&config.ip_deny, &config.ip_allow);
        let limits = Limits { stall: config.timeout.0, total: None };
        Ok(Self {
            server_name,
            signing_key,
            outbound: Outbound::new(guard, config.ca_file.as_deref(), limits)?,
            policy: Policy::new(&config.allow, &config.deny),
            families: config.families.clone(),
            patience: config.timeout.0,
            catalog,
            clock,
        })
    }

    /// Whose request it is: every signature must be good and all of one server, which configuration must not exclude.
    /// Blocks while that server's keys are fetched.
    ///
    /// # Errors
    /// `BadSignature` with the reason, `Forbidden` for an excluded server.
    pub(crate) fn authenticate(&self, request: &InboundRequest) -> Result<ServerName> {
        let refuse = |why: String| Error::new(Kind::BadSignature, why);
        let mut signatures = Vec::new();
        for header in &request.authorization {
            match XMatrix::parse(header) {
                Ok(parsed) => signatures.push(parsed),
                Err(x_matrix::XMatrixError::Scheme) => {}
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
        let is_ours = |name: &String| name == self.server_name.as_str();
        if let Some(other) =
            signatures.iter().filter_map(|s| s.destination.as_ref()).find(|name| !is_ours(name))
        {
            return Err(refuse(format!(
                "the X-Matrix signature is addressed to {other}, this is {}",
                self.server_name
            )));
        }
        self.policy.check(&origin)?;
        let signed = SignedRequest {
            method: &request.method,
            uri: &request.uri,
            origin: &origin,
            destination: &self.server_name,
        };
        for signature in &signatures {
            let key = self.verify_key(&origin, &signature.key_id)?;
            if !signed.is_signed_by(&key, &signature.signature) {
                let why = format!("the X-Matrix signature of {origin} with {} is wrong", signature.key_id);
                return Err(refuse(why));
            }
        }
        Ok(origin)
    }

    /// Whether configuration lets us exchange media of `server_name` at all, stored or not.
    pub(crate) fn check_policy(&self, server_name: &ServerName) -> Result<()> {
        self.policy.check(server_name)
    }

    /// Asks `server_name` for a path, signed when there is a key.
    fn ask(
        &self,
        server_name: &ServerName,
        path: &str,
        key: Option<&SigningKey>,
    ) -> std::result::Result<Answer, RemoteError> {
        let endpoint = discovery::resolve(server_name).map_err(RemoteError::Discovery)?;
        let url = format!("{}{path}", endpoint.base_url);
        let request =
            SignedRequest { method: "GET", uri: path, origin: &self.server_name, destination: server_name };
        let authorization = key.map(|key| request.authorization(key));
        let mut headers = vec![("Host", endpoint.host.as_str())];
        headers.extend(authorization.as_deref().map(|value| ("Authorization", value)));
        Ok(self.outbound.get(&Get { url: &url, headers: &headers, via: &endpoint.via })?)
    }
}
