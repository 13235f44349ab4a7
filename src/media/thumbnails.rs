//! Thumbnails of stored media: found, or made once and kept; and blurhashes, which are not kept.
//!
//! [Spec, thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).

use std::io::BufReader;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Library;
use crate::config::ThumbnailSize;
use crate::error::{Error, Kind, Result};
use crate::matrix::{Moment, len_u64};
use crate::store::blobs::{BlobCursor, BlobReader, IngestError};
use crate::store::catalog::{Filled, NewThumbnail, ThumbnailKey};
use crate::store::sha256::Sha256;
use crate::store::stored_media::StoredMedia;
use crate::thumbnail::{
    self, Header, Limits, Motion, Plan, Rect, RenderSpec, Rendered, Source, ThumbnailError, ThumbnailRequest,
};

/// Longest work on one picture.
const RENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest work on an animation; the rest of the time is for a still in its place.
pub(crate) const ANIMATION_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a still stands in for an animation that there was no time for. Then it is tried again: the machine may have been
/// busy. On one that is too slow for it, whoever asks meanwhile does not cost another [`ANIMATION_TIMEOUT`].
const ANIMATION_RETRY: Duration = Duration::from_mins(10);

/// Animations of which it is remembered that there was no time for them; about 150 bytes each.
pub(super) const UNANIMATED: usize = 1024;

/// How long a picture is left alone that turned out broken, or took too long. The same bytes fail again, and clients ask again.
const REFUSAL: Duration = Duration::from_mins(10);

/// Pictures of which it is remembered that they failed; about 200 bytes each.
pub(super) const REFUSED: usize = 1024;

/// Pictures of which it is remembered that a part is missing; about 50 bytes each.
pub(super) const PARTIAL: usize = 1024;

/// Longest work on a blurhash, for which an upload's answer waits.
pub(crate) const BLURHASH_TIMEOUT: Duration = Duration::from_secs(5);

/// Types that a thumbnail may have (spec, thumbnails): an original of another type is made into one of them.
const WEB: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// Thumbnails kept of one source besides the newest: anybody may ask for any size, and none may fill the disk. The oldest make room.
const MAX_KEPT: u32 = 64;

/// How much of a picture is read at once, bytes.
const READ_SIZE: usize = 32 * 1024;

/// Requests whose outcome is remembered; about 200 bytes each.
pub(super) const REMEMBERED: usize = 4096;

/// A request for a thumbnail of certain bytes.
pub(super) type Request = (Sha256, ThumbnailRequest);

/// An animation of certain bytes.
pub(super) type Animation = (Sha256, RenderSpec);

/// Why pictures of certain bytes are not made, and until when.
pub(super) type Refusals = Cache<(Sha256, Step), (Error, Moment)>;

/// What of certain bytes failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Their header.
    Header,
    /// A picture that does not move.
    Still,
    /// One that does.
    Moving,
}

impl Step {
    /// The step that a spec belongs to.
    fn of(spec: &RenderSpec) -> Self {
        if spec.animated { Self::Moving } else { Self::Still }
    }
}

/// What a request comes to.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The source itself, whose bytes are of this type.
    Original(&'static str),
    /// A picture that was made.
    Made(Filled),
}

/// How a request for a thumbnail can be answered.
#[derive(Debug)]
pub(crate) enum Thumbnail {
    /// With these bytes.
    Ready(StoredMedia),
    /// With a picture that has to be made first.
    ToMake(RenderTask),
}

/// A picture to be made.
#[derive(Clone, Debug)]
pub(crate) struct RenderTask {
    /// Of these bytes.
    pub(crate) source: Sha256,
    /// How many they are.
    size: u64,
    /// What they are.
    header: Header,
    /// What to make of them. Equal specs of one source are the same picture.
    pub(crate) spec: RenderSpec,
    /// Who wants it.
    pub(crate) purpose: Purpose,
}

/// Who wants a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Somebody who waits for it.
    Asked,
    /// Nobody yet. Of a file that breaks off nothing is made ahead.
    Ahead,
}

