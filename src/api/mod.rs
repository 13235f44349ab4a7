//! The endpoints, one short async function each: read the request, call the use case in `media/`, write the response.
//!
//! Owns the names of parameters. Authentication comes first (`auth`). Refuses to know paths: those are in `server.rs`.

pub(crate) mod auth;
pub(crate) mod client;
mod extract;
pub(crate) mod federation;
pub(crate) mod ops;
