//! Background jobs: blobs without a row, expiry, the bounds of the store, writing last-access times, thumbnails ahead of requests, checks of the signing key.
//!
//! Owns when they run. Refuses to know what they do: that is in `media/`, `store/` and `federation/`. Only here an error is logged and the
//! program goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::accounts::{Software, strangers};
use crate::app::App;
use crate::error::Result;
use crate::federation::KeyCheck;
use crate::media::{Ages, Media, Mode};
use crate::sync::admission::{Ask, Caller, Work, WorkKind};
use crate::sync::pools::Pool;

/// Time between two writes of last-access times.
const FLUSH_EVERY: Duration = Duration::from_hours(1);

/// Time between two removals of expired rows.
const EXPIRE_EVERY: Duration = Duration::from_hours(1);

/// Time between two checks of blobs without a row, which add up how long they have been there.
const TEND_EVERY: Duration = Duration::from_hours(1);

/// Time between two comparisons of the signing key with the published one, until they agree.
const COMPARE_EVERY: Duration = Duration::from_mins(1);

/// The same after they have agreed.
const COMPARE_AGAIN_EVERY: Duration = Duration::from_hours(1);

/// Time between two evictions of media that is not to be kept.
const SESSIONS_EVERY: Duration = Duration::from_secs(10);

/// Time between two looks whether files should be read for damage.
const SCRUB_EVERY: Duration = Duration::from_hours(1);

/// Starts the jobs. They end when `tasks` is shut down.
pub(crate) fn start(app: &Arc<App>, tasks: &mut JoinSet<()>) {
    tasks.spawn(tend_orphans(Arc::clone(app)));
    tasks.spawn(compare_keys(Arc::clone(app)));
    tasks.spawn(Arc::clone(&app.media).pregenerate());
    tasks.spawn(expire(Arc::clone(app)));
    tasks.spawn(follow_homeserver(Arc::clone(app)));
    tasks.spawn(flush_accesses(Arc::clone(app)));
    tasks.spawn(keep_bounds(Arc::clone(app)));
    tasks.spawn(scrub(Arc::clone(app)));
    tasks.spawn(end_sessions(Arc::clone(app)));
}

/// Searches for blobs without a row until one search was complete, then checks the found ones every hour.
async fn tend_orphans(app: Arc<App>) {
    let mut ticks = tokio::time::interval(TEND_EVERY);
    let mut is_known = false;
    loop {
        ticks.tick().await;
        let store = Arc::clone(&app.store);
        let done = if is_known {
            let tend = move || {
                store.note_generation()?;
                store.tend_orphans(TEND_EVERY)
            };
            app.pools.run(Pool::Disk, tend).await
        } else {
            // Nothing is moved or removed before one search was complete.
            let look = move || {
                store.remove_sourceless_thumbnails()?;
                store.find_orphans()
            };
            app.pools.run(Pool::Disk, look).await.inspect(|()| is_known = true)
        };
        if let Err(error) = done {
            tracing::error!(?error, "checking blobs without a row failed; the next try is in an hour");
        }
    }
}

/// Compares the signing key with the one that the homeserver publishes, at intervals.
async fn compare_keys(app: Arc<App>) {
    loop {
        let federation = Arc::clone(&app.federation);
        let operator = Work::of(Caller::operator());
        let compare = move || Ok(federation.check_own_key());
        let checked =
            app.admission.run(WorkKind::HomeserverRequest, &operator, Ask::default(), compare).await;
        let pause =
            if matches!(checked, Ok(KeyCheck::Matches)) { COMPARE_AGAIN_EVERY } else { COMPARE_EVERY };
        tokio::time::sleep(pause).await;
    }
}

/// Finds out, at intervals, whether the homeserver serves new media to callers without a token, and says what they may do here.
async fn follow_homeserver(app: Arc<App>) {
    let mut said = None;
    loop {
        let accounts = Arc::clone(&app.accounts);
        let ask = move || Ok(accounts.software());
        let operator = Work::of(Caller::operator());
        let asked = app.admission.run(WorkKind::HomeserverRequest, &operator, Ask::default(), ask).await;
        let software = asked.ok().flatten();
        if let Some(serves) = software.as_ref().and_then(Software::serves_strangers) {
            app.media.note_homeserver(serves);
        }
        let (is_same, finding) = strangers(app.config().unauthenticated_media, software.as_ref());
        if said.as_ref() != Some(&finding) {
            if is_same {
                tracing::info!("{finding}");
            } else {
                tracing::warn!("{finding}");
            }
            said = Some(finding);
        }
        let pause = if software.is_some() { COMPARE_AGAIN_EVERY } else { COMPARE_EVERY };
        tokio::time::sleep(pause).await;
    }
}

/// Deletes expired rows, at the start and every hour.
async fn expire(app: Arc<App>) {
    let mut ticks = tokio::time::interval(EXPIRE_EVERY);
    loop {
        ticks.tick().await;
        run(&app, "deleting expired rows failed", Media::remove_expired).await;
    }
}

/// Writes last-access times every hour, and sooner when there are many.
async fn flush_accesses(app: Arc<App>) {
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    loop {
        tokio::select! {
            _tick = ticks.tick() => {}
            () = app.media.many_accesses() => {}
        }
        run(&app, "writing last-access times failed", Media::flush_accesses).await;
    }
}

/// Keeps the store within its bounds: at intervals, and soon after room had to be made for a file.
async fn keep_bounds(app: Arc<App>) {
    loop {
        let rules = app.config().retention.clone();
        if let Err(error) = app.media.sweep(rules, Mode::Evict, Ages::WhenTrusted).await {
            tracing::error!(?error, "evicting files failed");
        }
        tokio::select! {
            () = tokio::time::sleep(app.config().retention.every.0) => {}
            () = app.media.sweep_needed() => {}
        }
    }
}

/// Evicts other servers' media a minute after it came, if it is not to be kept.
async fn end_sessions(app: Arc<App>) {
    let mut ticks = tokio::time::interval(SESSIONS_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = app.media.end_sessions().await {
            tracing::error!(
                ?error,
                "evicting media that is not to be kept failed; the next try is in {} s",
                SESSIONS_EVERY.as_secs()
            );
        }
    }
}

/// Reads all files for damage once a month, a few seconds at a time, while the machine is idle.
async fn scrub(app: Arc<App>) {
    loop {
        app.activity.wait_until_idle().await;
        let has_more = app.media.scrub_if_due().await.unwrap_or_else(|error| {
            tracing::error!(?error, "reading files for damage failed; the next try is in an hour");
            false
        });
        if !has_more {
            tokio::time::sleep(SCRUB_EVERY).await;
        }
    }
}

async fn run(app: &Arc<App>, failed: &'static str, job: fn(&Media) -> Result<()>) {
    let media = Arc::clone(&app.media);
    if let Err(error) = app.pools.run(Pool::Disk, move || job(&media)).await {
        tracing::error!(?error, "{failed}");
    }
}