impl Library {
    /// Looks for the thumbnail of `stored` that `requested` asks for. Reads the picture's header unless the answer is
    /// remembered.
    ///
    /// # Errors
    /// `BadRequest` for media that is no picture or a broken one, `UploadTooLarge` for one over `thumbnails.max_pixels` or
    /// `thumbnails.memory`.
    pub(crate) fn find_thumbnail(
        &self,
        stored: StoredMedia,
        requested: ThumbnailRequest,
    ) -> Result<Thumbnail> {
        let source = stored.content.sha256;
        match self.thumbnail_requests.get(&(source, requested)) {
            Some(Outcome::Original(content_type)) => {
                return Ok(Thumbnail::Ready(as_picture(stored, content_type)));
            }
            Some(Outcome::Made(filled)) => {
                if let Some(ready) = self.open_made(&stored, filled)? {
                    return Ok(Thumbnail::Ready(ready));
                }
            }
            None => {}
        }
        let header = self.read_header(&stored)?;
        let planned = match Plan::new(header.source(), requested, &self.config.get().thumbnails.sizes) {
            Plan::Original if !WEB.contains(&header.content_type()) => {
                let Source { width, height, .. } = header.source();
                RenderSpec { crop: Rect { x: 0, y: 0, width, height }, width, height, animated: false }
            }
            Plan::Original => return Ok(self.original(stored, requested, &header)),
            Plan::Render(spec) if self.is_better_as_it_is(&header, spec, requested) => {
                return Ok(self.original(stored, requested, &header));
            }
            Plan::Render(spec) => spec,
        };
        let planned = thumbnail::fit_to_memory(&header, planned, &self.thumbnail_limits());
        let is_stopgap = planned.animated && self.had_no_time(source, &planned);
        let spec = RenderSpec { animated: planned.animated && !is_stopgap, ..planned };
        if let Some(filled) = self.catalog.thumbnail(&key(source, &spec))?
            && let Some(ready) = self.open_made(&stored, filled.clone())?
        {
            if is_stopgap {
                return Ok(Thumbnail::Ready(StoredMedia { is_stopgap, ..ready }));
            }
            self.thumbnail_requests.insert((source, requested), Outcome::Made(filled));
            return Ok(Thumbnail::Ready(ready));
        }
        self.task(&stored.content, header, spec).map(Thumbnail::ToMake)
    }

    /// The header of a picture. That it cannot be read is remembered.
    fn read_header(&self, stored: &StoredMedia) -> Result<Header> {
        let source = stored.content.sha256;
        self.check_refused(source, Step::Header)?;
        let read = thumbnail::probe(&mut reader(&stored.blob));
        let admitted = read.and_then(|header| header.check_pixels(&self.thumbnail_limits()).map(|()| header));
        admitted.map_err(|error| self.note_refusal(source, &[Step::Header], error))
    }

    /// The source itself as its thumbnail, which is remembered.
    fn original(&self, stored: StoredMedia, requested: ThumbnailRequest, header: &Header) -> Thumbnail {
        let content_type = header.content_type();
        self.thumbnail_requests.insert((stored.content.sha256, requested), Outcome::Original(content_type));
        Thumbnail::Ready(as_picture(stored, content_type))
    }

    /// Whether a size beyond all configured ones takes more memory than there is, of a picture that clients can show. The
    /// specification lets a thumbnail be larger than asked.
    fn is_better_as_it_is(&self, header: &Header, spec: RenderSpec, requested: ThumbnailRequest) -> bool {
        let is_still = header.source().motion == Motion::Still;
        is_still
            && WEB.contains(&header.content_type())
            && requested.exceeds_all(&self.config.get().thumbnails.sizes)
            && thumbnail::estimate(header, &[spec]) > self.config.get().thumbnails.memory.0
    }

    /// What is to be made of `stored` so that every configured size is there; nothing of what is known to break off.
    ///
    /// # Errors
    /// Those of [`Self::find_thumbnail`].
    pub(crate) fn missing_thumbnails(&self, stored: &StoredMedia) -> Result<Vec<RenderTask>> {
        let mut missing: Vec<RenderTask> = Vec::new();
        if self.partial.get(&stored.content.sha256).is_some() {
            return Ok(missing);
        }
        for ThumbnailSize { width, height, method } in &self.config.get().thumbnails.sizes {
            let requested =
                ThumbnailRequest { width: *width, height: *height, method: *method, motion: Motion::Still };
            match self.find_thumbnail(stored.clone(), requested)? {
                Thumbnail::ToMake(task) if missing.iter().all(|other| other.spec != task.spec) => {
                    missing.push(RenderTask { purpose: Purpose::Ahead, ..task });
                }
                Thumbnail::ToMake(_) | Thumbnail::Ready(_) => {}
            }
        }
        Ok(missing)
    }

    /// Whether `further` can be made in one go with all of `set`: out of one decode, in the memory there is. Equal pictures
    /// can.
    pub(crate) fn make_together(&self, set: &[RenderTask], further: &RenderTask) -> bool {
        let shares = |task: &RenderTask| {
            task.source == further.source
                && (task.spec == further.spec
                    || thumbnail::can_share_decode(&task.header, &task.spec, &further.spec))
        };
        let specs: Vec<RenderSpec> = set.iter().chain([further]).map(|task| task.spec).collect();
        set.iter().all(shares)
            && thumbnail::estimate(&further.header, &specs) <= self.config.get().thumbnails.memory.0
    }

