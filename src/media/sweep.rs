//! Housekeeping: what has lost its source, what has expired, what was noted and not yet written.

use std::time::Duration;

use super::Library;
use crate::error::Result;
use crate::sha256::Sha256;

/// How long it is kept which endpoint family a server has; it is believed for a day.
const FAMILY_KEPT: Duration = Duration::from_hours(48);

impl Library {
    /// Forgets thumbnails whose source is gone, row first and blob second.
    pub(crate) fn forget_sourceless_thumbnails(&self) -> Result<()> {
        for sha256 in self.catalog.forget_sourceless_thumbnails()? {
            self.remove_blob(&sha256)?;
        }
        Ok(())
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

    /// Removes a blob that a row referred to until now, if nothing refers to it any more. The question is asked again under the store's lock: an upload of the
    /// same bytes may have come between.
    pub(super) fn remove_blob(&self, sha256: &Sha256) -> Result<bool> {
        self.blobs.remove_unless(sha256, || self.catalog.refers_to(sha256))
    }
}
