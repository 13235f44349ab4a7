//! Blurhashes of uploads (MSC2448), for the uploader's own event.

use std::sync::Arc;
use std::time::Duration;

use super::render;
use crate::error::Result;
use crate::matrix::Mxc;
use crate::media::Media;
use crate::sync::pools::Pool;
use crate::thumbnail;

/// Longest work on a blurhash: the upload's answer waits for it.
const BLURHASH_TIMEOUT: Duration = Duration::from_secs(5);

impl Media {
    /// The blurhash of an upload, if it is a picture and there are a worker and memory for it soon. An upload never fails for want of
    /// its blurhash.
    pub(crate) async fn blurhash(self: &Arc<Self>, mxc: &Mxc) -> Option<String> {
        match tokio::time::timeout(BLURHASH_TIMEOUT, self.make_blurhash(mxc)).await {
            Ok(Ok(blurhash)) => Some(blurhash),
            Ok(Err(error)) => {
                tracing::debug!(?error, %mxc, "no blurhash");
                None
            }
            Err(_elapsed) => {
                tracing::debug!(%mxc, "no blurhash: no time");
                None
            }
        }
    }

    async fn make_blurhash(self: &Arc<Self>, mxc: &Mxc) -> Result<String> {
        let original = self.own_media(mxc).await?;
        let plan = move |media: &Arc<Self>| {
            let header = media.read_header(&original)?;
            media.render_task(&original, header, thumbnail::cheapest_spec(&header))
        };
        let task = self.blocking(Pool::Disk, plan).await?;
        let worker = self.pools.enter(Pool::Thumbnails).await?;
        let memory = self.thumbnails.memory.acquire(render::memory(std::slice::from_ref(&task))).await?;
        let media = Arc::clone(self);
        let step = move || {
            // Kept until the work ends, which may be after the timeout.
            let _memory = memory;
            media.render_blurhash(&task, BLURHASH_TIMEOUT)
        };
        worker.run(step).await
    }
}
