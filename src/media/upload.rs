//! Creating, uploading, and filling what was created.
//!
//! [Spec, content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository), MSC2246.

use std::collections::HashSet;
use std::io;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::Library;
use crate::error::{Error, Kind, Result};
use crate::matrix::{Expiry, MediaId, Mxc, Timestamp, UserId};
use crate::store::blobs::Ingest;
use crate::store::catalog::{Content, Filled, NewMedia, Reservation, Reserved};
use crate::store::sha256::Sha256;

/// `create` requests a second, per user, in the long run.
const CREATE_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");

/// `create` requests at once, per user.
const CREATE_BURST: NonZeroU32 = NonZeroU32::new(50).expect("50 is not 0");

/// Counts `create` requests by user.
pub(super) type CreateLimiter = RateLimiter<UserId, HashMapStateStore<UserId>, DefaultClock>;

/// What comes with uploaded bytes.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// Who uploads.
    pub(crate) user_id: UserId,
    /// As claimed.
    pub(crate) content_type: String,
    /// As given; `None` for none or an empty one.
    pub(crate) file_name: Option<String>,
}

/// A created media ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Created {
    /// The new address.
    pub(crate) mxc: Mxc,
    /// When it ends unless it is filled.
    pub(crate) expires: Expiry,
}

/// An ID that is being filled, by one request only. Dropped, another may try.
#[derive(Debug)]
pub(crate) struct Filling {
    /// The address.
    mxc: Mxc,
    /// Where it is noted.
    filling: Arc<Mutex<HashSet<MediaId>>>,
}

impl Library {
    /// Largest upload, bytes.
    pub(crate) fn max_upload_size(&self) -> u64 {
        self.config.get().uploads.max_size.0
    }

    /// Creates a media ID to be filled later.
    ///
    /// # Errors
    /// `LimitExceeded` for too many requests or too many pending IDs.
    pub(crate) fn create(&self, user_id: UserId) -> Result<Created> {
        if let Err(not_until) = self.create_limiter.check_key(&user_id) {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            return Err(
                Error::new(Kind::LimitExceeded, "too many media IDs created at once").retry_after(wait)
            );
        }
        let created = (self.clock)();
        let uploads = &self.config.get().uploads;
        let expires = Expiry::at(created.after(uploads.pending_lifetime.0));
        let mxc = self.new_mxc();
        let reservation =
            Reservation { mxc: mxc.clone(), user_id, created, expires, limit: uploads.pending_per_user };
        match self.catalog.reserve(reservation)? {
            Reserved::Done => Ok(Created { mxc, expires }),
            Reserved::TooMany { next_free } => {
                let message = "too many media IDs are created and not yet uploaded to";
                Err(Error::new(Kind::LimitExceeded, message).retry_after(created.until(next_free)))
            }
        }
    }

    /// Starts taking in an upload of `announced` bytes, if it says so (`Content-Length`).
    pub(crate) fn begin_upload(&self, announced: Option<u64>) -> Result<Ingest> {
        self.blobs
            .ingest(self.max_upload_size(), announced)
            .map_err(|error| Error::storing("storing an upload", error))
    }

    /// Makes media of what was taken in. Identical bytes get an ID of their own and share the blob (MSC2704).
    pub(crate) fn finish_upload(&self, ingest: Ingest, upload: Upload) -> Result<Mxc> {
        let mxc = self.new_mxc();
        let (user_id, created, open) = (Some(upload.user_id.clone()), (self.clock)(), self.is_open());
        let added = self.store(ingest, upload.content_type, upload.file_name, |filled| {
            self.catalog.add(NewMedia { mxc: mxc.clone(), filled, user_id, created, open })
        })?;
        // 142 random bits: a known ID would mean that the source of randomness is broken.
        if added { Ok(mxc) } else { Err(Error::new(Kind::Internal, "internal error")) }
    }

