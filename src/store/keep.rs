//! Storing: blob durable first, row second.

use std::io;

use super::blobs::{BlobReader, Claim, Ingest, Unfinished};
use super::catalog::{
    Added, Filled, NewMedia, NewPreview, NewThumbnail, Preview, PreviewLimits, Quota, Removed as RemovedRows,
    ThumbnailKey,
};
use super::sha256::Sha256;
use super::stored_media::StoredMedia;
use super::{Lookup, Store};
use crate::error::{Error, Result};
use crate::matrix::{Mxc, ServerName, Timestamp, UserId};

/// What the row of new media says besides size and hash.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    pub(crate) mxc: Mxc,
    /// As the uploader or the other server claims it.
    pub(crate) content_type: String,
    /// The file's name as it was given.
    pub(crate) upload_name: Option<String>,
    /// Uploader, for local media.
    pub(crate) user_id: Option<UserId>,
    pub(crate) created: Timestamp,
    /// Whether it may be served without a token (`unauthenticated_media: frozen`).
    pub(crate) open: bool,
    /// Whether nobody but callers without a token wanted it so far.
    pub(crate) anonymous: bool,
}

/// A thumbnail that was rendered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeThumbnail {
    pub(crate) key: ThumbnailKey,
    pub(crate) content_type: &'static str,
    pub(crate) created: Timestamp,
    /// Most thumbnails of the same source to keep besides this one; the oldest are deleted.
    pub(crate) limit: u32,
    /// Most bytes of all thumbnails of the same source, this one included; the oldest are deleted.
    pub(crate) max_bytes: u64,
    /// Whether nobody but callers without a token wanted it so far.
    pub(crate) anonymous: bool,
}

/// A thumbnail that is open.
#[derive(Clone, Debug)]
pub(crate) struct KeptThumbnail {
    pub(crate) content: Filled,
    pub(crate) blob: BlobReader,
    /// Whether it is stored: one that alone is larger than all of its source may be is not.
    pub(crate) is_stored: bool,
}

/// The page of a preview that is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct PreviewPage {
    /// Its normalised URL.
    pub(crate) url: String,
    /// Our own name.
    pub(crate) server_name: ServerName,
    /// What all previews together may take. The ones that expire next are deleted to make room.
    pub(crate) room: PreviewLimits,
}

/// The image of a preview that is to be stored.
#[derive(Debug)]
pub(crate) struct PreviewImage {
    pub(crate) ingest: Ingest,
    /// Its row. Its address is used unless the page already has the same image under another one.
    pub(crate) incoming: Incoming,
}

impl Store {
    /// Stores media under a new address. Identical bytes share their blob (MSC2704). If the address is taken, the media that has it stays;
    /// then, and over the quota of its user, nothing of the new one is stored.
    pub(crate) fn add(&self, ingest: Ingest, incoming: Incoming, quota: Quota) -> Result<Added> {
        let mut added = Added::No;
        self.keep(ingest, |claim| {
            added = self.catalog.add_within(incoming.with(claim), quota)?;
            Ok(matches!(added, Added::Yes | Added::Quarantined))
        })?;
        Ok(added)
    }

    /// Stores media fetched from another server under its address there, and opens it. If there is a row already, its blob was lost: the row
    /// gets the new bytes and keeps its `open` flag. `None` if the row cannot be refilled.
    pub(crate) fn add_remote(&self, ingest: Ingest, incoming: Incoming) -> Result<Option<StoredMedia>> {
        let mxc = incoming.mxc.clone();
        let (mut stored, mut replaced) = (None, None);
        let is_kept = self.keep(ingest, |claim| {
            let media = incoming.with(claim);
            let NewMedia { filled: content, created, open, .. } = media.clone();
            let added = self.catalog.add_checked(media.clone())?;
            if added == Added::Yes {
                let blob = self.open_blob(Some(&mxc), &content)?;
                stored = blob.map(|blob| StoredMedia { content, created, open, blob });
                return Ok(true);
            }
            if added == Added::Quarantined {
                return Ok(true);
            }
            replaced = self.catalog.refill(media)?;
            Ok(replaced.is_some())
        })?;
        if let Some(replaced) = replaced {
            self.finish_removal(replaced);
        }
        match stored {
            None if is_kept => match self.find(&mxc)? {
                Lookup::Stored(stored) => Ok(Some(stored)),
                Lookup::Pending { .. } | Lookup::Lost { .. } | Lookup::Withheld | Lookup::Unknown => Ok(None),
            },
            stored => Ok(stored),
        }
    }

    /// Stores media under an address that was created before. `No` if the address has content already, had expired by
    /// `incoming.created`, or was deleted.
    pub(crate) fn fill(&self, ingest: Ingest, incoming: Incoming, quota: Quota) -> Result<Added> {
        let mut added = Added::No;
        self.keep(ingest, |claim| {
            added = self.catalog.fill_within(incoming.with(claim), quota)?;
            Ok(added == Added::Yes)
        })?;
        Ok(added)
    }

    /// Adds many rows in one transaction, of blobs that the caller has claimed. Returns how many were new: existing rows stay as they are.
    #[cfg(test)]
    pub(crate) fn add_many(&self, media: Vec<NewMedia>) -> Result<usize> {
        self.catalog.add_many(media)
    }

