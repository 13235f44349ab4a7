//! Responses of the homeserver to token checks, and what they mean for the caller.
//!
//! Owns the difference between "the homeserver refuses this caller", which is passed on unchanged, and "the homeserver failed", which says
//! nothing about the token.

use std::io;
use std::time::Duration;

use serde_json::{Map, Value};

use super::homeserver::HomeserverError;
use crate::error::{Error, Kind, Result};
use crate::outbound::OutboundError;

/// How much of an unexpected body goes into the log, characters.
const MAX_LOGGED: usize = 300;

/// A response of the homeserver, with its whole body.
pub(super) struct HomeserverReply {
    pub(super) status: u16,
    /// When to try again, if it limits our rate.
    pub(super) retry_after: Duration,
    /// `None` when it is not text, or longer than 64 KiB.
    pub(super) body: Option<String>,
}

/// Why there is no usable response.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReply {
    /// It was not asked, because it timed out a few seconds ago.
    #[error("it did not answer in time a moment ago")]
    Paused,
    /// It did not respond.
    #[error(transparent)]
    Request(#[from] HomeserverError),
    /// Its response was truncated.
    #[error(transparent)]
    Body(#[from] io::Error),
    /// It responded with a server error.
    #[error("status {status}: {body}")]
    Failed {
        /// The status of the answer.
        status: u16,
        /// The beginning of its body.
        body: String,
    },
    /// Its response is not a JSON object, for example the error page of a proxy.
    #[error("status {0} without JSON")]
    NotJson(u16),
    /// Its JSON lacks a field or has one of another type.
    #[error("its answer is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// A request to the homeserver on behalf of a client.
pub(super) struct HomeserverRequest {
    /// For the log.
    pub(super) name: &'static str,
    /// The message for the client when there is no usable response.
    pub(super) failed: &'static str,
}

/// A failed request to the homeserver, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{question}: {why}")]
struct UnansweredQuestion {
    question: &'static str,
    why: NoReply,
}

impl HomeserverRequest {
    /// The error when there is no usable response. It never says that the token is bad.
    pub(super) fn unanswered(&self, why: impl Into<NoReply>) -> Error {
        let cause = UnansweredQuestion { question: self.name, why: why.into() };
        Error::new(Kind::HomeserverFailed, self.failed).caused_by(cause)
    }
}

impl NoReply {
    /// Whether the homeserver itself failed.
    pub(super) fn failed(status: u16, body: &str) -> Self {
        Self::Failed { status, body: body.chars().take(MAX_LOGGED).collect() }
    }

    /// Whether the homeserver took too long.
    pub(super) fn is_timeout(&self) -> bool {
        match self {
            Self::Request(HomeserverError::Outbound(error)) => matches!(error, OutboundError::Timeout),
            Self::Body(error) => error.kind() == io::ErrorKind::TimedOut,
            Self::Paused
            | Self::Request(HomeserverError::Sidecar)
            | Self::Failed { .. }
            | Self::NotJson(_)
            | Self::Malformed(_) => false,
        }
    }
}

impl HomeserverReply {
    /// The JSON object of a response with status 200.
    ///
    /// # Errors
    /// The homeserver's refusal of the caller, or `HomeserverFailed`.
    pub(super) fn into_object(self, question: &HomeserverRequest) -> Result<Map<String, Value>> {
        let Self { status, retry_after, body } = self;
        let body = body.unwrap_or_default();
        let Ok(object) = serde_json::from_str::<Map<String, Value>>(&body) else {
            return Err(question.unanswered(NoReply::NotJson(status)));
        };
        if status == 200 {
            return Ok(object);
        }
        let refusal = refusal(status, &object, retry_after, &body);
        Err(refusal.unwrap_or_else(|| question.unanswered(NoReply::failed(status, &body))))
    }
}

/// The error for the client when the homeserver refuses the caller; `None` if its response is not about the caller.
fn refusal(status: u16, object: &Map<String, Value>, retry_after: Duration, body: &str) -> Option<Error> {
    let refused = match status {
        401 => Error::new(Kind::UnknownToken, "unknown access token"),
        403 => Error::new(Kind::Forbidden, "the homeserver refuses this user"),
        429 => {
            let slow_down = "the homeserver asks to slow down";
            return Some(Error::new(Kind::LimitExceeded, slow_down).retry_after(retry_after));
        }
        // For example for a user outside the namespace of an application service.
        400..=499 if is_about_the_caller(object) => {
            Error::new(Kind::Forbidden, "the homeserver refuses this user")
        }
        _ => return None,
    };
    Some(refused.answered_by_homeserver(status, body))
}

/// Whether an error of the homeserver is about the caller. If it does not have the endpoint, that is a problem for the operator.
fn is_about_the_caller(object: &Map<String, Value>) -> bool {
    let errcode = object.get("errcode").and_then(Value::as_str);
    errcode.is_some_and(|errcode| !errcode.is_empty() && errcode != "M_UNRECOGNIZED")
}
