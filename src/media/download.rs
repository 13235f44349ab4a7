//! Downloads, for clients and servers: media from memory, from the store, from a pending upload, or from another server.
//!
//! Who may see what:
//! - Media of servers that `federation.allow` and `federation.deny` exclude is served to no one.
//! - Callers with a valid token or signature may see everything else.
//! - For callers without one, `unauthenticated_media` and the row decide.
//! - A caller who could not see the file once it is fetched may not cause the fetch.

use std::sync::Arc;
use std::time::Duration;

use super::remote::Fetched;
use super::response_cache::CacheKey;
use super::{Media, Viewer};
use crate::error::{Error, Kind, Result};
use crate::http::response::PreparedMedia;
use crate::matrix::{Expiry, Mxc, Timestamp};
use crate::store::Lookup;
use crate::store::stored_media::StoredMedia;
use crate::sync::admission::{Caller, Class, WorkKind};
use crate::sync::pools::Pool;

pub(crate) use super::remote::{ArrivingFile, RemoteHead};

/// Who asks for media, and how far we go to get it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessOptions {
    pub(crate) caller: Caller,
    pub(crate) remote: RemoteFetch,
    /// How long to wait for a pending upload, here or at its origin.
    pub(crate) timeout: Duration,
}

impl AccessOptions {
    /// The rights of the caller.
    pub(crate) fn viewer(self) -> Viewer {
        match self.caller.class {
            Class::User | Class::Server => Viewer::Known,
            Class::Unknown => Viewer::Anonymous,
        }
    }
}

/// Whether a download may cause a fetch from another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteFetch {
    Allowed,
    /// `allow_remote=false`, or the request comes from another server.
    Refused,
}

/// What a download of remote media waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// The file can be passed on while it arrives.
    FirstByte,
    /// The whole file is needed.
    Stored,
}

/// Media to be sent.
#[derive(Debug)]
pub(crate) enum Download {
    Stored(Arc<PreparedMedia>),
    /// Remote media that is still being fetched.
    Arriving(ArrivingFile),
}

/// What a look-up found.
#[derive(Debug)]
enum Found {
    Stored(StoredMedia),
    /// A media ID of this server that was created and has no content yet.
    Pending,
    /// Media of another server that is not stored here and may be fetched.
    Elsewhere,
}

impl Media {
    /// Finds media, waiting for a pending upload and fetching it from another server as `options` allow.
    ///
    /// # Errors
    /// `NotFound`, also for media that the viewer may not see; `Forbidden` for servers that the configuration excludes;
    /// `NotYetUploaded`; and the errors of fetching.
    pub(crate) async fn download(
        self: &Arc<Self>,
        mxc: &Mxc,
        options: AccessOptions,
        wait_for: WaitFor,
    ) -> Result<Download> {
        let key = CacheKey { mxc: mxc.clone(), requested: None };
        if let Some(prepared) = self.recently_served(&key, options.viewer())? {
            return Ok(Download::Stored(prepared));
        }
        // Taken before the look-up: media that is removed while we look must not get into the cache.
        let as_of = self.response_cache.begin_lookup();
        let stored = match self.look_up(mxc, options).await? {
            Found::Stored(stored) => stored,
            Found::Pending => self.wait_for_upload(mxc, options).await?,
            Found::Elsewhere => match self.fetch(mxc, options, wait_for).await? {
                Fetched::Stored(stored) => stored,
                Fetched::Arriving(file) => return Ok(Download::Arriving(file)),
            },
        };
        let prepared = Arc::new(PreparedMedia::new(stored));
        self.response_cache.insert(&key, &prepared, as_of);
        Ok(Download::Stored(prepared))
    }

    /// Media that was served recently, if this viewer may see it. Never blocks.
    pub(super) fn recently_served(
        &self,
        key: &CacheKey,
        viewer: Viewer,
    ) -> Result<Option<Arc<PreparedMedia>>> {
        let Some(prepared) = self.response_cache.get(key) else { return Ok(None) };
        // The cache holds media whoever asked for it first: this viewer's rights are checked each time.
        self.admit(&key.mxc, viewer, prepared.stored().open)?;
        Ok(Some(prepared))
    }

