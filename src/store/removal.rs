//! Deleting: every removal of rows and blobs goes through this file.
//!
//! Rows are deleted first, in one transaction of the catalog. Then each blob they referred to is removed, unless another row or a claim
//! needs it. Last, the listener is told exactly what was removed.

use std::sync::OnceLock;

use super::Store;
use super::catalog::{
    Block, Deleted, Evicted, Group, NewBlock, Record, Removed as RemovedRows, Selection, Terms,
};
use super::sha256::Sha256;
use crate::error::Result;
use crate::matrix::{Mxc, ServerName, Timestamp};

/// Rows deleted in one transaction: few enough that an upload does not wait long for its own.
const BATCH: usize = 256;

/// What was removed. Everything that was looked up about it before is out of date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Addresses that have no content any more, or other bytes than before.
    pub(crate) media: Vec<Mxc>,
    /// Removed blobs, those of thumbnails included, and damaged blobs that were replaced by intact bytes. A blob that another row refers to
    /// is not among them.
    pub(crate) blobs: Vec<Sha256>,
    /// Normalised URLs whose previews were removed.
    pub(crate) previews: Vec<String>,
}

/// Told what was removed, in the thread that removed it. It must not call the store.
type RemovalListener = Box<dyn Fn(&Removed) + Send + Sync>;

/// The listener for removals.
#[derive(Default)]
pub(super) struct Removals(OnceLock<RemovalListener>);

impl Removed {
    /// Whether nothing was removed.
    pub(crate) fn is_empty(&self) -> bool {
        self.media.is_empty() && self.blobs.is_empty() && self.previews.is_empty()
    }
}

impl Store {
    /// Sets the listener that is told of all removals. There can be only one; a second call is logged as an error and ignored.
    pub(crate) fn on_removal(&self, listener: impl Fn(&Removed) + Send + Sync + 'static) {
        if self.removals.0.set(Box::new(listener)).is_err() {
            tracing::error!("removals have a listener already");
        }
    }

    /// Removes addresses that expired without content before `before`.
    pub(crate) fn remove_expired(&self, before: Timestamp) -> Result<Removed> {
        Ok(self.finish_removal(self.catalog.forget_expired(before)?))
    }

    /// Removes previews that have expired by `now`, with their images. While the images still take more than `bytes`, further previews are
    /// removed, those that expire next first.
    pub(crate) fn remove_previews(
        &self,
        now: Timestamp,
        server_name: &ServerName,
        bytes: u64,
    ) -> Result<Removed> {
        Ok(self.finish_removal(self.catalog.forget_previews(now, server_name, bytes)?))
    }

    /// Removes thumbnails whose source no media refers to.
    pub(crate) fn remove_sourceless_thumbnails(&self) -> Result<Removed> {
        Ok(self.finish_removal(self.catalog.forget_sourceless_thumbnails()?))
    }

    /// Evicts blobs of `group`, as far as they may still go. Returns how many bytes fewer the store has.
    pub(crate) fn evict(&self, group: &Group, blobs: Vec<Sha256>, terms: Terms) -> Result<u64> {
        let Evicted { removed, freed } = self.catalog.evict(group, blobs, terms)?;
        self.finish_removal(removed);
        Ok(freed)
    }

    /// Deletes media for good: its address is never served, fetched or given out again. Returns how many files were deleted.
    pub(crate) fn delete(&self, selection: &Selection, ours: &ServerName, now: Timestamp) -> Result<u64> {
        let mut count = 0_u64;
        let mut batches: Vec<Selection> = match selection {
            Selection::Listed(listed) => {
                listed.chunks(BATCH).map(|batch| Selection::Listed(batch.to_vec())).collect()
            }
            Selection::Server(_) | Selection::User(_) => vec![selection.clone()],
        };
        while let Some(batch) = batches.pop() {
            let limit = u32::try_from(BATCH).unwrap_or(u32::MAX);
            let Deleted { removed, rows } = self.catalog.delete(batch.clone(), ours, now, limit)?;
            self.finish_removal(removed);
            count = count.saturating_add(rows);
            if rows > 0 && !matches!(batch, Selection::Listed(_)) {
                batches.push(batch);
            }
        }
        Ok(count)
    }

