//! media-sidecar: the media repository of a small Matrix homeserver.
//!
//! The map, in dependency order; a module imports only from the levels below its own (`tests/tidy.rs` checks it).
//!
//! | level | modules | what they are |
//! |---|---|---|
//! | L7 | [`commands`], [`demo`], `fuzzing` | what the command line does; the two-server tour; the fuzz targets' door |
//! | L6 | `listeners`, [`server`] | the sockets; the hyper server: route table, dispatch, access line, drain |
//! | L5 | `handlers`, `housekeeping`, `service` | one short async function for each endpoint; background jobs; what requests share: waiting, fetching, making once for all |
//! | L4 | [`app`], `request`, `shelf`, `response`, `access`, `waiting`, `bridge`, `patience`, `drain` | wiring; what is read and written; what was served lately; who waits for what; the async/sync seam; clients that stop reading; connections when the service stops |
//! | L3 | `media` | use-cases: create, upload, download, fetch, preview, sweep; the ordering rules |
//! | L2 | `homeserver`, `accounts`, [`federation`], `thumbnail`, `preview` | the neighbour; access token → user; signatures, keys, discovery, the outbound ladder; small pictures of large ones; what a page says of itself |
//! | L1 | `catalog`, [`disk`], `blobs`, `store`, `outbound`, [`names`], `globs`, `mark`, `multipart`, `range`, `conditions`, `disposition` | the `SQLite` catalog; the few operations that durability rests on; the content-addressed directory; both as one store, and what may be deleted; the guarded way out; DNS; lists of names; how a sidecar is recognised; pure protocol pieces |
//! | L0 | [`matrix`], `error`, [`config`], `sha256`, `journal` | vocabulary; how much is written down |
//!
//! Everything up to L3 is plain blocking Rust. `async` begins in L4, and `bridge` is the one place where the two meet.

mod access;
mod accounts;
pub mod app;
mod blobs;
mod bridge;
mod catalog;
pub mod commands;
mod conditions;
pub mod config;
pub mod demo;
pub mod disk;
mod disposition;
mod drain;
mod error;
pub mod federation;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod globs;
mod handlers;
mod homeserver;
mod housekeeping;
mod journal;
mod listeners;
mod mark;
pub mod matrix;
mod media;
mod multipart;
pub mod names;
mod outbound;
mod patience;
mod preview;
mod range;
mod request;
mod response;
pub mod server;
mod service;
mod sha256;
mod shelf;
mod store;
mod thumbnail;
mod waiting;
