//! Rendering thumbnails: several from one decode, each stored before it is sent.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::outcomes::Step;
use crate::error::{Error, Kind, Result};
use crate::matrix::len_u64;
use crate::media::Media;
use crate::store::blobs::{BlobCursor, BlobReader, IngestError};
use crate::store::catalog::{Filled, ThumbnailKey};
use crate::store::sha256::Sha256;
use crate::store::stored_media::StoredMedia;
use crate::store::{KeptThumbnail, MadeThumbnail};
use crate::sync::admission::{Ask, Work, WorkKind};
use crate::thumbnail::{self, Header, Limits, RenderSpec, Rendered, ThumbnailError};

/// Longest work on one batch.
const RENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Thumbnails stored for one source besides the newest; the oldest are deleted. Clients may ask for any size and must not fill the disk.
const MAX_KEPT: u32 = 64;

/// The least bound of the bytes of all stored thumbnails of one source.
const LEAST_BYTES: u64 = 1 << 20;

/// The bound for a large source, in multiples of its size.
const BYTES_OF_SOURCE: u64 = 4;

/// How much of a picture is read at once, bytes.
const READ_SIZE: usize = 32 * 1024;

/// A picture to be made.
#[derive(Clone, Debug)]
pub(super) struct RenderTask {
    pub(super) source: Sha256,
    /// What the row says of the source.
    original: Filled,
    header: Header,
    /// Equal specs of one source are the same picture.
    pub(super) spec: RenderSpec,
    purpose: RenderPurpose,
    /// For whose benefit it is made; empty before it is asked for.
    work: Arc<OnceLock<Work>>,
}

/// Why a picture is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RenderPurpose {
    /// A request waits for it.
    Requested,
    /// It may be requested later. Nothing is rendered ahead from a truncated file.
    Ahead,
}

/// A picture that was made and is stored, for all who asked for it.
#[derive(Clone, Debug)]
pub(super) struct MadePicture {
    pub(super) content: Filled,
    pub(super) blob: BlobReader,
    /// Whether it may not be cached: it is a still in place of an animation that there was no time for, or too large to be stored.
    pub(super) is_stopgap: bool,
}

/// The result of a batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// In the order of the tasks. `None` for a picture that is not stored: its source is truncated, and no request waits for it.
    pub(super) pictures: Vec<Option<MadePicture>>,
    /// How many pictures came from the decode; 0 when all of them were stored already.
    pub(super) decoded: usize,
}

impl RenderTask {
    /// The same picture, made ahead of requests.
    pub(super) fn ahead(self) -> Self {
        Self { purpose: RenderPurpose::Ahead, ..self }
    }

    /// The same task, to be begun once more.
    pub(super) fn again(&self) -> Self {
        Self { work: Arc::default(), ..self.clone() }
    }

    /// The task as part of `work`.
    pub(super) fn begin(&self, work: &Work) {
        // An error means that it was begun before, which each task is once only.
        drop(self.work.set(work.clone()));
    }

    /// The place that it needs, and its cost beside others.
    pub(super) fn demand(&self) -> (WorkKind, Ask) {
        if self.spec.animated {
            (WorkKind::Animation, Ask::default())
        } else {
            (WorkKind::Still, Ask::costing(thumbnail::cost(&self.header)))
        }
    }
}

/// The works of a batch as one.
pub(super) fn work(batch: &[RenderTask]) -> Work {
    Work::together(batch.iter().filter_map(|task| task.work.get().cloned()).collect())
}

/// Memory for rendering a batch, bytes.
pub(super) fn memory(batch: &[RenderTask]) -> u64 {
    let specs: Vec<RenderSpec> = batch.iter().map(|task| task.spec).collect();
    batch.first().map_or(0, |task| thumbnail::estimate(&task.header, &specs))
}

/// The blocking steps.
impl Media {
    /// A task for a request, unless it would need too much memory or failed recently.
    pub(super) fn render_task(
        &self,
        original: &StoredMedia,
        header: Header,
        spec: RenderSpec,
    ) -> Result<RenderTask> {
        let (source, original) = (original.content.sha256, original.content.clone());
        self.thumbnails.outcomes.check_refused(source, Step::of(&spec), &self.monotonic)?;
        let (purpose, work) = (RenderPurpose::Requested, Arc::default());
        let task = RenderTask { source, original, header, spec, purpose, work };
        if memory(std::slice::from_ref(&task)) > self.config.get().thumbnails.memory.0 {
            return Err(too_much_memory());
        }
        Ok(task)
    }

    /// The header of a picture, if it was read recently.
    ///
    /// # Errors
    /// Those of reading it, if that failed recently; `UploadTooLarge` for one over `thumbnails.max_pixels`.
    pub(super) fn known_header(&self, source: Sha256) -> Result<Option<Header>> {
        self.thumbnails.outcomes.check_refused(source, Step::Header, &self.monotonic)?;
        let Some(header) = self.thumbnails.outcomes.header(source) else { return Ok(None) };
        header.check_pixels(&self.thumbnail_limits()).map_err(refused)?;
        Ok(Some(header))
    }

