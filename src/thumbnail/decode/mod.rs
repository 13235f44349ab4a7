//! From a file to pixels that are not much larger than the result, by the cheapest way the format has.
//!
//! Owns what that costs. Refuses to know orientation and colour spaces.

mod jpeg;
mod png;
mod tiff;
mod whole;

use std::io::{BufRead, Seek};

pub(super) use self::png::{chunk_bytes as png_bytes, from_png};
use super::Limits;
use super::ThumbnailError;
use super::pixels::{Decoded, MAX_DIVISOR, Pixels, Reducer};
use super::plan::Job;
use super::probe::{Format, Header, Storage};

/// Decodes the first frame at a fraction of its size that leaves at least a factor of two to the final filter
/// (JPEG: see [`jpeg::scale`]), once for all jobs, which [`shares`] must have let go together: one picture for each
/// [`reduction`] among them, the same as if its jobs were alone.
pub(super) fn decode<R: BufRead + Seek>(
    input: R,
    header: &Header,
    jobs: &[Job],
    limits: &Limits,
) -> Result<Vec<Decoded>, ThumbnailError> {
    let divisors = reductions(header, jobs);
    match (header.storage, header.format) {
        (Storage::Jpeg(_), _) => {
            jobs.first().map(|job| jpeg::decode(input, header, job, limits)).into_iter().collect()
        }
        (_, Format::Png) => png::decode(input, header, &divisors),
        (_, Format::Tiff) => tiff::decode(input, header, &divisors, limits),
        (Storage::Rows | Storage::Whole { .. }, _) => whole::decode(input, header, &divisors),
    }
}

/// Whether one decode serves two jobs. Rows can be reduced in several ways while they pass; a JPEG is decoded at one
/// fraction at a time, and another fraction would give other pixels.
pub(super) fn shares(header: &Header, one: &Job, other: &Job) -> bool {
    match header.storage {
        Storage::Jpeg(_) => jpeg::scale(header, one) == jpeg::scale(header, other),
        Storage::Rows | Storage::Whole { .. } => true,
    }
}

/// By how much the picture is reduced for a job before the final filter.
pub(super) fn reduction(header: &Header, job: &Job) -> u32 {
    match header.storage {
        Storage::Jpeg(_) => jpeg::scale(header, job),
        Storage::Rows | Storage::Whole { .. } => divisor(header, job),
    }
}

/// The different reductions for jobs.
fn reductions(header: &Header, jobs: &[Job]) -> Vec<u32> {
    let mut divisors: Vec<u32> = jobs.iter().map(|job| reduction(header, job)).collect();
    divisors.sort_unstable();
    divisors.dedup();
    divisors
}

/// Bytes held while decoding and resizing for jobs that go together.
pub(super) fn estimate(header: &Header, jobs: &[Job]) -> u64 {
    let divisors = reductions(header, jobs);
    let small = |channels: u64| {
        divisors.iter().map(|divisor| reduced(header, *divisor, channels)).fold(0, u64::saturating_add)
    };
    let (decoding, small) = match header.storage {
        Storage::Jpeg(summary) => {
            let scale = divisors.first().copied().unwrap_or(1);
            (super::jpeg::estimate(&summary, scale), small(4))
        }
        // A row as stored, the one before, their sums for each reduction, and the decoder's window.
        Storage::Rows => {
            let sums = u64::try_from(divisors.len()).unwrap_or(u64::MAX).saturating_mul(16);
            let row = u64::from(header.width).saturating_mul(sums.saturating_add(24));
            (row.saturating_add(1 << 18), small(4))
        }
        Storage::Whole { bytes_per_pixel } => {
            (header.pixels().saturating_mul(u64::from(bytes_per_pixel)), small(4))
        }
    };
    // The filter holds a picture of the result's width and the source's height, or one with alpha multiplied in.
    let reading = decoding.max(small).saturating_add(small).saturating_add(header.held_bytes);
    match u64::from(header.profile_bytes) {
        0 => reading,
        // A profile is held in pieces and whole; what is made of it comes when the filter is done.
        profile => {
            reading.saturating_add(profile.saturating_mul(3)).max(small.saturating_add(conversion(header)))
        }
    }
}

/// Bytes held while a colour profile is made into a way to sRGB.
pub(super) fn conversion(header: &Header) -> u64 {
    match u64::from(header.profile_bytes) {
        0 => 0,
        profile => profile.saturating_mul(8).saturating_add(PROFILE_TABLES),
    }
}

/// By how much rows are reduced on the way: as far as leaves a factor of two to the final filter; a picture that would
/// still be larger than [`PLENTY`] then, as far as leaves 3/2.
pub(super) fn divisor(header: &Header, job: &Job) -> u32 {
    let double = job.factor(2, 1);
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    let divisor = if header.pixels().div_euclid(area) > PLENTY { job.factor(3, 2) } else { double };
    divisor.min(MAX_DIVISOR)
}

/// Bytes of a picture reduced by a divisor.
pub(super) fn reduced(header: &Header, divisor: u32, channels: u64) -> u64 {
    let side = |length: u32| u64::from(length.div_ceil(divisor.max(1)));
    side(header.width).saturating_mul(side(header.height)).saturating_mul(channels)
}

/// Reduces a picture that is in memory already, once for each divisor.
fn reduce(pixels: Pixels, divisors: &[u32], icc: Option<&[u8]>) -> Vec<Decoded> {
    if *divisors == [1] {
        return vec![Decoded { pixels, divisor: 1, icc: icc.map(<[u8]>::to_vec) }];
    }
    let row = usize::try_from(pixels.width).unwrap_or(0).saturating_mul(pixels.layout.channels());
    let reduce = |divisor: &u32| {
        let mut reducer = Reducer::new(pixels.width, pixels.layout, *divisor);
        pixels.data.chunks_exact(row.max(1)).for_each(|row| reducer.push(row));
        Decoded { divisor: *divisor, pixels: reducer.finish(), icc: icc.map(<[u8]>::to_vec) }
    };
    divisors.iter().map(reduce).collect()
}

/// Bytes of the tables that even a small profile can ask for.
const PROFILE_TABLES: u64 = 8 << 20;
/// Pixels; with the planes of a JPEG 12 MiB.
const PLENTY: u64 = 2_000_000;
