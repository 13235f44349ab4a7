//! A routed request, and what HTTP says in it: query, conditions, lengths, types.
//!
//! Owns the syntax. Refuses to know what a token, a server name or a thumbnail is: `api/extract.rs` reads what a request means.

use std::borrow::Cow;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Uri, Version};
use percent_encoding::percent_decode_str;

use crate::error::{Error, Result};
use crate::http::access::Access;
use crate::http::conditions::Conditions;
use crate::http::disposition;

/// A routed request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// As on the wire.
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// The path's parameters as on the wire, still percent-encoded.
    pub(crate) path: PathParams,
    /// To be read once.
    pub(crate) body: Incoming,
    /// The access line. Caller and media are filled in as soon as they are known.
    pub(crate) access: Access,
}

/// What the route's pattern captured.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathParams {
    /// `{o}`
    pub(crate) server_name: Option<String>,
    /// `{m}`
    pub(crate) media_id: Option<String>,
    /// `{name}`
    pub(crate) file_name: Option<String>,
}

/// The query of a request's target, as on the wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a>(pub(crate) &'a str);

impl Call {
    /// `Content-Type` of an upload.
    pub(crate) fn content_type(&self) -> String {
        let lines = self.headers.get_all(header::CONTENT_TYPE).iter();
        disposition::storable_type(lines.map(HeaderValue::as_bytes))
    }

    /// The announced length of the body, bytes.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The conditional and range headers.
    pub(crate) fn conditions(&self) -> Conditions<'_> {
        let lines = |name| self.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        let range = if self.method == Method::GET { lines(header::RANGE) } else { Vec::new() };
        Conditions {
            if_match: lines(header::IF_MATCH),
            if_unmodified_since: lines(header::IF_UNMODIFIED_SINCE),
            if_none_match: lines(header::IF_NONE_MATCH),
            if_modified_since: lines(header::IF_MODIFIED_SINCE),
            range,
            if_range: lines(header::IF_RANGE),
        }
    }

    /// A header's value, if it is text.
    fn header(&self, name: &header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn query(&self) -> Query<'_> {
        Query(self.uri.query().unwrap_or_default())
    }
}

impl<'a> Query<'a> {
    /// The first parameter called `name`, decoded; `None` too when it is not UTF-8.
    pub(crate) fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        let raw = self.raw(name)?;
        if raw.contains('+') {
            return decode(&raw.replace('+', " ")).ok().map(|text| Cow::Owned(text.into_owned()));
        }
        decode(raw).ok()
    }

    /// The first parameter called `name`, as on the wire.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a str> {
        let mut pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(key, _)| *key == name).map(|(_, raw)| raw)
    }
}

/// Path and query exactly as on the wire.
pub(crate) fn target(uri: &Uri) -> String {
    uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string)
}

/// Percent-decodes. Text that is not UTF-8 is `NotFound`: no name here has it.
pub(crate) fn decode(raw: &str) -> Result<Cow<'_, str>> {
    percent_decode_str(raw).decode_utf8().map_err(|_utf8| Error::not_found())
}
