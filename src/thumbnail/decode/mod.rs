//! From a file to pixels that are not much larger than the result, by the cheapest way the format has.
//!
//! Owns what that costs. Refuses to know orientation and colour spaces.

mod bmp;
mod gif;
mod jpeg;
mod padding;
mod png;
mod tiff;
mod webp;

pub(super) use self::gif::from_gif;
pub(super) use self::png::{chunk_bytes as png_bytes, from_png, profile as png_profile};
use super::Limits;
use super::ThumbnailError;
use super::input::Input;
use super::pixels::{Decoded, Layout, MAX_DIVISOR, Reducer};
use super::plan::RenderSpec;
use super::probe::{Format, Header, Storage};

/// Decodes the first frame at a fraction of its size that leaves at least a factor of two to the final filter
/// (JPEG: see [`jpeg::scale`]), once for all specs, which [`shares`] must have let go together: one picture for each
/// [`reduction`] among them, the same as if its specs were alone. Of a file that breaks off, what is there.
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

/// Rows from the top on their way into the reductions that are wanted.
struct Sink {
    /// One for each.
    reducers: Vec<Reducer>,
    /// Their divisors.
    divisors: Vec<u32>,
    /// Rows that belong to the picture.
    height: u32,
    /// Rows that came.
    rows: u32,
    /// Whether rows were put in the place of some that lack.
    is_partial: bool,
}

impl Sink {
    /// Nothing yet.
    fn new(header: &Header, layout: Layout, divisors: &[u32]) -> Self {
        let reducer = |divisor: &u32| Reducer::new((header.width, header.height), layout, *divisor);
        let reducers = divisors.iter().map(reducer).collect();
        Self { reducers, divisors: divisors.to_vec(), height: header.height, rows: 0, is_partial: false }
    }

    /// Takes the next row; those below the picture are passed over.
    fn push(&mut self, row: &[u8]) {
        if self.rows < self.height {
            self.reducers.iter_mut().for_each(|reducer| reducer.push(row));
            self.rows = self.rows.saturating_add(1);
        }
    }

    /// What came of the picture. `outcome` says how reading ended: a broken end does not matter to the rows before it.
    fn finish(
        self,
        outcome: Result<(), ThumbnailError>,
        icc: Option<&[u8]>,
    ) -> Result<Vec<Decoded>, ThumbnailError> {
        let is_partial = self.is_partial || self.rows < self.height || outcome.is_err();
        match outcome {
            Err(ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_)) if self.rows > 0 => {}
            Err(error) => return Err(error),
            Ok(()) if self.rows == 0 => return Err(ThumbnailError::broken("no rows")),
            Ok(()) => {}
        }
        let height = self.height;
        let decoded = |(reducer, divisor): (Reducer, u32)| Decoded {
            pixels: reducer.finish().lengthen(height.div_ceil(divisor.max(1))),
            divisor,
            icc: icc.map(<[u8]>::to_vec),
            is_partial,
        };
        Ok(self.reducers.into_iter().zip(self.divisors).map(decoded).collect())
    }
}

/// Whether one decode serves two specs. Rows can be reduced in several ways while they pass; a JPEG is decoded at one
/// fraction at a time, and another fraction would give other pixels.
pub(super) fn shares(header: &Header, one: &RenderSpec, other: &RenderSpec) -> bool {
    match header.storage {
        Storage::Jpeg(_) => jpeg::scale(header, one) == jpeg::scale(header, other),
        Storage::Rows { .. } => true,
    }
}

/// By how much the picture is reduced for a spec before the final filter.
pub(super) fn reduction(header: &Header, spec: &RenderSpec) -> u32 {
    match header.storage {
        Storage::Jpeg(_) => jpeg::scale(header, spec),
        Storage::Rows { .. } => divisor(header, spec),
    }
}

/// The different reductions for specs.
fn reductions(header: &Header, specs: &[RenderSpec]) -> Vec<u32> {
    let mut divisors: Vec<u32> = specs.iter().map(|spec| reduction(header, spec)).collect();
    divisors.sort_unstable();
    divisors.dedup();
    divisors
}

/// What decoding for specs that go together holds, bytes.
pub(super) struct Cost {
    /// At its peak.
    pub(super) reading: u64,
    /// What is left of it for the final filter.
    pub(super) kept: u64,
}

/// What decoding holds for specs that go together.
pub(super) fn estimate(header: &Header, specs: &[RenderSpec]) -> Cost {
    let divisors = reductions(header, specs);
    let small = |divisor: &u32| reduced(header, *divisor, header.channels());
    let kept = divisors.iter().map(small).fold(0, u64::saturating_add);
    let reading = match header.storage {
        Storage::Jpeg(summary) => super::jpeg::estimate(&summary, divisors.first().copied().unwrap_or(1)),
        Storage::Rows { held } => {
            // Each reduction has sums of a row.
            let sums = |divisor: &u32| if *divisor == 1 { 0 } else { 4 };
            let sums: u64 = divisors.iter().map(sums).fold(0, u64::saturating_add);
            let sums = u64::from(header.width).saturating_mul(header.channels()).saturating_mul(sums);
            held.saturating_add(sums).saturating_add(kept)
        }
    };
    // A profile is held in pieces and whole; what is made of it is there before the filter.
    let profile = u64::from(header.profile_bytes);
    let conversion = conversion(header);
    Cost { reading: reading.saturating_add(profile.saturating_mul(3)), kept: kept.saturating_add(conversion) }
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
pub(super) fn divisor(header: &Header, spec: &RenderSpec) -> u32 {
    let double = spec.factor(2, 1);
    let area = u64::from(double).saturating_mul(u64::from(double)).max(1);
    let divisor = if header.pixels().div_euclid(area) > PLENTY { spec.factor(3, 2) } else { double };
    divisor.min(MAX_DIVISOR)
}

/// Bytes of a picture reduced by a divisor.
pub(super) fn reduced(header: &Header, divisor: u32, channels: u64) -> u64 {
    let side = |length: u32| u64::from(length.div_ceil(divisor.max(1)));
    side(header.width).saturating_mul(side(header.height)).saturating_mul(channels)
}

/// Bytes of the tables that even a small profile can ask for.
const PROFILE_TABLES: u64 = 8 << 20;
/// Pixels; with the planes of a JPEG 12 MiB.
const PLENTY: u64 = 2_000_000;