    /// Reads the header of a picture, and remembers it or the failure.
    pub(super) fn read_header(&self, original: &StoredMedia) -> Result<()> {
        let source = original.content.sha256;
        let header = thumbnail::probe(&mut reader(&original.blob));
        let header = header.map_err(|error| self.note_refusal(source, &[Step::Header], error))?;
        self.thumbnails.outcomes.note_header(source, header);
        Ok(())
    }

    /// Whether `further` can be rendered from one decode together with `batch`, within `thumbnails.memory`.
    pub(super) fn renders_together(&self, batch: &[RenderTask], further: &RenderTask) -> bool {
        let shares = |task: &RenderTask| {
            task.source == further.source
                && (task.spec == further.spec
                    || thumbnail::can_share_decode(&task.header, &task.spec, &further.spec))
        };
        let specs: Vec<RenderSpec> = batch.iter().chain([further]).map(|task| task.spec).collect();
        batch.iter().all(shares)
            && thumbnail::estimate(&further.header, &specs) <= self.config.get().thumbnails.memory.0
    }

    /// Renders the pictures of a batch and stores them. If there is not enough time for an animation, the batch gets still images instead.
    pub(super) fn render_batch(&self, batch: &[RenderTask]) -> Result<Batch> {
        let now = Instant::now();
        let limits = Limits {
            deadline: now.checked_add(RENDER_TIMEOUT),
            animation_deadline: now.checked_add((self.thumbnails.animation_time)()),
            ..self.thumbnail_limits()
        };
        self.render_within(batch, &limits)
    }

    fn render_within(&self, batch: &[RenderTask], limits: &Limits) -> Result<Batch> {
        let Some(first @ RenderTask { source, header, .. }) = batch.first() else {
            return Ok(Batch::default());
        };
        let mut pictures: HashMap<RenderSpec, MadePicture> = HashMap::new();
        let mut specs: Vec<RenderSpec> = Vec::new();
        for RenderTask { spec, .. } in batch {
            if specs.contains(spec) || pictures.contains_key(spec) {
                continue;
            }
            // Another batch may have rendered it since the task was planned.
            match self.made_lately(*source, *spec)? {
                Some(picture) => drop(pictures.insert(*spec, picture)),
                None => specs.push(*spec),
            }
        }
        if !specs.is_empty() {
            let blob = self.open_source(first)?;
            let rendered = match thumbnail::render(&mut reader(&blob), header, &specs, limits) {
                Err(ThumbnailError::AnimationTimeout) => return self.render_stopgaps(batch, limits),
                rendered => {
                    let steps: Vec<Step> = specs.iter().map(Step::of).collect();
                    rendered.map_err(|error| self.note_refusal(*source, &steps, error))?
                }
            };
            for (spec, rendered) in specs.iter().zip(rendered) {
                if rendered.is_partial {
                    self.thumbnails.outcomes.note_partial(*source);
                    let is_requested =
                        |task: &RenderTask| task.spec == *spec && task.purpose == RenderPurpose::Requested;
                    if !batch.iter().any(is_requested) {
                        continue;
                    }
                }
                pictures.insert(*spec, self.keep_thumbnail(first, *spec, rendered)?);
            }
        }
        let pictures = batch.iter().map(|task| pictures.get(&task.spec).cloned()).collect();
        Ok(Batch { pictures, decoded: specs.len() })
    }

    /// Renders still images instead of animations, which are not tried again for some time. They are the same pictures that requests for
    /// still images get.
    fn render_stopgaps(&self, batch: &[RenderTask], limits: &Limits) -> Result<Batch> {
        let mut stills = Vec::new();
        for task @ RenderTask { source, spec, .. } in batch {
            tracing::debug!(%source, "no time to animate a picture");
            self.thumbnails.outcomes.note_no_time(*source, *spec, &self.monotonic);
            let still = RenderSpec { animated: false, ..*spec };
            if let Some(content) = self.store.thumbnail(&thumbnail_key(*source, still))? {
                self.thumbnails.outcomes.note_made(*source, still, content);
            }
            stills.push(RenderTask { spec: still, ..task.clone() });
        }
        let Batch { pictures, decoded } = self.render_within(&stills, limits)?;
        let as_stopgap = |picture| MadePicture { is_stopgap: true, ..picture };
        Ok(Batch { pictures: pictures.into_iter().map(|made| made.map(as_stopgap)).collect(), decoded })
    }

    /// Opens the source. A queued task does not hold it open, and its damaged blob may have been replaced meanwhile.
    fn open_source(&self, task: &RenderTask) -> Result<BlobReader> {
        self.store.open_blob(None, &task.original)?.ok_or_else(Error::not_found)
    }

