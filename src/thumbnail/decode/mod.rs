//! Decoding, reduced to little more than the size of the result on the way, so that no large picture is held whole.
//!
//! Owns the choice of the divisor and the memory that decoding needs. Refuses to know orientation, colour spaces and
//! animations, of which it decodes the first frame.

mod bmp;
mod gif;
mod jpeg;
mod padding;
mod png;
mod sink;
mod tiff;
mod webp;

pub(super) use self::gif::from_gif;
pub(super) use self::png::{chunk_bytes as png_bytes, from_png, profile as png_profile};
use super::Limits;
use super::ThumbnailError;
use super::input::Input;
use super::pixels::{Decoded, MAX_DIVISOR};
use super::plan::RenderSpec;
use super::probe::{Format, Header, Storage};

/// Decodes the first frame once for all specs, any two of which must [`can_share`] a decode. Returns one picture for each
/// [`reduction`] among the specs, the same as if that were the only one. Of a truncated file it returns what is there.
pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    specs: &[RenderSpec],
    limits: &Limits,
) -> Result<Vec<Decoded>, ThumbnailError> {
    let divisors = reductions(header, specs);
    match header.format {
        Format::Jpeg => {
            specs.first().map(|spec| jpeg::decode(input, header, spec, limits)).into_iter().collect()
        }
        Format::Png => png::decode(input, header, &divisors),
        Format::Gif => gif::decode(input, header, &divisors),
        Format::WebP => webp::decode(input, header, &divisors),
        Format::Bmp => bmp::decode(input, header, &divisors),
        Format::Tiff => tiff::decode(input, header, &divisors),
    }
}

/// Whether one decode serves two specs. Rows can be reduced by several divisors at once; a JPEG is decoded at one fraction
/// at a time, and another fraction would give other pixels.
pub(super) fn can_share(header: &Header, one: &RenderSpec, other: &RenderSpec) -> bool {
    match header.storage {
        Storage::Jpeg(_) => jpeg::divisor(header, one) == jpeg::divisor(header, other),
        Storage::Rows { .. } => true,
    }
}

/// By how much both sides are reduced for a spec before the final filter.
pub(super) fn reduction(header: &Header, spec: &RenderSpec) -> u32 {
    match header.storage {
        Storage::Jpeg(_) => jpeg::divisor(header, spec),
        Storage::Rows { .. } => row_divisor(header, spec),
    }
}

/// The different reductions for some specs, in ascending order.
fn reductions(header: &Header, specs: &[RenderSpec]) -> Vec<u32> {
    let mut divisors: Vec<u32> = specs.iter().map(|spec| reduction(header, spec)).collect();
    divisors.sort_unstable();
    divisors.dedup();
    divisors
}

/// Bytes that decoding holds.
pub(super) struct Cost {
    /// At its peak.
    pub(super) reading: u64,
    /// Afterwards, as input of the final filter.
    pub(super) kept: u64,
}

/// An upper bound of what [`decode`] holds.
pub(super) fn estimate(header: &Header, specs: &[RenderSpec]) -> Cost {
    let divisors = reductions(header, specs);
    let small = |divisor: &u32| reduced_bytes(header, *divisor, header.channels());
    let kept = divisors.iter().map(small).fold(0, u64::saturating_add);
    let reading = match header.storage {
        Storage::Jpeg(info) => super::jpeg::estimate(&info, divisors.first().copied().unwrap_or(1)),
        Storage::Rows { held } => {
            // Each reduction holds a row of 32-bit sums.
            let sums = |divisor: &u32| if *divisor == 1 { 0 } else { 4 };
            let sums: u64 = divisors.iter().map(sums).fold(0, u64::saturating_add);
            let sums = u64::from(header.width).saturating_mul(header.channels()).saturating_mul(sums);
            held.saturating_add(sums).saturating_add(kept)
        }
    };
    // A profile is held in pieces and put together; the conversion exists before the final filter.
    let profile = u64::from(header.profile_bytes);
    let conversion = conversion_bytes(header);
    Cost { reading: reading.saturating_add(profile.saturating_mul(3)), kept: kept.saturating_add(conversion) }
}

/// Bytes held while the conversion by a colour profile is set up.
pub(super) fn conversion_bytes(header: &Header) -> u64 {
    match u64::from(header.profile_bytes) {
        0 => 0,
        profile => profile.saturating_mul(8).saturating_add(PROFILE_TABLES),
    }
}

/// By how much rows are reduced: so far that a factor of at least two is left for the final filter. If the reduced picture would
/// still have more than [`LARGE`] pixels, so far that a factor of 3/2 is left.
pub(super) fn row_divisor(header: &Header, spec: &RenderSpec) -> u32 {
    let double = spec.factor(2, 1);
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    let divisor = if header.pixels().div_euclid(area) > LARGE { spec.factor(3, 2) } else { double };
    divisor.min(MAX_DIVISOR)
}

/// Bytes of a picture reduced by a divisor.
pub(super) fn reduced_bytes(header: &Header, divisor: u32, channels: u64) -> u64 {
    let side = |length: u32| u64::from(length.div_ceil(divisor.max(1)));
    side(header.width).saturating_mul(side(header.height)).saturating_mul(channels)
}

/// Bytes of the tables that even a small profile can require.
const PROFILE_TABLES: u64 = 8 << 20;
/// Pixels above which memory counts more than the quality of the filter; with the planes of a JPEG, 12 MiB.
const LARGE: u64 = 2_000_000;
