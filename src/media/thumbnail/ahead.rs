//! Thumbnails that are made before they are asked for, while the machine is idle (`thumbnails.pregenerate`).

use std::sync::Arc;

use super::Planned;
use super::render::RenderTask;
use crate::config::ThumbnailSize;
use crate::error::Result;
use crate::http::response::PreparedMedia;
use crate::matrix::Mxc;
use crate::media::Media;
use crate::store::stored_media::StoredMedia;
use crate::sync::admission::Caller;
use crate::sync::pools::Pool;
use crate::thumbnail::{Motion, ThumbnailRequest};

impl Media {
    /// Makes the configured sizes of uploads, one decode at a time and only while the machine is idle. Runs for ever. A decode that has
    /// begun runs to its end, and requests for its pictures share it; the others wait until the machine is idle again.
    pub(crate) async fn pregenerate(self: Arc<Self>) {
        loop {
            let mxc = self.thumbnails.backlog.next().await;
            let mut before = usize::MAX;
            loop {
                self.thumbnails.activity.wait_until_idle().await;
                match self.render_missing(&mxc).await {
                    Ok(lacked) if lacked > 0 && lacked < before => before = lacked,
                    Ok(_) => break,
                    Err(error) => {
                        tracing::debug!(?error, %mxc, "no thumbnails to make");
                        break;
                    }
                }
            }
        }
    }

    /// Makes what one decode gives of the configured sizes that an upload lacks. Says how many it lacked.
    pub(super) async fn render_missing(self: &Arc<Self>, mxc: &Mxc) -> Result<usize> {
        let original = Arc::new(PreparedMedia::new(self.own_media(mxc).await?));
        self.header(&original, Caller::background()).await?;
        let step = move |media: &Arc<Self>| media.missing_thumbnails(original.stored());
        let mut missing = self.blocking(Pool::Disk, step).await?;
        let lacked = missing.len();
        let Some(first) = missing.pop() else { return Ok(0) };
        let mut batch = vec![first];
        for task in missing {
            if self.renders_together(&batch, &task) {
                batch.push(task);
            }
        }
        self.render(batch, Caller::background()).await?;
        Ok(lacked)
    }

    /// What is to be made so that every configured size is there: nothing of a source that is known to break off. Blocks.
    pub(super) fn missing_thumbnails(&self, original: &StoredMedia) -> Result<Vec<RenderTask>> {
        let mut missing: Vec<RenderTask> = Vec::new();
        if self.thumbnails.outcomes.is_partial(original.content.sha256) {
            return Ok(missing);
        }
        for ThumbnailSize { width, height, method } in &self.config.get().thumbnails.sizes {
            let requested =
                ThumbnailRequest { width: *width, height: *height, method: *method, motion: Motion::Still };
            match self.plan_thumbnail(original, requested)? {
                Planned::Render(task) if missing.iter().all(|other| other.spec != task.spec) => {
                    missing.push(task.ahead());
                }
                Planned::Render(_) | Planned::Ready(_) | Planned::HeaderNeeded => {}
            }
        }
        Ok(missing)
    }
}
