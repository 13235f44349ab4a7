//! What a remote server's answer to a download means.
//!
//! Owns the reading of answers in every dialect, and the difference between "there is no such media" and "there is no such
//! endpoint", which servers and the proxies before them say in many ways.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use serde::Deserialize;

use super::{RemoteError, too_large};
use crate::config::Family;
use crate::disposition;
use crate::error::{Error, Kind, Result};
use crate::multipart::{self, MultipartError, MultipartReader};
use crate::outbound::{Answer, Outbound};

/// Largest error body read for its errcode, bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;

/// How much of an errcode is read, characters; the specification's are shorter.
const MAX_ERRCODE: usize = 64;

/// Largest JSON part of a multipart answer, bytes.
const MAX_JSON_PART: u64 = 64 * 1024;

/// When a remote that limits us without saying until when is asked again.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest a remote's `Retry-After` is passed on as it is.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// A remote file, its bytes still to be read.
pub(crate) struct RemoteMedia {
    /// As the remote claims it.
    pub(crate) content_type: String,
    /// The remote's file name.
    pub(crate) upload_name: Option<String>,
    /// How many bytes the remote announces.
    pub(crate) size: Option<u64>,
    /// The bytes. A body that breaks off ends in an error, not in an end.
    pub(crate) body: Box<dyn Read + Send>,
}

/// What one attempt came to.
#[derive(Debug)]
pub(super) enum Attempt {
    /// Here it is.
    Media(RemoteMedia),
    /// The server, or a proxy in front of it, does not have this endpoint.
    UnknownEndpoint,
    /// The server says that it has no such media; or, in its way, that it has no such endpoint.
    NotFound,
    /// Our signature was not accepted.
    Refused(String),
    /// The endpoint is there, and this is its answer: not yet, too large, too many requests.
    Told(Error),
    /// The server fails.
    Down(RemoteError),
}

/// A Matrix error body.
#[derive(Deserialize)]
struct ErrorBody {
    /// `M_…`
    errcode: String,
}

impl Attempt {
    /// Reads a server's answer under `family`. `outbound` follows what the answer points to.
    pub(super) fn read(family: Family, answer: Answer, outbound: &Outbound) -> Self {
        match (answer.status(), family) {
            (200, Family::Msc3916) => multipart_media(answer, outbound),
            // Raw answers: a catch-all page is not media. Legacy servers of old send no disposition.
            (200, Family::Msc1902) if answer.header_lossy("content-disposition").is_none() => {
                Self::UnknownEndpoint
            }
            (200, Family::Legacy) if is_page(&answer) => Self::UnknownEndpoint,
            (200, Family::Msc1902 | Family::Legacy) => Self::Media(raw_media(answer)),
            // We said `allow_redirect=true`, and legacy media is no secret. A signed request goes nowhere else.
            (301 | 302 | 303 | 307 | 308, Family::Legacy) => match answer.redirect() {
                Some(location) => elsewhere(&location, outbound),
                None => Self::UnknownEndpoint,
            },
            (status, _) => judge_error(status, answer, outbound.small_part()),
        }
    }
}

/// Whether a legacy answer is the page of a catch-all site rather than media: media servers name at least a disposition for
/// HTML, which a browser must not run.
fn is_page(answer: &Answer) -> bool {
    let is_html = answer.header("content-type").is_some_and(|text| disposition::essence(text) == "text/html");
    is_html && answer.header_lossy("content-disposition").is_none()
}

/// A server that asks us to slow down for `wait`.
pub(super) fn limited(wait: Duration) -> Error {
    Error::new(Kind::LimitExceeded, "the remote server asks to slow down").retry_after(wait)
}

/// The media of a raw answer.
fn raw_media(answer: Answer) -> RemoteMedia {
    RemoteMedia {
        content_type: disposition::storable_type(answer.header_lines("content-type")),
        upload_name: answer.header_lossy("content-disposition").as_deref().and_then(disposition::file_name),
        size: answer.content_length(),
        body: Box::new(answer.into_reader()),
    }
}

