//! map
pub mod config;
mod error;
pub mod matrix;
mod multipart;
mod disposition;
mod range;
mod sha256;
mod blobs;
mod catalog;
mod outbound;
mod accounts;
pub mod federation;
