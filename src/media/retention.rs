//! Retention: the store stays within its bounds.
//!
//! A sweep evicts, in this order: what is too old or unused for too long, what is too much of its kind, and, when the whole store is too
//! large or the disk too full, thumbnails, previews, what only callers without a token wanted, and other media of other servers. It begins at
//! a bound and ends well below it, so that not every new file causes one. Local media goes only where `retention.local` says so.
//!
//! Evicted media is forgotten: it is fetched or made again when somebody asks for it. Within one day of last access, larger files go first:
//! access times are written once a day.

mod candidates;
mod report;
mod sweep;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use self::candidates::Candidates;
pub(crate) use self::report::{AGES, Age, Report};
use self::sweep::Step;
use super::Media;
use super::expiry::ClockWatch;
use crate::config::{RemoteStore, Retention as Rules};
use crate::error::{Error, Result};
use crate::matrix::{Clock, Moment, Monotonic, ServerName, Timestamp};
use crate::store::Store;
use crate::store::catalog::{Group, Terms};
use crate::sync::lock;
use crate::sync::pools::Pool;

/// Blobs evicted in one step: one transaction.
const STEP: usize = 256;

/// Candidates that are read at once while somebody waits for room.
const SMALL_PAGE: u32 = 256;

/// Pause between two steps of a sweep, for other writes and for the card.
const PAUSE: Duration = Duration::from_millis(50);

/// How long media stays that was asked for as an avatar is.
const AVATARS_STAY: Duration = Duration::from_hours(90 * 24);

/// How long after the start nothing goes for its age: after a restore, the stored times are old, and a machine without a battery-backed clock
/// may have a wrong time.
const GRACE: Duration = Duration::from_hours(24);

/// How far the stored times may lie ahead of the clock: beyond it, the clock is wrong.
const CLOCK_BEHIND: Duration = Duration::from_mins(10);

/// Bytes without which no file is taken in, whatever `keep_free` says: copies go before an upload is refused.
const LEAST_FREE: u64 = 72 << 20;

/// How long media of other servers stays with `federation.store: session`.
const SESSION: Duration = Duration::from_mins(1);

/// Whether a sweep evicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Evict,
    /// Only says what would go.
    DryRun,
}

/// Whether anything goes for its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ages {
    /// When the clock can be trusted, and the service has run for a day.
    WhenTrusted,
    /// Unless the clock is behind the times in the catalog: the operator asks for it.
    Asked,
}

/// Keeps the store within its bounds.
pub(crate) struct Retention {
    store: Arc<Store>,
    server_name: ServerName,
    clock: Clock,
    monotonic: Monotonic,
    started: Moment,
    clock_watch: ClockWatch,
    /// Held during a sweep.
    sweeping: tokio::sync::Mutex<()>,
    /// Held by who evicts: two would each make the room that one needs.
    evicting: Mutex<()>,
    /// Notified when a sweep should run now.
    wake: Notify,
}

