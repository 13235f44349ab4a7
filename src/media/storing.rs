//! Rows and blobs together: opening what a row names, storing what came in, removing what no row names any more.
//!
//! Owns the order: the blob is durable before its row is written, and goes after its row is gone. What leaves the store leaves the
//! memory of this process, too.

use std::io;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Media;
use crate::error::{Error, Result};
use crate::matrix::{MediaId, Mxc};
use crate::store::blobs::{BlobReader, Ingest, Lost};
use crate::store::catalog::{self, Content, Filled, Removed};
use crate::store::sha256::Sha256;
use crate::store::stored_media::StoredMedia;

/// How long a lost blob is not reported again.
const REPORT_AGAIN: Duration = Duration::from_hours(1);

/// Lost blobs of which it is remembered that they were reported; about 300 bytes each.
const REPORTED: usize = 1024;

/// Blobs that a row names and that cannot be read, and when they were reported: each request for one would log a line.
pub(super) struct LostBlobs(Cache<(Option<Mxc>, Sha256), Instant>);

impl LostBlobs {
    pub(super) fn new() -> Self {
        Self(Cache::new(REPORTED))
    }

    /// Logs that a blob is lost, unless that was logged recently.
    fn report(&self, mxc: Option<&Mxc>, sha256: &Sha256, lost: Lost) {
        let (key, now) = ((mxc.cloned(), *sha256), Instant::now());
        if self.0.get(&key).is_some_and(|last| now.saturating_duration_since(last) < REPORT_AGAIN) {
            return;
        }
        self.0.insert(key, now);
        let mxc = mxc.map(tracing::field::display);
        tracing::error!(mxc, %sha256, why = lost.to_string(), "the catalog knows a blob that is lost");
    }
}

impl Media {
    /// A new media ID of this server, which nobody can guess.
    pub(super) fn new_mxc(&self) -> Mxc {
        Mxc { server_name: self.server_name.clone(), media_id: MediaId::generate(|pool| (self.random)(pool)) }
    }

    /// Media whose row and blob are both here.
    pub(super) fn stored(&self, mxc: &Mxc) -> Result<Option<StoredMedia>> {
        match self.store.catalog.media(mxc)? {
            Some(catalog::Media { content: Content::Stored(content), created, open, .. }) => {
                let blob = self.open_blob(Some(mxc), &content)?;
                Ok(blob.map(|blob| StoredMedia { content, created, open, blob }))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Opens the blob of a row: of `mxc`, or of a thumbnail. `None` when it was removed or damaged from outside, which is logged.
    pub(super) fn open_blob(&self, mxc: Option<&Mxc>, content: &Filled) -> Result<Option<BlobReader>> {
        let opened = self.store.blobs.get(&content.sha256, content.size);
        match opened.map_err(|error| Error::internal("opening a blob", error))? {
            Ok(blob) => Ok(Some(blob)),
            Err(lost) => {
                self.lost_blobs.report(mxc, &content.sha256, lost);
                Ok(None)
            }
        }
    }

    /// Makes a durable blob of `ingest`, then lets `commit` write its row, which gives what it makes of it, or `None` when it writes no
    /// row. A blob that got no row is removed again.
    pub(super) fn store<T>(
        &self,
        ingest: Ingest,
        content_type: String,
        upload_name: Option<String>,
        commit: impl FnOnce(Filled) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let (sha256, outcome) = match ingest.finish() {
            // The claim lasts until the row is committed: nobody removes the blob before.
            Ok(claim) => {
                let (sha256, size) = (claim.sha256(), claim.size());
                if claim.has_replaced_damage() {
                    self.forget_damage(&sha256);
                }
                (sha256, commit(Filled { sha256, size, content_type, upload_name }))
            }
            Err(error) => {
                let (sha256, kind) = (error.sha256, error.source.kind());
                (sha256, Err(Error::storing("storing media", io::Error::new(kind, error))))
            }
        };
        if !matches!(outcome, Ok(Some(_))) {
            self.clear_away(&Removed { blobs: vec![sha256], ..Removed::default() });
        }
        outcome
    }

    /// Forgets what was made of a damaged blob, which whole bytes have just replaced.
    fn forget_damage(&self, sha256: &Sha256) {
        self.thumbnails.forget_failures(sha256);
        match self.store.catalog.forget_thumbnails_of(sha256) {
            Ok(thumbnails) => {
                // What has the damaged file open still reads the damage.
                self.response_cache.remove(&[], &[*sha256]);
                self.clear_away(&thumbnails);
            }
            Err(error) => tracing::error!(?error, "deleting the thumbnails of a damaged picture failed"),
        }
    }

    /// Clears away what went with rows that were deleted: from the memory of this process and, unless another row wants it, from the
    /// disk. A blob that cannot be removed is one without a row, which the store deals with after the next start.
    pub(super) fn clear_away(&self, removed: &Removed) {
        self.response_cache.remove(&removed.media, &[]);
        self.previews.forget(&removed.previews);
        let remove = |sha256: &&Sha256| {
            // Asked under the store's lock: the same bytes may have come anew. A blob that was found without a row is not ours to remove:
            // another catalog may want it.
            let is_removed = self.store.blobs.remove_unless(sha256, || self.store.catalog.is_wanted(sha256));
            is_removed.unwrap_or_else(|error| {
                tracing::error!(?error, %sha256, "removing a blob failed");
                false
            })
        };
        let gone: Vec<Sha256> = removed.blobs.iter().filter(remove).copied().collect();
        self.response_cache.remove(&[], &gone);
        self.thumbnails.forget_blobs(&gone);
    }

    /// Deletes thumbnails whose source is gone. Blocks.
    pub(crate) fn forget_sourceless_thumbnails(&self) -> Result<()> {
        self.clear_away(&self.store.catalog.forget_sourceless_thumbnails()?);
        Ok(())
    }
}
