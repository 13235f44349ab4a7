//! Responses: their headers and bodies, above all those of media.
//!
//! Owns header text. Refuses to know why a response is sent and how media is found.
//! [Spec, web browser clients](https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients) (CORS),
//! [content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository) (media headers).

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use hyper::StatusCode;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;

use crate::error::{Error, Kind};
use crate::http::access::Access;
use crate::http::conditions::{Conditions, HttpDate, Judgement, Validators};
use crate::http::disposition;
use crate::http::error_response;
use crate::http::file_stream::{self, FileStream, Readers};
use crate::http::multipart;
use crate::http::range::Extent;
use crate::matrix::len_u64;
use crate::store::stored_media::StoredMedia;

/// The response of every endpoint.
pub(crate) type Response = hyper::Response<Body>;

/// Sent with every response (spec, web browser clients), errors included.
const CORS: [(HeaderName, HeaderValue); 4] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS")),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "X-Requested-With, Content-Type, Authorization, Date, Range, If-Range, If-Match, If-None-Match, \
             If-Modified-Since, If-Unmodified-Since",
        ),
    ),
    // Headers that scripts of other origins may read, besides those that CORS always allows. Media players need all but the first and the
    // last.
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(
            "Content-Disposition, Content-Length, Content-Range, Accept-Ranges, ETag, Last-Modified, Date, \
             Content-Encoding, Age, Retry-After",
        ),
    ),
];

/// Sent with media, so that a browser that shows it directly does not run scripts in it (spec, content repository; MSC3828).
const MEDIA_SECURITY: [(HeaderName, HeaderValue); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
             style-src 'unsafe-inline'; media-src 'self'; object-src 'self';",
        ),
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("x-robots-tag"),
        HeaderValue::from_static("noindex, nofollow, noarchive, noimageindex"),
    ),
];

/// Which caches may store a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Any cache. Shared caches must revalidate each time, so that a change of policy takes effect at once.
    Public,
    /// Only the client's own cache, because the request had a token.
    Private,
    /// None.
    Never,
}

impl Caching {
    /// `Cache-Control`. Media never changes under its ID; one day limits how long a client shows removed media.
    fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Public => "public, max-age=86400, s-maxage=0, proxy-revalidate",
            Self::Private => "private, max-age=86400",
            Self::Never => "no-store",
        })
    }
}

/// 200 with a JSON body.
pub(crate) fn json(value: &serde_json::Value) -> Response {
    json_with(StatusCode::OK, value.to_string())
}

/// 200 with JSON text.
pub(crate) fn json_text(text: &str) -> Response {
    json_with(StatusCode::OK, text.to_owned())
}

/// `status` with JSON text.
pub(crate) fn json_with(status: StatusCode, text: String) -> Response {
    let mut response = bare(status, Caching::Never);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = Body::from_bytes(text.into());
    response
}

/// The response to `OPTIONS`: only CORS headers.
pub(crate) fn preflight() -> Response {
    let mut response = bare(StatusCode::NO_CONTENT, Caching::Never);
    response.headers_mut().insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Stored media with the headers of its response, to be sent any number of times.
#[derive(Debug)]
pub(crate) struct PreparedMedia {
    stored: StoredMedia,
    /// The entity tag, quoted: the blob's name.
    etag: String,
    /// `Last-Modified`; `None` for a stopgap.
    modified: Option<HttpDate>,
    /// Headers of a complete response under the stored file name, without `Cache-Control`.
    headers: HeaderMap,
    /// All bytes of small media, after they were read from the page cache.
    bytes: OnceLock<Bytes>,
}

/// Largest media that is kept in memory, bytes.
pub(crate) const MAX_SMALL: u64 = 64 << 10;

impl PreparedMedia {
    pub(crate) fn new(stored: StoredMedia) -> Self {
        let modified = HttpDate::of(stored.created);
        Self::with_date(stored, Some(modified))
    }

    /// Media that replaces something that may be available soon: no client or cache may store it.
    pub(crate) fn stopgap(stored: StoredMedia) -> Self {
        Self::with_date(stored, None)
    }

    fn with_date(stored: StoredMedia, modified: Option<HttpDate>) -> Self {
        let content = &stored.content;
        let etag = format!("\"{}\"", content.sha256);
        let mut headers = HeaderMap::with_capacity(24);
        headers.extend(CORS);
        insert_media_headers(&mut headers, &content.content_type, content.upload_name.as_deref());
        insert(&mut headers, header::ETAG, etag.clone());
        if let Some(modified) = modified {
            insert(&mut headers, header::LAST_MODIFIED, modified.text());
        }
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, content.size.into());
        Self { stored, etag, modified, headers, bytes: OnceLock::new() }
    }

    pub(crate) fn stored(&self) -> &StoredMedia {
        &self.stored
    }

    pub(crate) fn is_stopgap(&self) -> bool {
        self.modified.is_none()
    }

    /// Whether all bytes are still there: the file may have been truncated since it was opened.
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.get().is_some() || self.stored.blob.is_whole()
    }

    /// `length` bytes from `start` on.
    fn segment(&self, start: u64, length: u64, readers: &Readers) -> Segment {
        let range = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(length)).ok());
        match (self.bytes(), range) {
            (Some(bytes), Some((start, end))) if end <= bytes.len() => {
                Segment::Bytes(bytes.slice(start..end))
            }
            _ => Segment::File(FileStream::new(self.stored.blob.range(start, length), readers)),
        }
    }

    /// All bytes, if they are few and in the page cache.
    fn bytes(&self) -> Option<&Bytes> {
        let StoredMedia { content, blob, .. } = &self.stored;
        if self.bytes.get().is_none() && content.size <= MAX_SMALL {
            let bytes = file_stream::read_cached(blob)?;
            return Some(self.bytes.get_or_init(|| bytes));
        }
        self.bytes.get()
    }
}

