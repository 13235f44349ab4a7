//! Housekeeping: what an interrupted run left, what has expired, what was noted and not yet written.

use std::time::Duration;

use super::Library;
use crate::error::Result;
use crate::sha256::Sha256;

/// How long it is kept which endpoint family a server has; it is believed for a day.
const FAMILY_KEPT: Duration = Duration::from_hours(48);

impl Library {
    /// Removes blobs that no row refers to. Walks the whole store: for a background thread, once after the start.
    /// Says how many it removed.
    pub(crate) fn remove_orphans(&self) -> Result<usize> {
        self.catalog.forget_sourceless_thumbnails()?;
        let mut removed = 0_usize;
        self.blobs.walk(|sha256| {
            if !self.catalog.refers_to(&sha256)? && self.remove_blob(&sha256)? {
                removed = removed.saturating_add(1);
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Forgets what has expired: pending IDs, keys and families of other servers, previews, the counts of users who create no more.
    pub(crate) fn forget_expired(&self) -> Result<()> {
        self.tidy_create_limiter();
        let now = (self.clock)();
        self.catalog.forget_expired(now)?;
        self.catalog.forget_expired_keys(now)?;
        self.catalog.forget_families(now.before(FAMILY_KEPT))?;
        self.forget_expired_previews()
    }

    /// Writes the access times noted since the last call.
    pub(crate) fn flush_accesses(&self) -> Result<()> {
        let accesses = std::mem::take(&mut *self.accesses());
        if accesses.is_empty() { Ok(()) } else { self.catalog.touch(accesses.into_iter().collect()) }
    }

    /// Removes a blob if still nothing refers to it. The question is asked again under the store's lock: an upload of the
    /// same bytes may have come between.
    pub(super) fn remove_blob(&self, sha256: &Sha256) -> Result<bool> {
        self.blobs.remove_unless(sha256, || self.catalog.refers_to(sha256))
    }
}
