//! Blobs without a row: noted, left in place for a week, moved to `orphans/`, removed after a month; moved back if a row refers to them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Store;
use super::catalog::Place;
use super::sha256::Sha256;
use crate::error::Result;

/// How long a blob without a row stays in `blobs/` while the service runs.
pub(super) const ORPHAN_IN_PLACE: Duration = Duration::from_hours(7 * 24);

/// How long it stays in `orphans/` after that, while the service runs.
pub(super) const ORPHAN_ASIDE: Duration = Duration::from_hours(30 * 24);

/// Crashes leave at most this many blobs without a row. If there are more, something is wrong with the catalog, and all are kept.
pub(super) const FEW_ORPHANS: usize = 64;

/// Orphans handled at once, in memory and in one transaction.
const BATCH: u32 = 256;

impl Store {
    /// Moves blobs that a row refers to back from `orphans/`, for example after the right catalog was restored.
    pub(super) fn take_back_wanted(&self) -> Result<()> {
        let mut wanted = Vec::new();
        self.blobs.walk_aside(&mut |sha256| {
            if self.catalog.refers_to(&sha256)? {
                wanted.push(sha256);
            }
            Ok(())
        })?;
        for sha256 in &wanted {
            if self.blobs.is_whole(sha256) {
                self.blobs.remove_aside(sha256)?;
            } else {
                self.blobs.take_back(sha256)?;
            }
        }
        if !wanted.is_empty() {
            tracing::warn!(count = wanted.len(), "moved files that the catalog refers to back from orphans/");
            self.catalog.forget_orphans(wanted)?;
        }
        Ok(())
    }

    /// Looks for blobs without a row and notes them. Walks all blobs, once after the start. Until it has succeeded, none of them may be
    /// moved or removed.
    pub(crate) fn find_orphans(&self) -> Result<()> {
        let is_older = self.is_older.load(Ordering::Acquire);
        let (mut count, mut bytes, mut batch) = (0_usize, 0_u64, Vec::new());
        self.blobs.walk(&mut |sha256| {
            // In this order: the claim on a new blob ends only after its row is committed, so one of the two checks sees it.
            if !self.blobs.is_claimed(&sha256) && !self.catalog.refers_to(&sha256)? {
                count = count.saturating_add(1);
                bytes = bytes.saturating_add(self.blobs.size(&sha256).unwrap_or(0));
                batch.push(sha256);
            }
            if batch.len() >= usize::try_from(BATCH).unwrap_or(usize::MAX) {
                self.catalog.note_orphans(std::mem::take(&mut batch), is_older)?;
            }
            Ok(())
        })?;
        self.catalog.note_orphans(batch, is_older)?;
        if count > FEW_ORPHANS {
            self.catalog.keep_orphans()?;
        }
        if is_older {
            // Not earlier: only now are all blobs noted that are newer than the catalog.
            self.is_older.store(false, Ordering::Release);
            self.note_generation()?;
        }
        let kept = self.catalog.kept_orphans()?;
        if kept > 0 {
            tracing::warn!(
                kept,
                "files in blobs/ have no row in catalog.db and are kept: a restored catalog may be older than they are (README, \
                 \"Backup and restore\")"
            );
        }
        if count > 0 && count <= FEW_ORPHANS && !is_older {
            tracing::warn!(
                count,
                bytes,
                "files in blobs/ have no row in catalog.db; what is not kept is moved to orphans/ after {} days of running",
                days(ORPHAN_IN_PLACE)
            );
        }
        Ok(())
    }

    /// Moves and removes noted blobs that are old enough. `elapsed` is the running time since the last call.
    pub(crate) fn tend_orphans(&self, elapsed: Duration) -> Result<()> {
        if !self.catalog.age_orphans(elapsed)? {
            return Ok(());
        }
        let moved = self.for_old(Place::Blobs, ORPHAN_IN_PLACE, |sha256| {
            let is_aside = self.blobs.set_aside_unless(sha256, &|| self.catalog.refers_to(sha256))?;
            if is_aside {
                self.catalog.set_orphans_aside(vec![*sha256])?;
            } else if self.catalog.refers_to(sha256)? {
                self.catalog.forget_orphans(vec![*sha256])?;
            }
            Ok(is_aside)
        })?;
        if moved > 0 {
            tracing::warn!(
                count = moved,
                "moved files without a row in catalog.db to orphans/; they are removed after {} days of running",
                days(ORPHAN_ASIDE)
            );
        }
        let removed = self.for_old(Place::Orphans, ORPHAN_ASIDE, |sha256| {
            self.blobs.remove_aside(sha256)?;
            self.catalog.forget_orphans(vec![*sha256])?;
            Ok(true)
        })?;
        if removed > 0 {
            tracing::warn!(count = removed, "removed files from orphans/");
        }
        Ok(())
    }

    /// Calls `act` for every orphan in `place` that is `age` old, a batch at a time in memory. Returns how often it acted.
    fn for_old(
        &self,
        place: Place,
        age: Duration,
        mut act: impl FnMut(&Sha256) -> Result<bool>,
    ) -> Result<usize> {
        let (mut count, mut last) = (0_usize, None);
        loop {
            let batch = self.catalog.old_orphans(place, age, last, BATCH)?;
            if batch.is_empty() {
                return Ok(count);
            }
            for sha256 in &batch {
                count = count.saturating_add(usize::from(act(sha256)?));
            }
            last = batch.last().copied();
        }
    }
}

/// Whole days.
fn days(span: Duration) -> u64 {
    span.as_secs().div_euclid(24 * 60 * 60)
}
