//! A response whose head has been read: its header fields, and the ways to read its body.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, percent_encode};
use ureq::Body;
use ureq::http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode};
use url::Url;

use super::bounded_decoder::decode_body;
use super::content_coding::is_encoded;
use super::deadline_reader::DeadlineReader;

/// A response, its body still to be read. Dropping it closes the connection unless the body was read to its end.
#[derive(Debug)]
pub(crate) struct OutboundResponse {
    response: HttpResponse<Body>,
    /// The URL of the request, which relative redirects refer to.
    url: String,
}

impl OutboundResponse {
    /// The response to a request for `url`.
    pub(super) fn new(response: HttpResponse<Body>, url: &str) -> Self {
        Self { response, url: url.to_owned() }
    }

    pub(crate) fn status(&self) -> u16 {
        StatusCode::as_u16(&self.response.status())
    }

    /// The absolute form of `Location`. Bytes outside ASCII are percent-encoded, as browsers do.
    pub(crate) fn redirect(&self) -> Option<String> {
        let location = self.response.headers().get("location")?.as_bytes();
        let location = percent_encode(location, &AsciiSet::EMPTY).to_string();
        Url::parse(&self.url).ok()?.join(&location).ok().map(String::from)
    }

    /// The first value of a header field, if it is visible ASCII.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers: &HeaderMap = self.response.headers();
        headers.get(name)?.to_str().ok()
    }

    /// The values of all lines of a header field, as received.
    pub(crate) fn header_lines(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.response.headers().get_all(name).iter().map(HeaderValue::as_bytes)
    }

    /// The elements of a header field that is a comma-separated list, over all its lines.
    pub(crate) fn header_list(&self, name: &str) -> Vec<&str> {
        let values = self.response.headers().get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',').map(str::trim)).collect()
    }

    /// The first value of a header field, with bytes that are not UTF-8 replaced.
    pub(crate) fn header_lossy(&self, name: &str) -> Option<String> {
        self.response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    /// The length of the body in bytes, if announced and if no content coding makes it another after decoding.
    pub(crate) fn content_length(&self) -> Option<u64> {
        if is_encoded(&self.content_encoding()) {
            return None;
        }
        self.header("content-length")?.parse().ok()
    }

    /// `Content-Encoding`, all its lines as one list, in lower case.
    pub(crate) fn content_encoding(&self) -> String {
        let lines: Vec<_> = self.header_lines("content-encoding").map(String::from_utf8_lossy).collect();
        lines.join(",").to_ascii_lowercase()
    }

    /// The whole decoded body if it has at most `limit` bytes; `None` if it has more.
    ///
    /// # Errors
    /// Those of [`into_body`](Self::into_body) and of reading.
    pub(crate) fn read_at_most(self, limit: u64) -> io::Result<Option<Vec<u8>>> {
        read_at_most(&mut self.into_body(limit)?, limit)
    }

    /// [`read_at_most`](Self::read_at_most) that fails with `TimedOut` after `timeout`.
    pub(crate) fn read_at_most_within(self, limit: u64, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        read_at_most(&mut self.into_body_within(limit, timeout)?, limit)
    }

    /// [`into_body`](Self::into_body) whose reads fail after `timeout`, until the deadline is lifted.
    pub(crate) fn into_body_within(self, limit: u64, timeout: Duration) -> io::Result<DeadlineReader> {
        let deadline = Instant::now().checked_add(timeout);
        Ok(DeadlineReader::new(self.into_body(limit)?, deadline))
    }

    /// The body as it arrives, content codings undone, also those that were not asked for. The caller wants at most `limit`
    /// bytes and stops reading there; [`decode_body`] derives from it how many encoded bytes are read. A body shorter than
    /// announced ends in an error. A read that stalls fails with `TimedOut`.
    ///
    /// # Errors
    /// `Unsupported` for a content coding that cannot be undone.
    pub(crate) fn into_body(self, limit: u64) -> io::Result<Box<dyn Read + Send>> {
        let codings = self.content_encoding();
        let body = UreqBody(self.response.into_body().into_reader());
        decode_body(&codings, Box::new(body), limit)
    }
}

/// All of `source` if that is at most `limit` bytes.
fn read_at_most(source: &mut dyn Read, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    // One byte more than the limit tells a body that is too long.
    source.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok((crate::matrix::len_u64(bytes.len()) <= limit).then_some(bytes))
}

/// Turns ureq's own timeout errors into `TimedOut`.
struct UreqBody<R>(R);

impl<R: Read> Read for UreqBody<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
            match inner {
                Some(ureq::Error::Timeout(_)) => io::Error::new(io::ErrorKind::TimedOut, error),
                _ => error,
            }
        })
    }
}
