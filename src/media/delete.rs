//! Deleting one's own media.
//!
//! Every deletion ends in [`Media::delete`], which the operator's commands call too: the address is never served, fetched or given out again;
//! the bytes go unless another address has them; who waits for the media is told. Other servers keep their copies.

use std::sync::Arc;

use super::Media;
use crate::error::{Error, Kind, Result};
use crate::matrix::{Mxc, UserId};
use crate::store::catalog::{Record, Selection};
use crate::sync::pools::Pool;

/// What it is when the media was deleted before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenGone {
    /// A success.
    Fine,
    /// The error for media that does not exist.
    NotFound,
}

impl Media {
    /// Deletes media that `user_id` has uploaded, or an address that it has created.
    ///
    /// # Errors
    /// `Forbidden` for the media of others, `NotFound` for an unknown address.
    pub(crate) async fn delete_own(
        self: &Arc<Self>,
        mxc: &Mxc,
        user_id: UserId,
        when_gone: WhenGone,
    ) -> Result<()> {
        let mxc = mxc.clone();
        self.blocking(Pool::Disk, move |media| media.delete_if_own(mxc, &user_id, when_gone)).await
    }
}

/// The blocking steps.
impl Media {
    fn delete_if_own(&self, mxc: Mxc, user_id: &UserId, when_gone: WhenGone) -> Result<()> {
        // An uploader does not change, so nothing can come between the question and the deletion.
        match self.store.record(&mxc)? {
            Record::Media { user_id: Some(owner), .. } if self.is_ours(&mxc) && owner == *user_id => {
                self.delete(&Selection::Listed(vec![mxc])).map(drop)
            }
            Record::Gone { is_quarantined: false, .. }
                if self.is_ours(&mxc) && when_gone == WhenGone::Fine =>
            {
                Ok(())
            }
            Record::Gone { .. } | Record::Unknown if self.is_ours(&mxc) => Err(Error::not_found()),
            Record::Media { .. } | Record::Gone { .. } | Record::Unknown => {
                Err(Error::new(Kind::Forbidden, "only the user who uploaded media may delete it"))
            }
        }
    }

    /// Deletes media for good.
    pub(super) fn delete(&self, selection: &Selection) -> Result<u64> {
        let deleted = self.store.delete(selection, &self.server_name, (self.clock)())?;
        match selection {
            Selection::Listed(listed) => {
                let first = listed.first().map(tracing::field::display);
                tracing::info!(first, listed = listed.len(), deleted, "deleted media");
            }
            Selection::Server(server) => tracing::info!(%server, deleted, "deleted all media of a server"),
            Selection::User(user_id) => {
                tracing::info!(user_id = user_id.as_str(), deleted, "deleted all media of a user");
            }
        }
        Ok(deleted)
    }
}
