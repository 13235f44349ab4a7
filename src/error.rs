//! The error type for everything that can fail while a request is served.
//!
//! Owns the kinds of errors, the messages for clients, and the log level of each kind. Refuses to know HTTP: status and errcode of each
//! kind are in `http/error_response.rs`.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The result of everything that can fail while a request is served.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// What went wrong: a kind, a message for the client, and the causes for the log.
#[derive(Clone)]
pub struct Error {
    kind: Kind,
    /// The message for the client: lower case, no full stop, no paths, no SQL.
    message: Cow<'static, str>,
    /// The cause, for the log only.
    source: Option<Arc<dyn StdError + Send + Sync>>,
    /// How long the client should wait before it tries again.
    retry_after: Option<Duration>,
    homeserver_answer: Option<HomeserverAnswer>,
    /// A page that explains the error to the user.
    info_uri: Option<Arc<str>>,
}

/// The response with which the homeserver refused the caller. The client gets it unchanged, because it may contain fields that only the
/// homeserver can know (`soft_logout`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HomeserverAnswer {
    /// The status code of its answer.
    pub(crate) status: u16,
    /// Its body: a JSON object.
    pub(crate) json: Arc<str>,
}

/// The kind of an error. Several kinds may get the same response; each one exists because some caller handles it differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The media does not exist, or the caller may not see it.
    NotFound,
    /// No such endpoint.
    Unrecognized,
    /// The endpoint exists, the method does not.
    MethodNotAllowed,
    /// The media ID was created, and nothing was uploaded within the time allowed (spec 1.7, MSC2246).
    NotYetUploaded,
    /// An upload to a media ID that has content already.
    CannotOverwrite,
    /// A local upload over the limit.
    UploadTooLarge,
    /// A remote file over the limit.
    RemoteTooLarge,
    /// No access token where one is needed.
    MissingToken,
    /// The homeserver does not know the token.
    UnknownToken,
    /// The caller is a guest, and guests may not do this.
    GuestForbidden,
    /// X-Matrix missing, malformed, wrongly signed or wrongly addressed.
    BadSignature,
    /// The caller is authenticated and may not do this.
    Forbidden,
    /// The user has all that the quota allows.
    UserLimitExceeded,
    /// Too many requests.
    LimitExceeded,
    /// A malformed request for which Matrix has no errcode.
    BadRequest,
    /// A required parameter is absent.
    MissingParam,
    /// A parameter that does not parse.
    InvalidParam,
    /// A condition of the request does not hold for the media (RFC 9110 §15.5.13).
    PreconditionFailed,
    /// The byte range lies outside the media (RFC 9110 §15.5.17).
    RangeNotSatisfiable,
    /// The body stopped arriving.
    RequestTimeout,
    /// Another server did not respond, or sent an invalid response.
    RemoteFailed,
    /// A web page or image that cannot be fetched.
    PageFailed,
    /// The same, for a temporary reason: the site is slow, aborts the response, cannot be reached, or responds with a server error.
    PageUnavailable,
    /// Our own homeserver gives no usable response.
    HomeserverFailed,
    /// Our disk is full or nearly full.
    NoRoom,
    /// A fault of this program or this machine.
    Internal,
}

/// The level at which an error is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// The client caused it. The access line is enough.
    Quiet,
    /// The client caused it, and the operator may want to know, for example refused requests of other servers.
    Info,
    /// Another machine failed.
    Warn,
    /// This machine failed.
    Error,
}

impl Error {
    /// An error of `kind` with a message for the client.
    pub(crate) fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
            retry_after: None,
            homeserver_answer: None,
            info_uri: None,
        }
    }

    /// An internal error. The client only reads "internal error"; the log says `what` was being done and why it failed.
    pub(crate) fn internal(what: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::new(Kind::Internal, "internal error").caused_by(Inside { what, source: Box::new(source) })
    }

    /// A failure to store something: `NoRoom` if the disk is full, which the client is told, else `Internal`.
    pub(crate) fn storing(what: &'static str, source: std::io::Error) -> Self {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let is_full = matches!(source.kind(), StorageFull | QuotaExceeded);
        let inside = Self::internal(what, source);
        if is_full { inside.with_kind(Kind::NoRoom, "no room left on the server") } else { inside }
    }

    /// The same cause with another kind and message.
    pub(crate) fn with_kind(self, kind: Kind, message: &'static str) -> Self {
        Self { kind, message: message.into(), ..self }
    }

    /// The error for media that does not exist. Its text is always the same, so that a client cannot find out why.
    pub(crate) fn not_found() -> Self {
        Self::new(Kind::NotFound, "media not found")
    }

    /// The same error with its cause for the log.
    pub(crate) fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same error with the time after which the client may try again.
    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same error with the homeserver's own response, which the client gets instead of ours.
    pub(crate) fn answered_by_homeserver(mut self, status: u16, json: impl Into<Arc<str>>) -> Self {
        self.homeserver_answer = Some(HomeserverAnswer { status, json: json.into() });
        self
    }

    /// The same error with a page that explains it to the user.
    pub(crate) fn explained_at(mut self, info_uri: &str) -> Self {
        self.info_uri = Some(info_uri.into());
        self
    }

    /// The page that explains the error to the user.
    pub(crate) fn info_uri(&self) -> Option<&str> {
        self.info_uri.as_deref()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The message for the client.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// How long the client should wait before it tries again, if that is known.
    pub(crate) fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The homeserver's response that the client gets instead of ours.
    pub(crate) fn homeserver_answer(&self) -> Option<&HomeserverAnswer> {
        self.homeserver_answer.as_ref()
    }

    /// The chain of causes, outermost first, in one line; empty if there is none. Other servers choose parts of some causes, so control
    /// characters are escaped: they could forge log lines.
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
    pub(crate) const fn log_level(self) -> LogLevel {
        match self {
            Self::NotFound
            | Self::Unrecognized
            | Self::MethodNotAllowed
            | Self::NotYetUploaded
            | Self::CannotOverwrite
            | Self::UploadTooLarge
            | Self::MissingToken
            | Self::UnknownToken
            | Self::GuestForbidden
            | Self::Forbidden
            | Self::UserLimitExceeded
            | Self::LimitExceeded
            | Self::BadRequest
            | Self::MissingParam
            | Self::InvalidParam
            | Self::PreconditionFailed
            | Self::RangeNotSatisfiable
            | Self::RequestTimeout
            // Users post dead links all the time: the operator cannot fix them.
            | Self::PageFailed
            | Self::PageUnavailable => LogLevel::Quiet,
            Self::BadSignature => LogLevel::Info,
            Self::RemoteTooLarge | Self::RemoteFailed => LogLevel::Warn,
            Self::HomeserverFailed | Self::NoRoom | Self::Internal => LogLevel::Error,
        }
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

/// What was being done when a library failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
struct Inside {
    /// Like "writing a blob".
    what: &'static str,
    source: Box<dyn StdError + Send + Sync>,
}

/// The text of an I/O error without `(os error N)` and without the path of a temporary file: operators cannot use them.
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
    fn internal_errors_tell_the_client_nothing_and_the_log_everything() {
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
    fn errors_of_the_system_are_told_without_numbers() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(in_words(&error), "No such file or directory");
        assert_eq!(in_words(&format!("a: {error}, b")), "a: No such file or directory, b");
        assert_eq!(in_words(&"it rains"), "it rains");
        assert_eq!(in_words(&"No room at path \"/a/.tmpx\""), "No room");
    }
}