    /// Stores a thumbnail, replacing one with the same key, and opens it. One that is larger than all thumbnails of its source may be is
    /// opened and not stored. `None` when no media refers to its source any more.
    pub(crate) fn keep_thumbnail(
        &self,
        ingest: Ingest,
        made: MadeThumbnail,
    ) -> Result<Option<KeptThumbnail>> {
        let MadeThumbnail { key, content_type, created, limit, max_bytes, anonymous } = made;
        if ingest.size() > max_bytes {
            let (size, content_type) = (ingest.size(), content_type.to_owned());
            let opened = ingest.unstored();
            let (sha256, blob) = opened.map_err(|error| Error::internal("reading a thumbnail", error))?;
            let content = Filled { sha256, size, content_type, upload_name: None };
            return Ok(Some(KeptThumbnail { content, blob, is_stored: false }));
        }
        let (mut kept, mut trimmed) = (None, RemovedRows::default());
        self.keep(ingest, |claim| {
            let content = filled(claim, content_type.to_owned(), None);
            let new = NewThumbnail { key, filled: content.clone(), created, limit, max_bytes, anonymous };
            let Some(removed) = self.catalog.add_thumbnail(new)? else { return Ok(false) };
            trimmed = removed;
            let blob = self.open_blob(None, &content)?;
            kept = blob.map(|blob| KeptThumbnail { content, blob, is_stored: true });
            Ok(true)
        })?;
        self.finish_removal(trimmed);
        Ok(kept)
    }

    /// Stores a preview, replacing the earlier one of its page, and returns it. `describe` writes it, given the address of the image. If the
    /// page still has the same image, it keeps its address, which clients have cached.
    pub(crate) fn keep_preview(
        &self,
        page: PreviewPage,
        image: Option<PreviewImage>,
        describe: impl FnOnce(Option<&Mxc>) -> Preview,
    ) -> Result<Preview> {
        let Some(PreviewImage { ingest, incoming }) = image else {
            let preview = describe(None);
            self.commit_preview(page, preview.clone(), None)?;
            return Ok(preview);
        };
        let mut kept = None;
        self.keep(ingest, |claim| {
            let known = self.catalog.preview_image(&page.url, &page.server_name)?;
            let mut image = incoming.with(claim);
            if let Some((media_id, sha256)) = known
                && sha256 == image.filled.sha256
            {
                image.mxc = Mxc { server_name: page.server_name.clone(), media_id };
            }
            let preview = describe(Some(&image.mxc));
            self.commit_preview(page, preview.clone(), Some(image))?;
            kept = Some(preview);
            Ok(true)
        })?;
        kept.ok_or_else(|| Error::internal("keeping a preview", io::Error::other("nothing was written")))
    }

    /// Writes the rows of a preview.
    fn commit_preview(&self, page: PreviewPage, preview: Preview, image: Option<NewMedia>) -> Result<()> {
        let PreviewPage { url, server_name, room } = page;
        let removed = self.catalog.keep_preview(NewPreview { url, preview, image }, &server_name, room)?;
        self.finish_removal(removed);
        Ok(())
    }

    /// Makes the blob durable, then writes its row with `commit`, which returns whether it wrote one. A blob without a row is removed again.
    fn keep(&self, ingest: Ingest, commit: impl FnOnce(&Claim) -> Result<bool>) -> Result<bool> {
        let (sha256, outcome) = match ingest.finish() {
            Ok(claim) => {
                if claim.has_replaced_damage() {
                    self.forget_damage(claim.sha256());
                }
                // The claim is held until the row is committed: in between nothing else refers to the blob.
                (claim.sha256(), commit(&claim))
            }
            Err(unfinished) => (unfinished.sha256, Err(storing(unfinished))),
        };
        // Also after an error: a commit that failed may have left the blob without a row. `finish_removal` asks the catalog first.
        if !matches!(outcome, Ok(true)) {
            self.finish_removal(RemovedRows { blobs: vec![sha256], ..RemovedRows::default() });
        }
        outcome
    }

    /// Removes the thumbnails of a blob whose bytes were damaged until now: they show the damage.
    fn forget_damage(&self, sha256: Sha256) {
        match self.catalog.forget_thumbnails_of(&sha256) {
            Ok(thumbnails) => self.finish_replacement(sha256, thumbnails),
            Err(error) => {
                tracing::error!(?error, "deleting the thumbnails of a damaged picture failed");
                self.finish_replacement(sha256, RemovedRows::default());
            }
        }
    }
}

impl Incoming {
    /// The row for a claimed blob.
    fn with(self, claim: &Claim) -> NewMedia {
        let Self { mxc, content_type, upload_name, user_id, created, open, anonymous } = self;
        NewMedia { mxc, filled: filled(claim, content_type, upload_name), user_id, created, open, anonymous }
    }
}

/// The columns of a row that describe its content.
fn filled(claim: &Claim, content_type: String, upload_name: Option<String>) -> Filled {
    Filled { sha256: claim.sha256(), size: claim.size(), content_type, upload_name }
}

/// The blob could not be made durable.
fn storing(unfinished: Unfinished) -> Error {
    let kind = unfinished.source.kind();
    Error::storing("storing media", io::Error::new(kind, unfinished))
}
