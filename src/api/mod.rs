//! One short async function for each endpoint: what the request asks for → what may be done about it (`media/`) → the answer.
//!
//! Owns the order of these steps and the names of parameters. Who calls is decided before (`auth`). Refuses to know paths.

pub(crate) mod auth;
pub(crate) mod client;
mod extract;
pub(crate) mod federation;
pub(crate) mod ops;
