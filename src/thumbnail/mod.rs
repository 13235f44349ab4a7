//! Thumbnails: recognising pictures, planning sizes, and rendering within limits of memory and time.
//!
//! Owns decoding, orientation, colour, resizing and encoding, and every crate that does them. Refuses to know HTTP, the
//! store and who asked. [Spec, Thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).
//!
//! The steps, in order: [`probe()`] reads the header and allocates nothing by what it claims; [`Plan::new`] chooses the
//! size by arithmetic alone; [`estimate`] says how much memory rendering needs; [`render`] refuses what exceeds its
//! [`Limits`].
//!
//! The same source and the same [`RenderSpec`] always give the same bytes, whatever else is rendered with it, because
//! other servers must get the bytes that clients get. Several sizes of one source can still share one decode
//! ([`can_share_decode`]): rows are reduced separately for each size while they are decoded. A JPEG is decoded directly
//! at 1/1, 1/2, 1/4 or 1/8 of its size, so only sizes that need the same fraction can share its decode.

mod animate;
mod blurhash;
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
use std::io;
use std::time::Instant;

use input::ReadSeek;
use pixels::Pixels;

pub(crate) use encode::Rendered;
pub(crate) use plan::{Motion, Plan, Rect, RenderSpec, Source, ThumbnailRequest};
pub(crate) use probe::{Header, probe};