    /// Makes pictures out of one decode and keeps them, but for those that have been made meanwhile; in place of an
    /// animation that there is no time for, the still that anybody gets who asks for one. Says how many. Blocks for as long
    /// as decoding takes.
    pub(crate) fn make_thumbnails(&self, set: &[RenderTask]) -> Result<usize> {
        let now = Instant::now();
        let limits = Limits {
            deadline: now.checked_add(RENDER_TIMEOUT),
            animation_deadline: now.checked_add((self.animation_time)()),
            ..self.thumbnail_limits()
        };
        self.make_within(set, &limits)
    }

    /// Makes pictures within limits.
    fn make_within(&self, set: &[RenderTask], limits: &Limits) -> Result<usize> {
        let Some(first @ RenderTask { source, header, .. }) = set.first() else { return Ok(0) };
        let mut specs: Vec<RenderSpec> = Vec::new();
        for RenderTask { spec, .. } in set {
            if !specs.contains(spec) && !self.is_made(*source, spec)? {
                specs.push(*spec);
            }
        }
        if specs.is_empty() {
            return Ok(0);
        }
        let blob = self.open_source(first)?;
        let made = match thumbnail::render(&mut reader(&blob), header, &specs, limits) {
            Err(ThumbnailError::AnimationTimeout) => return self.make_stopgaps(set, limits),
            made => {
                let steps: Vec<Step> = specs.iter().map(Step::of).collect();
                made.map_err(|error| self.note_refusal(*source, &steps, error))?
            }
        };
        for (spec, rendered) in specs.iter().zip(made) {
            if rendered.is_partial {
                self.partial.insert(*source, ());
                let is_asked = |task: &RenderTask| task.spec == *spec && task.purpose == Purpose::Asked;
                if !set.iter().any(is_asked) {
                    continue;
                }
            }
            self.keep(key(*source, spec), rendered)?;
        }
        Ok(specs.len())
    }

    /// Makes stills in the place of animations, which are left alone for a while.
    fn make_stopgaps(&self, set: &[RenderTask], limits: &Limits) -> Result<usize> {
        let until = (self.monotonic)().after(ANIMATION_RETRY);
        for RenderTask { source, spec, .. } in set {
            tracing::debug!(%source, "no time to animate a picture");
            self.unanimated.insert((*source, *spec), until);
        }
        let still = |task: &RenderTask| RenderTask {
            spec: RenderSpec { animated: false, ..task.spec },
            ..task.clone()
        };
        let stills: Vec<RenderTask> = set.iter().map(still).collect();
        self.make_within(&stills, limits)
    }

    /// Remembers that a step of a picture failed, unless that is the disk's fault. Gives what a client reads of it.
    fn note_refusal(&self, source: Sha256, steps: &[Step], error: ThumbnailError) -> Error {
        let is_disk = matches!(error, ThumbnailError::Io(_));
        let error = refused(error);
        if !is_disk {
            let until = (self.monotonic)().after(REFUSAL);
            for step in steps {
                self.refusals.insert((source, *step), (error.clone(), until));
            }
        }
        error
    }

