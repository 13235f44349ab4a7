//! Blobs: bytes stored under their SHA-256.
//!
//! Owns the only way in which bytes become a blob ([`Ingest`]), the claims that protect a new blob from removal until it has a row, and the
//! contract of every blob store ([`BlobStore`]; checked by `tests/contract.rs`). The directory is the one implementation. Refuses to know
//! which rows refer to a blob: callers ask the catalog.

mod claims;
mod directory;
mod ingest;
mod reader;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::sync::Arc;

pub(crate) use self::claims::Claim;
pub(crate) use self::directory::DirectoryBlobs;
pub(crate) use self::ingest::{Ingest, IngestError, Unfinished};
pub(crate) use self::reader::{BlobCursor, BlobReader};

use crate::error;
use crate::store::sha256::Sha256;

/// Whether a row wants a blob. An error keeps the blob.
pub(crate) type IsWanted<'a> = &'a dyn Fn() -> error::Result<bool>;

/// Takes the name of a blob. An error ends the walk.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(Sha256) -> error::Result<()>;

/// A place for blobs. All calls block.
pub(crate) trait BlobStore: Send + Sync + fmt::Debug {
    /// Starts taking in at most `limit` bytes, for which room is reserved if they were `announced`, else by steps as they come.
    ///
    /// # Errors
    /// `StorageFull` when they would eat into what is left free, or into what was promised to others.
    fn begin(self: Arc<Self>, limit: u64, announced: Option<u64>) -> io::Result<Ingest>;

    /// Opens a blob of `size` bytes. What else stands under its name is not the blob.
    fn open(&self, sha256: &Sha256, size: u64) -> io::Result<Result<BlobReader, Lost>>;

    /// Removes a blob unless it is claimed, or `is_wanted` says that a row refers to it. No claim can be made between the question
    /// and the removal. Says whether it is gone; one that is not there is gone already.
    fn remove_unless(&self, sha256: &Sha256, is_wanted: IsWanted<'_>) -> error::Result<bool>;

    /// Whether a blob is being given a row at this moment.
    fn is_claimed(&self, sha256: &Sha256) -> bool;

    /// Length of what stands under a blob's name, bytes; `None` for nothing.
    fn size(&self, sha256: &Sha256) -> Option<u64>;

    /// Whether a blob is there with the bytes that its name says. Reads all of it.
    fn is_whole(&self, sha256: &Sha256) -> bool;

    /// Visits the name of every blob, a few at a time in memory. A blob that comes or goes meanwhile may be missed; one that is there
    /// all the time is not, and none is visited before it is complete.
    fn walk(&self, visit: Visit<'_>) -> error::Result<()>;

    /// Bytes that are free, less those promised to blobs in progress.
    fn free(&self) -> io::Result<u64>;

    /// Whether new blobs would be taken in now.
    ///
    /// # Errors
    /// `StorageFull` when too little is free; what a trial failed with.
    fn check(&self) -> io::Result<()>;

    /// Moves a blob out of the way (`orphans/`), under the terms of [`Self::remove_unless`]. Says whether its place is empty.
    fn set_aside_unless(&self, sha256: &Sha256, is_wanted: IsWanted<'_>) -> error::Result<bool>;

    /// Moves a blob back that was set aside.
    fn take_back(&self, sha256: &Sha256) -> error::Result<()>;

    /// Removes a blob that was set aside; fine if it is not there.
    fn remove_aside(&self, sha256: &Sha256) -> error::Result<()>;

    /// Visits the name of every blob that was set aside.
    fn walk_aside(&self, visit: Visit<'_>) -> error::Result<()>;

    /// Writes a small text that is kept beside the blobs: durable and whole, or not at all.
    fn write_beside(&self, name: &str, text: &str) -> io::Result<()>;
}

/// Why a blob that there ought to be is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Lost {
    /// There is no file with its name.
    #[error("it is missing")]
    Missing,
    /// Something other than a file, such as a folder, has its name.
    #[error("something that is not a file is in its place")]
    NoFile,
    /// It was truncated, or something was appended.
    #[error("it has {there} bytes, not {size}")]
    Length {
        there: u64,
        /// The expected length, bytes.
        size: u64,
    },
}
