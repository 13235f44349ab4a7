//! Thumbnails: what a picture is, what to make of it, and the making, within a budget.
//!
//! Owns decoding, orientation, colour, resizing and encoding, and every crate that does them. Refuses to know HTTP,
//! the store and who asked. [Spec, Thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).
//!
//! [`probe()`] reads the header and allocates nothing by what it claims; [`Plan::new`] is arithmetic; [`estimate`] is
//! the permit to take before [`render`], which refuses what is over its [`Limits`].

mod animate;
mod color;
mod decode;
mod encode;
mod input;
mod jpeg;
mod orient;
mod pixels;
mod plan;
mod probe;
mod resize;

use std::error::Error as StdError;
use std::io::{self, BufRead, Seek};
use std::time::Instant;

pub(crate) use encode::Rendered;
pub(crate) use plan::{Job, Motion, Plan, Rect, Source, Wanted};
pub(crate) use probe::{Header, probe};

/// What rendering may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pixels of a source, over all of one frame (`thumbnails.max_pixels`).
    pub(crate) max_pixels: u64,
    /// Bytes held at any moment (`thumbnails.memory`).
    pub(crate) memory: u64,
    /// When to give up.
    pub(crate) deadline: Option<Instant>,
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThumbnailError {
    /// Over a limit: 413.
    #[error("{0}")]
    TooLarge(&'static str),
    /// No picture of a format that is read here, by its first bytes: 400.
    #[error("the media is not an image that can be thumbnailed")]
    NotAnImage,
    /// A picture that cannot be decoded: 400.
    #[error("the image is broken")]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
    /// The source could not be read: ours.
    #[error("reading the image failed")]
    Io(#[source] io::Error),
}

impl ThumbnailError {
    /// A decoder's or encoder's complaint.
    fn broken(why: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Broken(why.into())
    }
}

impl From<io::Error> for ThumbnailError {
    /// An end that comes too early is the picture's fault, as is whatever a decoder clothes as an I/O error.
    fn from(error: io::Error) -> Self {
        let kind = error.kind();
        if kind == io::ErrorKind::TimedOut {
            return Self::TooLarge("the image takes too long to decode");
        }
        let theirs = [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
        if theirs.contains(&kind) { Self::broken(error) } else { Self::Io(error) }
    }
}

/// A job as asked, or for a still where all frames would take too much memory.
pub(crate) fn affordable(header: &Header, job: Job, limits: &Limits) -> Job {
    let animated = job.animated && estimate(header, &job) <= limits.memory;
    Job { animated, ..job }
}

/// The bytes that [`render`] holds at its peak, rounded up generously: for a weighted permit.
pub(crate) fn estimate(header: &Header, job: &Job) -> u64 {
    let output = u64::from(job.width).saturating_mul(u64::from(job.height)).saturating_mul(4);
    let decode = decode::estimate(header, job);
    let decode = if job.animated { decode.max(animate::estimate(header, job)) } else { decode };
    // The result before and after orientation and colour, and two encodings of it.
    decode.saturating_add(output.saturating_mul(4)).saturating_add(BASE_BYTES)
}

/// Makes the picture of a plan. The same source and job give the same bytes.
pub(crate) fn render<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    job: &Job,
    limits: &Limits,
) -> Result<Rendered, ThumbnailError> {
    header.admit(limits)?;
    if estimate(header, job) > limits.memory {
        return Err(ThumbnailError::TooLarge("the image takes too much memory to decode"));
    }
    if job.animated
        && let Some(animation) = animation(input, header, job, limits)?
    {
        return Ok(animation);
    }
    input.rewind().map_err(ThumbnailError::Io)?;
    let input = input::Timed::buffered(input, limits.deadline);
    let decoded = decode::decode(input, header, job, limits)?;
    let part = header.orientation.stored_part(job.crop, (header.width, header.height));
    let size = header.orientation.turn((job.width, job.height));
    let small = resize::resize(decoded.pixels, decoded.divisor, part, size)?;
    let small = color::to_srgb(small, decoded.icc.as_deref());
    let small = header.orientation.apply(small);
    encode::encode(small, header.format)
}

/// Every frame, in half of the time there is; nothing where only a still can be shown.
fn animation<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    job: &Job,
    limits: &Limits,
) -> Result<Option<Rendered>, ThumbnailError> {
    input.rewind().map_err(ThumbnailError::Io)?;
    let now = Instant::now();
    let half = |end: Instant| now.checked_add(end.saturating_duration_since(now).checked_div(2)?);
    let limits = Limits { deadline: limits.deadline.and_then(half), ..*limits };
    match animate::animate(input, header, job, &limits) {
        Err(ThumbnailError::TooLarge(_) | ThumbnailError::Broken(_) | ThumbnailError::NotAnImage) => Ok(None),
        other => other,
    }
}

/// Tables, buffers and thread stacks of the codecs.
const BASE_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests;