/// The media of a multipart answer: a JSON part, then the bytes with their headers, or the place where they are. Dendrite puts
/// the disposition on the answer itself.
fn multipart_media(answer: Answer, outbound: &Outbound) -> Attempt {
    let Some(boundary) = answer.header("content-type").and_then(multipart::boundary) else {
        return Attempt::UnknownEndpoint;
    };
    let outer_disposition = answer.header_lossy("content-disposition");
    let mut reader = MultipartReader::new(answer.into_hurried(outbound.small_part()), &boundary);
    let mut second_part = || {
        reader.next_part()?.ok_or(MultipartError::Malformed)?;
        let json = std::io::copy(&mut reader.by_ref().take(MAX_JSON_PART), &mut std::io::sink())?;
        if json >= MAX_JSON_PART {
            return Err(MultipartError::TooLong);
        }
        reader.next_part()?.ok_or(MultipartError::Malformed)
    };
    let headers = match second_part() {
        Ok(headers) => headers,
        Err(MultipartError::Io(error)) => return Attempt::Down(RemoteError::Answer(error.to_string())),
        Err(error @ (MultipartError::Truncated | MultipartError::Malformed | MultipartError::TooLong)) => {
            let broken = Error::new(Kind::RemoteFailed, "the remote server sent a broken answer");
            return Attempt::Told(broken.caused_by(error));
        }
    };
    if let Some(location) = headers.get("location") {
        return elsewhere(location, outbound);
    }
    reader.source_mut().unhurried();
    let disposition = headers.get("content-disposition").map(str::to_owned).or(outer_disposition);
    Attempt::Media(RemoteMedia {
        content_type: disposition::storable_type(headers.all("content-type").map(str::as_bytes)),
        upload_name: disposition.as_deref().and_then(disposition::file_name),
        // The delimiter ends a part, whatever length it claims.
        size: None,
        body: Box::new(reader),
    })
}

/// The media at the place a server points to: without our signature, over `https`, through the same address list.
fn elsewhere(location: &str, outbound: &Outbound) -> Attempt {
    let failed = |why: String| {
        let message = "the remote server keeps the file where it cannot be fetched";
        Attempt::Told(Error::new(Kind::RemoteFailed, message).caused_by(RemoteError::Answer(why)))
    };
    match outbound.follow(location, None) {
        Ok(answer) if answer.status() == 200 => Attempt::Media(raw_media(answer)),
        Ok(answer) => failed(format!("status {} from the place it points to", answer.status())),
        Err(error) => failed(error.to_string()),
    }
}

/// Reads an answer that is not media, whose body must come `within` that time.
fn judge_error(status: u16, answer: Answer, within: Duration) -> Attempt {
    let retry_after =
        answer.header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let body = match answer.read_at_most_within(MAX_ERROR_BODY, within) {
        Ok(body) => body.unwrap_or_default(),
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            return Attempt::Down(RemoteError::Answer(format!("status {status}, then {error}")));
        }
        Err(_broken_off) => Vec::new(),
    };
    let errcode = read_errcode(&body);
    let told = |kind, message| Attempt::Told(Error::new(kind, message));
    match (status, errcode.as_deref()) {
        (200..=399 | 400 | 401 | 403 | 404 | 405 | 501, None) | (400 | 404 | 405, Some("M_UNRECOGNIZED")) => {
            Attempt::UnknownEndpoint
        }
        (404, Some(_)) => Attempt::NotFound,
        (401 | 403, _) => Attempt::Refused(format!("{status} {}", errcode.unwrap_or_default())),
        (504, Some("M_NOT_YET_UPLOADED")) => told(Kind::NotYetUploaded, "the media is not yet uploaded"),
        (413 | 502, Some("M_TOO_LARGE")) => Attempt::Told(too_large()),
        (429, _) => Attempt::Told(limited(retry_after.unwrap_or(DEFAULT_RETRY_AFTER).min(MAX_RETRY_AFTER))),
        (500..=599, _) => {
            Attempt::Down(RemoteError::Answer(format!("status {status} {}", errcode.unwrap_or_default())))
        }
        // MMR answers a wrong method with 405 M_UNKNOWN; other 4xx are as little about media.
        (_, _) => Attempt::UnknownEndpoint,
    }
}

/// The errcode of a Matrix error body, up to what is not a letter, digit, `_` or `.`: it goes into the journal.
fn read_errcode(body: &[u8]) -> Option<String> {
    let ErrorBody { errcode } = serde_json::from_slice(body).ok()?;
    let is_usual = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.');
    Some(errcode.chars().take(MAX_ERRCODE).take_while(is_usual).collect())
}

impl RemoteMedia {
    /// Refuses a file that announces more than `limit` bytes.
    pub(crate) fn at_most(self, limit: u64) -> Result<Self> {
        match self.size {
            Some(size) if size > limit => Err(too_large()),
            _ => Ok(self),
        }
    }
}

impl std::fmt::Debug for RemoteMedia {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteMedia")
            .field("content_type", &self.content_type)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_errcode_is_short_and_of_letters() {
        let (long, cut) = (format!("M_{}", "X".repeat(100)), format!("M_{}", "X".repeat(62)));
        for (errcode, read) in [
            ("M_NOT_FOUND", "M_NOT_FOUND"),
            ("ORG.EXAMPLE.ODD_1", "ORG.EXAMPLE.ODD_1"),
            ("M_A\n2026-01-01 ERROR forged", "M_A"),
            ("\u{1b}[2J", ""),
            (long.as_str(), cut.as_str()),
        ] {
            let body = json!({"errcode": errcode}).to_string();
            assert_eq!(read_errcode(body.as_bytes()).as_deref(), Some(read), "{errcode}");
        }
        assert_eq!(read_errcode(b"{}"), None);
    }
}
