//! Thumbnails: cached, stored, or rendered now. All requests for the same picture share one rendering.
//!
//! A thumbnail may be seen by everyone who may download its original.
//!
//! [Spec, thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).

mod ahead;
mod blurhash;
mod outcomes;
mod render;

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use self::outcomes::{CachedAnswer, Outcomes};
use self::render::{Batch, MadePicture, RenderTask, thumbnail_key};
use super::download::{AccessOptions, Download, WaitFor};
use super::response_cache::CacheKey;
use super::{Media, Viewer};
use crate::config::{self, ThumbnailMethod};
use crate::error::{Error, Result};
use crate::http::response::PreparedMedia;
use crate::log;
use crate::matrix::Mxc;
use crate::store::blobs::BlobReader;
use crate::store::catalog::{Filled, LastAccess};
use crate::store::sha256::Sha256;
use crate::store::stored_media::StoredMedia;
use crate::sync::admission::{Ask, Caller, Place, Work, WorkKind};
use crate::sync::pools::Pool;
use crate::sync::{Activity, Backlog, Batcher, Handle, Priority, SingleFlight, WeightedSemaphore};
use crate::thumbnail::{self, Header, Motion, Plan, Rect, RenderSpec, Source, ThumbnailRequest};

/// Longest time to render an animation. What remains of the batch's time is for a still image instead.
pub(crate) const ANIMATION_TIMEOUT: Duration = Duration::from_secs(15);

/// Uploads whose thumbnails are rendered ahead when the machine is idle; those of further uploads are rendered on request.
const MAX_BACKLOG: usize = 256;

/// Types that a thumbnail may have (spec, thumbnails). An original of another type is converted to one of them.
const WEB_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// Says how long an animation may take to be made.
pub(crate) type AnimationTime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// What requests for thumbnails share.
pub(super) struct ThumbnailState {
    outcomes: Outcomes,
    /// Sources whose headers are being read.
    headers: SingleFlight<Sha256, ()>,
    /// Pictures being rendered. The result is `None` for one that was rendered ahead of requests and not kept.
    rendering: SingleFlight<(Sha256, RenderSpec), Option<MadePicture>>,
    /// Those that wait for a worker. One decode of a source may give several of them.
    batcher: Batcher<RenderTask, Option<MadePicture>>,
    /// Memory for all decodes together (`thumbnails.memory`).
    pub(super) memory: WeightedSemaphore,
    /// Uploads whose thumbnails are to be rendered ahead of requests.
    backlog: Backlog<Mxc>,
    activity: Arc<Activity>,
    animation_time: AnimationTime,
}

/// How a request for a thumbnail can be answered.
#[derive(Debug)]
enum Planned {
    Ready(PreparedMedia),
    Render(RenderTask),
    /// The picture's header must be read first.
    HeaderNeeded,
}

/// The largest side that clients ask for when they show an avatar, pixels.
const AVATAR: u32 = 128;

/// Whether clients ask like this for avatars, emoji and stickers.
fn is_like_an_avatar(requested: ThumbnailRequest) -> bool {
    requested.method == ThumbnailMethod::Crop && requested.width.max(requested.height) <= AVATAR
}

