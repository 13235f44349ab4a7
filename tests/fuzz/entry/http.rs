//! Targets for parts of requests and responses: header fields, names, queries, multipart bodies.

use std::io::Read as _;

use super::page::{Pieces, line};
use crate::federation::XMatrix;
use crate::http::disposition;
use crate::http::multipart::{self, MultipartReader};
use crate::http::range::{self, Extent};
use crate::http::request::{PathParams, Query};
use crate::matrix::{Host, MediaId, ServerName};

/// Parses a value as each of the header fields that are parsed, and sends it as a file name.
pub fn headers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    x_matrix(&text);
    for size in [0, 1, 1000, u64::MAX] {
        range(&text, size);
    }
    if let Some(name) = disposition::file_name(&text) {
        assert!(!name.is_empty(), "an empty name");
        file_name(&name);
    }
    file_name(&disposition::short_name(text.clone().into_owned()));
    media_type(&text);
}

/// A parsed X-Matrix header, written in the strict form, must parse to the same.
fn x_matrix(header: &str) {
    let Ok(parsed) = XMatrix::parse(header) else { return };
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let destination =
        parsed.destination.as_ref().map(|name| format!(",destination={}", quoted(name.as_str())));
    let strict = format!(
        "X-Matrix origin={},key={},sig={}{}",
        quoted(parsed.origin.as_str()),
        quoted(&parsed.key_id),
        quoted(&parsed.signature),
        destination.unwrap_or_default()
    );
    assert_eq!(XMatrix::parse(&strict).as_ref(), Ok(&parsed), "{strict}");
    assert!(ServerName::parse(parsed.origin.as_str()).is_ok(), "the origin is not a server name");
}

/// A range must lie within the representation, and a request for exactly this range must give the same.
fn range(header: &str, size: u64) {
    let Extent::Part { start, length } = range::judge(header, size) else { return };
    let last = start.checked_add(length).and_then(|end| end.checked_sub(1));
    assert!(length > 0 && last.is_some_and(|last| last < size), "{start}+{length} of {size}");
    let again = format!("bytes={start}-{}", last.unwrap_or_default());
    assert_eq!(range::judge(&again, size), Extent::Part { start, length }, "{again}");
}

