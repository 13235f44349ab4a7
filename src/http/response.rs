//! Everything written to a response: bodies, media headers, errors.
//!
//! Owns header text. Refuses to know why something is answered.
//! [Spec, web browser clients](https://spec.matrix.org/v1.19/client-server-api/#web-browser-clients) (CORS),
//! [content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository) (media headers).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, ready};

use hyper::StatusCode;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::error::{Error, Kind};
use crate::http::access::Access;
use crate::http::conditions::{Conditions, HttpDate, Judgement, Validators};
use crate::http::disposition;
use crate::http::error_response;
use crate::http::file_stream::{self, FileStream, Readers};
use crate::http::multipart;
use crate::http::range::Extent;
use crate::matrix::len_u64;
use crate::media::RemoteHead;
use crate::media::in_flight::{Chunks, Coming};
use crate::store::stored_media::StoredMedia;

/// What every handler gives back.
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
    // What a page may read besides Cache-Control, Content-Language, Content-Type, Expires and Pragma, which it always may. Media
    // players look for all but the first and the last.
    (
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(
            "Content-Disposition, Content-Length, Content-Range, Accept-Ranges, ETag, Last-Modified, Date, \
             Content-Encoding, Age, Retry-After",
        ),
    ),
];

/// Sent with media: a browser that shows it directly must treat it as nobody's script (spec, content repository; MSC3828).
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

/// Who may keep a copy of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caching {
    /// Anybody may have it. Shared caches ask again each time, so that a change of policy reaches them at once.
    Public,
    /// Only the client: it was answered to a token.
    Private,
    /// Nobody.
    Never,
}

impl Caching {
    /// `Cache-Control`. Media never changes under its ID; a day bounds how long a removal goes unnoticed.
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

/// An answer to `OPTIONS`: nothing but CORS.
pub(crate) fn preflight() -> Response {
    let mut response = bare(StatusCode::NO_CONTENT, Caching::Never);
    response.headers_mut().insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}

/// Stored media, ready to be sent as often as it is asked for.
#[derive(Debug)]
pub(crate) struct Ready {
    /// What it is.
    stored: StoredMedia,
    /// Its entity tag: the content's name, quoted.
    etag: String,
    /// When it came here; not for what stands in for something else, which has no age of its own.
    modified: Option<HttpDate>,
    /// Headers of an answer with all of it, under its own name, but for who may keep it.
    headers: HeaderMap,
    /// All of it, if it is small and was in the page cache.
    bytes: OnceLock<Bytes>,
}

/// Largest media that is kept in memory, bytes.
pub(crate) const MAX_SMALL: u64 = 64 << 10;

impl Ready {
    /// Writes the headers.
    pub(crate) fn new(stored: StoredMedia) -> Self {
        let StoredMedia { content, created, is_stopgap, .. } = &stored;
        let etag = format!("\"{}\"", content.sha256);
        let modified = (!is_stopgap).then(|| HttpDate::of(*created));
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

    /// What it is.
    pub(crate) fn stored(&self) -> &StoredMedia {
        &self.stored
    }

    /// Whether all of it is still there: the file may have been cut off since it was opened.
    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.get().is_some() || self.stored.blob.is_whole()
    }

    /// A stretch of it.
    fn segment(&self, start: u64, length: u64, readers: &Readers) -> Segment {
        let range = usize::try_from(start).ok().zip(usize::try_from(start.saturating_add(length)).ok());
        match (self.bytes(), range) {
            (Some(bytes), Some((start, end))) if end <= bytes.len() => {
                Segment::Bytes(bytes.slice(start..end))
            }
            _ => Segment::File(FileStream::new(self.stored.blob.range(start, length), readers)),
        }
    }