/// The response with stored media for a client, or for a server under MSC1902: 200, 206 with a range, 304, 412 or 416.
pub(crate) fn media(
    prepared: &PreparedMedia,
    file_name: Option<&str>,
    caching: Caching,
    conditions: &Conditions<'_>,
    readers: &Readers,
) -> Response {
    let PreparedMedia { stored: StoredMedia { content, .. }, etag, modified, .. } = prepared;
    let caching = if prepared.is_stopgap() { Caching::Never } else { caching };
    let extent = match conditions.judge(Validators { etag, modified: *modified }, content.size) {
        Judgement::Send(extent) => extent,
        Judgement::NotModified => {
            let mut response = bare(StatusCode::NOT_MODIFIED, caching);
            insert(response.headers_mut(), header::ETAG, etag.clone());
            return response;
        }
        Judgement::Failed => {
            let failed =
                Error::new(Kind::PreconditionFailed, "the media is not the one that the request names");
            return error_response::error(&failed, "precondition");
        }
    };
    let mut response = Response::new(Body::default());
    *response.headers_mut() = prepared.headers.clone();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, caching.header());
    if let Some(name) = file_name {
        insert(headers, header::CONTENT_DISPOSITION, disposition::header(&content.content_type, Some(name)));
    }
    let (start, length) = match extent {
        Extent::Whole => (0, content.size),
        Extent::Part { start, length } => {
            make_partial(&mut response, (start, length), content.size);
            (start, length)
        }
        Extent::Unsatisfiable => return unsatisfiable(content.size),
    };
    *response.body_mut() = Body::new([prepared.segment(start, length, readers)]);
    response
}

/// What is known about a file while it arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrivingHead<'a> {
    pub(crate) content_type: &'a str,
    pub(crate) file_name: Option<&'a str>,
    /// Announced length, bytes.
    pub(crate) size: Option<u64>,
}

/// Chunks of a file as they arrive. An error means that the connection to the client must be aborted, too.
pub(crate) type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// The response with a file that is still arriving: without validators, because its bytes are not yet known. If its length is known, a
/// range can be sent; some players require that (Safari asks for the first two bytes). `chunks` returns the bytes of the range once the
/// first of them has arrived, or all bytes for `None`.
///
/// # Errors
/// Those of `chunks`.
pub(crate) async fn arriving<F>(
    head: ArrivingHead<'_>,
    conditions: &Conditions<'_>,
    chunks: impl FnOnce(Option<Range<u64>>) -> F,
) -> Result<Response, Error>
where
    F: Future<Output = Result<Chunks, Error>>,
{
    let mut response = bare(StatusCode::OK, Caching::Never);
    let headers = response.headers_mut();
    insert_media_headers(headers, head.content_type, head.file_name);
    let mut range = None;
    if let Some(size) = head.size {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, size.into());
        match conditions.extent(size) {
            Extent::Whole => {}
            Extent::Part { start, length } => {
                make_partial(&mut response, (start, length), size);
                range = Some(start..start.saturating_add(length));
            }
            Extent::Unsatisfiable => return Ok(unsatisfiable(size)),
        }
    }
    *response.body_mut() = Body::new([Segment::Chunks(chunks(range).await?)]);
    Ok(response)
}

