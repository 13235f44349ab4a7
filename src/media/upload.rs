//! Uploads, and media IDs that are created now and uploaded to later (MSC2246).
//!
//! Who may upload what: every user who is not a guest may upload and create IDs, within limits for each user. Only the user who created
//! an ID may upload to it, once, before it expires. Whether callers without a token may see new media is decided when it is stored.
//!
//! [Spec, content repository](https://spec.matrix.org/v1.19/client-server-api/#content-repository), MSC2246.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use governor::RateLimiter;
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use hyper::body::{Body, Bytes};

use super::Media;
use crate::error::{Error, Kind, Result};
use crate::http::receive::{self, BodyReceiver};
use crate::matrix::{Expiry, MediaId, Mxc, UserId};
use crate::store::Incoming;
use crate::store::blobs::Ingest;
use crate::store::catalog::{Added, Content, Quota, Reservation, Reserved, UserTotal};
use crate::sync::admission::{Ask, Caller, Taken, Work, WorkKind};
use crate::sync::lock;
use crate::sync::pools::Pool;

/// `create` requests a second, per user, in the long run.
const CREATE_PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");

/// `create` requests at once, per user.
const CREATE_BURST: NonZeroU32 = NonZeroU32::new(50).expect("50 is not 0");

/// Counts `create` requests by user.
type CreateLimiter = RateLimiter<UserId, HashMapStateStore<UserId>, DefaultClock>;

/// What uploads share.
pub(super) struct UploadState {
    create_limiter: CreateLimiter,
    /// Created IDs to which an upload is in progress.
    targets: Arc<Mutex<HashSet<MediaId>>>,
    receiver: BodyReceiver,
}

/// What a client says about the bytes it uploads.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) user_id: UserId,
    /// As the client claims it.
    pub(crate) content_type: String,
    /// `None` when it is missing or empty.
    pub(crate) file_name: Option<String>,
    /// `Content-Length`, bytes.
    pub(crate) announced: Option<u64>,
}

/// A created media ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Created {
    pub(crate) mxc: Mxc,
    /// When it expires if nothing is uploaded to it.
    pub(crate) expires: Expiry,
}

/// A created ID, claimed by one upload. When this is dropped, another request may claim it.
#[derive(Debug)]
pub(crate) struct UploadTarget {
    mxc: Mxc,
    targets: Arc<Mutex<HashSet<MediaId>>>,
}

impl Media {
    /// Waits until the user may start an upload. Hold the place until the request ends.
    ///
    /// # Errors
    /// `LimitExceeded` when too many uploads of the user are in progress.
    pub(crate) async fn upload_place(&self, caller: Caller) -> Result<Taken> {
        self.admission.take(WorkKind::Upload, &Work::of(caller), Ask::default()).await
    }