/// What rendering one picture may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Pixels of one frame of the source (`thumbnails.max_pixels`).
    pub(crate) max_pixels: u64,
    /// Bytes held at any moment (`thumbnails.memory`).
    pub(crate) memory: u64,
    /// When rendering ends with [`ThumbnailError::Timeout`]; `None` for never.
    pub(crate) deadline: Option<Instant>,
    /// When an animation ends with [`ThumbnailError::AnimationTimeout`]. Earlier than `deadline`, so that time is left to
    /// render a still instead.
    pub(crate) animation_deadline: Option<Instant>,
}

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThumbnailError {
    /// The picture exceeds a limit: status 413.
    #[error("{0}")]
    TooLarge(&'static str),
    /// [`Limits::deadline`] has passed: status 413.
    #[error("the image takes too long to decode")]
    Timeout,
    /// [`Limits::animation_deadline`] has passed. The caller may render a still, with another spec: [`render`] never answers
    /// a spec for an animation with a still for lack of time, since that would give other bytes for the same spec.
    #[error("there was not enough time to animate the image")]
    AnimationTimeout,
    /// The first bytes are not those of a supported format: status 400.
    #[error("the media is not an image that can be thumbnailed")]
    NotAnImage,
    /// The picture cannot be decoded: status 400.
    #[error("the image is broken")]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
    /// The picture uses a variant of its format that is not supported, named here; it need not be broken: status 400.
    #[error("this kind of image is not supported: {0}")]
    Unsupported(&'static str),
    /// Reading the source failed: status 500.
    #[error("reading the image failed")]
    Io(#[source] io::Error),
}

impl ThumbnailError {
    /// Wraps an error of a decoder or an encoder.
    fn broken(why: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Broken(why.into())
    }
}

impl From<io::Error> for ThumbnailError {
    /// Decoders report broken pictures as I/O errors. Real failures of the disk do not come this way: [`input::read`] records
    /// them where they happen.
    fn from(error: io::Error) -> Self {
        Self::broken(error)
    }
}

/// Reduces a spec until [`estimate`] fits [`Limits::memory`]: first to a still instead of an animation, then to the
/// largest picture of the same part that fits. If nothing fits, the result is one pixel wide or high and does not fit either.
pub(crate) fn fit_to_memory(header: &Header, spec: RenderSpec, limits: &Limits) -> RenderSpec {
    let fits = |spec: RenderSpec| estimate(header, &[spec]) <= limits.memory;
    if fits(spec) {
        return spec;
    }
    let still = RenderSpec { animated: false, ..spec };
    if fits(still) {
        return still;
    }
    let longest = spec.width.max(spec.height);
    // A binary search for the longer side.
    let (mut least, mut most) = (1, longest);
    while least < most {
        let middle = least.saturating_add(most.saturating_sub(least).div_ceil(2));
        if fits(still.shrunk(middle, longest)) {
            least = middle;
        } else {
            most = middle.saturating_sub(1);
        }
    }
    still.shrunk(least, longest)
}

/// An upper bound of the bytes that [`render`] holds at its peak, to be taken from the shared memory budget before.
pub(crate) fn estimate(header: &Header, specs: &[RenderSpec]) -> u64 {
    let channels = header.channels();
    let area = |spec: &RenderSpec| u64::from(spec.width).saturating_mul(u64::from(spec.height));
    let result = |spec: &RenderSpec| area(spec).saturating_mul(channels);
    let sum = |bytes: &dyn Fn(&RenderSpec) -> u64| specs.iter().map(bytes).fold(0, u64::saturating_add);
    let most = |bytes: &dyn Fn(&RenderSpec) -> u64| specs.iter().map(bytes).fold(0, u64::max);
    let decode::Cost { reading, kept } = decode::estimate(header, specs);
    // The filter's intermediate picture, and the result before and after colour conversion and orientation.
    let filtering = |spec: &RenderSpec| {
        resize::between_passes(header, spec).saturating_add(result(spec).saturating_mul(2))
    };
    let finishing = kept.saturating_add(sum(&result)).saturating_add(most(&filtering));
    // The PNG encoder's buffers and its growing file, and a JPEG.
    let encoding =
        |spec: &RenderSpec| result(spec).saturating_mul(3).saturating_add(area(spec).saturating_mul(2));
    let encoding = sum(&result).saturating_add(most(&encoding));
    let moving = |spec: &RenderSpec| if spec.animated { animate::estimate(header, spec) } else { 0 };
    let moving = match most(&moving) {
        0 => 0,
        moving => moving.saturating_add(most(&|spec| area(spec).saturating_mul(16))),
    };
    [reading, finishing, encoding, moving].into_iter().fold(0, u64::max).saturating_add(BASE_BYTES)
}

/// What decoding costs beside other pictures: about the megapixels that are decoded in full. An animation is a class of its own.
pub(crate) fn cost(header: &Header) -> u64 {
    let megapixels = header.pixels().div_euclid(1_000_000);
    // A JPEG is decoded at a fraction of its size, a quarter of the work.
    if matches!(header.storage, probe::Storage::Jpeg(_)) { megapixels.div_euclid(4) } else { megapixels }
}

/// Whether [`render`] can make both specs in one call.
pub(crate) fn can_share_decode(header: &Header, one: &RenderSpec, other: &RenderSpec) -> bool {
    !one.animated && !other.animated && decode::can_share(header, one, other)
}

/// Renders specs that [`can_share_decode`], in their order. The same source and spec give the same bytes, whatever is
/// rendered with it: an animation that exceeds a bound of [`animate`] always becomes a still.
///
/// # Errors
/// See [`ThumbnailError`]; for an animation that exceeds its time, `AnimationTimeout` and no still.
pub(crate) fn render(
    input: &mut dyn ReadSeek,
    header: &Header,
    specs: &[RenderSpec],
    limits: &Limits,
) -> Result<Vec<Rendered>, ThumbnailError> {
    if let [spec @ RenderSpec { animated: true, .. }] = specs
        && let Some(animation) = animation(input, header, spec, limits)?
    {
        return Ok(vec![animation]);
    }
    let Pictures { pictures, is_partial } = render_pixels(input, header, specs, limits)?;
    let encode = |pixels| encode::encode(pixels, header.format);
    let encoded = pictures.into_iter().map(encode);
    encoded.map(|rendered| rendered.map(|rendered| Rendered { is_partial, ..rendered })).collect()
}

/// The spec that [`blurhash()`] and [`verify`] render: the cheapest one for this picture.
pub(crate) fn cheapest_spec(header: &Header) -> RenderSpec {
    blurhash::cheapest_spec(header.source())
}

/// The blurhash of a picture ([MSC2448](https://github.com/matrix-org/matrix-spec-proposals/pull/2448)), of its first
/// frame.
pub(crate) fn blurhash(
    input: &mut dyn ReadSeek,
    header: &Header,
    limits: &Limits,
) -> Result<String, ThumbnailError> {
    let Pictures { pictures, .. } = render_pixels(input, header, &[cheapest_spec(header)], limits)?;
    blurhash::blurhash(pictures.first().ok_or_else(|| ThumbnailError::broken("nothing was made"))?)
}

/// Compares what the header says with the limits, without reading pixels.
///
/// # Errors
/// `TooLarge` for more than `max_pixels` pixels, or where [`estimate`] gives more than `memory`.
pub(crate) fn check_limits(
    header: &Header,
    specs: &[RenderSpec],
    limits: &Limits,
) -> Result<(), ThumbnailError> {
    header.check_pixels(limits)?;
    if estimate(header, specs) > limits.memory {
        return Err(ThumbnailError::TooLarge("the image takes too much memory to decode"));
    }
    Ok(())
}

/// Decodes the picture (of an animation, the first frame) to check that thumbnails can be made of it.
pub(crate) fn verify(
    input: &mut dyn ReadSeek,
    header: &Header,
    limits: &Limits,
) -> Result<(), ThumbnailError> {
    render_pixels(input, header, &[cheapest_spec(header)], limits).map(drop)
}

/// Results before they are encoded.
struct Pictures {
    /// In the order of the specs.
    pictures: Vec<Pixels>,
    /// Whether the file is truncated, so that a part of the picture is missing.
    is_partial: bool,
}

/// Decodes once, then resizes, converts to sRGB and orients for each spec.
fn render_pixels(
    input: &mut dyn ReadSeek,
    header: &Header,
    specs: &[RenderSpec],
    limits: &Limits,
) -> Result<Pictures, ThumbnailError> {
    check_limits(header, specs, limits)?;
    let decoded = input::read(input, limits.deadline, |input| decode::decode(input, header, specs, limits))?;
    let is_partial = decoded.iter().any(|decoded| decoded.is_partial);
    // Specs of one reduction together, so that its colour conversion is set up once.
    let mut pictures: Vec<Option<Pixels>> = specs.iter().map(|_| None).collect();
    for decoded in decoded {
        let mut source = resize::Reduced::new(decoded.pixels, decoded.divisor);
        let conversion = color::Conversion::new(source.layout(), decoded.icc.as_deref());
        // Exact results first, because the filter premultiplies its source.
        for filtered in [false, true] {
            for (spec, picture) in specs.iter().zip(&mut pictures) {
                let part = header.orientation.stored_part(spec.crop, (header.width, header.height));
                let size = header.orientation.turn((spec.width, spec.height));
                let is_one = decode::reduction(header, spec) == decoded.divisor;
                if is_one && source.is_exact(part, size) != filtered {
                    let small = conversion.apply(source.resize(part, size)?);
                    *picture = Some(header.orientation.apply(small));
                }
            }
        }
    }
    let pictures: Option<Vec<Pixels>> = pictures.into_iter().collect();
    Ok(Pictures {
        pictures: pictures.ok_or_else(|| ThumbnailError::broken("a size was left out"))?,
        is_partial,
    })
}

/// Renders every frame. `None` where a still is to be rendered instead, however much time there is.
fn animation(
    input: &mut dyn ReadSeek,
    header: &Header,
    spec: &RenderSpec,
    limits: &Limits,
) -> Result<Option<Rendered>, ThumbnailError> {
    check_limits(header, &[*spec], limits)?;
    let deadline = limits.animation_deadline;
    match input::read(input, deadline, |input| animate::animate(input, header, spec, deadline)) {
        Err(ThumbnailError::Timeout) => Err(ThumbnailError::AnimationTimeout),
        Err(
            ThumbnailError::TooLarge(_)
            | ThumbnailError::Broken(_)
            | ThumbnailError::Unsupported(_)
            | ThumbnailError::NotAnImage,
        ) => Ok(None),
        other => other,
    }
}

/// Bytes for tables, buffers and stacks of the codecs.
const BASE_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests;