    /// Refuses what failed lately.
    fn check_refused(&self, source: Sha256, step: Step) -> Result<()> {
        match self.refusals.get(&(source, step)) {
            Some((error, until)) if (self.monotonic)() < until => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether there was no time for an animation lately.
    fn had_no_time(&self, source: Sha256, spec: &RenderSpec) -> bool {
        self.unanimated.get(&(source, *spec)).is_some_and(|until| (self.monotonic)() < until)
    }

    /// What is to be made for the blurhash of `stored`.
    ///
    /// # Errors
    /// Those of [`Self::find_thumbnail`].
    pub(crate) fn plan_blurhash(&self, stored: &StoredMedia) -> Result<RenderTask> {
        let header = self.read_header(stored)?;
        self.task(&stored.content, header, thumbnail::cheapest_spec(&header))
    }

    /// Makes a blurhash. Blocks for as long as decoding takes.
    pub(crate) fn blurhash(&self, task: &RenderTask) -> Result<String> {
        let blob = self.open_source(task)?;
        thumbnail::blurhash(&mut reader(&blob), &task.header, &self.limits_within(BLURHASH_TIMEOUT))
            .map_err(refused)
    }

    /// A picture to make, unless it takes too much memory or failed lately.
    fn task(&self, of: &Filled, header: Header, spec: RenderSpec) -> Result<RenderTask> {
        let (source, size) = (of.sha256, of.size);
        self.check_refused(source, Step::of(&spec))?;
        let task = RenderTask { source, size, header, spec, purpose: Purpose::Asked };
        if memory(std::slice::from_ref(&task)) > self.config.get().thumbnails.memory.0 {
            return Err(Error::new(Kind::UploadTooLarge, "the image takes too much memory to decode"));
        }
        Ok(task)
    }

    /// Whether a picture is there.
    fn is_made(&self, source: Sha256, spec: &RenderSpec) -> Result<bool> {
        let Some(filled) = self.catalog.thumbnail(&key(source, spec))? else { return Ok(false) };
        Ok(self.open_blob(None, &filled)?.is_some())
    }

    /// Opens the source of a picture that is to be made.
    fn open_source(&self, RenderTask { source, size, .. }: &RenderTask) -> Result<BlobReader> {
        let opened = self.blobs.get(source, *size);
        opened.map_err(|error| Error::internal("opening a blob", error))?.map_err(|lost| {
            self.report(None, source, lost);
            Error::not_found()
        })
    }

    /// Keeps a picture.
    fn keep(&self, key: ThumbnailKey, Rendered { content_type, bytes, .. }: Rendered) -> Result<()> {
        let failed = |error| Error::storing("storing a thumbnail", error);
        let size = len_u64(bytes.len());
        let mut ingest = self.blobs.ingest(size, Some(size)).map_err(failed)?;
        ingest.write(&bytes).map_err(|error| match error {
            IngestError::Io(error) => failed(error),
            error @ IngestError::TooLarge(_) => Error::internal("storing a thumbnail", error),
        })?;
        let (created, mut dropped) = ((self.clock)(), Vec::new());
        let kept = self.store(ingest, content_type.to_owned(), None, |filled| {
            let new = NewThumbnail { key, filled, created, limit: MAX_KEPT };
            let added = self.catalog.add_thumbnail(new)?;
            Ok(added.map(|removed| dropped = removed.blobs).is_some())
        })?;
        if !kept {
            return Err(Error::not_found());
        }
        for blob in dropped {
            self.remove_blob(&blob)?;
        }
        Ok(())
    }

    /// Opens a picture that was made; `None` when its blob is lost, so that it is made again.
    fn open_made(&self, of: &StoredMedia, filled: Filled) -> Result<Option<StoredMedia>> {
        let blob = self.open_blob(None, &filled)?;
        let content_type = filled.content_type.clone();
        let made = |blob| StoredMedia { content: filled, blob, ..of.clone() };
        Ok(blob.map(|blob| as_picture(made(blob), &content_type)))
    }

    /// The configured limits.
    pub(super) fn thumbnail_limits(&self) -> Limits {
        Limits {
            max_pixels: self.config.get().thumbnails.max_pixels.0,
            memory: self.config.get().thumbnails.memory.0,
            deadline: None,
            animation_deadline: None,
        }
    }

    /// The configured limits for work that begins now.
    fn limits_within(&self, timeout: Duration) -> Limits {
        Limits { deadline: Instant::now().checked_add(timeout), ..self.thumbnail_limits() }
    }
}

/// Bytes of memory that making a set in one go takes.
pub(crate) fn memory(set: &[RenderTask]) -> u64 {
    let specs: Vec<RenderSpec> = set.iter().map(|task| task.spec).collect();
    set.first().map_or(0, |task| thumbnail::estimate(&task.header, &specs))
}

/// A picture as it is served: under the type that its bytes have, for the claimed one may lie, and a made-up name.
fn as_picture(mut stored: StoredMedia, content_type: &str) -> StoredMedia {
    let extension = content_type.trim_start_matches("image/").replace("jpeg", "jpg");
    stored.content.upload_name = Some(format!("thumbnail.{extension}"));
    content_type.clone_into(&mut stored.content.content_type);
    stored
}

/// The key of a spec's result.
fn key(source: Sha256, spec: &RenderSpec) -> ThumbnailKey {
    let crop = [spec.crop.x, spec.crop.y, spec.crop.width, spec.crop.height];
    ThumbnailKey { source, crop, size: [spec.width, spec.height], animated: spec.animated }
}

/// A picture's bytes, buffered.
fn reader(blob: &BlobReader) -> BufReader<BlobCursor> {
    BufReader::with_capacity(READ_SIZE, blob.cursor())
}

/// What a client reads of a picture that gives no thumbnail.
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
