//! Storing: blob durable first, row second.

use std::io;

use super::blobs::{BlobReader, Claim, Ingest, Unfinished};
use super::catalog::{
    Filled, NewMedia, NewPreview, NewThumbnail, Preview, Removed as RemovedRows, Room, ThumbnailKey,
};
use super::sha256::Sha256;
use super::stored_media::StoredMedia;
use super::{Lookup, Store};
use crate::error::{Error, Result};
use crate::matrix::{Mxc, ServerName, Timestamp, UserId};

/// What is written of media beside its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// Its address.
    pub(crate) mxc: Mxc,
    /// As the uploader or the other server claims it.
    pub(crate) content_type: String,
    /// The file's name as it was given.
    pub(crate) upload_name: Option<String>,
    /// Uploader, for local media.
    pub(crate) user_id: Option<UserId>,
    /// Now.
    pub(crate) created: Timestamp,
    /// Whether it may be served without a token (`unauthenticated_media: frozen`).
    pub(crate) open: bool,
}

/// A thumbnail that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MadeThumbnail {
    /// Which one.
    pub(crate) key: ThumbnailKey,
    /// What its bytes are.
    pub(crate) content_type: &'static str,
    /// Now.
    pub(crate) created: Timestamp,
    /// Most thumbnails of the same source that are kept besides this one; the oldest make room.
    pub(crate) limit: u32,
}

/// A thumbnail that is stored and open.
#[derive(Clone, Debug)]
pub(crate) struct KeptThumbnail {
    /// What its row says.
    pub(crate) content: Filled,
    /// Its bytes.
    pub(crate) blob: BlobReader,
}

/// The page of a preview to be kept.
#[derive(Clone, Debug)]
pub(crate) struct PreviewPage {
    /// Its normalised URL.
    pub(crate) url: String,
    /// Our own name.
    pub(crate) server_name: ServerName,
    /// How much previews may keep in all; the next to expire make room.
    pub(crate) room: Room,
}

/// The image of a preview to be kept.
#[derive(Debug)]
pub(crate) struct PreviewImage {
    /// Its bytes.
    pub(crate) ingest: Ingest,
    /// What is written of it. Its address is used unless the page has the same image under another one already.
    pub(crate) incoming: Incoming,
}

impl Store {
    /// Stores media under a new address. Identical bytes share their blob (MSC2704). Says whether the address was free: what has it
    /// stays as it is, and nothing of the new media.
    pub(crate) fn add(&self, ingest: Ingest, incoming: Incoming) -> Result<bool> {
        self.keep(ingest, |claim| self.catalog.add(incoming.with(claim)))
    }

    /// Stores what was fetched from another server, under its address there, and opens it. A row that is there has lost its blob: it
    /// gets the new bytes, and whether it is open stays. `None` when it is no row to be filled anew.
    pub(crate) fn add_remote(&self, ingest: Ingest, incoming: Incoming) -> Result<Option<StoredMedia>> {
        let mxc = incoming.mxc.clone();
        let (mut stored, mut replaced) = (None, None);
        let is_kept = self.keep(ingest, |claim| {
            let media = incoming.with(claim);
            let NewMedia { filled: content, created, open, .. } = media.clone();
            if self.catalog.add(media.clone())? {
                let blob = self.open_blob(Some(&mxc), &content)?;
                stored = blob.map(|blob| StoredMedia { content, created, open, blob });
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
                Lookup::Pending { .. } | Lookup::Lost { .. } | Lookup::Unknown => Ok(None),
            },
            stored => Ok(stored),
        }
    }

    /// Fills an address that was created before, unless it has expired by `incoming.created`. Says whether it did: `false` means that
    /// it is filled, expired or gone.
    pub(crate) fn fill(&self, ingest: Ingest, incoming: Incoming) -> Result<bool> {
        self.keep(ingest, |claim| {
            let NewMedia { mxc, filled, created, open, .. } = incoming.with(claim);
            self.catalog.fill(&mxc, filled, created, open)
        })
    }

    /// Adds many rows at once, durable together, of blobs that the caller has claimed. Says how many: known addresses stay as they
    /// are.
    #[cfg(test)]
    pub(crate) fn add_many(&self, media: Vec<NewMedia>) -> Result<usize> {
        self.catalog.add_many(media)
    }

    /// Keeps a thumbnail in place of one with the same key, and opens it. `None` when no media has its source any more.
    pub(crate) fn keep_thumbnail(
        &self,
        ingest: Ingest,
        made: MadeThumbnail,
    ) -> Result<Option<KeptThumbnail>> {
        let MadeThumbnail { key, content_type, created, limit } = made;
        let (mut kept, mut trimmed) = (None, RemovedRows::default());
        self.keep(ingest, |claim| {
            let content = filled(claim, content_type.to_owned(), None);
            let new = NewThumbnail { key, filled: content.clone(), created, limit };
            let Some(removed) = self.catalog.add_thumbnail(new)? else { return Ok(false) };
            trimmed = removed;
            kept = self.open_blob(None, &content)?.map(|blob| KeptThumbnail { content, blob });
            Ok(true)
        })?;
        self.finish_removal(trimmed);
        Ok(kept)
    }

    /// Keeps a preview in place of the one its page had, with or without an image, and gives it back. `describe` writes it, given the
    /// image's address: the same image keeps the one it had, for clients have it.
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

    /// Makes a durable blob of what was taken in and then, by `commit`, its row. Says whether `commit` wrote one. A blob that got no
    /// row is removed again.
    fn keep(&self, ingest: Ingest, commit: impl FnOnce(&Claim) -> Result<bool>) -> Result<bool> {
        let (sha256, outcome) = match ingest.finish() {
            Ok(claim) => {
                if claim.has_replaced_damage() {
                    self.forget_damage(claim.sha256());
                }
                // The claim lasts until the row is committed.
                (claim.sha256(), commit(&claim))
            }
            Err(unfinished) => (unfinished.sha256, Err(storing(unfinished))),
        };
        if !matches!(outcome, Ok(true)) {
            self.finish_removal(RemovedRows { blobs: vec![sha256], ..RemovedRows::default() });
        }
        outcome
    }

    /// Lets go of what was made or kept of a damaged blob. The thumbnails of it go; it is whole again itself.
    fn forget_damage(&self, sha256: Sha256) {
        match self.catalog.forget_thumbnails_of(&sha256) {
            Ok(thumbnails) => self.finish_replacement(sha256, thumbnails),
            Err(error) => {
                tracing::error!(?error, "thumbnails of a damaged picture stay");
                self.finish_replacement(sha256, RemovedRows::default());
            }
        }
    }
}

impl Incoming {
    /// The row of these bytes.
    fn with(self, claim: &Claim) -> NewMedia {
        let Self { mxc, content_type, upload_name, user_id, created, open } = self;
        NewMedia { mxc, filled: filled(claim, content_type, upload_name), user_id, created, open }
    }
}

/// What a row says of a blob.
fn filled(claim: &Claim, content_type: String, upload_name: Option<String>) -> Filled {
    Filled { sha256: claim.sha256(), size: claim.size(), content_type, upload_name }
}

/// The blob could not be made durable.
fn storing(unfinished: Unfinished) -> Error {
    let kind = unfinished.source.kind();
    Error::storing("storing media", io::Error::new(kind, unfinished))
}