    /// Stores uploaded media under a new ID.
    ///
    /// # Errors
    /// `UploadTooLarge`, `NoRoom`, and those of receiving a body.
    pub(crate) async fn upload<B>(self: &Arc<Self>, upload: Upload, body: &mut B) -> Result<Mxc>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        self.check_quota(&upload.user_id, upload.announced.unwrap_or(0), 1).await?;
        let mxc = self.receive(upload, body, Self::store_upload).await?;
        self.thumbnails.make_later(&mxc);
        Ok(mxc)
    }

    /// Creates a media ID, to be uploaded to later.
    ///
    /// # Errors
    /// `LimitExceeded` for too many requests or too many pending IDs.
    pub(crate) async fn create(self: &Arc<Self>, user_id: UserId) -> Result<Created> {
        self.blocking(Pool::Disk, move |media| media.reserve(user_id)).await
    }

    /// Claims `mxc` for an upload by `user_id`. Call this before looking at the body: clients see the errors in Synapse's order.
    ///
    /// # Errors
    /// `NotFound` (unknown, of another server, expired), `Forbidden` (created by another user), `CannotOverwrite` (an upload is done or
    /// in progress).
    pub(crate) async fn upload_target(self: &Arc<Self>, mxc: &Mxc, user_id: &UserId) -> Result<UploadTarget> {
        let (mxc, user_id) = (mxc.clone(), user_id.clone());
        self.blocking(Pool::Disk, move |media| media.claim_target(&mxc, &user_id)).await
    }

    /// Stores uploaded media under an ID that was created before.
    ///
    /// # Errors
    /// Those of [`Self::upload`], and `NotFound` when the ID has expired meanwhile.
    pub(crate) async fn upload_to<B>(
        self: &Arc<Self>,
        target: UploadTarget,
        upload: Upload,
        body: &mut B,
    ) -> Result<Mxc>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        self.check_quota(&upload.user_id, upload.announced.unwrap_or(0), 0).await?;
        let finish = move |media: &Self, ingest, upload| {
            media.fill(&target, ingest, upload)?;
            // In the same thread, so that waiting downloads wake up even if this client has disconnected.
            media.pending.filled(&target.mxc);
            media.thumbnails.make_later(&target.mxc);
            Ok(target.mxc.clone())
        };
        self.receive(upload, body, finish).await
    }

    /// Receives a body into the store; `finish` turns it into media. A body whose `Content-Length` is too large is refused before it is
    /// sent.
    async fn receive<B>(
        self: &Arc<Self>,
        upload: Upload,
        body: &mut B,
        finish: impl FnOnce(&Self, Ingest, Upload) -> Result<Mxc> + Send + 'static,
    ) -> Result<Mxc>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (limit, announced) = (self.max_upload_size(), upload.announced);
        if announced.is_some_and(|length| length > limit) {
            return Err(receive::too_large(limit));
        }
        let (beginning, finishing) = (Arc::clone(self), Arc::clone(self));
        let begin = move || beginning.begin_upload(announced);
        let finish = move |ingest| finish(&finishing, ingest, upload);
        self.uploads.receiver.receive(&self.pools, body, begin, finish).await
    }

    /// Checks, before the body is read, that a user may have so much more. Checked again when the row is written.
    async fn check_quota(self: &Arc<Self>, user_id: &UserId, bytes: u64, files: u64) -> Result<()> {
        let quota = self.quota(user_id);
        if quota.is_none() {
            return Ok(());
        }
        let total = self.user_total(user_id).await?;
        if quota.allows(total, bytes, files) { Ok(()) } else { Err(self.over_quota()) }
    }

    /// What a user has uploaded.
    pub(crate) async fn user_total(self: &Arc<Self>, user_id: &UserId) -> Result<UserTotal> {
        let user_id = user_id.clone();
        self.blocking(Pool::Lookup, move |media| media.store.user_total(&user_id)).await
    }

    /// What a user may have (`quotas.users`).
    pub(crate) fn quota(&self, user_id: &UserId) -> Quota {
        let config = self.config.get();
        let quota = config.quotas.of_user(user_id.as_str());
        quota.map_or_else(Quota::default, |quota| Quota {
            max_bytes: quota.max_bytes.map(|size| size.0),
            max_files: quota.max_files,
        })
    }

    /// The error for a user who has all that the quota allows (MSC4335).
    fn over_quota(&self) -> Error {
        let error =
            Error::new(Kind::UserLimitExceeded, "you have uploaded as much as this server allows you");
        match &self.config.get().quotas.info_url {
            Some(page) => error.explained_at(page),
            None => error,
        }
    }

    /// Largest upload, bytes.
    pub(crate) fn max_upload_size(&self) -> u64 {
        self.config.get().uploads.max_size.0
    }
}

/// The blocking steps.
impl Media {
    pub(super) fn begin_upload(&self, announced: Option<u64>) -> Result<Ingest> {
        self.make_room(announced, self.max_upload_size());
        let begun = self.store.begin(self.max_upload_size(), announced);
        begun.map_err(|error| Error::storing("storing an upload", error))
    }

    /// Stores a received body under a new ID. Identical bytes get different IDs and share one blob (MSC2704).
    pub(super) fn store_upload(&self, ingest: Ingest, upload: Upload) -> Result<Mxc> {
        let mxc = self.new_mxc();
        let quota = self.quota(&upload.user_id);
        match self.store.add(ingest, self.incoming(&mxc, upload), quota)? {
            Added::Yes | Added::Quarantined => Ok(mxc),
            Added::OverQuota => Err(self.over_quota()),
            // IDs have 142 random bits: if one exists already, the source of randomness is broken.
            Added::No => Err(Error::new(Kind::Internal, "internal error")),
        }
    }