    /// What is known of an address, for the operator.
    pub(crate) fn record(&self, mxc: &Mxc) -> Result<Record> {
        self.catalog.record(mxc)
    }

    /// Quarantines the content of an address, wherever it is or turns up. Returns how many addresses are not served any more; 0 also for an
    /// unknown address and for a protected one.
    pub(crate) fn quarantine(&self, mxc: &Mxc, block: NewBlock) -> Result<usize> {
        let rows = self.catalog.quarantine(mxc, block)?;
        Ok(self.finish_removal(rows).media.len())
    }

    /// Ends the quarantine of the content of an address. Returns how many addresses are served again.
    pub(crate) fn unquarantine(&self, mxc: &Mxc) -> Result<u64> {
        self.catalog.unquarantine(mxc)
    }

    /// Sets whether an address is protected from quarantine and eviction. `false` if there is no row.
    pub(crate) fn protect(&self, mxc: &Mxc, is_protected: bool) -> Result<bool> {
        self.catalog.protect(mxc, is_protected)
    }

    /// Blocks content by its hash. Returns how many addresses are not served any more.
    pub(crate) fn block(&self, hashes: &[Sha256], block: &NewBlock) -> Result<usize> {
        let mut count = 0_usize;
        for batch in hashes.chunks(BATCH) {
            let rows = self.catalog.block(batch.to_vec(), block.clone())?;
            count = count.saturating_add(self.finish_removal(rows).media.len());
        }
        Ok(count)
    }

    /// Unblocks content. Returns how many of the hashes were blocked.
    pub(crate) fn unblock(&self, hashes: &[Sha256]) -> Result<u64> {
        let mut count = 0_u64;
        for batch in hashes.chunks(BATCH) {
            count = count.saturating_add(self.catalog.unblock(batch.to_vec())?);
        }
        Ok(count)
    }

    /// Blocked content behind the hash `after`, in the order of the hashes, at most `limit`.
    pub(crate) fn blocked(&self, after: Option<Sha256>, limit: u32) -> Result<Vec<Block>> {
        self.catalog.blocked(after, limit)
    }

    /// Deletes the keys of other servers that expired by `now`, and endpoint families that were last proven before `families`.
    pub(crate) fn forget_servers(&self, now: Timestamp, families: Timestamp) -> Result<()> {
        self.catalog.forget_expired_keys(now)?;
        self.catalog.forget_families(families)?;
        Ok(())
    }

    /// Removes the blobs of deleted rows and tells the listener.
    pub(super) fn finish_removal(&self, rows: RemovedRows) -> Removed {
        let RemovedRows { media, blobs, previews } = rows;
        let removed = Removed { media, blobs: self.remove_blobs(blobs), previews };
        self.report(&removed);
        removed
    }

    /// The same for `rows` that were made from the damaged blob `replaced`, which has its intact bytes again.
    pub(super) fn finish_replacement(&self, replaced: Sha256, rows: RemovedRows) {
        let RemovedRows { media, blobs, previews } = rows;
        let mut blobs = self.remove_blobs(blobs);
        blobs.push(replaced);
        self.report(&Removed { media, blobs, previews });
    }

    /// Removes those of `blobs` that nothing refers to, and returns them. Their rows are deleted already, so a blob that cannot be removed
    /// becomes an orphan, which the next start finds.
    fn remove_blobs(&self, mut blobs: Vec<Sha256>) -> Vec<Sha256> {
        blobs.sort_unstable();
        blobs.dedup();
        blobs.retain(|sha256| {
            // The catalog is asked while no claim can be made, because an upload of the same bytes may have come in between. Noted orphans
            // count as wanted: they may belong to another catalog.
            let removed = self.blobs.remove_unless(sha256, &|| self.catalog.is_wanted(sha256));
            removed.unwrap_or_else(|error| {
                tracing::error!(?error, %sha256, "removing an unused blob failed; the next start finds it again");
                false
            })
        });
        blobs
    }

    /// Tells the listener.
    fn report(&self, removed: &Removed) {
        if removed.is_empty() {
            return;
        }
        if let Some(listener) = self.removals.0.get() {
            listener(removed);
        }
    }
}