/// A file name must be the same after writing and parsing the header, which it must not break.
fn file_name(name: &str) {
    assert!(name.len() <= 255, "{} bytes", name.len());
    for content_type in ["image/png", "text/html"] {
        let header = disposition::header(content_type, Some(name));
        assert!(header.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{header:?}");
        assert!(header.matches([';', '"']).count() <= 1, "{header}");
        let read = disposition::file_name(&header);
        let expected = disposition::decode_twice_encoded(name.to_owned());
        assert_eq!(read, Some(expected).filter(|name| !name.is_empty()), "{header}");
    }
}

/// A declared media type must be stored as a valid header value, and what a browser would run must not be served inline.
fn media_type(claimed: &str) {
    let stored = disposition::storable_type([claimed.as_bytes()]);
    assert!((1..=255).contains(&stored.len()) && stored.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    assert_eq!(disposition::storable_type([stored.as_bytes()]), stored, "it changes when it is stored again");
    assert!(!stored.contains(',') || stored.contains('"'), "{stored} is a list");
    assert!(disposition::served_type(&stored).starts_with(&stored), "served with another type");
    let essence = disposition::essence(&stored);
    let is_active = ["html", "xml", "script", "pdf"].iter().any(|word| essence.contains(word));
    assert!(!is_active || disposition::header(&stored, None) == "attachment", "{stored} inline");
}

/// Parses a text as a server name, as a media ID, as a path and as a query.
pub fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(name) = ServerName::parse(&text) {
        server_name(&name, &text);
    }
    if let Ok(id) = MediaId::parse(&text) {
        assert_eq!(id.as_str(), text, "the text has changed");
        assert!(id.as_str().len() <= 255 && !text.contains(['/', '.', '%']), "{id}");
    }
    let mut parts = text.split('/').map(|part| Some(part.to_owned()));
    let mut next = || parts.next().flatten();
    path(&PathParams { server_name: next(), media_id: next(), file_name: next() });
    query(Query(&text));
}

/// A server name must keep its text, which must consist of host and port.
fn server_name(name: &ServerName, text: &str) {
    assert_eq!(name.as_str(), text, "the text has changed");
    assert!(text.len() <= 255 && !text.contains(['/', '%', '?', '#', '@', '\\']), "{text:?}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    let rest =
        text.strip_prefix(name.host_str()).unwrap_or_else(|| panic!("{text} does not begin with its host"));
    let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
    assert!(port == name.port() && rest.is_empty() == port.is_none(), "{text}: port {:?}", name.port());
    if let Host::Name(host) = name.host() {
        assert!(!host.is_empty() && !host.contains([':', '[']), "{text}");
    }
}

/// An MXC URI from a path must be the same after writing and parsing.
fn path(params: &PathParams) {
    let own = ServerName::parse("own.example").unwrap_or_else(|why| panic!("{why}"));
    if let Ok(mxc) = params.mxc(&own) {
        let written = mxc.to_string();
        let rest = written.strip_prefix("mxc://").unwrap_or_default();
        let (server_name, media_id) = rest.split_once('/').unwrap_or_default();
        let again = PathParams {
            server_name: Some(server_name.to_owned()),
            media_id: Some(media_id.to_owned()),
            file_name: None,
        };
        assert_eq!(again.mxc(&own).ok(), Some(mxc), "{written}");
    }
    if let Ok(Some(name)) = params.file_name() {
        file_name(&name);
    }
}

/// The values of a query must be within their bounds.
fn query(query: Query<'_>) {
    if let Ok(wanted) = query.wanted_thumbnail() {
        assert!(wanted.width > 0 && wanted.height > 0, "{wanted:?}");
    }
    assert!(query.timeout().as_secs() <= 60, "{:?}", query.timeout());
    if let Ok(Some(name)) = query.upload_name() {
        assert!(!name.is_empty(), "an empty name");
        file_name(&name);
    }
    if let Ok(link) = query.preview_link() {
        let url = link.url();
        assert!(matches!(url.scheme(), "http" | "https") && !link.host().is_empty(), "{url}");
        assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none(), "{url}");
    }
}

/// Parses a multipart body, whose content type is the first line, and writes the rest as a multipart body.
pub fn multipart(data: &[u8]) {
    let (content_type, body) = line(data);
    let boundary = multipart::boundary(&content_type);
    if let Some(boundary) = &boundary {
        assert!((1..=70).contains(&boundary.len()), "a boundary of {} bytes", boundary.len());
    }
    let boundary = boundary.unwrap_or_else(|| "b".to_owned());
    let whole = parts(body, &boundary, usize::MAX);
    let bytes: usize = whole.iter().map(|part| part.bytes.len()).sum();
    assert!(bytes <= body.len(), "the parts are longer than the body");
    // Longer lines are refused, and how much of one is read before that depends on the pieces.
    if body.len() <= 16 * 1024 {
        assert_eq!(parts(body, &boundary, 3), whole, "the size of the reads matters");
    }
    written(body, &content_type);
}

/// Media written as a multipart body must be the same when it is parsed.
fn written(media: &[u8], name: &str) {
    let boundary = "0123456789abcdef";
    if memchr::memmem::find(media, b"--0123456789abcdef").is_some() {
        return;
    }
    let content_type = disposition::storable_type([name.as_bytes()]);
    let header = disposition::header(&content_type, Some(&disposition::short_name(name.to_owned())));
    let before = multipart::prologue(boundary, &content_type, &header);
    let body = [before.as_slice(), media, &multipart::epilogue(boundary)].concat();
    for step in [usize::MAX, 11] {
        let read = parts(&body, boundary, step);
        let [json, file] = read.as_slice() else { panic!("{} parts", read.len()) };
        assert_eq!(json.content_type.as_deref(), Some("application/json"));
        assert_eq!(json.bytes, b"{}");
        assert_eq!(file.content_type.as_ref(), Some(&content_type));
        assert_eq!(file.disposition.as_ref(), Some(&header));
        assert_eq!(file.location, None);
        assert_eq!(file.bytes, media, "the media has changed");
    }
}

/// A part of a multipart body.
#[derive(Debug, PartialEq, Eq)]
struct ParsedPart {
    content_type: Option<String>,
    disposition: Option<String>,
    location: Option<String>,
    bytes: Vec<u8>,
}

/// The complete parts of a body that is read in pieces of `step` bytes.
fn parts(body: &[u8], boundary: &str, step: usize) -> Vec<ParsedPart> {
    let mut reader = MultipartReader::new(Pieces { rest: body, step }, boundary);
    let mut parts = Vec::new();
    while let Ok(Some(headers)) = reader.next_part() {
        let header = |name| headers.get(name).map(str::to_owned);
        let (content_type, disposition) = (header("content-type"), header("content-disposition"));
        let location = header("location");
        let mut bytes = Vec::new();
        // How much is read of a part that breaks off depends on the pieces.
        if reader.read_to_end(&mut bytes).is_err() {
            break;
        }
        parts.push(ParsedPart { content_type, disposition, location, bytes });
        assert!(parts.len() <= body.len(), "parts without end");
    }
    parts
}
