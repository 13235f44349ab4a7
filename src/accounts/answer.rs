//! What the homeserver answered to a question about a token, and what that means for the caller.
//!
//! Owns the difference between "it refuses this caller", which the caller is told in the homeserver's own words, and "it failed", which
//! says nothing about the token.

use std::io;
use std::time::Duration;

use serde_json::{Map, Value};

use super::homeserver::HomeserverError;
use crate::error::{Error, Kind, Result};
use crate::outbound::OutboundError;

/// How much of an unexpected body goes into the log, characters.
const MAX_LOGGED: usize = 300;

/// An answer of the homeserver, read whole.
pub(super) struct HomeserverReply {
    pub(super) status: u16,
    /// When to ask again, if it limits us.
    pub(super) retry_after: Duration,
    /// `None` when it is not text, or longer than 64 KiB.
    pub(super) body: Option<String>,
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoReply {
    /// It is not asked for a few seconds after a time-out.
    #[error("it did not answer in time a moment ago")]
    Paused,
    /// It did not answer.
    #[error(transparent)]
    Request(#[from] HomeserverError),
    /// Its answer broke off.
    #[error(transparent)]
    Body(#[from] io::Error),
    /// It answered with an error of its own.
    #[error("status {status}: {body}")]
    Failed {
        /// The status of the answer.
        status: u16,
        /// The beginning of its body.
        body: String,
    },
    /// It answered without a JSON object: a proxy's error page is not the homeserver's word.
    #[error("status {0} without JSON")]
    NotJson(u16),
    /// Its JSON lacks a field, or has one of another type.
    #[error("its answer is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Something the homeserver is asked on behalf of a client.
pub(super) struct Question {
    /// For the log.
    pub(super) name: &'static str,
    /// What the client reads when the homeserver gives no usable answer.
    pub(super) failed: &'static str,
}

/// A question that came to nothing, for the log.
#[derive(Debug, thiserror::Error)]
#[error("{question}: {why}")]
struct UnansweredQuestion {
    question: &'static str,
    why: NoReply,
}

impl Question {
    /// The error for a question without a usable answer. It never says that the token is bad.
    pub(super) fn unanswered(&self, why: impl Into<NoReply>) -> Error {
        let cause = UnansweredQuestion { question: self.name, why: why.into() };
        Error::new(Kind::HomeserverFailed, self.failed).caused_by(cause)
    }
}

impl NoReply {
    /// An answer that is an error of the homeserver's own.
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
    /// The JSON object of an answer with status 200.
    ///
    /// # Errors
    /// What the homeserver has against the caller, or `HomeserverFailed`.
    pub(super) fn into_object(self, question: &Question) -> Result<Map<String, Value>> {
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

/// What the client is told when the homeserver refuses the caller; `None` when its answer is not about the caller.
fn refusal(status: u16, object: &Map<String, Value>, retry_after: Duration, body: &str) -> Option<Error> {
    let refused = match status {
        401 => Error::new(Kind::UnknownToken, "unknown access token"),
        403 => Error::new(Kind::Forbidden, "the homeserver refuses this user"),
        429 => {
            let slow_down = "the homeserver asks to slow down";
            return Some(Error::new(Kind::LimitExceeded, slow_down).retry_after(retry_after));
        }
        // Said of a user that an application service has not registered, of a user outside its namespace, and the like.
        400..=499 if is_about_the_caller(object) => {
            Error::new(Kind::Forbidden, "the homeserver refuses this user")
        }
        _ => return None,
    };
    Some(refused.answered_by_homeserver(status, body))
}

/// Whether an error of the homeserver is about the caller. An endpoint that it does not have is a matter for the operator.
fn is_about_the_caller(object: &Map<String, Value>) -> bool {
    let errcode = object.get("errcode").and_then(Value::as_str);
    errcode.is_some_and(|errcode| !errcode.is_empty() && errcode != "M_UNRECOGNIZED")
}
