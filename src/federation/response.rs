//! What a remote server's response to a download means.
//!
//! Owns the reading of every endpoint family's responses, and the difference between "there is no such media" and "there is no such
//! endpoint", which servers and the proxies in front of them say in many ways. Refuses to know which endpoint is tried next.

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

/// Largest JSON part of a multipart response, bytes.
const MAX_JSON_PART: u64 = 64 * 1024;

/// How much of a file must have arrived before the response counts as one, bytes.
const FIRST_BYTES: usize = 1;

/// The same for a compressed file, after decompression. A body that is not compressed as its headers say can decompress to a few bytes
/// of nonsense before that shows.
const FIRST_DECODED_BYTES: usize = 4096;

/// A remote file, its bytes still to be read.
pub(crate) struct RemoteMedia {
    /// Normalised, but not verified.
    pub(crate) content_type: String,
    pub(crate) upload_name: Option<String>,
    /// The announced length, bytes.
    pub(crate) size: Option<u64>,
    /// A body that breaks off ends in an error, never in a silent end of file.
    pub(crate) body: Box<dyn Read + Send>,
}

/// The outcome of one request for a file.
#[derive(Debug)]
pub(super) enum Attempt {
    Media(RemoteMedia),
    /// The server, or a proxy in front of it, does not have this endpoint.
    UnknownEndpoint,
    /// The server does not have the media; some servers say the same of an endpoint that they do not have.
    NotFound,
    /// The response announces the media, and its body is unusable.
    Broken(MultipartError),
    /// Our signature was not accepted.
    Refused(RemoteError),
    /// The endpoint exists and settles the matter: not yet uploaded, too large, too many requests.
    Settled(Error),
    /// The server cannot be reached, or fails.
    Down(RemoteError),
}

/// A Matrix error body.
#[derive(Deserialize)]
struct ErrorBody {
    errcode: String,
}

/// Reads the response to one request for a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResponseReader<'a> {
    /// The family of the endpoint that was requested.
    pub(super) family: Family,
    /// Whether the server has sent media under this family before.
    pub(super) is_proven: bool,
    /// For redirects.
    pub(super) outbound: &'a Outbound,
    /// Largest file accepted, bytes.
    pub(super) max_size: u64,
}

impl ResponseReader<'_> {
    pub(super) fn read(self, response: OutboundResponse) -> Attempt {
        match (response.status(), self.family) {
            (200, Family::Msc3916) => self.multipart_media(response),
            // Raw responses: a catch-all page is not media.
            (200, Family::Msc1902) if !self.is_proven && may_be_page(&response) => Attempt::UnknownEndpoint,
            (200, Family::Msc1902 | Family::Legacy) if is_page(&response) => Attempt::UnknownEndpoint,
            (200, Family::Msc1902 | Family::Legacy) => self.raw_media(response),
            // Our request said `allow_redirect=true`, and legacy media is public. Signed requests follow no redirect.
            (301 | 302 | 303 | 307 | 308, Family::Legacy) => match response.redirect() {
                Some(location) => self.redirected_media(&location),
                None => Attempt::UnknownEndpoint,
            },
            (status, _) => read_error_response(status, response, self.outbound.small_body_timeout()),
        }
    }

    fn raw_media(self, response: OutboundResponse) -> Attempt {
        let content_type = disposition::storable_type(response.header_lines("content-type"));
        let disposition = response.header_lossy("content-disposition");
        let upload_name = disposition.as_deref().and_then(disposition::file_name);
        let size = response.content_length();
        let wanted = first_bytes(&response.content_encoding());
        let started =
            response.into_body_within(self.max_size, self.outbound.small_body_timeout()).and_then(|body| {
                let deadline = body.read_deadline();
                await_first_bytes(body, wanted, &deadline)
            });
        match started {
            Ok(StartedBody { whole, body }) => {
                Attempt::Media(RemoteMedia { content_type, upload_name, size: whole.or(size), body })
            }
            Err(error) => Attempt::Broken(error.into()),
        }
    }

    /// A multipart response: a JSON part, then the file with its headers, or a `Location` header. Dendrite puts the disposition on the
    /// response itself.
    fn multipart_media(self, response: OutboundResponse) -> Attempt {
        let Some(boundary) = response.header("content-type").and_then(multipart::boundary) else {
            return Attempt::UnknownEndpoint;
        };
        let outer_disposition = response.header_lossy("content-disposition");
        let total = response.content_length();
        let body = match response.into_body_within(self.max_size, self.outbound.small_body_timeout()) {
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
            return self.redirected_media(location);
        }
        if let Err(error) = headers.check_transfer_encoding() {
            return Attempt::Broken(error);
        }
        let codings = headers.codings();
        let size = if outbound::is_encoded(&codings) {
            // The length of the compressed file says little about the file.
            None
        } else {
            let announced = total.map(|total| reader.last_part(&headers, total));
            let by_part = headers.get("content-length").and_then(|length| length.parse().ok());
            let by_answer = announced.map(|announced| announced.about);
            if by_part.max(by_answer).is_some_and(|size| size > self.max_size) {
                return Attempt::Settled(too_large());
            }
            announced.and_then(|announced| announced.exact)
        };
        let disposition = headers.get("content-disposition").map(str::to_owned).or(outer_disposition);
        let content_type = disposition::storable_type(headers.all("content-type").map(str::as_bytes));
        let upload_name = disposition.as_deref().and_then(disposition::file_name);
        let started = outbound::decode_body(&codings, Box::new(reader), self.max_size)
            .and_then(|body| await_first_bytes(body, first_bytes(&codings), &deadline));
        let StartedBody { whole, body } = match started {
            Ok(started) => started,
            // Synapse ends the response early when the file is empty.
            Err(_broken_off)
                if headers.get("content-length") == Some("0") && !outbound::is_encoded(&codings) =>
            {
                StartedBody { whole: Some(0), body: Box::new(io::empty()) }
            }
            Err(error) => return Attempt::Broken(error.into()),
        };
        Attempt::Media(RemoteMedia { content_type, upload_name, size: whole.or(size), body })
    }

    /// The media at another URL that the server names: without our signature, over `https`, through the same address list.
    fn redirected_media(self, location: &str) -> Attempt {
        let failed = |why: RemoteError| {
            let message = "the remote server redirects to a place where the file cannot be fetched";
            Attempt::Settled(Error::new(Kind::RemoteFailed, message).caused_by(why))
        };
        match self.outbound.follow(location, None) {
            Ok(response) if response.status() == 200 => self.raw_media(response),
            Ok(response) => failed(RemoteError::status(response.status(), None)),
            Err(error) => failed(error.into()),
        }
    }
}

