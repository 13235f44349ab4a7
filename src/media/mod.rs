//! What can be done with media, as plain synchronous steps.
//!
//! Owns the ordering rules: blob durable first, row second, answer third; deleting the other way round. Refuses to know
//! HTTP, and who waits for what.

pub(crate) mod in_flight;
pub(crate) mod pending;
mod previews;
mod remote;
pub(crate) mod response_cache;
pub(crate) mod service;
mod sweep;
mod thumbnails;
mod upload;
pub(crate) mod upload_turns;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

pub(crate) use self::previews::{Candidate, Picture, Reading, Summary};
pub(crate) use self::remote::{FetchListener, RemoteHead};
pub(crate) use self::thumbnails::{ANIMATION_TIMEOUT, BLURHASH_TIMEOUT, RenderTask, Thumbnail, memory};
use self::upload::CreateLimiter;
pub(crate) use self::upload::Upload;

use crate::config::{Config, Live, UnauthenticatedMedia};
use crate::error::{Error, Result};
use crate::federation::Federation;
use crate::matrix::{Clock, MediaId, Moment, Monotonic, Mxc, Random, ServerName, Timestamp};
use crate::preview::Fetcher;
use crate::store::blobs::{BlobReader, Blobs, Lost};
use crate::store::catalog::{Catalog, Content, Filled, Media};
use crate::store::sha256::Sha256;
use crate::store::stored_media::StoredMedia;

/// Says how long an animation may take to be made.
pub(crate) type AnimationTime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The media of this server and its copies of others'.
pub(crate) struct Library {
    /// Our own name.
    server_name: ServerName,
    /// The operator's wishes.
    config: Live<Config>,
    /// What requests for thumbnails came to.
    thumbnail_requests: Cache<thumbnails::Request, thumbnails::Outcome>,
    /// Until when a still stands in for an animation that there was no time for.
    unanimated: Cache<thumbnails::Animation, Moment>,
    /// Pictures that failed.
    refusals: thumbnails::Refusals,
    /// Pictures of which a part is missing.
    partial: Cache<Sha256, ()>,
    /// How long an animation may take to be made.
    animation_time: AnimationTime,
    /// What previews go by.
    desk: previews::Desk,
    /// What is known.
    catalog: Arc<Catalog>,
    /// Where bytes lie.
    blobs: Arc<Blobs>,
    /// The way to other servers.
    federation: Arc<Federation>,
    /// Lost blobs that were reported, and when.
    reported: Cache<(Option<Mxc>, Sha256), Instant>,
    /// IDs being filled at this moment.
    filling: Arc<Mutex<HashSet<MediaId>>>,
    /// When media was last served, not yet in the catalog.
    accesses: Mutex<HashMap<Mxc, Timestamp>>,
    /// The clocks when it was last looked for what has expired.
    last_look: sweep::LastLook,
    /// Rate of `create`, per user.
    create_limiter: CreateLimiter,
    /// For times in rows.
    clock: Clock,
    /// For what is remembered a while.
    monotonic: Monotonic,
    /// For media IDs.
    random: Random,
}

/// Access times kept in memory between two writes; about 100 bytes each.
const MAX_ACCESSES: usize = 8192;

/// How long a lost blob is not reported again.
const REPORT_AGAIN: Duration = Duration::from_hours(1);

/// Lost blobs of which it is remembered that they were reported; about 300 bytes each.
const REPORTED: usize = 1024;

/// In what capacity somebody asks for media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// Without a token.
    Anonymous,
    /// With a good token or a good signature.
    Known,
}

/// Whether asking may cause a fetch from another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RemoteFetch {
    /// It may.
    Allowed,
    /// `allow_remote=false`, or another server asks.
    Refused,
}

/// What became of the search for a media ID.
#[derive(Debug)]
pub(crate) enum Found {
    /// Here it is.
    Stored(StoredMedia),
    /// Created and not yet filled; it may be, later.
    Pending,
    /// Another server has it.
    Elsewhere,
}

impl Library {
    /// A library over its parts.
    pub(crate) fn new(
        config: &Config,
        (catalog, blobs, federation, fetcher): (Arc<Catalog>, Arc<Blobs>, Arc<Federation>, Fetcher),
        (clock, monotonic): (Clock, Monotonic),
        animation_time: AnimationTime,
        random: Random,
    ) -> Self {
        Self {
            server_name: config.server_name.clone(),
            config: Live::new(config.clone()),
            thumbnail_requests: Cache::new(thumbnails::REMEMBERED),
            unanimated: Cache::new(thumbnails::UNANIMATED),
            refusals: Cache::new(thumbnails::REFUSED),
            partial: Cache::new(thumbnails::PARTIAL),
            animation_time,
            desk: previews::Desk::new(config.previews.clone(), fetcher),
            catalog,
            blobs,
            federation,
            reported: Cache::new(REPORTED),
            filling: Arc::default(),
            accesses: Mutex::default(),
            last_look: sweep::LastLook::default(),
            create_limiter: upload::create_limiter(),
            clock,
            monotonic,
            random,
        }
    }

    /// Goes by `config` from now on, asking for linked pages with `fetcher`.
    pub(crate) fn reload(&self, config: &Config, fetcher: Fetcher) {
        self.desk.reload(config.previews.clone(), fetcher);
        self.config.set(config.clone());
    }

