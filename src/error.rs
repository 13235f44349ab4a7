//! The one error type, and the one table from situation to HTTP status and Matrix errcode.
//!
//! Owns the words a client may read. Refuses to know how an answer is written: that is
//! `response.rs`. Errcodes: [Client-Server API, standard error response](https://spec.matrix.org/v1.19/client-server-api/#standard-error-response).

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of everything that can fail in front of a client.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in the client's words, with the inside kept for the journal.
#[derive(Clone)]
pub struct Error {
    /// The situation: decides status, errcode and log level.
    kind: Kind,
    /// For the client: lower case, no full stop, no paths, no SQL.
    message: Cow<'static, str>,
    /// For the journal.
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// When to come back, for `Retry-After`.
    retry_after: Option<Duration>,
    /// A whole JSON object of the homeserver's to hand on as it is (it may carry `soft_logout`).
    passthrough: Option<Arc<str>>,
    /// The status it came with, where the kind's own is not to be answered.
    status: Option<u16>,
}

/// A situation. One row of [`Kind::row`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The media, or the path's subject, does not exist or may not be seen.
    NotFound,
    /// No such endpoint.
    Unrecognized,
    /// The endpoint exists, the method does not.
    MethodNotAllowed,
    /// Created but not filled within the time allowed (spec 1.7, MSC2246).
    NotYetUploaded,
    /// Upload into a media ID that has content.
    CannotOverwrite,
    /// A local upload over the limit.
    UploadTooLarge,
    /// A remote file over the limit.
    RemoteTooLarge,
    /// No access token where one is needed.
    MissingToken,
    /// The homeserver does not know the token.
    UnknownToken,
    /// A guest where guests may not go.
    GuestForbidden,
    /// X-Matrix missing, malformed, wrongly signed or wrongly addressed.
    BadSignature,
    /// Known, and refused.
    Forbidden,
    /// Too many requests.
    LimitExceeded,
    /// Senseless request with no better errcode.
    BadRequest,
    /// A required parameter is absent.
    MissingParam,
    /// A parameter that does not parse.
    InvalidParam,
    /// The media is not what the request takes it for (RFC 9110 §15.5.13).
    PreconditionFailed,
    /// The byte range lies outside the media (RFC 9110 §15.5.17).
    RangeNotSatisfiable,
    /// The body stopped arriving.
    RequestTimeout,
    /// A remote server failed us.
    RemoteFailed,
    /// A page or picture elsewhere on the web that cannot be had.
    PageFailed,
    /// The same, for a reason that may pass soon: its site is late, breaks off, cannot be reached or has trouble of its own.
    PageUnavailable,
    /// Our own homeserver cannot be asked.
    HomeserverFailed,
    /// Our disk is full, or nearly so.
    NoRoom,
    /// Our own fault.
    Internal,
}

/// How loudly the journal hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// The client's own doing: the access line says enough.
    Quiet,
    /// The same, and of interest to the operator: of other servers' requests that are not believed.
    Info,
    /// Somebody else's machine.
    Warn,
    /// This machine.
    Error,
}

/// What a [`Kind`] looks like from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// HTTP status code.
    pub(crate) status: u16,
    /// Matrix errcode.
    pub(crate) errcode: &'static str,
    /// Whether the journal gets a line with the source.
    pub(crate) log_level: LogLevel,
}

impl Error {
    /// An error of `kind` with a message for the client.
    pub(crate) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            retry_after: None,
            passthrough: None,
            status: None,
        }
    }

    /// Our own fault: the client always hears the same words, the journal hears `what` and why.
    pub(crate) fn internal(what: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::new(Kind::Internal, "internal error").caused_by(Inside { what, source: Box::new(source) })
    }

    /// Our own fault while something was stored, unless the disk has no room left for it: that the client may know.
    pub(crate) fn storing(what: &'static str, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let is_full = matches!(source.kind(), StorageFull | QuotaExceeded);
        let inside = Self::internal(what, source);
        if is_full { inside.with_kind(Kind::NoRoom, "no room left on the server") } else { inside }
    }

    /// The same causes, told to the client as another situation.
    pub(crate) fn with_kind(self, kind: Kind, message: &'static str) -> Self {
        Self { kind, message: message.into(), ..self }
    }

    /// Media that is not there, in the words used everywhere.
    pub(crate) fn not_found() -> Self {
        Self::new(Kind::NotFound, "media not found")
    }

    /// The same error with its cause for the journal.
    pub(crate) fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same error with a time to come back after.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same error, answered with somebody else's JSON object.
    pub(crate) fn passing_through(mut self, json: impl Into<Arc<str>>) -> Self {
        self.passthrough = Some(json.into());
        self
    }

    /// The same error with another status than its kind's.
    pub(crate) fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The HTTP status to answer with.
    pub(crate) fn status(&self) -> u16 {
        self.status.unwrap_or_else(|| self.kind.row().status)
    }

    /// The situation.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The message for the client.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// When to come back.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// JSON to answer with instead of our own.
    pub(crate) fn passthrough(&self) -> Option<&Arc<str>> {
        self.passthrough.as_ref()
    }

    /// The chain of causes, outermost first, in one line; empty when there is none. Other servers have a say in some causes:
    /// control characters, with which they could write lines of their own, are escaped.
    pub(crate) fn causes(&self) -> String {
        let mut line = String::new();
        let mut next: Option<&(dyn StdError + 'static)> = self.source();
        while let Some(cause) = next {
            if !line.is_empty() {
                line.push_str(": ");
            }
            for char in cause.to_string().chars() {
                if char.is_control() { line.extend(char.escape_default()) } else { line.push(char) }
            }
            next = cause.source();
        }
        line
    }
}

