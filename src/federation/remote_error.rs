//! Why a remote server gave nothing usable, for the log.

use std::io;
use std::time::Duration;

use super::key_document::{KeyDocumentError, NotaryError};
use crate::accounts::homeserver::HomeserverError;
use crate::matrix::ServerName;
use crate::outbound::OutboundError;

/// Why a remote server gave nothing usable. Clients read less: see the errors of [`fetch`](super::Federation::fetch).
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// It could not be reached.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The homeserver, asked as a notary, could not be reached.
    #[error(transparent)]
    Homeserver(#[from] HomeserverError),
    /// It answered with an error.
    #[error("status {status}{}", errcode.as_deref().map_or_else(String::new, |errcode| format!(" {errcode}")))]
    Status {
        /// The status of its response.
        status: u16,
        /// The Matrix errcode, if the body had one.
        errcode: Option<String>,
    },
    /// It answered with an error whose body did not arrive in time.
    #[error("status {status}, then {why}")]
    SlowError {
        /// The status of its response.
        status: u16,
        why: io::Error,
    },
    /// Its response broke off.
    #[error("its response was truncated: {0}")]
    BrokenOff(io::Error),
    /// Its response is longer than this many bytes.
    #[error("its response exceeds {0} bytes")]
    TooLong(u64),
    /// Its response should be a JSON object and is not.
    #[error("its response is not a JSON object")]
    NotJson,
    /// Its key document is not believed.
    #[error("key document: {0}")]
    KeyDocument(#[from] KeyDocumentError),
    /// A notary's response about its keys is not believed.
    #[error("notary {notary}: {why}")]
    Notary {
        notary: ServerName,
        /// What is wrong with the response.
        why: NotaryError,
    },
    /// It failed before and is not asked for this long.
    #[error("it failed before and is not asked for {} s", .0.as_secs())]
    BackingOff(Duration),
}

impl RemoteError {
    /// An error response.
    pub(super) fn status(status: u16, errcode: Option<String>) -> Self {
        Self::Status { status, errcode }
    }

    /// Whether it says something about the requested file rather than about the server: a response in time, whatever it is.
    pub(super) fn is_about_file(&self) -> bool {
        let is_late = matches!(self, Self::BrokenOff(why) if why.kind() == io::ErrorKind::TimedOut)
            || matches!(self, Self::SlowError { .. });
        self.is_response() && !is_late
    }

    /// Whether the server answered at all.
    pub(super) fn is_response(&self) -> bool {
        match self {
            Self::Outbound(_) | Self::Homeserver(_) | Self::BackingOff(_) => false,
            Self::Status { .. }
            | Self::SlowError { .. }
            | Self::BrokenOff(_)
            | Self::TooLong(_)
            | Self::NotJson
            | Self::KeyDocument(_)
            | Self::Notary { .. } => true,
        }
    }
}