/// Turns a response into 206 with `length` bytes from `start` on, of `size`.
fn make_partial(response: &mut Response, (start, length): (u64, u64), size: u64) {
    let last = start.saturating_add(length).saturating_sub(1);
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_RANGE, format!("bytes {start}-{last}/{size}"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
}

/// 416 for a range outside `size` bytes.
fn unsatisfiable(size: u64) -> Response {
    let unsatisfiable = Error::new(Kind::RangeNotSatisfiable, "the range is outside the media");
    let mut response = error_response::error(&unsatisfiable, "range");
    insert(response.headers_mut(), header::CONTENT_RANGE, format!("bytes */{size}"));
    response
}

/// The multipart response with stored media for a server (MSC3916). Dendrite reads the file name from the outer `Content-Disposition`.
pub(crate) fn multipart_federation(prepared: &PreparedMedia, boundary: &str, readers: &Readers) -> Response {
    let content = &prepared.stored().content;
    let content_type = disposition::served_type(&content.content_type);
    let disposition = disposition::header(&content.content_type, content.upload_name.as_deref());
    let before = multipart::prologue(boundary, &content_type, &disposition);
    let after = multipart::epilogue(boundary);
    let length = [len_u64(before.len()), content.size, len_u64(after.len())]
        .iter()
        .fold(0, |sum, n| n.saturating_add(sum));

    let mut response = bare(StatusCode::OK, Caching::Never);
    let headers = response.headers_mut();
    // Unquoted and last: Synapse takes everything after `boundary=`.
    insert(headers, header::CONTENT_TYPE, format!("multipart/mixed; boundary={boundary}"));
    insert(headers, header::CONTENT_DISPOSITION, disposition);
    headers.insert(header::CONTENT_LENGTH, length.into());
    let segments = [
        Segment::Bytes(before.into()),
        prepared.segment(0, content.size, readers),
        Segment::Bytes(after.into()),
    ];
    *response.body_mut() = Body::new(segments);
    response
}

/// A response with CORS and caching headers and no body.
fn bare(status: StatusCode, caching: Caching) -> Response {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response.headers_mut().extend(CORS);
    response.headers_mut().insert(header::CACHE_CONTROL, caching.header());
    response
}

/// The headers that describe media, and those that restrict it in a browser.
fn insert_media_headers(headers: &mut HeaderMap, content_type: &str, file_name: Option<&str>) {
    insert(headers, header::CONTENT_TYPE, disposition::served_type(content_type));
    insert(headers, header::CONTENT_DISPOSITION, disposition::header(content_type, file_name));
    headers.extend(MEDIA_SECURITY);
}

/// Sets a header. Values consist of checked parts; an invalid one would be left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// A response body: segments sent one after the other.
#[derive(Debug, Default)]
pub(crate) struct Body {
    /// Still to be sent.
    segments: VecDeque<Segment>,
    /// The access line, written when the body is dropped.
    access: Option<Access>,
}

/// A part of a [`Body`].
#[derive(Debug)]
enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes on disk.
    File(FileStream),
    /// Bytes that arrive.
    Chunks(Chunks),
}

impl Body {
    fn new<const N: usize>(segments: [Segment; N]) -> Self {
        Self { segments: segments.into(), access: None }
    }

    fn from_bytes(bytes: Bytes) -> Self {
        Self::new([Segment::Bytes(bytes)])
    }

    /// Removes the bytes, for HEAD; the headers stay.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
    }

    /// Attaches the access line. It is written when the body is dropped, whether it was sent or not.
    pub(crate) fn log(&mut self, access: Access) {
        self.access = Some(access);
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            let chunk = match self.segments.front_mut() {
                None => return Poll::Ready(None),
                Some(Segment::Bytes(bytes)) => {
                    Some(Ok(std::mem::take(bytes))).filter(|b| !matches!(b, Ok(b) if b.is_empty()))
                }
                Some(Segment::File(stream)) => ready!(stream.poll_chunk(context)),
                Some(Segment::Chunks(chunks)) => ready!(chunks.poll_recv(context)),
            };
            let Some(chunk) = chunk else {
                self.segments.pop_front();
                continue;
            };
            if let (Some(access), Ok(bytes)) = (&mut self.access, &chunk) {
                access.bytes = access.bytes.saturating_add(len_u64(bytes.len()));
            }
            return Poll::Ready(Some(chunk.map(Frame::data)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.segments.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let mut total = 0_u64;
        for segment in &self.segments {
            total = total.saturating_add(match segment {
                Segment::Bytes(bytes) => len_u64(bytes.len()),
                Segment::File(stream) => stream.left(),
                Segment::Chunks(_) => return SizeHint::default(),
            });
        }
        SizeHint::with_exact(total)
    }
}