impl Kind {
    /// The table. Keyed by situation, not by errcode: `M_TOO_LARGE` is 413 for our own limits and
    /// 502 for a remote file (spec, Content Repository, security considerations).
    pub(crate) const fn row(self) -> Row {
        use LogLevel::{Error, Info, Quiet, Warn};
        let (status, errcode, log_level) = match self {
            Self::NotFound => (404, "M_NOT_FOUND", Quiet),
            Self::Unrecognized => (404, "M_UNRECOGNIZED", Quiet),
            Self::MethodNotAllowed => (405, "M_UNRECOGNIZED", Quiet),
            Self::NotYetUploaded => (504, "M_NOT_YET_UPLOADED", Quiet),
            Self::CannotOverwrite => (409, "M_CANNOT_OVERWRITE_MEDIA", Quiet),
            Self::UploadTooLarge => (413, "M_TOO_LARGE", Quiet),
            Self::RemoteTooLarge => (502, "M_TOO_LARGE", Warn),
            Self::MissingToken => (401, "M_MISSING_TOKEN", Quiet),
            Self::UnknownToken => (401, "M_UNKNOWN_TOKEN", Quiet),
            Self::GuestForbidden => (403, "M_GUEST_ACCESS_FORBIDDEN", Quiet),
            Self::BadSignature => (401, "M_UNAUTHORIZED", Info),
            Self::Forbidden => (403, "M_FORBIDDEN", Quiet),
            Self::LimitExceeded => (429, "M_LIMIT_EXCEEDED", Quiet),
            Self::BadRequest => (400, "M_UNKNOWN", Quiet),
            Self::MissingParam => (400, "M_MISSING_PARAM", Quiet),
            Self::InvalidParam => (400, "M_INVALID_PARAM", Quiet),
            Self::PreconditionFailed => (412, "M_UNKNOWN", Quiet),
            Self::RangeNotSatisfiable => (416, "M_UNKNOWN", Quiet),
            Self::RequestTimeout => (408, "M_UNKNOWN", Quiet),
            Self::RemoteFailed => (502, "M_UNKNOWN", Warn),
            // Users link to what they like: no news for the journal.
            Self::PageFailed | Self::PageUnavailable => (502, "M_UNKNOWN", Quiet),
            Self::HomeserverFailed => (502, "M_UNKNOWN", Error),
            Self::NoRoom => (507, "M_UNKNOWN", Error),
            Self::Internal => (500, "M_UNKNOWN", Error),
        };
        Row { status, errcode, log_level }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        match self.causes() {
            causes if causes.is_empty() => Ok(()),
            causes => write!(f, " ({causes})"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => None,
        }
    }
}

/// What we were doing when a library failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Inside {
    /// "writing a blob"
    what: &'static str,
    /// The library's error.
    source: Box<dyn StdError + Send + Sync>,
}

/// An error of the system in words, without Rust's number for it, nor the name that a temporary file would have had.
pub(crate) fn in_words(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let text = text.split_once(" at path \"").map_or(text.as_str(), |(words, _)| words);
    match text.split_once(" (os error ") {
        Some((words, rest)) => format!("{words}{}", rest.split_once(')').map_or("", |(_, rest)| rest)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_errors_tell_the_client_nothing_and_the_journal_everything() {
        let io = std::io::Error::other("No space left on device /var/lib/x");
        let error = Error::internal("writing a blob", io);
        assert_eq!(error.message(), "internal error");
        assert_eq!(error.causes(), "writing a blob: No space left on device /var/lib/x");
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures_of_storing() {
        let full = Error::storing("storing", std::io::ErrorKind::StorageFull.into());
        assert_eq!((full.kind(), full.message()), (Kind::NoRoom, "no room left on the server"));
        assert!(full.causes().starts_with("storing: "), "{full:?}");
        assert_eq!(Error::storing("storing", std::io::Error::other("x")).kind(), Kind::Internal);
    }

    #[test]
    fn causes_stay_in_one_line_whatever_they_contain() {
        let remote = std::io::Error::other("status\n2026-01-01 ERROR forged \u{1b}[31m\u{9b}m é");
        let error = Error::new(Kind::RemoteFailed, "it failed").caused_by(remote);
        let line = format!("{error:?}");
        assert!(!line.contains(char::is_control), "{line}");
        assert!(line.contains("status\\n2026") && line.contains('é'), "{line}");
    }

    #[test]
    fn one_errcode_has_two_statuses() {
        assert_eq!(Kind::UploadTooLarge.row().status, 413);
        assert_eq!(Kind::RemoteTooLarge.row().status, 502);
        assert_eq!(Kind::UploadTooLarge.row().errcode, Kind::RemoteTooLarge.row().errcode);
    }

    #[test]
    fn errors_of_the_system_are_told_without_numbers() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(in_words(&error), "No such file or directory");
        assert_eq!(in_words(&format!("a: {error}, b")), "a: No such file or directory, b");
        assert_eq!(in_words(&"it rains"), "it rains");
        assert_eq!(in_words(&"No room at path \"/a/.tmpx\""), "No room");
    }
}
