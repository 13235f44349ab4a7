//! Looking up media: read the row, open the blob.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Store;
use super::blobs::{BlobReader, Lost};
use super::catalog::{Content, Filled, LastAccess, MediaRow, Preview, Reservation, Reserved, ThumbnailKey};
use super::sha256::Sha256;
use super::stored_media::StoredMedia;
use crate::error::{Error, Result};
use crate::matrix::{Expiry, Mxc, Timestamp};

/// How long a lost blob is not reported again.
const REPORT_AGAIN: Duration = Duration::from_hours(1);

/// Number of lost blobs that are remembered as reported; about 300 bytes each.
const REPORTED: usize = 1024;

/// What the store has under an address.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Row and blob.
    Stored(StoredMedia),
    /// An address that was created and has no content yet (MSC2246). It may have expired.
    Pending {
        created: Timestamp,
        /// When it expires.
        expires: Expiry,
    },
    /// A row whose blob was removed or damaged by something other than this service. This has been logged.
    Lost {
        /// Whether it might be served without a token.
        open: bool,
    },
    /// Must not be served or fetched: quarantined, or deleted for good.
    Withheld,
    /// No row.
    Unknown,
}

/// Lost blobs that were reported, and when.
pub(super) struct LossReports(Cache<(Option<Mxc>, Sha256), Instant>);

impl Default for LossReports {
    fn default() -> Self {
        Self(Cache::new(REPORTED))
    }
}

impl LossReports {
    /// Logs a lost blob, at most once an hour: otherwise each request for it would write a line.
    fn report(&self, mxc: Option<&Mxc>, sha256: &Sha256, lost: Lost) {
        let (key, now) = ((mxc.cloned(), *sha256), Instant::now());
        if self.0.get(&key).is_some_and(|last| now.saturating_duration_since(last) < REPORT_AGAIN) {
            return;
        }
        self.0.insert(key, now);
        let mxc = mxc.map(tracing::field::display);
        tracing::error!(mxc, %sha256, why = lost.to_string(), "a blob in the catalog is missing or damaged");
    }
}

impl Store {
    /// Looks for media and opens its blob.
    pub(crate) fn find(&self, mxc: &Mxc) -> Result<Lookup> {
        let Some(MediaRow { content, created, open, is_quarantined, .. }) = self.catalog.media(mxc)? else {
            return Ok(Lookup::Unknown);
        };
        if is_quarantined {
            return Ok(Lookup::Withheld);
        }
        Ok(match content {
            Content::Gone => Lookup::Withheld,
            Content::Pending { expires } => Lookup::Pending { created, expires },
            Content::Stored(content) => match self.open_blob(Some(mxc), &content)? {
                Some(blob) => Lookup::Stored(StoredMedia { content, created, open, blob }),
                None => Lookup::Lost { open },
            },
        })
    }

    /// The row of an address. Does not look at the blob.
    pub(crate) fn media(&self, mxc: &Mxc) -> Result<Option<MediaRow>> {
        self.catalog.media(mxc)
    }

    /// Opens the blob that a row refers to, of the media `mxc` or of a thumbnail. `None` if it is lost, which is logged, or was removed meanwhile.
    pub(crate) fn open_blob(&self, mxc: Option<&Mxc>, content: &Filled) -> Result<Option<BlobReader>> {
        let opened = self.blobs.open(&content.sha256, content.size);
        match opened.map_err(|error| Error::internal("opening a blob", error))? {
            Ok(blob) => Ok(Some(blob)),
            // Its rows were removed between the look-up and the opening.
            Err(_) if !self.catalog.refers_to(&content.sha256)? => Ok(None),
            Err(lost) => {
                self.losses.report(mxc, &content.sha256, lost);
                Ok(None)
            }
        }
    }

    /// The row of a stored thumbnail. [`Self::open_blob`] opens it.
    pub(crate) fn thumbnail(&self, key: &ThumbnailKey) -> Result<Option<Filled>> {
        self.catalog.thumbnail(key)
    }

    /// The stored preview of a normalised URL. It may have expired.
    pub(crate) fn preview(&self, url: &str) -> Result<Option<Preview>> {
        self.catalog.preview(url)
    }

    /// Records when media was last served, and whether a user or a server wanted it. A time is written only if it is at least a day later
    /// than the one in the catalog.
    pub(crate) fn touch(&self, accesses: Vec<(Mxc, LastAccess)>) -> Result<()> {
        self.catalog.touch(accesses)
    }

    /// As [`Self::touch`], for thumbnails, which are named by their own hashes.
    pub(crate) fn touch_thumbnails(&self, accesses: Vec<(Sha256, LastAccess)>) -> Result<()> {
        self.catalog.touch_blobs(accesses)
    }

    /// Creates an address without content, unless its user has too many of them.
    pub(crate) fn reserve(&self, reservation: Reservation) -> Result<Reserved> {
        self.catalog.reserve(reservation)
    }
}
