//! Background jobs of a running sidecar: blobs without a row, expiring, writing what was noted, thumbnails ahead of time.
//!
//! Owns when they run. What they do is in `media/`. They are the one place that logs errors and goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::app::App;
use crate::error::Result;
use crate::federation::Standing;
use crate::media::Media;
use crate::sync::pools::Pool;

/// Between two writes of last-access times.
const FLUSH_EVERY: Duration = Duration::from_hours(1);

/// Between two removals of what has expired.
const EXPIRE_EVERY: Duration = Duration::from_hours(1);

/// Between two looks at blobs without a row, which count how long they have been there.
const TEND_EVERY: Duration = Duration::from_hours(1);

/// Between two comparisons of the signing key with the published one: soon while they are not known to agree.
const COMPARE_EVERY: Duration = Duration::from_mins(1);

/// The same once they agree.
const COMPARE_AGAIN_EVERY: Duration = Duration::from_hours(1);

/// Starts the jobs, which end with `tasks`.
pub(crate) fn start(app: &Arc<App>, tasks: &mut JoinSet<()>) {
    tasks.spawn(tend_orphans(Arc::clone(app)));
    tasks.spawn(compare_keys(Arc::clone(app)));
    tasks.spawn(Arc::clone(&app.media).pregenerate());
    tasks.spawn(expire(Arc::clone(app)));
    tasks.spawn(flush_accesses(Arc::clone(app)));
}

/// Looks for what an interrupted run left until that was seen whole, and then after it by the hour.
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
            // What was not seen whole is not touched.
            let look = move || {
                store.remove_sourceless_thumbnails()?;
                store.find_orphans()
            };
            app.pools.run(Pool::Disk, look).await.inspect(|()| is_known = true)
        };
        if let Err(error) = done {
            tracing::error!(?error, "looking after blobs without a row failed; it is tried again in an hour");
        }
    }
}

/// Compares the signing key with the one the homeserver publishes, now and again.
async fn compare_keys(app: Arc<App>) {
    loop {
        let federation = Arc::clone(&app.federation);
        let standing = app.pools.run(Pool::Homeserver, move || Ok(federation.compare_published_key())).await;
        let pause =
            if matches!(standing, Ok(Standing::Agrees)) { COMPARE_AGAIN_EVERY } else { COMPARE_EVERY };
        tokio::time::sleep(pause).await;
    }
}

/// Deletes what has expired, now and by the hour.
async fn expire(app: Arc<App>) {
    let mut ticks = tokio::time::interval(EXPIRE_EVERY);
    loop {
        ticks.tick().await;
        run(&app, "deleting expired rows failed", Media::remove_expired).await;
    }
}

/// Writes last-access times by the hour, and sooner when there are many.
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

async fn run(app: &Arc<App>, failed: &'static str, job: fn(&Media) -> Result<()>) {
    let media = Arc::clone(&app.media);
    if let Err(error) = app.pools.run(Pool::Disk, move || job(&media)).await {
        tracing::error!(?error, "{failed}");
    }
}
