//! Error responses: the one table from our error kind to HTTP status and Matrix errcode, and the response.
//!
//! Owns status codes and errcodes; everything below knows error kinds only. Refuses to know how an error comes about.
//! [Client-Server API, standard error response](https://spec.matrix.org/v1.19/client-server-api/#standard-error-response).

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde_json::json;

use crate::error::{Error, Kind, LogLevel};
use crate::http::response::{Response, json_with};

/// The table. Keyed by situation, not by errcode: `M_TOO_LARGE` is 413 for our own limits and 502 for a remote file (spec, Content
/// Repository, security considerations).
const fn status_and_errcode(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::NotFound => (StatusCode::NOT_FOUND, "M_NOT_FOUND"),
        Kind::Unrecognized => (StatusCode::NOT_FOUND, "M_UNRECOGNIZED"),
        Kind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "M_UNRECOGNIZED"),
        Kind::NotYetUploaded => (StatusCode::GATEWAY_TIMEOUT, "M_NOT_YET_UPLOADED"),
        Kind::CannotOverwrite => (StatusCode::CONFLICT, "M_CANNOT_OVERWRITE_MEDIA"),
        Kind::UploadTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "M_TOO_LARGE"),
        Kind::RemoteTooLarge => (StatusCode::BAD_GATEWAY, "M_TOO_LARGE"),
        Kind::MissingToken => (StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN"),
        Kind::UnknownToken => (StatusCode::UNAUTHORIZED, "M_UNKNOWN_TOKEN"),
        Kind::GuestForbidden => (StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN"),
        Kind::BadSignature => (StatusCode::UNAUTHORIZED, "M_UNAUTHORIZED"),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "M_FORBIDDEN"),
        Kind::UserLimitExceeded => (StatusCode::FORBIDDEN, "M_USER_LIMIT_EXCEEDED"),
        Kind::LimitExceeded => (StatusCode::TOO_MANY_REQUESTS, "M_LIMIT_EXCEEDED"),
        Kind::BadRequest => (StatusCode::BAD_REQUEST, "M_UNKNOWN"),
        Kind::MissingParam => (StatusCode::BAD_REQUEST, "M_MISSING_PARAM"),
        Kind::InvalidParam => (StatusCode::BAD_REQUEST, "M_INVALID_PARAM"),
        Kind::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "M_UNKNOWN"),
        Kind::RangeNotSatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, "M_UNKNOWN"),
        Kind::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "M_UNKNOWN"),
        Kind::RemoteFailed | Kind::PageFailed | Kind::PageUnavailable | Kind::HomeserverFailed => {
            (StatusCode::BAD_GATEWAY, "M_UNKNOWN")
        }
        Kind::NoRoom => (StatusCode::INSUFFICIENT_STORAGE, "M_UNKNOWN"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "M_UNKNOWN"),
    }
}

/// The response to a request that failed with `error`, which is logged at the level of its kind; `route` names the endpoint in the log.
/// If the error carries a response of the homeserver, its status and body are passed on.
pub(crate) fn error(error: &Error, route: &str) -> Response {
    log(error, route);
    let (status, errcode) = status_and_errcode(error.kind());
    let mut response = match error.homeserver_answer() {
        Some(answer) => {
            json_with(StatusCode::from_u16(answer.status).unwrap_or(status), answer.json.to_string())
        }
        None => json_with(status, body(error, errcode)),
    };
    if let Some(wait) = error.wait() {
        let seconds = wait.as_millis().div_ceil(1000).max(1).to_string();
        response
            .headers_mut()
            .extend(HeaderValue::try_from(seconds).ok().map(|value| (header::RETRY_AFTER, value)));
    }
    response
}

/// The Matrix error object. Only `M_LIMIT_EXCEEDED` has `retry_after_ms`.
fn body(error: &Error, errcode: &str) -> String {
    let message = error.message();
    match (error.kind(), error.wait()) {
        (Kind::LimitExceeded, Some(wait)) => {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            json!({"errcode": errcode, "error": message, "retry_after_ms": ms})
        }
        // `info_uri` is required (MSC4335): without a page it is the errcode of older texts.
        (Kind::UserLimitExceeded, _) => match error.info_uri() {
            Some(page) => {
                json!({"errcode": errcode, "error": message, "info_uri": page, "can_upgrade": false})
            }
            None => json!({"errcode": "M_FORBIDDEN", "error": message}),
        },
        _ => json!({"errcode": errcode, "error": message}),
    }
    .to_string()
}

