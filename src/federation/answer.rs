//! What a remote server's answer to a download means.
//!
//! Owns the reading of answers in every dialect, and the difference between "there is no such media" and "there is no such
//! endpoint", which servers and the proxies before them say in many ways.

use std::io::{self, Cursor, ErrorKind, Read};
use std::time::Duration;

use serde::Deserialize;

use super::{RemoteError, too_large};
use crate::config::Family;
use crate::error::{Error, Kind};
use crate::http::disposition;
use crate::http::multipart::{self, MultipartError, MultipartReader, PartHeaders};
use crate::matrix::{self, len_u64};
use crate::outbound::{self, Outbound, OutboundResponse, ReadDeadline};

/// Largest error body read for its errcode, bytes.
const MAX_ERROR_BODY: u64 = 64 * 1024;

/// How much of an errcode is read, characters; the specification's are shorter.
const MAX_ERRCODE: usize = 64;

/// Largest JSON part of a multipart answer, bytes.
const MAX_JSON_PART: u64 = 64 * 1024;

/// How much of a file must be there before it counts as one, bytes: one, to know that something comes.
const FIRST_BYTE: usize = 1;

/// The same of what is unpacked: enough to know that it is packed as it says. What is not can unpack to a few bytes of nonsense.
const FIRST_UNPACKED: usize = 4096;

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
    /// It says that here it is, and then nothing that can be used.
    Broken(MultipartError),
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

/// What is needed to read an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// What was asked.
    pub(super) family: Family,
    /// Whether the server has given media under this family before.
    pub(super) is_proven: bool,
    /// Follows what the answer points to.
    pub(super) outbound: &'a Outbound,
    /// Largest file that is taken, bytes.
    pub(super) max_size: u64,
}

impl Reading<'_> {
    /// Reads a server's answer.
    pub(super) fn read(self, answer: OutboundResponse) -> Attempt {
        match (answer.status(), self.family) {
            (200, Family::Msc3916) => self.multipart_media(answer),
            // Raw answers: a catch-all page is not media.
            (200, Family::Msc1902) if !self.is_proven && may_be_page(&answer) => Attempt::UnknownEndpoint,
            (200, Family::Msc1902 | Family::Legacy) if is_page(&answer) => Attempt::UnknownEndpoint,
            (200, Family::Msc1902 | Family::Legacy) => self.raw_media(answer),
            // We said `allow_redirect=true`, and legacy media is no secret. A signed request goes nowhere else.
            (301 | 302 | 303 | 307 | 308, Family::Legacy) => match answer.redirect() {
                Some(location) => self.elsewhere(&location),
                None => Attempt::UnknownEndpoint,
            },
            (status, _) => judge_error(status, answer, self.outbound.small_body_timeout()),
        }
    }

    /// The media of a raw answer.
    fn raw_media(self, answer: OutboundResponse) -> Attempt {
        let content_type = disposition::storable_type(answer.header_lines("content-type"));
        let disposition = answer.header_lossy("content-disposition");
        let upload_name = disposition.as_deref().and_then(disposition::file_name);
        let size = answer.content_length();
        let enough = enough(&answer.content_encoding());
        let begun =
            answer.into_body_within(self.max_size, self.outbound.small_body_timeout()).and_then(|body| {
                let deadline = body.read_deadline();
                begin(body, enough, &deadline)
            });
        match begun {
            Ok(Begun { whole, body }) => {
                Attempt::Media(RemoteMedia { content_type, upload_name, size: whole.or(size), body })
            }
            Err(error) => Attempt::Broken(error.into()),
        }
    }

    /// The media of a multipart answer: a JSON part, then the bytes with their headers, or the place where they are. Dendrite puts
    /// the disposition on the answer itself.
    fn multipart_media(self, answer: OutboundResponse) -> Attempt {
        let Some(boundary) = answer.header("content-type").and_then(multipart::boundary) else {
            return Attempt::UnknownEndpoint;
        };
        let outer_disposition = answer.header_lossy("content-disposition");
        let total = answer.content_length();
        let body = match answer.into_body_within(self.max_size, self.outbound.small_body_timeout()) {
            Ok(body) => body,
            Err(error) => return Attempt::Broken(error.into()),
        };
        let deadline = body.read_deadline();
        let mut reader = MultipartReader::new(body, &boundary);
        let headers = match second_part(&mut reader) {
            Ok(headers) => headers,
            Err(error) => return Attempt::Broken(error),
        };
        if let Some(location) = headers.get("location") {
            return self.elsewhere(location);
        }
        if let Err(error) = headers.check_transfer_encoding() {
            return Attempt::Broken(error);
        }
        let codings = headers.codings();
        let size = if outbound::is_encoded(&codings) {
            // How long it is packed says little.
            None
        } else {
            let announced = total.map(|total| reader.last_part(&headers, total));
            let by_part = headers.get("content-length").and_then(|length| length.parse().ok());
            let by_answer = announced.map(|announced| announced.about);
            if by_part.max(by_answer).is_some_and(|size| size > self.max_size) {
                return Attempt::Told(too_large());
            }
            announced.and_then(|announced| announced.exact)
        };
        let disposition = headers.get("content-disposition").map(str::to_owned).or(outer_disposition);
        let content_type = disposition::storable_type(headers.all("content-type").map(str::as_bytes));
        let upload_name = disposition.as_deref().and_then(disposition::file_name);
        let begun = outbound::decode_body(&codings, Box::new(reader), self.max_size)
            .and_then(|body| begin(body, enough(&codings), &deadline));
        let Begun { whole, body } = match begun {
            Ok(begun) => begun,
            // Synapse ends the answer early when there is nothing to send.
            Err(_broken_off)
                if headers.get("content-length") == Some("0") && !outbound::is_encoded(&codings) =>
            {
                Begun { whole: Some(0), body: Box::new(io::empty()) }
            }
            Err(error) => return Attempt::Broken(error.into()),
        };
        Attempt::Media(RemoteMedia { content_type, upload_name, size: whole.or(size), body })
    }

    /// The media at the place a server points to: without our signature, over `https`, through the same address list.
    fn elsewhere(self, location: &str) -> Attempt {
        let failed = |why: String| {
            let message = "the remote server keeps the file where it cannot be fetched";
            Attempt::Told(Error::new(Kind::RemoteFailed, message).caused_by(RemoteError::Answer(why)))
        };
        match self.outbound.follow(location, None) {
            Ok(answer) if answer.status() == 200 => self.raw_media(answer),
            Ok(answer) => failed(format!("status {} from the place it points to", answer.status())),
            Err(error) => failed(error.to_string()),
        }
    }
}