    /// Stored media of this server, for internal use: no viewer is checked and no access is noted.
    pub(super) async fn own_media(self: &Arc<Self>, mxc: &Mxc) -> Result<StoredMedia> {
        let mxc = mxc.clone();
        match self.blocking(Pool::Lookup, move |media| media.store.find(&mxc)).await? {
            Lookup::Stored(stored) => Ok(stored),
            Lookup::Pending { .. } | Lookup::Lost { .. } | Lookup::Withheld | Lookup::Unknown => {
                Err(Error::not_found())
            }
        }
    }

    /// Waits until a pending ID has content, up to `options.timeout`.
    async fn wait_for_upload(self: &Arc<Self>, mxc: &Mxc, options: AccessOptions) -> Result<StoredMedia> {
        let not_yet = || Error::new(Kind::NotYetUploaded, "the media is not yet uploaded");
        let _place = self.admission.try_enter(WorkKind::PendingWait, options.caller).ok_or_else(not_yet)?;
        let mut waiter = self.pending.waiter(mxc);
        // The upload may have ended before the waiter was in place.
        if let Found::Stored(stored) = self.look_up(mxc, options).await? {
            return Ok(stored);
        }
        if !waiter.filled_within(options.timeout).await {
            return Err(not_yet());
        }
        match self.look_up(mxc, options).await? {
            Found::Stored(stored) => Ok(stored),
            Found::Pending | Found::Elsewhere => Err(Error::not_found()),
        }
    }

    async fn look_up(self: &Arc<Self>, mxc: &Mxc, options: AccessOptions) -> Result<Found> {
        let mxc = mxc.clone();
        self.blocking(Pool::Lookup, move |media| media.find(&mxc, options)).await
    }
}

/// The blocking steps.
impl Media {
    /// Looks for media in the store, on behalf of the viewer.
    fn find(&self, mxc: &Mxc, options: AccessOptions) -> Result<Found> {
        self.check_policy(mxc)?;
        let viewer = options.viewer();
        match self.store.find(mxc)? {
            Lookup::Stored(stored) if self.may_see(viewer, stored.open) => {
                self.access_times.note_media(mxc, self.access(viewer));
                Ok(Found::Stored(stored))
            }
            // Whether it will be open is decided at the upload. Until then everyone who might be allowed to see it may wait.
            Lookup::Pending { created, expires }
                if self.is_pending(created, expires) && self.may_see(viewer, true) =>
            {
                Ok(Found::Pending)
            }
            // The row stays: the disk may be mounted later, and the origin may no longer exist.
            Lookup::Lost { open } if self.may_see(viewer, open) => self.elsewhere(mxc, options),
            Lookup::Unknown => self.elsewhere(mxc, options),
            Lookup::Stored(_) | Lookup::Pending { .. } | Lookup::Lost { .. } | Lookup::Withheld => {
                Err(Error::not_found())
            }
        }
    }

    /// Decides about media that is not stored here: it may be fetched if it belongs to another server and the viewer may see the result.
    fn elsewhere(&self, mxc: &Mxc, options: AccessOptions) -> Result<Found> {
        let (viewer, remote) = (options.viewer(), options.remote);
        // Fetched media is stored as open or closed by the setting of today, so today's setting decides here too.
        let may_fetch = remote == RemoteFetch::Allowed && (viewer == Viewer::Known || self.is_open());
        if may_fetch && !self.is_ours(mxc) { Ok(Found::Elsewhere) } else { Err(Error::not_found()) }
    }

    /// Whether a pending ID, created at `created` and expiring at `expires`, still accepts an upload.
    pub(super) fn is_pending(&self, created: Timestamp, expires: Expiry) -> bool {
        expires.lies_ahead((self.clock)(), created.until(expires.time()))
    }
}
