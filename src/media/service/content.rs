//! Media for every kind of caller: from the response cache, the store, whoever is uploading it, or another server.

use std::sync::Arc;
use std::time::Duration;

use crate::app::App;
use crate::error::{Error, Kind, Result};
use crate::http::response::Ready;
use crate::matrix::Mxc;
use crate::media::in_flight::{Coming, Served};
use crate::media::response_cache::CacheKey;
use crate::media::{Found, RemoteFetch, Viewer};
use crate::store::stored_media::StoredMedia;
use crate::sync::pools::Pool;

/// How media is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessOptions {
    /// Who asks.
    pub(crate) viewer: Viewer,
    /// Whether that may cause a fetch.
    pub(crate) fetch: RemoteFetch,
    /// How long a pending upload is waited for, here or by its origin.
    pub(crate) timeout: Duration,
}

/// Media as it is to be served.
pub(crate) enum Obtained {
    /// From the store.
    Stored(Arc<Ready>),
    /// While it arrives.
    Arriving(Coming),
}

/// What a remote file is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// It can be passed on from there.
    FirstByte,
    /// All of it is needed.
    Stored,
}

/// Finds media, waiting for a pending upload and fetching from another server as allowed.
pub(crate) async fn obtain(
    app: &Arc<App>,
    mxc: &Mxc,
    options: AccessOptions,
    wait_for: WaitFor,
) -> Result<Obtained> {
    let AccessOptions { viewer, fetch, timeout } = options;
    let key = CacheKey { mxc: mxc.clone(), requested: None };
    if let Some(ready) = serve_again(app, &key, viewer)? {
        return Ok(Obtained::Stored(ready));
    }
    let serve = |stored: StoredMedia| Ok(Obtained::Stored(app.response_cache.put(key, stored)));
    match find(app, mxc, viewer, fetch).await? {
        Found::Stored(stored) => return serve(stored),
        Found::Pending => {
            let not_yet = || Error::new(Kind::NotYetUploaded, "the media is not yet uploaded");
            let mut waiter = app.pending.waiter(mxc).ok_or_else(not_yet)?;
            // The upload may have ended before the waiter was in place.
            match find(app, mxc, viewer, fetch).await? {
                Found::Pending if !waiter.filled_within(timeout).await => return Err(not_yet()),
                Found::Stored(stored) => return serve(stored),
                Found::Pending | Found::Elsewhere => {}
            }
        }
        Found::Elsewhere => {
            let fetching = Arc::clone(app);
            let remote = mxc.clone();
            let arrival = app.in_flight_fetches.join(mxc, viewer, |listener| async move {
                let _turn = match viewer {
                    Viewer::Anonymous => Some(fetching.anonymous_fetches.enter(&()).await?),
                    Viewer::Known => None,
                };
                let _lane = fetching.fetches_per_server.enter(&remote.server_name).await?;
                let library = Arc::clone(&fetching.library);
                fetching.pools.run(Pool::Federation, move || library.fetch(&remote, timeout, &listener)).await
            });
            let arrival = arrival.await?;
            match wait_for {
                WaitFor::Stored => arrival.stored().await?,
                WaitFor::FirstByte => match arrival.served(&app.readers).await? {
                    Served::Stored => {}
                    Served::Coming(coming) => return Ok(Obtained::Arriving(coming)),
                },
            }
        }
    }
    match find(app, mxc, viewer, RemoteFetch::Refused).await? {
        Found::Stored(stored) => serve(stored),
        Found::Pending | Found::Elsewhere => Err(Error::not_found()),
    }
}

/// What was served lately, if this viewer may see it.
pub(super) fn serve_again(app: &Arc<App>, key: &CacheKey, viewer: Viewer) -> Result<Option<Arc<Ready>>> {
    let Some(ready) = app.response_cache.get(key, &app.library) else { return Ok(None) };
    app.library.serve_again(&key.mxc, viewer, ready.stored())?;
    Ok(Some(ready))
}

/// Asks the library.
pub(super) async fn find(app: &Arc<App>, mxc: &Mxc, viewer: Viewer, fetch: RemoteFetch) -> Result<Found> {
    let (library, mxc) = (Arc::clone(&app.library), mxc.clone());
    app.pools.run(Pool::Lookup, move || library.find(&mxc, viewer, fetch)).await
}