impl Media {
    /// The thumbnail that `requested` asks for, of media that is found or fetched as in a download.
    ///
    /// # Errors
    /// Those of [`Self::download`]; `BadRequest` for media that is no picture or a broken one; `UploadTooLarge` for one over
    /// `thumbnails.max_pixels` or `thumbnails.memory`; `LimitExceeded` when too many pictures are being rendered.
    pub(crate) async fn thumbnail(
        self: &Arc<Self>,
        mxc: &Mxc,
        requested: ThumbnailRequest,
        options: AccessOptions,
    ) -> Result<Arc<PreparedMedia>> {
        let key = CacheKey { mxc: mxc.clone(), requested: Some(requested) };
        if let Some(prepared) = self.recently_served(&key, options.viewer())? {
            self.note_thumbnail(&key, &prepared, options);
            return Ok(prepared);
        }
        let as_of = self.response_cache.begin_lookup();
        let Download::Stored(original) = self.download(mxc, options, WaitFor::Stored).await? else {
            return Err(Error::not_found());
        };
        let mut planned = Planned::HeaderNeeded;
        let source = original.stored().content.sha256;
        let outcomes = &self.thumbnails.outcomes;
        let mut is_known = outcomes.answer(source, requested).is_some() || outcomes.header(source).is_some();
        // Once more if what was known is forgotten by then.
        for _ in 0..3 {
            if !is_known {
                self.header(&original, options.caller).await?;
            }
            let original = Arc::clone(&original);
            let plan = move |media: &Arc<Self>| media.plan_thumbnail(original.stored(), requested);
            planned = self.blocking(Pool::Lookup, plan).await?;
            if !matches!(planned, Planned::HeaderNeeded) {
                break;
            }
            is_known = false;
        }
        let prepared = match planned {
            Planned::Ready(prepared) => prepared,
            Planned::Render(task) => {
                let picture = self.render_for_request(task, options.caller).await?;
                self.answer_with(original.stored(), requested, picture)
            }
            Planned::HeaderNeeded => return Err(Error::not_found()),
        };
        let prepared = Arc::new(prepared);
        self.response_cache.insert(&key, &prepared, as_of);
        self.note_thumbnail(&key, &prepared, options);
        Ok(prepared)
    }

    /// Notes that a thumbnail is served. Never blocks.
    fn note_thumbnail(&self, key: &CacheKey, prepared: &PreparedMedia, options: AccessOptions) {
        let viewer = options.viewer();
        self.access_times.note_thumbnail(prepared.stored().content.sha256, self.access(viewer));
        // Clients ask for avatars, emoji and stickers with `crop`, for pictures in a timeline with `scale`. Strangers cannot pin anything.
        let as_avatar = viewer == Viewer::Known && key.requested.is_some_and(is_like_an_avatar);
        if as_avatar {
            self.access_times.note_media(&key.mxc, LastAccess { as_avatar, ..self.access(viewer) });
        }
    }

    /// Reads the header of a picture, once for all requests, unless that failed recently.
    pub(super) async fn header(
        self: &Arc<Self>,
        original: &Arc<PreparedMedia>,
        caller: Caller,
    ) -> Result<()> {
        let source = original.stored().content.sha256;
        if self.known_header(source)?.is_some() {
            return Ok(());
        }
        let (media, original) = (Arc::clone(self), Arc::clone(original));
        let read = |work: Work| async move {
            let reading = Arc::clone(&media);
            let step = move || reading.read_header(original.stored());
            media.admission.run(WorkKind::HeaderRead, &work, Ask::default(), step).await
        };
        self.thumbnails.headers.run(source, caller, read).await
    }

    /// Renders a picture that a request waits for, twice at most: a picture that was being rendered ahead of requests is not kept if its
    /// source is truncated, and is rendered again for the request.
    async fn render_for_request(self: &Arc<Self>, task: RenderTask, caller: Caller) -> Result<MadePicture> {
        for _ in 0..2 {
            if let Some(picture) = self.render(vec![task.again()], caller).await?.pop().flatten() {
                return Ok(picture);
            }
        }
        Err(Error::not_found())
    }

    /// Renders pictures, each once for all requests that want it.
    async fn render(
        self: &Arc<Self>,
        tasks: Vec<RenderTask>,
        caller: Caller,
    ) -> Result<Vec<Option<MadePicture>>> {
        // All of them are queued before the first is made, so that those that share a decode are made together.
        let queue = |task: RenderTask| (task.clone(), self.thumbnails.batcher.join(task));
        let queued: Vec<_> = tasks.into_iter().map(queue).collect();
        let mut pictures = Vec::new();
        for (task, handle) in queued {
            let key = (task.source, task.spec);
            let start = |work: Work| Arc::clone(self).render_when_free(task, handle, work);
            pictures.push(self.thumbnails.rendering.run(key, caller, start).await?);
        }
        Ok(pictures)
    }

