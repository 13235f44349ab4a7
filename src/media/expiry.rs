//! Expiry: pending media IDs, cached facts about other servers, previews.

use std::sync::Mutex;
use std::time::Duration;

use super::Media;
use crate::error::Result;
use crate::matrix::{Moment, Timestamp};
use crate::sync::lock;

/// How long the row that says which endpoint family a server has is kept. It is trusted for one day only.
const FAMILY_KEPT: Duration = Duration::from_hours(48);

/// How long the row of a pending ID is kept after its expiry.
const PENDING_KEPT: Duration = Duration::from_hours(7 * 24);

/// How far the wall clock may be from its expected time before we assume that someone set it.
const DRIFT: Duration = Duration::from_mins(10);

/// Both clocks at the last check. A machine without a battery-backed clock gets its time from the network, sometimes a wrong one.
/// Nothing may be deleted because of that.
#[derive(Debug, Default)]
pub(super) struct ClockWatch(Mutex<Option<(Timestamp, Moment)>>);

impl ClockWatch {
    /// Whether the wall clock was set since the last check. It is trusted again from the next check on.
    pub(super) fn was_set(&self, now: Timestamp, moment: Moment) -> bool {
        let Some((then, before)) = lock(&self.0).replace((now, moment)) else { return false };
        let expected = then.after(before.until(moment));
        let apart = expected.until(now).max(now.until(expected));
        if apart > DRIFT {
            tracing::warn!(seconds = apart.as_secs(), "the clock was set; nothing expires for an hour");
        }
        apart > DRIFT
    }
}

impl Media {
    /// Deletes what has expired: pending IDs, keys and families of other servers, previews. Blocks.
    pub(crate) fn remove_expired(&self) -> Result<()> {
        self.uploads.tidy();
        self.fetches.tidy();
        let now = (self.clock)();
        if self.clock_watch.was_set(now, (self.monotonic)()) {
            return Ok(());
        }
        // An expired ID is refused by its time alone, so its row can wait until the clock is right.
        self.store.remove_expired(now.before(PENDING_KEPT))?;
        self.store.forget_servers(now, now.before(FAMILY_KEPT))?;
        self.remove_expired_previews()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_not_believed_at_once() {
        let (watch, hour) = (ClockWatch::default(), 3600);
        let check = |wall: i64, ran: u64| {
            watch.was_set(Timestamp(wall * 1000), Moment::since_start(Duration::from_secs(ran)))
        };
        assert!(!check(0, 5), "there is nothing to compare with");
        assert!(!check(hour, 5 + 3600));
        let month = 30 * 24 * hour;
        assert!(check(2 * hour + month, 5 + 2 * 3600), "ahead");
        assert!(!check(3 * hour + month, 5 + 3 * 3600), "it stays so");
        assert!(check(4 * hour, 5 + 4 * 3600), "right again");
        assert!(!check(5 * hour + 60, 5 + 5 * 3600), "a minute is nothing");
    }
}
