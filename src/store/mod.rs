//! The store: the catalog and the blobs behind one interface.
//!
//! Owns the rules that hold over both; nothing outside this folder touches either. Refuses to know what media is for and who may see it.
//! All calls block.
//!
//! 1. **Storing**: blob durable first, row second, answer third. Between blob and row a [`Claim`](blobs::Claim) keeps the blob from
//!    being removed. A blob without a row is garbage, a row without a blob is a bug.
//! 2. **Deleting**: row first, blob second, and the blob only if no other row refers to it. Every deletion goes through
//!    `removal.rs`, which reports exactly what was removed to one listener.
//! 3. **Deletion needs positive knowledge.** That a blob has no row is no reason to remove it: the catalog may be missing, new,
//!    restored from an older backup, another store's, or unreadable. That a row has no blob is no reason to remove the row: the disk
//!    may not be mounted, or a restore may be under way.
//!    - A catalog and a directory that do not belong together are not opened ([`opening::StoreError`]). Both carry the same ID: the catalog
//!      in its table `store`, the directory in the file `store-id` beside it.
//!    - Blobs without a row stay in place for a week, then move to `orphans/` with a warning, and are removed a month later
//!      (`orphans.rs`). Both spans count while the service runs, not by the clock. Nothing of that kind happens to what is found
//!      while the catalog is older than the directory, or when there is much of it.
//!    - A blob in `orphans/` that a row refers to is moved back.
//! 4. An error is never taken for an answer: what cannot be read is kept.

pub(crate) mod blobs;
mod bounds;
pub(crate) mod catalog;
pub mod fs;
mod keep;
mod lookup;
mod opening;
mod orphans;
mod removal;
pub(crate) mod scrub;
pub(crate) mod sha256;
pub(crate) mod stored_media;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};

pub(crate) use self::keep::{Incoming, KeptThumbnail, MadeThumbnail, PreviewImage, PreviewPage};
pub(crate) use self::lookup::Lookup;
pub(crate) use self::opening::inspect;
pub(crate) use self::removal::Removed;

use self::blobs::{BlobStore, Ingest};
#[cfg(test)]
use self::catalog::Counters;
use self::catalog::{Catalog, ServerRows, StoreId};
use self::lookup::LossReports;
use self::removal::Removals;
use crate::error::Result;

/// Catalog and blobs, opened together.
pub(crate) struct Store {
    catalog: Arc<dyn Catalog>,
    blobs: Arc<dyn BlobStore>,
    /// Catalog and `store-id` carry it.
    id: StoreId,
    /// The last number written by [`Self::note_generation`].
    openings: AtomicI64,
    /// Tells the catalog's file from a copy of it.
    file: String,
    /// Whether the catalog may be older than the directory: blobs without a row may have come after it.
    is_older: AtomicBool,
    removals: Removals,
    losses: LossReports,
    /// Held until the end: two processes over one store would remove each other's files.
    _lock: File,
}

impl Store {
    /// Starts a new blob of at most `limit` bytes; `announced` is its length if that is known. If the ingest is dropped, nothing remains.
    ///
    /// # Errors
    /// `StorageFull` when there is no room for what is announced.
    pub(crate) fn begin(&self, limit: u64, announced: Option<u64>) -> io::Result<Ingest> {
        Arc::clone(&self.blobs).begin(limit, announced)
    }

    /// What is known of other servers: their keys, and which media endpoints they have.
    pub(crate) fn servers(&self) -> Arc<dyn ServerRows> {
        Arc::<dyn Catalog>::clone(&self.catalog)
    }

    /// How often the catalog was asked.
    #[cfg(test)]
    pub(crate) fn counters(&self) -> Counters {
        self.catalog.counters()
    }

    /// Whether the catalog answers and can be written to, for the health check.
    pub(crate) fn check_catalog(&self) -> Result<()> {
        self.catalog.check()
    }

    /// Whether new blobs can be stored, for the health check.
    ///
    /// # Errors
    /// `StorageFull` when too little space is free, or the error of the file system when a test file is written.
    pub(crate) fn check_blobs(&self) -> io::Result<()> {
        self.blobs.check()
    }
}