impl Retention {
    pub(crate) fn new(
        store: Arc<Store>,
        server_name: ServerName,
        clock: Clock,
        monotonic: Monotonic,
    ) -> Self {
        let started = monotonic();
        Self {
            store,
            server_name,
            clock,
            monotonic,
            started,
            clock_watch: ClockWatch::default(),
            sweeping: tokio::sync::Mutex::default(),
            evicting: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// Whether anything may go for its age: the clock can be trusted, and the service has run for a day.
    fn may_age(&self, now: Timestamp, ages: Ages) -> Result<bool> {
        let is_behind = self.store.newest_access()?.is_some_and(|newest| now.until(newest) > CLOCK_BEHIND);
        if is_behind {
            tracing::warn!("the clock is behind the times in the catalog; nothing goes for its age");
        }
        if ages == Ages::Asked {
            return Ok(!is_behind);
        }
        let moment = (self.monotonic)();
        let was_set = self.clock_watch.was_set(now, moment);
        Ok(!was_set && !is_behind && self.started.until(moment) >= GRACE)
    }

    /// Makes room for a file of `bytes`, if store or disk have reached a bound and something may go. Asks the sweep to make more. Never
    /// fails: whether the file fits is found when it is written.
    pub(crate) fn make_room(&self, rules: &Rules, bytes: u64) {
        match self.try_to_make_room(rules, bytes) {
            Ok(true) => self.wake.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::error!(?error, "making room for a file failed"),
        }
    }

    /// As [`Self::make_room`]. Returns whether anything was evicted, so that a sweep has more to do.
    fn try_to_make_room(&self, rules: &Rules, bytes: u64) -> Result<bool> {
        let missing = |store: &Store| {
            let free = store.free()?;
            let from_disk = rules.keep_free.0.max(LEAST_FREE).saturating_add(bytes).saturating_sub(free);
            // A file that is larger than the whole store may be does not fit, whatever goes for it.
            let from_store = match rules.max_store.filter(|max| bytes <= max.0) {
                Some(max) => store.totals()?.bytes().saturating_add(bytes).saturating_sub(max.0),
                None => 0,
            };
            Ok::<_, Error>(from_disk.max(from_store))
        };
        if missing(&self.store)? == 0 {
            return Ok(false);
        }
        let _evicting = lock(&self.evicting);
        // Somebody else may have made room meanwhile.
        let needed = missing(&self.store)?;
        let mut freed = 0_u64;
        let terms = terms(rules, (self.clock)());
        for group in [Group::Thumbnails, Group::Anonymous, Group::Remote] {
            if group == Group::Anonymous {
                freed = freed.saturating_add(self.free_previews(needed.saturating_sub(freed))?);
            }
            let mut candidates = Candidates::of(group.clone(), SMALL_PAGE);
            while freed < needed {
                let mut batch = Vec::new();
                let mut size = freed;
                while size < needed
                    && batch.len() < STEP
                    && let Some(candidate) = candidates.next(&self.store, terms)?
                {
                    size = size.saturating_add(candidate.size);
                    batch.push(candidate.sha256);
                }
                if batch.is_empty() {
                    break;
                }
                freed = freed.saturating_add(self.store.evict(&group, batch, terms)?);
            }
        }
        Ok(freed > 0)
    }

    /// Evicts all media of other servers that came before the last minute.
    fn evict_arrived(&self, now: Timestamp) -> Result<()> {
        let terms = Terms { now, avatars_since: Timestamp(i64::MAX) };
        let mut last = None;
        loop {
            let page = self.store.arrived_before(&Group::Remote, now.before(SESSION), last, terms)?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some(end.sha256);
            let blobs = page.iter().map(|candidate| candidate.sha256).collect();
            self.store.evict(&Group::Remote, blobs, terms)?;
        }
    }

    /// Removes previews until `bytes` less are taken by their images. Returns how many bytes went.
    fn free_previews(&self, bytes: u64) -> Result<u64> {
        let before = self.store.totals()?;
        if bytes == 0 || before.preview.bytes == 0 {
            return Ok(0);
        }
        let left = before.preview.bytes.saturating_sub(bytes);
        // Those that have expired are another job's.
        self.store.remove_previews(Timestamp(i64::MIN), &self.server_name, left)?;
        Ok(before.bytes().saturating_sub(self.store.totals()?.bytes()))
    }
}

/// The terms of an eviction at `now`.
fn terms(rules: &Rules, now: Timestamp) -> Terms {
    let avatars_since = if rules.exempt_avatars { now.before(AVATARS_STAY) } else { Timestamp(i64::MAX) };
    Terms { now, avatars_since }
}

impl Media {
    /// Brings the store within its bounds, with pauses, or says what would go. `rules` are those of the configuration, or the operator's.
    pub(crate) async fn sweep(self: &Arc<Self>, rules: Rules, mode: Mode, ages: Ages) -> Result<Report> {
        // One at a time: a second one would plan to free what the first is freeing.
        let retention = Arc::clone(&self.retention);
        let mut _sweeping = None;
        if mode == Mode::Evict {
            _sweeping = Some(retention.sweeping.lock().await);
            // What was served since the last flush is in use.
            self.blocking(Pool::Disk, |media| media.flush_accesses()).await?;
        }
        let quotas = self.config.get().quotas.clone();
        let begin = move |media: &Arc<Self>| {
            media.retention.sweep(&rules, &|server| quotas.of_server(server), (mode, ages))
        };
        let mut sweep = self.blocking(Pool::Disk, begin).await?;
        loop {
            let (step, next) = self.blocking(Pool::Disk, move |_media| Ok((sweep.step()?, sweep))).await?;
            sweep = next;
            match step {
                Step::Done => break,
                Step::Took if mode == Mode::Evict => tokio::time::sleep(PAUSE).await,
                Step::Took | Step::Nothing => {}
            }
        }
        let report = self.blocking(Pool::Disk, move |_media| sweep.into_report()).await?;
        if mode == Mode::Evict {
            report.log();
        }
        Ok(report)
    }

    /// Evicts other servers' media that came more than a minute ago, with its thumbnails, if it is not to be kept (`federation.store:
    /// session`). Who reads a file has it open, and can read it to its end. Protected media stays.
    pub(crate) async fn end_sessions(self: &Arc<Self>) -> Result<()> {
        if self.config.get().federation.store == RemoteStore::Keep {
            return Ok(());
        }
        let retention = Arc::clone(&self.retention);
        let _sweeping = retention.sweeping.lock().await;
        self.blocking(Pool::Disk, |media| media.retention.evict_arrived((media.clock)())).await
    }

    /// Waits until a sweep should run before its time.
    pub(crate) async fn sweep_needed(&self) {
        self.retention.wake.notified().await;
    }

    /// Makes room for a file that is about to come; of unknown length, for a part of the largest.
    pub(super) fn make_room(&self, announced: Option<u64>, limit: u64) {
        let bytes = announced.unwrap_or_else(|| limit.div_ceil(4));
        self.retention.make_room(&self.config.get().retention, bytes);
    }
}