    /// The row for an upload that is stored now.
    fn incoming(&self, mxc: &Mxc, upload: Upload) -> Incoming {
        let Upload { user_id, content_type, file_name: upload_name, .. } = upload;
        let (mxc, created, open) = (mxc.clone(), (self.clock)(), self.is_open());
        Incoming { mxc, content_type, upload_name, user_id: Some(user_id), created, open, anonymous: false }
    }

    fn reserve(&self, user_id: UserId) -> Result<Created> {
        if let Err(not_until) = self.uploads.create_limiter.check_key(&user_id) {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            return Err(
                Error::new(Kind::LimitExceeded, "too many media IDs created at once").retry_after(wait)
            );
        }
        let created = (self.clock)();
        let uploads = &self.config.get().uploads;
        let expires = Expiry::at(created.after(uploads.pending_lifetime.0));
        let mxc = self.new_mxc();
        let (limit, quota) = (uploads.pending_per_user, self.quota(&user_id));
        let reservation = Reservation { mxc: mxc.clone(), user_id, created, expires, limit, quota };
        match self.store.reserve(reservation)? {
            Reserved::Done => Ok(Created { mxc, expires }),
            Reserved::OverQuota => Err(self.over_quota()),
            Reserved::TooMany { next_free } => {
                let message = "too many media IDs are created and not yet uploaded to";
                Err(Error::new(Kind::LimitExceeded, message).retry_after(created.until(next_free)))
            }
        }
    }

    fn claim_target(&self, mxc: &Mxc, user_id: &UserId) -> Result<UploadTarget> {
        if !self.is_ours(mxc) {
            return Err(Error::not_found());
        }
        let cannot_overwrite =
            || Error::new(Kind::CannotOverwrite, "this media ID has been uploaded to already");
        // First of all, so that nobody else's attempt gets in the way of the owner's. An owner does not change.
        let media = self.store.media(mxc)?.ok_or_else(Error::not_found)?;
        if media.content == Content::Gone {
            return Err(Error::not_found());
        }
        if media.user_id.as_ref() != Some(user_id) {
            return Err(Error::new(Kind::Forbidden, "only the user who created a media ID may upload to it"));
        }
        // Claimed before the catalog is asked for the content, so that its answer stays true until the claim is dropped.
        let target = UploadTarget::enter(mxc, &self.uploads.targets);
        let media = self.store.media(mxc)?.ok_or_else(Error::not_found)?;
        match media.content {
            Content::Gone => Err(Error::not_found()),
            Content::Stored(_) => Err(cannot_overwrite()),
            Content::Pending { expires } if !self.is_pending(media.created, expires) => Err(expired()),
            Content::Pending { .. } => target.ok_or_else(cannot_overwrite),
        }
    }

    /// Stores what was received under the ID of `target`.
    fn fill(&self, target: &UploadTarget, ingest: Ingest, upload: Upload) -> Result<()> {
        let quota = self.quota(&upload.user_id);
        match self.store.fill(ingest, self.incoming(&target.mxc, upload), quota)? {
            Added::Yes | Added::Quarantined => Ok(()),
            Added::OverQuota => Err(self.over_quota()),
            Added::No => Err(expired()),
        }
    }
}

impl UploadState {
    pub(super) fn new() -> Self {
        let quota = governor::Quota::per_second(CREATE_PER_SECOND).allow_burst(CREATE_BURST);
        Self {
            create_limiter: RateLimiter::hashmap(quota),
            targets: Arc::default(),
            receiver: BodyReceiver::new(),
        }
    }

    /// Drops users who have not created IDs for a while, so that the limiter does not grow.
    pub(super) fn tidy(&self) {
        self.create_limiter.retain_recent();
        self.create_limiter.shrink_to_fit();
    }
}

impl UploadTarget {
    /// Enters an ID into the table; `None` when it is there already.
    fn enter(mxc: &Mxc, targets: &Arc<Mutex<HashSet<MediaId>>>) -> Option<Self> {
        let is_new = lock(targets).insert(mxc.media_id.clone());
        is_new.then(|| Self { mxc: mxc.clone(), targets: Arc::clone(targets) })
    }
}

impl Drop for UploadTarget {
    fn drop(&mut self) {
        lock(&self.targets).remove(&self.mxc.media_id);
    }
}

/// The error for an expired ID. Clients look for the word "expired".
fn expired() -> Error {
    Error::new(Kind::NotFound, "the media ID has expired")
}
