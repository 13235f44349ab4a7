//! Deleting: the one path by which rows and blobs go, and the report of it.
//!
//! Rows go first, in one transaction of the catalog. Then each blob they referred to is removed, unless another row or a claim wants
//! it. Last the listener hears exactly what went.

use std::sync::OnceLock;

use super::Store;
use super::catalog::Removed as RemovedRows;
use super::sha256::Sha256;
use crate::error::Result;
use crate::matrix::{Mxc, ServerName, Timestamp};

/// What went for good. What was looked up of it before is out of date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Addresses that hold nothing any more, or other bytes than before.
    pub(crate) media: Vec<Mxc>,
    /// Blobs that are gone, thumbnails among them, and damaged ones that whole bytes have replaced. A blob that another row wants is
    /// not among them.
    pub(crate) blobs: Vec<Sha256>,
    /// Normalised URLs whose previews are gone.
    pub(crate) previews: Vec<String>,
}

/// Hears what was removed. Called in the thread that removed it, and must not call the store.
type Listener = Box<dyn Fn(&Removed) + Send + Sync>;

/// Who hears of removals.
#[derive(Default)]
pub(super) struct Removals(OnceLock<Listener>);

impl Removed {
    /// Whether nothing went.
    pub(crate) fn is_empty(&self) -> bool {
        self.media.is_empty() && self.blobs.is_empty() && self.previews.is_empty()
    }
}

impl Store {
    /// Has `listener` hear of all that is removed from now on. There is one; a second is not heard.
    pub(crate) fn on_removal(&self, listener: impl Fn(&Removed) + Send + Sync + 'static) {
        if self.removals.0.set(Box::new(listener)).is_err() {
            tracing::error!("removals have a listener already");
        }
    }

    /// Removes addresses that ended unfilled before `before`.
    pub(crate) fn remove_expired(&self, before: Timestamp) -> Result<Removed> {
        Ok(self.finish_removal(self.catalog.forget_expired(before)?))
    }

    /// Removes previews that have expired by `now`, with their images, and further ones, the next to expire first, while the images
    /// take more than `bytes`.
    pub(crate) fn remove_previews(
        &self,
        now: Timestamp,
        server_name: &ServerName,
        bytes: u64,
    ) -> Result<Removed> {
        Ok(self.finish_removal(self.catalog.forget_previews(now, server_name, bytes)?))
    }

    /// Removes thumbnails whose source no media has.
    pub(crate) fn remove_sourceless_thumbnails(&self) -> Result<Removed> {
        Ok(self.finish_removal(self.catalog.forget_sourceless_thumbnails()?))
    }

    /// Deletes the keys of other servers that expired by `now`, and endpoint families that were last proven before `families`.
    pub(crate) fn forget_servers(&self, now: Timestamp, families: Timestamp) -> Result<()> {
        self.catalog.forget_expired_keys(now)?;
        self.catalog.forget_families(families)?;
        Ok(())
    }

    /// Removes the blobs of rows that are gone, and reports what went.
    pub(super) fn finish_removal(&self, rows: RemovedRows) -> Removed {
        let RemovedRows { media, blobs, previews } = rows;
        let removed = Removed { media, blobs: self.remove_blobs(blobs), previews };
        self.report(&removed);
        removed
    }

    /// The same for `rows` that were made of a damaged blob, which its whole bytes have replaced.
    pub(super) fn finish_replacement(&self, replaced: Sha256, rows: RemovedRows) {
        let RemovedRows { media, blobs, previews } = rows;
        let mut blobs = self.remove_blobs(blobs);
        blobs.push(replaced);
        self.report(&Removed { media, blobs, previews });
    }

    /// Removes those of `blobs` that nothing wants. Gives what is gone. The rows are gone already, so a blob that cannot be removed is
    /// an orphan from here on: it is found at the next start.
    fn remove_blobs(&self, mut blobs: Vec<Sha256>) -> Vec<Sha256> {
        blobs.sort_unstable();
        blobs.dedup();
        blobs.retain(|sha256| {
            // Asked while no claim can be made: an upload of the same bytes may have come between. An orphan is not to be removed by
            // this way, for another catalog may want it.
            let removed = self.blobs.remove_unless(sha256, &|| self.catalog.is_wanted(sha256));
            removed.unwrap_or_else(|error| {
                tracing::error!(?error, %sha256, "a blob that nothing refers to stays until the next start");
                false
            })
        });
        blobs
    }

    /// Tells what went.
    fn report(&self, removed: &Removed) {
        if removed.is_empty() {
            return;
        }
        if let Some(listener) = self.removals.0.get() {
            listener(removed);
        }
    }
}