/// A file of which the first bytes have come.
struct Begun {
    /// Its length, if it has come whole.
    whole: Option<u64>,
    /// All of it.
    body: Box<dyn Read + Send>,
}

/// How much of a body under `codings` must be there before it counts as a file.
fn enough(codings: &str) -> usize {
    if outbound::is_encoded(codings) { FIRST_UNPACKED } else { FIRST_BYTE }
}

/// Waits for the first bytes of a file, up to `enough`, and then lifts the `deadline`. What announces a file and gives nothing of it, or
/// nothing that can be unpacked, must not pass for one: another family may have the file, and the client reads the status first.
fn begin(mut body: impl Read + Send + 'static, enough: usize, deadline: &ReadDeadline) -> io::Result<Begun> {
    let mut start = vec![0; enough];
    let mut filled = 0_usize;
    let mut ended = false;
    while !ended && let Some(rest) = start.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match body.read(rest) {
            Ok(count) => {
                ended = count == 0;
                filled = filled.saturating_add(count);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What has come is good, and the rest may take its time.
            Err(error) if error.kind() == ErrorKind::TimedOut && filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    deadline.lift();
    start.truncate(filled);
    let whole = ended.then_some(len_u64(filled));
    Ok(Begun { whole, body: Box::new(Cursor::new(start).chain(body)) })
}

/// Moves to the part with the media and reads its headers.
fn second_part(reader: &mut MultipartReader<impl Read>) -> Result<PartHeaders, MultipartError> {
    reader.next_part()?.ok_or(MultipartError::Malformed)?;
    let json = io::copy(&mut reader.by_ref().take(MAX_JSON_PART), &mut io::sink())?;
    if json >= MAX_JSON_PART {
        return Err(MultipartError::TooLong);
    }
    reader.next_part()?.ok_or(MultipartError::Malformed)
}

/// Whether a raw answer is the page of a catch-all site rather than media: media servers name at least a disposition for
/// HTML, which a browser must not run. Legacy servers of old send none.
fn is_page(answer: &OutboundResponse) -> bool {
    has_type(answer, &["text/html"]) && !has_disposition(answer)
}

/// Whether a catch-all site could give this answer: a page, a word or an object for whatever is asked. A file without a name
/// needs no disposition, so its type tells as well.
fn may_be_page(answer: &OutboundResponse) -> bool {
    !has_disposition(answer) && has_type(answer, &["text/html", "text/plain", "application/json", ""])
}

/// Whether an answer has a disposition.
fn has_disposition(answer: &OutboundResponse) -> bool {
    answer.header_lossy("content-disposition").is_some()
}

/// Whether the type of an answer is one of these; `""` is none, and what is no type.
fn has_type(answer: &OutboundResponse, types: &[&str]) -> bool {
    let claimed = answer.header_lossy("content-type").unwrap_or_default();
    let essence = disposition::essence(&claimed);
    types.contains(&if disposition::is_media_type(&essence) { essence.as_str() } else { "" })
}

/// A server that asks us to slow down for `wait`.
pub(super) fn limited(wait: Duration) -> Error {
    Error::new(Kind::LimitExceeded, "the remote server asks to slow down").retry_after(wait)
}

/// Reads an answer that is not media, whose body must come `within` that time.
fn judge_error(status: u16, answer: OutboundResponse, within: Duration) -> Attempt {
    let retry_after = answer.header("retry-after").map(str::to_owned);
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
        (429, _) => Attempt::Told(limited(matrix::retry_after(retry_after.as_deref(), &body))),
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
    pub(super) fn at_most(self, limit: u64) -> crate::error::Result<Self> {
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