    /// Waits for a worker, then renders a queued picture together with those that share its decode. Does nothing if another task has
    /// rendered it along with its own meanwhile.
    async fn render_when_free(
        self: Arc<Self>,
        task: RenderTask,
        mut handle: Handle<RenderTask, Option<MadePicture>>,
        work: Work,
    ) -> Result<Option<MadePicture>> {
        task.begin(&work);
        let (kind, ask) = task.demand();
        let worker = tokio::select! {
            biased;
            outcome = handle.outcome() => return outcome,
            worker = self.admission.enter(kind, &work, ask) => worker?,
        };
        match handle.take(|batch, further| self.renders_together(batch, further)) {
            // A task of its own: others may wait for the batch after the request that began it has gone.
            Some((batch, waiters)) => {
                let media = Arc::clone(&self);
                let render = async move { waiters.tell(media.render_with(worker, batch).await) };
                tokio::spawn(render.instrument(log::request_span()));
            }
            None => drop(worker),
        }
        handle.outcome().await
    }

    /// Renders a batch when memory is available.
    async fn render_with(
        self: &Arc<Self>,
        worker: Place,
        batch: Vec<RenderTask>,
    ) -> Result<Vec<Option<MadePicture>>> {
        let source = batch.first().map(|task| task.source);
        let (work, memory) = (render::work(&batch), render::memory(&batch));
        let priority = if work.is_for_unknown() { Priority::Low } else { Priority::High };
        if memory > self.thumbnails.memory.most(priority) {
            return Err(render::too_much_memory());
        }
        let memory = self.thumbnails.memory.acquire(memory, priority).await;
        let media = Arc::clone(self);
        let step = move || {
            let _memory = memory;
            media.render_batch(&batch)
        };
        let Batch { pictures, decoded } = worker.in_work(work).run(step).await?;
        tracing::debug!(source = source.map(tracing::field::display), sizes = decoded, "decoded a picture");
        Ok(pictures)
    }
}

/// The blocking steps.
impl Media {
    /// Decides how to answer a request.
    fn plan_thumbnail(&self, original: &StoredMedia, requested: ThumbnailRequest) -> Result<Planned> {
        let (source, outcomes) = (original.content.sha256, &self.thumbnails.outcomes);
        match outcomes.answer(source, requested) {
            Some(CachedAnswer::Original(content_type)) => {
                return Ok(original_as_thumbnail(original, content_type));
            }
            Some(CachedAnswer::Made(content)) => {
                if let Some(blob) = self.store.open_blob(None, &content)? {
                    return Ok(Planned::Ready(PreparedMedia::new(as_thumbnail(original, content, blob))));
                }
            }
            None => {}
        }
        let Some(header) = self.known_header(source)? else { return Ok(Planned::HeaderNeeded) };
        let planned = match Plan::new(header.source(), requested, &self.config.get().thumbnails.sizes) {
            Plan::Original if !WEB_TYPES.contains(&header.content_type()) => {
                let Source { width, height, .. } = header.source();
                RenderSpec { crop: Rect { x: 0, y: 0, width, height }, width, height, animated: false }
            }
            Plan::Render(spec) if !self.is_better_as_it_is(&header, spec, requested) => spec,
            Plan::Original | Plan::Render(_) => {
                let content_type = header.content_type();
                outcomes.note_answer(source, requested, CachedAnswer::Original(content_type));
                return Ok(original_as_thumbnail(original, content_type));
            }
        };
        let planned = thumbnail::fit_to_memory(&header, planned, &self.thumbnail_limits());
        let is_stopgap = planned.animated && outcomes.had_no_time(source, planned, &self.monotonic);
        let spec = RenderSpec { animated: planned.animated && !is_stopgap, ..planned };
        if let Some(content) = self.store.thumbnail(&thumbnail_key(source, spec))?
            && let Some(blob) = self.store.open_blob(None, &content)?
        {
            let picture = MadePicture { content, blob, is_stopgap };
            return Ok(Planned::Ready(self.answer_with(original, requested, picture)));
        }
        self.render_task(original, header, spec).map(Planned::Render)
    }