    /// All of it, if it is small and the page cache has it.
    fn bytes(&self) -> Option<&Bytes> {
        let StoredMedia { content, blob, .. } = &self.stored;
        if self.bytes.get().is_none() && content.size <= MAX_SMALL {
            let bytes = file_stream::read_cached(blob)?;
            return Some(self.bytes.get_or_init(|| bytes));
        }
        self.bytes.get()
    }
}

/// Stored media to a client, or raw to a server as MSC1902 has it: whole, a range of it, the word that its copy is good, or that
/// it is not what the client takes it for.
pub(crate) fn media(
    ready: &Ready,
    file_name: Option<&str>,
    caching: Caching,
    conditions: &Conditions<'_>,
    readers: &Readers,
) -> Response {
    let Ready { stored: StoredMedia { content, is_stopgap, .. }, etag, modified, .. } = ready;
    let caching = if *is_stopgap { Caching::Never } else { caching };
    let extent = match conditions.judge(Validators { etag, modified: *modified }, content.size) {
        Judgement::Send(extent) => extent,
        Judgement::NotModified => {
            let mut response = bare(StatusCode::NOT_MODIFIED, caching);
            insert(response.headers_mut(), header::ETAG, etag.clone());
            return response;
        }
        Judgement::Failed => {
            let failed = Error::new(Kind::PreconditionFailed, "the media is another than the request names");
            return error_response::error(&failed, "precondition");
        }
    };
    let mut response = Response::new(Body::default());
    *response.headers_mut() = ready.headers.clone();
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
    *response.body_mut() = Body::new([ready.segment(start, length, readers)]);
    response
}

/// A remote file to a client while it arrives: no promise beyond its bytes. A range of it, where the length of the whole is known, as
/// soon as the range begins to come: some players take nothing else (Safari asks for the first two bytes).
pub(crate) async fn arriving(
    mut coming: Coming,
    file_name: Option<&str>,
    conditions: &Conditions<'_>,
) -> Result<Response, Error> {
    let RemoteHead { content_type, upload_name, size } = &coming.head;
    let mut response = bare(StatusCode::OK, Caching::Never);
    let headers = response.headers_mut();
    insert_media_headers(headers, content_type, file_name.or(upload_name.as_deref()));
    let mut stretch = (0, None);
    if let Some(size) = *size {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_LENGTH, size.into());
        stretch.1 = Some(size);
        match conditions.extent(size) {
            Extent::Whole => {}
            Extent::Part { start, length } => {
                make_partial(&mut response, (start, length), size);
                coming.reaches(start).await?;
                stretch = (start, Some(length));
            }
            Extent::Unsatisfiable => return Ok(unsatisfiable(size)),
        }
    }
    let (start, length) = stretch;
    *response.body_mut() = Body::new([Segment::Chunks(coming.chunks(start, length))]);
    Ok(response)
}

/// Makes an answer one with `length` bytes from `start` on, of `size`.
fn make_partial(response: &mut Response, (start, length): (u64, u64), size: u64) {
    let last = start.saturating_add(length).saturating_sub(1);
    let headers = response.headers_mut();
    insert(headers, header::CONTENT_RANGE, format!("bytes {start}-{last}/{size}"));
    headers.insert(header::CONTENT_LENGTH, length.into());
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
}

/// The answer to a range that lies outside of `size` bytes.
fn unsatisfiable(size: u64) -> Response {
    let unsatisfiable = Error::new(Kind::RangeNotSatisfiable, "the range lies outside the media");
    let mut response = error_response::error(&unsatisfiable, "range");
    insert(response.headers_mut(), header::CONTENT_RANGE, format!("bytes */{size}"));
    response
}

/// Stored media to a server, as MSC3916 has it: multipart. The outer `Content-Disposition` is for Dendrite, which reads
/// the file name there.
pub(crate) fn multipart_federation(ready: &Ready, boundary: &str, readers: &Readers) -> Response {
    let StoredMedia { content, .. } = ready.stored();
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
        ready.segment(0, content.size, readers),
        Segment::Bytes(after.into()),
    ];
    *response.body_mut() = Body::new(segments);
    response
}

/// A response with CORS and caching, and nothing in it.
fn bare(status: StatusCode, caching: Caching) -> Response {
    let mut response = Response::new(Body::default());
    *response.status_mut() = status;
    response.headers_mut().extend(CORS);
    response.headers_mut().insert(header::CACHE_CONTROL, caching.header());
    response
}

/// What describes and confines media.
fn insert_media_headers(headers: &mut HeaderMap, content_type: &str, file_name: Option<&str>) {
    insert(headers, header::CONTENT_TYPE, disposition::served_type(content_type));
    insert(headers, header::CONTENT_DISPOSITION, disposition::header(content_type, file_name));
    headers.extend(MEDIA_SECURITY);
}

/// Inserts text, in place of what was there, that cannot be unfit for a header: everything here is made of checked parts.
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
    /// The access line, written when the body is gone.
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
    /// Segments in their order.
    fn new<const N: usize>(segments: [Segment; N]) -> Self {
        Self { segments: segments.into(), access: None }
    }

    /// Bytes in memory.
    fn from_bytes(bytes: Bytes) -> Self {
        Self::new([Segment::Bytes(bytes)])
    }

    /// Drops what would be sent, for HEAD; the headers stay.
    pub(crate) fn clear(&mut self) {
        self.segments.clear();
    }

    /// Has `access` written when the body is gone, sent or not.
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
