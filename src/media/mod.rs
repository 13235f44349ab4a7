//! The use cases: what clients and servers can do with media.
//!
//! One file for each, read from top to bottom. First comes the async function that an endpoint calls, then its blocking steps, which run
//! in bounded pools through [`Media::blocking`]. Parts that only one use case has stand in the folder of its name.
//!
//! | file | use case |
//! |---|---|
//! | `download.rs` | media for a viewer: from memory, the store, a pending upload or another server |
//! | `upload.rs` | creating media IDs, uploading, uploading to an ID created before |
//! | `thumbnail.rs` | a picture made small: remembered, stored, or made now |
//! | `preview.rs` | what a linked page says of itself |
//! | `remote.rs` | fetching another server's media |
//!
//! Owns who may see what, who waits for whom, and what is made once for many. Refuses to know how a request came in and how its answer
//! is written.

mod access_times;
pub(crate) mod download;
mod expiry;
mod pending;
mod preview;
mod remote;
mod response_cache;
mod thumbnail;
mod upload;

use std::sync::Arc;

use self::access_times::AccessTimes;
use self::expiry::ClockWatch;
use self::pending::PendingUploads;
use self::preview::PreviewState;
use self::remote::RemoteFetches;
use self::response_cache::ResponseCache;
use self::thumbnail::ThumbnailState;
use self::upload::UploadState;
use crate::config::{Config, Live, UnauthenticatedMedia};
use crate::error::{Error, Result};
use crate::federation::Federation;
use crate::http::file_stream::Readers;
use crate::matrix::{Clock, MediaId, Monotonic, Mxc, Random, ServerName};
use crate::preview::Fetcher;
use crate::store::{Removed, Store};
use crate::sync::Activity;
use crate::sync::pools::{Pool, Pools};

pub(crate) use self::thumbnail::{ANIMATION_TIMEOUT, AnimationTime};
pub(crate) use self::upload::{Upload, UploadSlot};

/// What the use cases share.
pub(crate) struct Media {
    /// Our own name: media of other servers is fetched and kept.
    server_name: ServerName,
    config: Live<Config>,
    store: Arc<Store>,
    federation: Arc<Federation>,
    pools: Arc<Pools>,
    /// For passing files on while they arrive.
    readers: Readers,
    clock: Clock,
    /// For what is remembered for a while.
    monotonic: Monotonic,
    /// For media IDs.
    random: Random,
    /// Media served recently.
    response_cache: ResponseCache,
    access_times: AccessTimes,
    clock_watch: ClockWatch,
    /// Downloads that wait for an upload.
    pending: PendingUploads,
    uploads: UploadState,
    fetches: RemoteFetches,
    thumbnails: ThumbnailState,
    previews: PreviewState,
}

/// What [`Media`] is built from besides the configuration.
pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) federation: Arc<Federation>,
    /// For linked pages.
    pub(crate) fetcher: Fetcher,
    pub(crate) pools: Arc<Pools>,
    pub(crate) readers: Readers,
    /// Thumbnails that nobody has asked for are made while the machine is idle.
    pub(crate) activity: Arc<Activity>,
    pub(crate) animation_time: AnimationTime,
    pub(crate) clock: Clock,
    pub(crate) monotonic: Monotonic,
    pub(crate) random: Random,
}

/// On whose behalf media is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// A caller without an access token.
    Anonymous,
    /// The holder of a good access token, or a server with a good signature.
    Known,
}

impl Media {
    pub(crate) fn new(config: &Config, parts: Parts) -> Arc<Self> {
        let Parts { store, federation, fetcher, pools, readers, activity, animation_time, .. } = parts;
        let Parts { clock, monotonic, random, .. } = parts;
        let media = Arc::new(Self {
            server_name: config.server_name.clone(),
            config: Live::new(config.clone()),
            store,
            federation,
            pools,
            readers,
            clock,
            monotonic,
            random,
            response_cache: ResponseCache::new(),
            access_times: AccessTimes::default(),
            clock_watch: ClockWatch::default(),
            pending: PendingUploads::default(),
            uploads: UploadState::new(),
            fetches: RemoteFetches::new(),
            thumbnails: ThumbnailState::new(&config.thumbnails, activity, animation_time),
            previews: PreviewState::new(config.previews.clone(), fetcher),
        });
        // Weak: the store is a part of what hears of its removals.
        let listener = Arc::downgrade(&media);
        media.store.on_removal(move |removed| {
            if let Some(media) = listener.upgrade() {
                media.forget_removed(removed);
            }
        });
        media
    }

    /// Drops from memory what was removed from the store.
    fn forget_removed(&self, removed: &Removed) {
        self.response_cache.remove(&removed.media, &removed.blobs);
        self.thumbnails.forget_blobs(&removed.blobs);
        self.previews.forget(&removed.previews);
    }

    /// Applies a changed configuration; linked pages are fetched with `fetcher` from here on.
    pub(crate) fn reload(&self, config: &Config, fetcher: Fetcher) {
        self.previews.reload(config.previews.clone(), fetcher);
        self.config.set(config.clone());
    }

    /// Ends all waiting for uploads: the service stops.
    pub(crate) fn stop(&self) {
        self.pending.stop();
    }

    /// Runs a blocking step of a use case in `pool`. A step that has begun runs to its end, even if the request goes away.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        pool: Pool,
        step: impl FnOnce(&Arc<Self>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let media = Arc::clone(self);
        self.pools.run(pool, move || step(&media)).await
    }

    /// A new media ID of this server, which nobody can guess.
    fn new_mxc(&self) -> Mxc {
        Mxc { server_name: self.server_name.clone(), media_id: MediaId::generate(|pool| (self.random)(pool)) }
    }

    fn is_ours(&self, mxc: &Mxc) -> bool {
        mxc.server_name == self.server_name
    }

    /// Refuses media of servers that configuration excludes, stored media too.
    fn check_policy(&self, mxc: &Mxc) -> Result<()> {
        if self.is_ours(mxc) { Ok(()) } else { self.federation.check_policy(&mxc.server_name) }
    }

    /// Whether media that is stored now may be served to callers without a token (`unauthenticated_media`). The row keeps the answer.
    fn is_open(&self) -> bool {
        self.config.get().unauthenticated_media == UnauthenticatedMedia::Open
    }

    /// Whether `viewer` may see media whose row says `open`.
    fn may_see(&self, viewer: Viewer, open: bool) -> bool {
        match (viewer, self.config.get().unauthenticated_media) {
            (Viewer::Known, _) | (Viewer::Anonymous, UnauthenticatedMedia::Open) => true,
            (Viewer::Anonymous, UnauthenticatedMedia::Frozen) => open,
            (Viewer::Anonymous, UnauthenticatedMedia::Closed) => false,
        }
    }

    /// Admits the serving of media that is at hand, and notes the access. Never blocks.
    ///
    /// # Errors
    /// `Forbidden` for servers that configuration excludes, `NotFound` for media that the viewer may not see.
    fn admit(&self, mxc: &Mxc, viewer: Viewer, open: bool) -> Result<()> {
        self.check_policy(mxc)?;
        if !self.may_see(viewer, open) {
            return Err(Error::not_found());
        }
        self.access_times.note(mxc, (self.clock)());
        Ok(())
    }
}
