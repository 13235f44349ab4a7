//! Housekeeping: what has lost its source, what has expired, what was noted and not yet written.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Library;
use crate::error::Result;
use crate::matrix::{Moment, Timestamp};
use crate::store::sha256::Sha256;

/// How long it is kept which endpoint family a server has; it is believed for a day.
const FAMILY_KEPT: Duration = Duration::from_hours(48);

/// How long the row of a pending ID is kept after its end.
const PENDING_KEPT: Duration = Duration::from_hours(7 * 24);

/// How far the clock of the day may be from where it was expected before it counts as set.
const DRIFT: Duration = Duration::from_mins(10);

/// The clocks when it was last looked for what has expired.
#[derive(Debug, Default)]
pub(super) struct LastLook(Mutex<Option<(Timestamp, Moment)>>);

impl LastLook {
    /// Whether the clock of the day was set since the last call. What it says of expiry is believed from the next call on then: a
    /// machine without a clock of its own gets the time from the network, and now and then a wrong one.
    fn was_clock_set(&self, now: Timestamp, moment: Moment) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((then, before)) = last.replace((now, moment)) else { return false };
        let expected = then.after(before.until(moment));
        let apart = expected.until(now).max(now.until(expected));
        if apart > DRIFT {
            tracing::warn!(seconds = apart.as_secs(), "the clock was set; nothing expires for an hour");
        }
        apart > DRIFT
    }
}

impl Library {
    /// Forgets thumbnails whose source is gone, row first and blob second.
    pub(crate) fn forget_sourceless_thumbnails(&self) -> Result<()> {
        for sha256 in self.catalog.forget_sourceless_thumbnails()?.blobs {
            self.remove_blob(&sha256)?;
        }
        Ok(())
    }

    /// Forgets what has expired: pending IDs, keys and families of other servers, previews, the counts of users who create no more.
    pub(crate) fn forget_expired(&self) -> Result<()> {
        self.tidy_create_limiter();
        let now = (self.clock)();
        if self.last_look.was_clock_set(now, (self.monotonic)()) {
            return Ok(());
        }
        // Who asks for an expired ID is told so by its time; the row may wait for a clock that is right.
        self.catalog.forget_expired(now.before(PENDING_KEPT))?;
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
        // One that was found without a row is not ours to remove: another catalog may want it.
        let is_wanted = || self.catalog.is_wanted(sha256);
        self.blobs.remove_unless(sha256, is_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_not_believed_at_once() {
        let (looks, hour) = (LastLook::default(), 3600);
        let look = |wall: i64, ran: u64| {
            looks.was_clock_set(Timestamp(wall * 1000), Moment::since_start(Duration::from_secs(ran)))
        };
        assert!(!look(0, 5), "there is nothing to compare with");
        assert!(!look(hour, 5 + 3600));
        let month = 30 * 24 * hour;
        assert!(look(2 * hour + month, 5 + 2 * 3600), "ahead");
        assert!(!look(3 * hour + month, 5 + 3 * 3600), "it stays so");
        assert!(look(4 * hour, 5 + 4 * 3600), "right again");
        assert!(!look(5 * hour + 60, 5 + 5 * 3600), "a minute is nothing");
    }
}