    /// Looks for media on behalf of `viewer`.
    ///
    /// # Errors
    /// `NotFound` when there is none or the viewer may not know of it, `Forbidden` for servers that configuration excludes.
    pub(crate) fn find(&self, mxc: &Mxc, viewer: Viewer, fetch: RemoteFetch) -> Result<Found> {
        self.check_policy(mxc)?;
        let is_ours = mxc.server_name == self.server_name;
        let generation = self.generation();
        match self.catalog.media(mxc)? {
            // A pending ID is pending on frozen routes too: its flag is decided when it is filled.
            Some(Media { content: Content::Pending { expires }, created, .. })
                if self.is_pending(created, expires) && self.may_see(viewer, true) =>
            {
                Ok(Found::Pending)
            }
            Some(Media { content: Content::Stored(filled), created, open, .. }) => {
                if !self.may_see(viewer, open) {
                    return Err(Error::not_found());
                }
                match self.open_blob(Some(mxc), &filled)? {
                    Some(blob) => {
                        self.note_access(mxc);
                        let is_stopgap = false;
                        let content = filled;
                        Ok(Found::Stored(StoredMedia {
                            content,
                            created,
                            open,
                            sequence: generation,
                            is_stopgap,
                            blob,
                        }))
                    }
                    None if is_ours => Err(Error::not_found()),
                    // The row stays: the blob may come back, its origin may be gone.
                    None => self.elsewhere(viewer, fetch),
                }
            }
            Some(_) => Err(Error::not_found()),
            None if is_ours => Err(Error::not_found()),
            None => self.elsewhere(viewer, fetch),
        }
    }

    /// Whether what was looked up before may be served to `viewer`, and notes that it is. Never blocks.
    ///
    /// # Errors
    /// Those of [`Self::find`].
    pub(crate) fn serve_again(&self, mxc: &Mxc, viewer: Viewer, stored: &StoredMedia) -> Result<()> {
        self.check_policy(mxc)?;
        if !self.may_see(viewer, stored.open) {
            return Err(Error::not_found());
        }
        self.note_access(mxc);
        Ok(())
    }

    /// How often media was removed: while it does not change, what was looked up holds good.
    pub(crate) fn generation(&self) -> u64 {
        self.catalog.generation()
    }

    /// Refuses media of servers that configuration excludes.
    fn check_policy(&self, mxc: &Mxc) -> Result<()> {
        if mxc.server_name == self.server_name {
            Ok(())
        } else {
            self.federation.check_policy(&mxc.server_name)
        }
    }

    /// Whether new media will be visible to callers without a token.
    fn is_open(&self) -> bool {
        self.config.get().unauthenticated_media == UnauthenticatedMedia::Open
    }

    /// Whether `viewer` may see a row, given whether it was stored open.
    fn may_see(&self, viewer: Viewer, stored_open: bool) -> bool {
        match (viewer, self.config.get().unauthenticated_media) {
            (Viewer::Known, _) | (Viewer::Anonymous, UnauthenticatedMedia::Open) => true,
            (Viewer::Anonymous, UnauthenticatedMedia::Frozen) => stored_open,
            (Viewer::Anonymous, UnauthenticatedMedia::Closed) => false,
        }
    }

    /// Another server's media that is not here.
    fn elsewhere(&self, viewer: Viewer, fetch: RemoteFetch) -> Result<Found> {
        if fetch == RemoteFetch::Allowed && (viewer == Viewer::Known || self.is_open()) {
            Ok(Found::Elsewhere)
        } else {
            Err(Error::not_found())
        }
    }

    /// Opens the blob of a row, of `mxc` or of a picture that was made; `None` when somebody damaged or removed it behind our back,
    /// which is reported.
    fn open_blob(&self, mxc: Option<&Mxc>, filled: &Filled) -> Result<Option<BlobReader>> {
        let opened = self.blobs.get(&filled.sha256, filled.size);
        match opened.map_err(|error| Error::internal("opening a blob", error))? {
            Ok(blob) => Ok(Some(blob)),
            Err(lost) => {
                self.report(mxc, &filled.sha256, lost);
                Ok(None)
            }
        }
    }

    /// Reports a lost blob, now and then: whoever asks for it causes the line.
    fn report(&self, mxc: Option<&Mxc>, sha256: &Sha256, lost: Lost) {
        let (key, now) = ((mxc.cloned(), *sha256), Instant::now());
        if self.reported.get(&key).is_some_and(|last| now.saturating_duration_since(last) < REPORT_AGAIN) {
            return;
        }
        self.reported.insert(key, now);
        let mxc = mxc.map(tracing::field::display);
        tracing::error!(mxc, %sha256, why = lost.to_string(), "the catalog knows a blob that is lost");
    }

    /// Notes that media is being served now; dropped when too many wait to be written.
    fn note_access(&self, mxc: &Mxc) {
        let mut accesses = self.accesses();
        if accesses.len() < MAX_ACCESSES {
            accesses.insert(mxc.clone(), (self.clock)());
        }
    }

    /// The unwritten access times. A panic elsewhere cannot leave them half-changed.
    fn accesses(&self) -> MutexGuard<'_, HashMap<Mxc, Timestamp>> {
        self.accesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
