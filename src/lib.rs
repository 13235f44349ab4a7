//! media-sidecar: the media repository of a small Matrix homeserver.
//!
//! The map, from the top down. A module imports only from the levels below its own (`tests/tidy.rs` checks it).
//!
//! | level | modules | what they are |
//! |---|---|---|
//! | 9 | [`cli`] | what the command line does, a file for each command; the demo |
//! | 8 | [`server`] | the hyper server: listeners, route table, dispatch, access log, drain |
//! | 7 | `api`, `housekeeping` | one short async function for each endpoint; background jobs |
//! | 6 | [`app`] | wiring |
//! | 5 | `media` | the use cases: download, upload, thumbnail, preview, fetching from other servers |
//! | 4 | `accounts`, [`federation`], `thumbnail`, `preview` | access token → user; other servers; smaller pictures; what a page says about itself |
//! | 3 | `http` | requests, responses and their bodies |
//! | 2 | [`store`], [`outbound`] | catalog, blobs and the order of their changes; outgoing requests, checked against address lists |
//! | 1 | [`config`], `sync` | `sidecar.yaml`; concurrency primitives |
//! | 0 | [`matrix`], `error`, `log` | vocabulary; request IDs and how much is logged |

mod accounts;
mod api;
pub mod app;
#[cfg(test)]
#[path = "../tests/bench/fill.rs"]
mod bench_fill;
pub mod cli;
pub mod config;
mod error;
pub mod federation;
#[cfg(any(fuzzing, test))]
#[path = "../tests/fuzz/entry/mod.rs"]
pub mod fuzzing;
mod housekeeping;
mod http;
mod log;
pub mod matrix;
mod media;
pub mod outbound;
mod preview;
pub mod server;
pub mod store;
mod sync;
mod thumbnail;
