//! Why a request got no response.

use std::io;

use super::guard::Denied;
use super::tls;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// The address list forbids the connection.
    #[error(transparent)]
    Denied(Denied),
    #[error("the name does not resolve")]
    Unresolved,
    #[error("no answer in time")]
    Timeout,
    /// The certificate or the handshake.
    #[error("TLS: {0}")]
    Tls(String),
    #[error("a redirect is not followed: {0}")]
    Redirect(&'static str),
    /// The response is not HTTP, or exceeds a limit of its head.
    #[error("{0}")]
    Malformed(&'static str),
    /// Any other failure of the connection.
    #[error("{0}")]
    Failed(String),
}

impl From<ureq::Error> for OutboundError {
    #[expect(clippy::wildcard_enum_match_arm, reason = "ureq's enum is non-exhaustive")]
    fn from(error: ureq::Error) -> Self {
        match error {
            // The resolver and the transport pass their errors through ureq in this variant.
            ureq::Error::Other(inner) => match inner.downcast::<Denied>() {
                Ok(denied) => Self::Denied(*denied),
                Err(other) => match other.downcast::<Self>() {
                    Ok(own) => *own,
                    Err(other) => Self::Failed(other.to_string()),
                },
            },
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Timeout,
            ureq::Error::Io(error) => match tls::cause(&error) {
                Some(cause) => Self::Tls(cause),
                None => Self::Failed(error.to_string()),
            },
            ureq::Error::Timeout(_) => Self::Timeout,
            ureq::Error::HostNotFound => Self::Unresolved,
            ureq::Error::Tls(reason) => Self::Tls(reason.to_owned()),
            ureq::Error::Rustls(error) => Self::Tls(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}
