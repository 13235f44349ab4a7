//! Thumbnails of stored media: found, or made once and kept.
//!
//! [Spec, thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).

use std::fs::File;
use std::io::BufReader;
use std::time::{Duration, Instant};

use super::{Library, Stored};
use crate::catalog::{Filled, ThumbnailKey};
use crate::error::{Error, Kind, Result};
use crate::sha256::Sha256;
use crate::thumbnail::{self, Header, Job, Limits, Plan, Rect, Rendered, Source, ThumbnailError, Wanted};

/// Longest work on one picture.
const RENDER_TIMEOUT: Duration = Duration::from_secs(30);

/// Types that a thumbnail may have (spec, thumbnails): an original of another type is made into one of them.
const WEB: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];

/// How much of a picture is read at once, bytes.
const READ_SIZE: usize = 32 * 1024;

/// Requests whose outcome is remembered; about 200 bytes each.
pub(super) const REMEMBERED: usize = 4096;

/// A request for a thumbnail of certain bytes.
pub(super) type Request = (Sha256, Wanted);

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
    Ready(Stored),
    /// With a picture that has to be made first.
    ToMake(Making),
}

/// A picture to be made.
#[derive(Clone, Debug)]
pub(crate) struct Making {
    /// Of these bytes.
    pub(crate) source: Sha256,
    /// What they are.
    header: Header,
    /// What to make of them. Equal jobs of one source are the same picture.
    pub(crate) job: Job,
    /// Bytes of memory it takes.
    pub(crate) memory: u64,
}

impl Library {
    /// Looks for the thumbnail of `stored` that `wanted` asks for. Reads the picture's header unless the answer is
    /// remembered.
    ///
    /// # Errors
    /// `BadRequest` for media that is no picture or a broken one, `UploadTooLarge` for one over `thumbnails.max_pixels` or
    /// `thumbnails.memory`.
    pub(crate) fn find_thumbnail(&self, stored: Stored, wanted: Wanted) -> Result<Thumbnail> {
        let source = stored.filled.sha256;
        match self.thumbnail_requests.get(&(source, wanted)) {
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
        let header = thumbnail::probe(&mut reader(&stored.file)).map_err(refused)?;
        header.admit(&self.thumbnail_limits()).map_err(refused)?;
        let job = match Plan::new(header.source(), wanted, &self.thumbnails.sizes) {
            Plan::Original if !WEB.contains(&header.content_type()) => {
                let Source { width, height, .. } = header.source();
                Job { crop: Rect { x: 0, y: 0, width, height }, width, height, animated: false }
            }
            Plan::Original => {
                let content_type = header.content_type();
                self.thumbnail_requests.insert((source, wanted), Outcome::Original(content_type));
                return Ok(Thumbnail::Ready(as_picture(stored, content_type)));
            }
            Plan::Render(job) => job,
        };
        if let Some(filled) = self.catalog.thumbnail(&key(source, &job))?
            && let Some(ready) = self.open_made(&stored, filled.clone())?
        {
            self.thumbnail_requests.insert((source, wanted), Outcome::Made(filled));
            return Ok(Thumbnail::Ready(ready));
        }
        let memory = thumbnail::estimate(&header, &job);
        if memory > self.thumbnails.memory.0 {
            return Err(Error::new(Kind::UploadTooLarge, "the image takes too much memory to decode"));
        }
        Ok(Thumbnail::ToMake(Making { source, header, job, memory }))
    }

    /// Makes a picture and keeps it. Blocks for as long as decoding takes.
    pub(crate) fn make_thumbnail(&self, making: &Making) -> Result<()> {
        let source =
            self.blobs.get(&making.source).map_err(|error| Error::internal("opening a blob", error))?;
        let source = source.ok_or_else(Error::not_found)?;
        let deadline = Instant::now().checked_add(RENDER_TIMEOUT);
        let limits = Limits { deadline, ..self.thumbnail_limits() };
        let Rendered { content_type, bytes, .. } =
            thumbnail::render(&mut reader(&source), &making.header, &making.job, &limits).map_err(refused)?;

        let failed = |error| Error::internal("storing a thumbnail", error);
        let mut ingest = self.blobs.ingest(u64::MAX).map_err(failed)?;
        ingest.write(&bytes).map_err(|error| Error::internal("storing a thumbnail", error))?;
        let (key, now) = (key(making.source, &making.job), (self.clock)());
        let kept = self.store(ingest, content_type.to_owned(), None, |filled| {
            self.catalog.add_thumbnail(key, filled, now)
        })?;
        if kept { Ok(()) } else { Err(Error::not_found()) }
    }

    /// Opens a picture that was made; `None` when its blob is lost, so that it is made again.
    fn open_made(&self, of: &Stored, filled: Filled) -> Result<Option<Stored>> {
        let file =
            self.blobs.get(&filled.sha256).map_err(|error| Error::internal("opening a blob", error))?;
        let content_type = filled.content_type.clone();
        Ok(file.map(|file| as_picture(Stored { filled, created: of.created, file }, &content_type)))
    }

    /// The configured limits.
    pub(super) fn thumbnail_limits(&self) -> Limits {
        Limits { max_pixels: self.thumbnails.max_pixels.0, memory: self.thumbnails.memory.0, deadline: None }
    }
}

/// A picture as it is served: under the type that its bytes have, for the claimed one may lie, and a made-up name.
fn as_picture(mut stored: Stored, content_type: &str) -> Stored {
    let extension = content_type.trim_start_matches("image/").replace("jpeg", "jpg");
    stored.filled.upload_name = Some(format!("thumbnail.{extension}"));
    content_type.clone_into(&mut stored.filled.content_type);
    stored
}

/// The key of a job's result.
fn key(source: Sha256, job: &Job) -> ThumbnailKey {
    let crop = [job.crop.x, job.crop.y, job.crop.width, job.crop.height];
    ThumbnailKey { source, crop, size: [job.width, job.height], animated: job.animated }
}

/// A picture's bytes, buffered.
fn reader(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(READ_SIZE, file)
}

/// What a client reads of a picture that gives no thumbnail.
fn refused(error: ThumbnailError) -> Error {
    match error {
        ThumbnailError::TooLarge(why) => Error::new(Kind::UploadTooLarge, why),
        ThumbnailError::NotAnImage => Error::new(Kind::BadRequest, error.to_string()),
        ThumbnailError::Broken(_) => Error::new(Kind::BadRequest, "the image is broken").caused_by(error),
        ThumbnailError::Io(error) => Error::internal("reading a picture", error),
    }
}
