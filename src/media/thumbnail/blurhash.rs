//! Blurhashes of uploads (MSC2448), for the uploader's own event.

use std::sync::Arc;
use std::time::Duration;

use super::render;
use crate::error::{Error, Result};
use crate::http::response::PreparedMedia;
use crate::matrix::Mxc;
use crate::media::Media;
use crate::sync::Priority;
use crate::sync::admission::{Caller, Work};
use crate::sync::pools::Pool;
use crate::thumbnail;

/// Longest work on a blurhash: the upload's answer waits for it.
const BLURHASH_TIMEOUT: Duration = Duration::from_secs(5);

impl Media {
    /// The blurhash of an upload, if it is a picture and there are a worker and memory for it soon. An upload never fails for want of
    /// its blurhash.
    pub(crate) async fn blurhash(self: &Arc<Self>, mxc: &Mxc, caller: Caller) -> Option<String> {
        match tokio::time::timeout(BLURHASH_TIMEOUT, self.make_blurhash(mxc, caller)).await {
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

    async fn make_blurhash(self: &Arc<Self>, mxc: &Mxc, caller: Caller) -> Result<String> {
        let original = Arc::new(PreparedMedia::new(self.own_media(mxc).await?));
        self.header(&original, caller).await?;
        let plan = move |media: &Arc<Self>| {
            let original = original.stored();
            let header = media.known_header(original.content.sha256)?.ok_or_else(Error::not_found)?;
            media.render_task(original, header, thumbnail::cheapest_spec(&header))
        };
        let task = self.blocking(Pool::Disk, plan).await?;
        let (kind, ask) = task.demand();
        let worker = self.admission.enter(kind, &Work::of(caller), ask).await?;
        let memory = render::memory(std::slice::from_ref(&task));
        let memory = self.thumbnails.memory.acquire(memory, Priority::High).await;
        let media = Arc::clone(self);
        let step = move || {
            // Kept until the work ends, which may be after the timeout.
            let _memory = memory;
            media.render_blurhash(&task, BLURHASH_TIMEOUT)
        };
        worker.run(step).await
    }
}
