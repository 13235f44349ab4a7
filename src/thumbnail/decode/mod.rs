//! From a file to pixels that are not much larger than the result, by the cheapest way the format has.
//!
//! Owns what that costs. Refuses to know orientation and colour spaces.

mod hush;
mod jpeg;
mod png;
mod tiff;
mod whole;

use std::io::{BufRead, Seek};

use super::Limits;
use super::ThumbnailError;
use super::pixels::{Decoded, Pixels, Reducer};
use super::plan::Job;
use super::probe::{Format, Header, Storage};

/// Decodes the first frame at a fraction of its size that leaves at least a factor of two to the final filter
/// (JPEG: see [`jpeg::scale`]).
pub(super) fn decode<R: BufRead + Seek>(
    input: R,
    header: &Header,
    job: &Job,
    limits: &Limits,
) -> Result<Decoded, ThumbnailError> {
    match (header.storage, header.format) {
        (Storage::Jpeg(frame), _) => jpeg::decode(input, header, frame, job),
        (_, Format::Png) => png::decode(input, header, job),
        (_, Format::Tiff) => tiff::decode(input, header, job, limits),
        (Storage::Rows | Storage::Whole { .. }, _) => whole::decode(input, header, job),
    }
}

/// Bytes held while decoding and resizing.
pub(super) fn estimate(header: &Header, job: &Job) -> u64 {
    let divisor = divisor(header, job);
    let (decoding, small) = match header.storage {
        Storage::Jpeg(frame) => {
            let scale = jpeg::scale(header, job);
            let area = u64::from(scale).saturating_mul(u64::from(scale)).max(1);
            let image = reduced(header, scale, u64::from(frame.components));
            let planes = frame.samples.div_euclid(area);
            let kept = if frame.progressive { frame.samples.saturating_mul(2) } else { 0 };
            (kept.saturating_add(planes), image)
        }
        // A row as stored, the one before, their sums, and the decoder's window.
        Storage::Rows => (
            u64::from(header.width).saturating_mul(4 * 10).saturating_add(1 << 18),
            reduced(header, divisor, 4),
        ),
        Storage::Whole { bytes_per_pixel } => {
            (header.pixels().saturating_mul(u64::from(bytes_per_pixel)), reduced(header, divisor, 4))
        }
    };
    // The filter holds a picture of the result's width and the source's height, or one with alpha multiplied in.
    let reading = decoding.max(small).saturating_add(small).saturating_add(header.held_bytes);
    match u64::from(header.profile_bytes) {
        0 => reading,
        // A profile is held in pieces and whole; what is made of it comes when only the result is left.
        profile => reading
            .saturating_add(profile.saturating_mul(3))
            .max(profile.saturating_mul(8).saturating_add(PROFILE_TABLES)),
    }
}

/// By how much rows are reduced on the way: as far as leaves a factor of two to the final filter; a picture that would
/// still be larger than [`PLENTY`] then, as far as leaves 3/2.
fn divisor(header: &Header, job: &Job) -> u32 {
    let double = job.factor(2, 1);
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    if header.pixels().div_euclid(area) > PLENTY { job.factor(3, 2) } else { double }
}

/// Bytes of a picture reduced by a divisor.
fn reduced(header: &Header, divisor: u32, channels: u64) -> u64 {
    let side = |length: u32| u64::from(length.div_ceil(divisor.max(1)));
    side(header.width).saturating_mul(side(header.height)).saturating_mul(channels)
}

/// Reduces a picture that is in memory already.
fn reduce(pixels: Pixels, divisor: u32) -> (Pixels, u32) {
    if divisor == 1 {
        return (pixels, 1);
    }
    let mut reducer = Reducer::new(pixels.width, pixels.layout, divisor);
    let row = usize::try_from(pixels.width).unwrap_or(0).saturating_mul(pixels.layout.channels());
    for row in pixels.data.chunks_exact(row.max(1)) {
        reducer.push(row);
    }
    let divisor = reducer.divisor();
    (reducer.finish(), divisor)
}

/// Bytes of the tables that even a small profile can ask for.
const PROFILE_TABLES: u64 = 8 << 20;
/// Pixels; with the planes of a JPEG 12 MiB.
const PLENTY: u64 = 2_000_000;