    /// Whether to send the original because a size beyond all configured ones would need too much memory. Clients can show it, and
    /// the specification allows a thumbnail to be larger than requested.
    fn is_better_as_it_is(&self, header: &Header, spec: RenderSpec, requested: ThumbnailRequest) -> bool {
        let config = self.config.get();
        let is_still = header.source().motion == Motion::Still;
        is_still
            && WEB_TYPES.contains(&header.content_type())
            && requested.exceeds_all(&config.thumbnails.sizes)
            && thumbnail::estimate(header, &[spec]) > config.thumbnails.memory.0
    }

    /// Answers a request with a picture, and caches that answer unless the picture is a stopgap.
    fn answer_with(
        &self,
        original: &StoredMedia,
        requested: ThumbnailRequest,
        picture: MadePicture,
    ) -> PreparedMedia {
        let MadePicture { content, blob, is_stopgap } = picture;
        if is_stopgap {
            return PreparedMedia::stopgap(as_thumbnail(original, content, blob));
        }
        let answer = CachedAnswer::Made(content.clone());
        self.thumbnails.outcomes.note_answer(original.content.sha256, requested, answer);
        PreparedMedia::new(as_thumbnail(original, content, blob))
    }
}

impl ThumbnailState {
    pub(super) fn new(
        config: &config::Thumbnails,
        activity: Arc<Activity>,
        animation_time: AnimationTime,
    ) -> Self {
        Self {
            outcomes: Outcomes::new(),
            headers: SingleFlight::default(),
            rendering: SingleFlight::default(),
            batcher: Batcher::default(),
            memory: WeightedSemaphore::new(config.memory.0),
            backlog: Backlog::at_most(if config.pregenerate { MAX_BACKLOG } else { 0 }),
            activity,
            animation_time,
        }
    }

    /// Queues the thumbnails of an upload for rendering while the machine is idle, if that is configured.
    pub(super) fn make_later(&self, mxc: &Mxc) {
        self.backlog.add(mxc.clone());
    }

    /// Drops what is cached about thumbnails whose blobs are gone, and the failures of sources whose damaged bytes were replaced.
    pub(super) fn forget_blobs(&self, blobs: &[Sha256]) {
        self.outcomes.forget_blobs(blobs);
    }
}

/// The original as its own thumbnail.
fn original_as_thumbnail(original: &StoredMedia, content_type: &'static str) -> Planned {
    let content = Filled { content_type: content_type.to_owned(), ..original.content.clone() };
    Planned::Ready(PreparedMedia::new(as_thumbnail(original, content, original.blob.clone())))
}

