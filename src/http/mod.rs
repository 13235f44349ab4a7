//! HTTP: reading requests, writing responses, and the bytes of both bodies.
//!
//! Owns header text and status codes. Refuses to know why a response is sent.

pub(crate) mod access;
pub(crate) mod conditions;
pub(crate) mod connection;
pub(crate) mod disposition;
pub(crate) mod error_response;
pub(crate) mod file_stream;
pub(crate) mod listener;
pub(crate) mod multipart;
pub(crate) mod probe_header;
pub(crate) mod range;
pub(crate) mod receive;
pub(crate) mod request;
pub(crate) mod response;