    /// Makes a durable blob of what was taken in and then, by `commit`, its row. Says whether `commit` wrote one; a blob that got
    /// no row is removed again.
    pub(super) fn store(
        &self,
        ingest: Ingest,
        content_type: String,
        upload_name: Option<String>,
        commit: impl FnOnce(Filled) -> Result<bool>,
    ) -> Result<bool> {
        let (sha256, outcome) = match ingest.finish() {
            // The claim lasts until the row is committed.
            Ok(claim) => {
                let (sha256, size) = (claim.sha256(), claim.size());
                if claim.has_replaced_damage() {
                    self.forget_damage(&sha256);
                }
                (sha256, commit(Filled { sha256, size, content_type, upload_name }))
            }
            Err(error) => {
                let (sha256, kind) = (error.sha256, error.source.kind());
                (sha256, Err(Error::storing("storing media", io::Error::new(kind, error))))
            }
        };
        if !matches!(outcome, Ok(true))
            && let Err(error) = self.remove_blob(&sha256)
        {
            tracing::error!(
                ?error,
                "a blob that nothing refers to stays, to be dealt with after the next start"
            );
        }
        outcome
    }

    /// Lets go of what was made or kept of a damaged blob.
    fn forget_damage(&self, sha256: &Sha256) {
        let forget = || {
            for thumbnail in self.catalog.forget_thumbnails_of(sha256)?.blobs {
                self.remove_blob(&thumbnail)?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = forget() {
            tracing::error!(?error, "thumbnails of a damaged picture stay");
        }
    }

    /// Starts filling `mxc` for `user_id`, in the order of checks that Synapse has.
    ///
    /// # Errors
    /// `NotFound` (unknown, not ours, expired), `Forbidden` (another user's), `CannotOverwrite` (filled, or being filled).
    pub(crate) fn begin_filling(&self, mxc: &Mxc, user_id: &UserId) -> Result<Filling> {
        if mxc.server_name != self.server_name {
            return Err(Error::not_found());
        }
        let cannot_overwrite =
            || Error::new(Kind::CannotOverwrite, "this media ID has been uploaded to already");
        // Entered before the catalog is asked: what it says then stays true until the place is left.
        let place = Filling::enter(mxc, &self.filling);
        let media = self.catalog.media(mxc)?.ok_or_else(Error::not_found)?;
        if media.user_id.as_ref() != Some(user_id) {
            return Err(Error::new(Kind::Forbidden, "only the user who created a media ID may upload to it"));
        }
        match media.content {
            Content::Stored(_) => Err(cannot_overwrite()),
            Content::Pending { expires } if !self.is_pending(media.created, expires) => Err(expired()),
            Content::Pending { .. } => place.ok_or_else(cannot_overwrite),
        }
    }

    /// Whether an ID that was created then, to end then, can still be filled.
    pub(super) fn is_pending(&self, created: Timestamp, expires: Expiry) -> bool {
        expires.lies_ahead((self.clock)(), created.until(expires.time()))
    }

    /// Fills an ID with what was taken in.
    pub(crate) fn finish_filling(&self, filling: &Filling, ingest: Ingest, upload: Upload) -> Result<()> {
        let done = self.store(ingest, upload.content_type, upload.file_name, |filled| {
            self.catalog.fill(&filling.mxc, filled, (self.clock)(), self.is_open())
        })?;
        if done { Ok(()) } else { Err(expired()) }
    }

    /// An address nobody has.
    pub(super) fn new_mxc(&self) -> Mxc {
        Mxc { server_name: self.server_name.clone(), media_id: MediaId::generate(|pool| (self.random)(pool)) }
    }

    /// Forgets users who have not created for a while, so that the limiter does not grow.
    pub(super) fn tidy_create_limiter(&self) {
        self.create_limiter.retain_recent();
        self.create_limiter.shrink_to_fit();
    }
}

impl Filling {
    /// Enters an ID that nobody is filling.
    fn enter(mxc: &Mxc, filling: &Arc<Mutex<HashSet<MediaId>>>) -> Option<Self> {
        let mut entered = filling.lock().unwrap_or_else(PoisonError::into_inner);
        entered.insert(mxc.media_id.clone()).then(|| Self { mxc: mxc.clone(), filling: Arc::clone(filling) })
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.mxc.media_id);
    }
}

/// The limits of `create`: Synapse's.
pub(super) fn create_limiter() -> CreateLimiter {
    RateLimiter::hashmap(Quota::per_second(CREATE_PER_SECOND).allow_burst(CREATE_BURST))
}

/// A pending ID that ended. Clients look for the word "expired".
fn expired() -> Error {
    Error::new(Kind::NotFound, "the media ID has expired")
}
