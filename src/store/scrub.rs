//! Reading all files for damage: what a card has lost is found before somebody asks for it.

use super::Store;
use super::catalog::{Group, ScrubState, Terms, ToScrub};
use super::sha256::Sha256;
use crate::error::Result;
use crate::matrix::{Mxc, Timestamp};

/// A damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub(crate) sha256: Sha256,
    /// Whether its rows were removed, because it can be fetched or made again. Other files stay.
    pub(crate) is_removed: bool,
    /// One of its addresses.
    pub(crate) mxc: Option<Mxc>,
}

impl Store {
    /// The next blobs in the order of their hashes.
    pub(crate) fn to_scrub(&self, after: Option<Sha256>, limit: u32) -> Result<Vec<ToScrub>> {
        self.catalog.to_scrub(after, limit)
    }

    /// Reads a blob. A damaged copy of another server's media or of a thumbnail is removed: it is fetched or made again on demand. Other
    /// media is kept, and logged as an error.
    pub(crate) fn scrub(&self, blob: ToScrub, now: Timestamp) -> Result<Option<Damaged>> {
        let ToScrub { sha256, is_copy, .. } = blob;
        // It may have been evicted since it was listed.
        if self.blobs.is_whole(&sha256) || !self.catalog.refers_to(&sha256)? {
            return Ok(None);
        }
        let mxc = self.catalog.address_of(&sha256)?;
        let mut is_removed = false;
        if is_copy {
            // Nothing is spared: it is of no use.
            let terms = Terms { now, avatars_since: Timestamp(i64::MAX) };
            for group in [Group::Thumbnails, Group::Remote] {
                self.evict(&group, vec![sha256], terms)?;
            }
            is_removed = !self.catalog.refers_to(&sha256)?;
        }
        let shown = mxc.as_ref().map(tracing::field::display);
        if is_removed {
            tracing::warn!(mxc = shown, %sha256, "a copy was damaged and is removed; it comes back on demand");
        } else {
            tracing::error!(mxc = shown, %sha256, "a file is damaged or missing, and cannot be had again; restore it from a backup");
        }
        Ok(Some(Damaged { sha256, is_removed, mxc }))
    }

    /// How far the reading has come.
    pub(crate) fn scrub_state(&self) -> Result<ScrubState> {
        self.catalog.scrub_state()
    }

    /// Notes how far the reading has come.
    pub(crate) fn set_scrub_state(&self, state: ScrubState) -> Result<()> {
        self.catalog.set_scrub_state(state)
    }
}