/// A picture as it is served. Its type comes from its bytes, because the uploader's claim may be false, and its name from the type.
fn as_thumbnail(original: &StoredMedia, content: Filled, blob: BlobReader) -> StoredMedia {
    let extension = content.content_type.trim_start_matches("image/").replace("jpeg", "jpg");
    let content = Filled { upload_name: Some(format!("thumbnail.{extension}")), ..content };
    StoredMedia { content, blob, ..original.clone() }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::config::ThumbnailMethod;
    use crate::error::Kind;
    use crate::matrix::UserId;
    use crate::media::Upload;
    use crate::media::tests::media_in;

    /// The log of this thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// Logs what happens on this thread, until the guard is dropped.
        fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::DEBUG)
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .finish();
            (log, tracing::subscriber::set_default(subscriber))
        }

        /// How many sizes came out of each decode.
        fn decodes(&self) -> Vec<usize> {
            let log = self.0.lock().unwrap();
            let lines = std::str::from_utf8(&log).unwrap().lines();
            let sizes = lines.filter(|line| line.contains("decoded a picture"));
            sizes.map(|line| line.rsplit("sizes=").next().unwrap().trim().parse().unwrap()).collect()
        }
    }

    /// A sidecar, what it logs, and an upload of its own: a JPEG if `is_jpeg`, else a PNG.
    async fn with_upload(folder: &std::path::Path, is_jpeg: bool) -> (Arc<Media>, Mxc) {
        let media = media_in(folder, |_config| {});
        let pixels: Vec<u8> = (0..1800_u32 * 1200 * 3)
            .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap())
            .collect();
        let mut bytes = Vec::new();
        if is_jpeg {
            let encoder = jpeg_encoder::Encoder::new(&mut bytes, 90);
            encoder.encode(&pixels, 1800, 1200, jpeg_encoder::ColorType::Rgb).unwrap();
        } else {
            let mut encoder = png::Encoder::new(&mut bytes, 1800, 1200);
            encoder.set_color(png::ColorType::Rgb);
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
        let upload = Upload {
            user_id: UserId::new("@alice:example.org"),
            content_type: "image/png".to_owned(),
            file_name: None,
            announced: None,
        };
        let store = move |media: &Arc<Media>| {
            let mut ingest = media.begin_upload(None)?;
            ingest.write(&bytes).unwrap();
            media.store_upload(ingest, upload)
        };
        let mxc = media.blocking(Pool::Disk, store).await.unwrap();
        (media, mxc)
    }

    /// What is to be made of an upload.
    async fn missing(media: &Arc<Media>, mxc: &Mxc) -> Vec<RenderTask> {
        let original = Arc::new(PreparedMedia::new(media.own_media(mxc).await.unwrap()));
        media.header(&original, Caller::operator()).await.unwrap();
        media.missing_thumbnails(original.stored()).unwrap()
    }

    #[tokio::test]
    async fn sizes_asked_for_while_the_worker_is_busy_come_out_of_as_few_decodes_as_can_be() {
        let (log, _logging) = Log::begin();
        // A JPEG of this size is decoded at 1/8, 1/4 and 1/2 for the small sizes, whole for the two large ones.
        for (is_jpeg, decodes) in [(false, vec![5]), (true, vec![1, 1, 1, 2])] {
            let folder = tempfile::tempdir().unwrap();
            let (media, mxc) = with_upload(folder.path(), is_jpeg).await;
            let work = Work::of(Caller::operator());
            let worker = media.admission.enter(WorkKind::Still, &work, Ask::default()).await.unwrap();
            let tasks = missing(&media, &mxc).await;
            assert_eq!(tasks.len(), 5);
            // Each is wanted twice.
            let asking = tasks.iter().chain(&tasks).cloned().map(|task| {
                let media = Arc::clone(&media);
                tokio::spawn(async move { media.render(vec![task.again()], Caller::operator()).await })
            });
            let asking: Vec<_> = asking.collect();
            while media.thumbnails.batcher.waiting() < 5 {
                tokio::task::yield_now().await;
            }
            drop(worker);
            for asked in asking {
                asked.await.unwrap().unwrap();
            }
            assert!(missing(&media, &mxc).await.is_empty());
            assert_eq!(media.thumbnails.batcher.waiting(), 0);
            let mut made = log.decodes();
            made.sort_unstable();
            assert_eq!(made, decodes, "JPEG: {is_jpeg}");
            log.0.lock().unwrap().clear();
        }
    }

    #[tokio::test]
    async fn what_is_made_ahead_takes_the_same_way() {
        let (log, _logging) = Log::begin();
        let folder = tempfile::tempdir().unwrap();
        let (media, mxc) = with_upload(folder.path(), true).await;
        for lacked in [5, 3, 2, 1, 0] {
            assert_eq!(media.render_missing(&mxc).await.unwrap(), lacked);
        }
        assert_eq!(log.decodes(), [2, 1, 1, 1], "from the large ones down");
    }

    /// The header of a broken picture was read again at each request.
    #[tokio::test]
    async fn that_a_header_is_broken_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (media, mxc) = with_upload(folder.path(), false).await;
        let good = media.own_media(&mxc).await.unwrap();
        let broken = BlobReader::of(b"\x89PNG\r\n\x1a\nIHDR");
        let requested =
            ThumbnailRequest { width: 32, height: 32, method: ThumbnailMethod::Crop, motion: Motion::Still };
        let of = |original: StoredMedia| Arc::new(PreparedMedia::new(original));
        let broken = of(StoredMedia { blob: broken, ..good.clone() });
        let refused = media.header(&broken, Caller::operator()).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::BadRequest);
        // Whole bytes under the same name would show another look.
        assert_eq!(media.plan_thumbnail(&good, requested).unwrap_err().kind(), Kind::BadRequest);
        assert_eq!(media.header(&of(good), Caller::operator()).await.unwrap_err().kind(), Kind::BadRequest);
    }
}