    /// A recently rendered picture, opened.
    fn made_lately(&self, source: Sha256, spec: RenderSpec) -> Result<Option<MadePicture>> {
        let Some(content) = self.thumbnails.outcomes.made(source, spec) else { return Ok(None) };
        let blob = self.store.open_blob(None, &content)?;
        Ok(blob.map(|blob| MadePicture { content, blob, is_stopgap: false }))
    }

    /// Stores a picture.
    ///
    /// # Errors
    /// `NotFound` when its source was removed meanwhile.
    fn keep_thumbnail(&self, task: &RenderTask, spec: RenderSpec, rendered: Rendered) -> Result<MadePicture> {
        let RenderTask { source, original, .. } = task;
        let Rendered { content_type, bytes, .. } = rendered;
        let failed = |error| Error::storing("storing a thumbnail", error);
        let size = len_u64(bytes.len());
        let mut ingest = self.store.begin(size, Some(size)).map_err(failed)?;
        ingest.write(&bytes).map_err(|error| match error {
            IngestError::Io(error) => failed(error),
            error @ IngestError::TooLarge(_) => Error::internal("storing a thumbnail", error),
        })?;
        let (key, created) = (thumbnail_key(*source, spec), (self.clock)());
        let max_bytes = original.size.saturating_mul(BYTES_OF_SOURCE).max(LEAST_BYTES);
        let anonymous = Work::current().is_some_and(|work| work.is_for_unknown());
        let made = MadeThumbnail { key, content_type, created, limit: MAX_KEPT, max_bytes, anonymous };
        let KeptThumbnail { content, blob, is_stored } =
            self.store.keep_thumbnail(ingest, made)?.ok_or_else(Error::not_found)?;
        if is_stored {
            self.thumbnails.outcomes.note_made(*source, spec, content.clone());
        }
        Ok(MadePicture { content, blob, is_stopgap: !is_stored })
    }

    /// Caches that steps of a source failed, unless the disk was at fault, or nobody waited any more. Returns the error for the client.
    fn note_refusal(&self, source: Sha256, steps: &[Step], error: ThumbnailError) -> Error {
        let is_ours = matches!(error, ThumbnailError::Io(_));
        let error = refused(error);
        if !is_ours {
            for step in steps {
                self.thumbnails.outcomes.note_refusal(source, *step, &error, &self.monotonic);
            }
        }
        error
    }

    /// The configured limits, without deadlines.
    pub(in crate::media) fn thumbnail_limits(&self) -> Limits {
        let config = self.config.get();
        Limits {
            max_pixels: config.thumbnails.max_pixels.0,
            memory: config.thumbnails.memory.0,
            deadline: None,
            animation_deadline: None,
        }
    }

    /// Computes a blurhash. It is not stored.
    pub(super) fn render_blurhash(&self, task: &RenderTask, timeout: Duration) -> Result<String> {
        let limits = Limits { deadline: Instant::now().checked_add(timeout), ..self.thumbnail_limits() };
        let blob = self.open_source(task)?;
        thumbnail::blurhash(&mut reader(&blob), &task.header, &limits).map_err(refused)
    }
}

/// The key of a picture in the catalog.
pub(super) fn thumbnail_key(source: Sha256, spec: RenderSpec) -> ThumbnailKey {
    let crop = [spec.crop.x, spec.crop.y, spec.crop.width, spec.crop.height];
    ThumbnailKey { source, crop, size: [spec.width, spec.height], animated: spec.animated }
}

/// A picture's bytes, buffered, as long as somebody waits for what is made of them.
fn reader(blob: &BlobReader) -> BufReader<WantedBytes> {
    BufReader::with_capacity(READ_SIZE, WantedBytes(blob.cursor()))
}

/// Bytes that end with an error when nobody waits any more for the work of this thread.
struct WantedBytes(BlobCursor);

impl Read for WantedBytes {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if Work::current_should_end() {
            return Err(io::Error::other("nobody waits for the picture any more"));
        }
        self.0.read(into)
    }
}

impl Seek for WantedBytes {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// The error for a picture that needs more memory than there is for this kind of caller.
pub(super) fn too_much_memory() -> Error {
    Error::new(Kind::UploadTooLarge, "the image takes too much memory to decode")
}

/// The error for a client when a picture gives no thumbnail.
fn refused(error: ThumbnailError) -> Error {
    match error {
        ThumbnailError::TooLarge(why) => Error::new(Kind::UploadTooLarge, why),
        ThumbnailError::Timeout | ThumbnailError::AnimationTimeout => {
            Error::new(Kind::UploadTooLarge, error.to_string())
        }
        ThumbnailError::NotAnImage | ThumbnailError::Unsupported(_) => {
            Error::new(Kind::BadRequest, error.to_string())
        }
        ThumbnailError::Broken(_) => Error::new(Kind::BadRequest, "the image is broken").caused_by(error),
        ThumbnailError::Io(error) => Error::internal("reading a picture", error),
    }
}