/// Logs an error with its causes. Other servers choose parts of that text, so it is written as a quoted and escaped string: it cannot begin
/// a new line.
fn log(error: &Error, route: &str) {
    let (kind, told) = (tracing::field::debug(error.kind()), format!("{error:?}"));
    match error.kind().log_level() {
        LogLevel::Quiet => tracing::debug!(kind, route, error = told, "refused"),
        LogLevel::Info => tracing::info!(kind, route, error = told, "refused"),
        LogLevel::Warn => tracing::warn!(kind, route, error = told, "failed"),
        LogLevel::Error => tracing::error!(kind, route, error = told, "failed"),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn every_situation_has_its_status_and_errcode() {
        let table: [(Kind, u16, &str); 25] = [
            (Kind::UserLimitExceeded, 403, "M_USER_LIMIT_EXCEEDED"),
            (Kind::NotFound, 404, "M_NOT_FOUND"),
            (Kind::Unrecognized, 404, "M_UNRECOGNIZED"),
            (Kind::MethodNotAllowed, 405, "M_UNRECOGNIZED"),
            (Kind::NotYetUploaded, 504, "M_NOT_YET_UPLOADED"),
            (Kind::CannotOverwrite, 409, "M_CANNOT_OVERWRITE_MEDIA"),
            (Kind::UploadTooLarge, 413, "M_TOO_LARGE"),
            (Kind::RemoteTooLarge, 502, "M_TOO_LARGE"),
            (Kind::MissingToken, 401, "M_MISSING_TOKEN"),
            (Kind::UnknownToken, 401, "M_UNKNOWN_TOKEN"),
            (Kind::GuestForbidden, 403, "M_GUEST_ACCESS_FORBIDDEN"),
            (Kind::BadSignature, 401, "M_UNAUTHORIZED"),
            (Kind::Forbidden, 403, "M_FORBIDDEN"),
            (Kind::LimitExceeded, 429, "M_LIMIT_EXCEEDED"),
            (Kind::BadRequest, 400, "M_UNKNOWN"),
            (Kind::MissingParam, 400, "M_MISSING_PARAM"),
            (Kind::InvalidParam, 400, "M_INVALID_PARAM"),
            (Kind::PreconditionFailed, 412, "M_UNKNOWN"),
            (Kind::RangeNotSatisfiable, 416, "M_UNKNOWN"),
            (Kind::RequestTimeout, 408, "M_UNKNOWN"),
            (Kind::RemoteFailed, 502, "M_UNKNOWN"),
            (Kind::PageFailed, 502, "M_UNKNOWN"),
            (Kind::PageUnavailable, 502, "M_UNKNOWN"),
            (Kind::HomeserverFailed, 502, "M_UNKNOWN"),
            (Kind::Internal, 500, "M_UNKNOWN"),
        ];
        for (kind, status, errcode) in table {
            let (mapped, code) = status_and_errcode(kind);
            assert_eq!((mapped.as_u16(), code), (status, errcode), "{kind:?}");
        }
        assert_eq!(status_and_errcode(Kind::NoRoom).0.as_u16(), 507);
    }

    #[tokio::test]
    async fn an_answer_of_the_homeserver_keeps_its_status_and_its_body() {
        let json = r#"{"errcode":"M_UNKNOWN_TOKEN","error":"gone","soft_logout":true}"#;
        for status in [401, 403, 418] {
            let relayed = Error::new(Kind::Forbidden, "refused").answered_by_homeserver(status, json);
            let response = error(&relayed, "x");
            assert_eq!(response.status(), status);
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), json);
        }
    }

    #[tokio::test]
    async fn only_a_limit_says_in_its_body_when_to_come_back() {
        let wait = Duration::from_millis(1200);
        for (kind, expected) in [
            (
                Kind::LimitExceeded,
                r#"{"errcode":"M_LIMIT_EXCEEDED","error":"slow down","retry_after_ms":1200}"#,
            ),
            (Kind::RemoteFailed, r#"{"errcode":"M_UNKNOWN","error":"slow down"}"#),
        ] {
            let response = error(&Error::new(kind, "slow down").retry_after(wait), "x");
            assert_eq!(response.headers()["retry-after"], "2");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), expected);
        }
    }

    /// Keeps what is logged.
    #[derive(Clone, Default)]
    struct Journal(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Journal {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_error_is_one_quoted_line_of_the_log_whatever_others_put_into_it() {
        let forged = "status\n2026-01-01 ERROR forged \u{1b}[31m\" route=\"x";
        for kind in [Kind::RemoteFailed, Kind::Internal, Kind::NotFound] {
            let journal = Journal::default();
            let writer = journal.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                error(&Error::new(kind, forged).caused_by(io::Error::other(forged)), "/route");
            });
            let text = String::from_utf8(journal.0.lock().unwrap().clone()).unwrap();
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.contains(r#"forged \u{1b}[31m\" route=\"x"#), "{line}");
        }
    }

    #[test]
    fn a_limit_is_answered_for_any_browser_and_not_kept() {
        let limited = Error::new(Kind::LimitExceeded, "slow down").retry_after(Duration::from_millis(1200));
        let response = error(&limited, "x");
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "2");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}
