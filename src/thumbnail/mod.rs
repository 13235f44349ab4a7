//! Thumbnails: what a picture is, what to make of it, and the making, within a budget.
//!
//! Owns decoding, orientation, colour, resizing and encoding, and every crate that does them. Refuses to know HTTP,
//! the store and who asked. [Spec, Thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).
//!
//! [`probe()`] reads the header and allocates nothing by what it claims; [`Plan::new`] is arithmetic; [`estimate`] is
//! the permit to take before [`render`], which refuses what is over its [`Limits`].
//!
//! Several sizes of one source can share a decode ([`share_a_decode`]). What is made of a source and
//! a [`Job`] is always the same, whatever is made beside it, for other servers are given the bytes that clients get. So
//! rows are reduced for each size apart while they pass, and a JPEG, which is decoded straight to a fraction of its size,
//! serves together those sizes that take the same fraction: of a photograph, the small ones and the large ones.

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
mod sketch;

use std::error::Error as StdError;
use std::io::{self, BufRead, Seek};
use std::time::Instant;

use pixels::{Decoded, Pixels};

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
    /// When to give up on an animation; the rest of the time is for a still in its place.
    pub(crate) animation_deadline: Option<Instant>,
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThumbnailError {
    /// Over a limit: 413.
    #[error("{0}")]
    TooLarge(&'static str),
    /// Out of time: 413.
    #[error("the image takes too long to decode")]
    OutOfTime,
    /// Out of time for every frame. A still can be made, which is another picture: [`render`] gives the same bytes for the
    /// same job, or none.
    #[error("there was no time to animate the image")]
    NoTimeToAnimate,
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
            return Self::OutOfTime;
        }
        let theirs = [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData, io::ErrorKind::InvalidInput];
        if theirs.contains(&kind) { Self::broken(error) } else { Self::Io(error) }
    }
}

/// A job as asked, or for a still where all frames would take too much memory.
pub(crate) fn affordable(header: &Header, job: Job, limits: &Limits) -> Job {
    let animated = job.animated && estimate(header, &[job]) <= limits.memory;
    Job { animated, ..job }
}

/// The bytes that [`render`] holds at its peak, rounded up generously: for a weighted permit.
pub(crate) fn estimate(header: &Header, jobs: &[Job]) -> u64 {
    // The result before and after orientation and colour, and two encodings of it, each of four channels.
    let output = |job: &Job| u64::from(job.width).saturating_mul(u64::from(job.height)).saturating_mul(4 * 4);
    let outputs = jobs.iter().map(output).fold(0, u64::saturating_add);
    let moving = jobs.iter().filter(|job| job.animated).map(|job| animate::estimate(header, job));
    let decoding = moving.fold(decode::estimate(header, jobs), u64::max);
    decoding.saturating_add(outputs).saturating_add(BASE_BYTES)
}

/// Whether one decode serves both jobs.
pub(crate) fn share_a_decode(header: &Header, one: &Job, other: &Job) -> bool {
    !one.animated && !other.animated && decode::shares(header, one, other)
}

/// Makes the pictures of plans that [`share_a_decode`], in their order. The same source and job give the same bytes,
/// whatever is made beside it: an animation that is over a bound is a still for good, one that there is no time for is
/// refused.
pub(crate) fn render<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    jobs: &[Job],
    limits: &Limits,
) -> Result<Vec<Rendered>, ThumbnailError> {
    if let [job @ Job { animated: true, .. }] = jobs
        && let Some(animation) = animation(input, header, job, limits)?
    {
        return Ok(vec![animation]);
    }
    let drawn = draw(input, header, jobs, limits)?;
    drawn.into_iter().map(|pixels| encode::encode(pixels, header.format)).collect()
}

/// The job that [`blurhash`] and [`prove`] take: the cheapest that there is.
pub(crate) fn sketch_job(header: &Header) -> Job {
    sketch::job(header.source())
}

/// The blurhash of a picture (MSC2448).
pub(crate) fn blurhash<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    limits: &Limits,
) -> Result<String, ThumbnailError> {
    let drawn = draw(input, header, &[sketch_job(header)], limits)?;
    sketch::blurhash(drawn.first().ok_or_else(|| ThumbnailError::broken("nothing was made"))?)
}

/// Refuses what [`prove`] would refuse by its header alone.
pub(crate) fn admit_proof(header: &Header, limits: &Limits) -> Result<(), ThumbnailError> {
    admit(header, &[sketch_job(header)], limits)
}

/// Decodes a picture to its end and keeps nothing of it: whether there can be thumbnails of it.
pub(crate) fn prove<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    limits: &Limits,
) -> Result<(), ThumbnailError> {
    draw(input, header, &[sketch_job(header)], limits).map(drop)
}

/// The pixels of the results.
fn draw<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    jobs: &[Job],
    limits: &Limits,
) -> Result<Vec<Pixels>, ThumbnailError> {
    admit(header, jobs, limits)?;
    input.rewind().map_err(ThumbnailError::Io)?;
    let input = input::Timed::buffered(input, limits.deadline);
    let decoded = decode::decode(input, header, jobs, limits)?;
    let finish = |job: &Job| {
        let divisor = decode::reduction(header, job);
        let decoded = decoded.iter().find(|decoded| decoded.divisor == divisor);
        finish(decoded.ok_or_else(|| ThumbnailError::broken("a size was left out"))?, header, job)
    };
    jobs.iter().map(finish).collect()
}

/// From the pixels as they were decoded to those of the result.
fn finish(decoded: &Decoded, header: &Header, job: &Job) -> Result<Pixels, ThumbnailError> {
    let part = header.orientation.stored_part(job.crop, (header.width, header.height));
    let size = header.orientation.turn((job.width, job.height));
    let small = resize::resize(&decoded.pixels, decoded.divisor, part, size)?;
    let small = color::to_srgb(small, decoded.icc.as_deref());
    Ok(header.orientation.apply(small))
}

/// Every frame; nothing where only a still can be shown, however much time there is.
fn animation<R: BufRead + Seek>(
    input: &mut R,
    header: &Header,
    job: &Job,
    limits: &Limits,
) -> Result<Option<Rendered>, ThumbnailError> {
    admit(header, &[*job], limits)?;
    input.rewind().map_err(ThumbnailError::Io)?;
    match animate::animate(input, header, job, limits.animation_deadline) {
        Err(ThumbnailError::OutOfTime) => Err(ThumbnailError::NoTimeToAnimate),
        Err(ThumbnailError::TooLarge(_) | ThumbnailError::Broken(_) | ThumbnailError::NotAnImage) => Ok(None),
        other => other,
    }
}

/// Refuses what is over the limits.
fn admit(header: &Header, jobs: &[Job], limits: &Limits) -> Result<(), ThumbnailError> {
    header.admit(limits)?;
    if estimate(header, jobs) > limits.memory {
        return Err(ThumbnailError::TooLarge("the image takes too much memory to decode"));
    }
    Ok(())
}

/// Tables, buffers and thread stacks of the codecs.
const BASE_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests;