/// A body of which the first bytes have arrived.
struct StartedBody {
    /// Its length in bytes, if all of it has arrived.
    whole: Option<u64>,
    /// The first bytes and the rest.
    body: Box<dyn Read + Send>,
}

/// How many bytes of a body with these content codings must have arrived before it counts as a file.
fn first_bytes(codings: &str) -> usize {
    if outbound::is_encoded(codings) { FIRST_DECODED_BYTES } else { FIRST_BYTES }
}

/// Waits for the first `wanted` bytes of a file and then lifts the `deadline`. A response that announces a file and sends none of it, or
/// nothing that can be decompressed, must not count as one: another family may have the file, and once the client has read the status
/// nothing can be changed.
fn await_first_bytes(
    mut body: impl Read + Send + 'static,
    wanted: usize,
    deadline: &ReadDeadline,
) -> io::Result<StartedBody> {
    let mut start = vec![0; wanted];
    let mut filled = 0_usize;
    let mut ended = false;
    while !ended && let Some(rest) = start.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match body.read(rest) {
            Ok(count) => {
                ended = count == 0;
                filled = filled.saturating_add(count);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The bytes so far are good, and the rest has a deadline of its own.
            Err(error) if error.kind() == ErrorKind::TimedOut && filled > 0 => break,
            Err(error) => return Err(error),
        }
    }
    deadline.lift();
    start.truncate(filled);
    let whole = ended.then_some(len_u64(filled));
    Ok(StartedBody { whole, body: Box::new(Cursor::new(start).chain(body)) })
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

/// Whether a raw response is the page of a catch-all site rather than media. Media servers send a disposition at least for HTML, which
/// a browser must not run; old ones send none for other types.
fn is_page(response: &OutboundResponse) -> bool {
    has_type(response, &["text/html"]) && !has_disposition(response)
}

/// Whether a catch-all site could have sent this response. A file without a name needs no disposition, so the type counts too.
fn may_be_page(response: &OutboundResponse) -> bool {
    !has_disposition(response) && has_type(response, &["text/html", "text/plain", "application/json", ""])
}

fn has_disposition(response: &OutboundResponse) -> bool {
    response.header_lossy("content-disposition").is_some()
}

/// Whether the content type is one of `types`, where `""` stands for a missing or malformed one.
fn has_type(response: &OutboundResponse, types: &[&str]) -> bool {
    let claimed = response.header_lossy("content-type").unwrap_or_default();
    let essence = disposition::essence(&claimed);
    types.contains(&if disposition::is_media_type(&essence) { essence.as_str() } else { "" })
}

/// The error for a server that asks us to send nothing for `wait`.
pub(super) fn rate_limited(wait: Duration) -> Error {
    Error::new(Kind::LimitExceeded, "the remote server asks to slow down").retry_after(wait)
}

/// Reads a response that is not media. Its body must arrive `within` that time.
fn read_error_response(status: u16, response: OutboundResponse, within: Duration) -> Attempt {
    let retry_after = response.header("retry-after").map(str::to_owned);
    let body = match response.read_at_most_within(MAX_ERROR_BODY, within) {
        Ok(body) => body.unwrap_or_default(),
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            return Attempt::Down(RemoteError::SlowError { status, why: error });
        }
        Err(_broken_off) => Vec::new(),
    };
    let errcode = read_errcode(&body);
    let settled = |kind, message| Attempt::Settled(Error::new(kind, message));
    match (status, errcode.as_deref()) {
        (200..=399 | 400 | 401 | 403 | 404 | 405 | 501, None) | (400 | 404 | 405, Some("M_UNRECOGNIZED")) => {
            Attempt::UnknownEndpoint
        }
        (404, Some(_)) => Attempt::NotFound,
        (401 | 403, _) => Attempt::Refused(RemoteError::status(status, errcode)),
        (504, Some("M_NOT_YET_UPLOADED")) => settled(Kind::NotYetUploaded, "the media is not yet uploaded"),
        (413 | 502, Some("M_TOO_LARGE")) => Attempt::Settled(too_large()),
        (429, _) => Attempt::Settled(rate_limited(matrix::retry_after(retry_after.as_deref(), &body))),
        (500..=599, _) => Attempt::Down(RemoteError::status(status, errcode)),
        // MMR responses a wrong method with 405 M_UNKNOWN; other 4xx are as little about media.
        (_, _) => Attempt::UnknownEndpoint,
    }
}

/// The errcode of a Matrix error body, up to what is not a letter, digit, `_` or `.`: it is logged.
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
