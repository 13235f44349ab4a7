//! map
pub mod config;
mod error;
pub mod matrix;
mod multipart;
mod disposition;
mod range;
