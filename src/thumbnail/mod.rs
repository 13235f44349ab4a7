//! Thumbnails: what a picture is, what to make of it, and the making, within a budget.
//!
//! Owns decoding, orientation, colour, resizing and encoding, and every crate that does them. Refuses to know HTTP,
//! the store and who asked. [Spec, Thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails).
//!
//! [`probe()`] reads the header and allocates nothing by what it claims; [`Plan::new`] is arithmetic; [`estimate`] is
//! the permit to take before [`render`], which refuses what is over its [`Limits`].
//!
//! Several sizes of one source can share a decode ([`can_share_decode`]). What is made of a source and
//! a [`RenderSpec`] is always the same, whatever is made beside it, for other servers are given the bytes that clients get. So
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
use std::io;
use std::time::Instant;

use input::ReadSeek;
use pixels::Pixels;

pub(crate) use encode::Rendered;
pub(crate) use plan::{Motion, Plan, Rect, RenderSpec, Source, ThumbnailRequest};
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
    Timeout,
    /// Out of time for every frame. A still can be made, which is another picture: [`render`] gives the same bytes for the
    /// same spec, or none.
    #[error("there was no time to animate the image")]
    AnimationTimeout,
    /// No picture of a format that is read here, by its first bytes: 400.
    #[error("the media is not an image that can be thumbnailed")]
    NotAnImage,
    /// A picture that cannot be decoded: 400.
    #[error("the image is broken")]
    Broken(#[source] Box<dyn StdError + Send + Sync>),
    /// A picture that may be whole, of a kind that is not read here: 400.
    #[error("the image is of a kind that is not read: {0}")]
    Unsupported(&'static str),
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
    /// A decoder's word for a picture that it cannot read: what our own reading does wrong is noted where it happens
    /// ([`input::read`]).
    fn from(error: io::Error) -> Self {
        Self::broken(error)
    }
}

/// A spec as asked where memory allows. Else a still in place of all frames; else the largest picture of the same part that
/// memory allows.
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

/// The bytes that [`render`] holds at its peak, rounded up: for a weighted permit.
pub(crate) fn estimate(header: &Header, specs: &[RenderSpec]) -> u64 {
    let channels = header.channels();
    let area = |spec: &RenderSpec| u64::from(spec.width).saturating_mul(u64::from(spec.height));
    let result = |spec: &RenderSpec| area(spec).saturating_mul(channels);
    let sum = |bytes: &dyn Fn(&RenderSpec) -> u64| specs.iter().map(bytes).fold(0, u64::saturating_add);
    let most = |bytes: &dyn Fn(&RenderSpec) -> u64| specs.iter().map(bytes).fold(0, u64::max);
    let decode::Cost { reading, kept } = decode::estimate(header, specs);
    // The filter's half-way picture, the result before and after colour and orientation.
    let filtering = |spec: &RenderSpec| {
        resize::between_passes(header, spec).saturating_add(result(spec).saturating_mul(2))
    };
    let finishing = kept.saturating_add(sum(&result)).saturating_add(most(&filtering));
    // A PNG as it is compressed and as a file that grows, and a JPEG.
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

/// Whether one decode serves both specs.
pub(crate) fn can_share_decode(header: &Header, one: &RenderSpec, other: &RenderSpec) -> bool {
    !one.animated && !other.animated && decode::shares(header, one, other)
}

/// Makes the pictures of plans that [`can_share_decode`], in their order. The same source and spec give the same bytes,
/// whatever is made beside it: an animation that is over a bound is a still for good, one that there is no time for is
/// refused.
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
    let Drawn { pictures, is_partial } = draw(input, header, specs, limits)?;
    let encode = |pixels| encode::encode(pixels, header.format);
    let whole = pictures.into_iter().map(encode);
    whole.map(|made| made.map(|rendered| Rendered { is_partial, ..rendered })).collect()
}

/// The spec that [`blurhash`] and [`verify`] take: the cheapest that there is.
pub(crate) fn cheapest_spec(header: &Header) -> RenderSpec {
    sketch::spec(header.source())
}

/// The blurhash of a picture (MSC2448).
pub(crate) fn blurhash(
    input: &mut dyn ReadSeek,
    header: &Header,
    limits: &Limits,
) -> Result<String, ThumbnailError> {
    let Drawn { pictures, .. } = draw(input, header, &[cheapest_spec(header)], limits)?;
    sketch::blurhash(pictures.first().ok_or_else(|| ThumbnailError::broken("nothing was made"))?)
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

/// Decodes a picture to its end and keeps nothing of it: whether there can be thumbnails of it.
pub(crate) fn verify(
    input: &mut dyn ReadSeek,
    header: &Header,
    limits: &Limits,
) -> Result<(), ThumbnailError> {
    draw(input, header, &[cheapest_spec(header)], limits).map(drop)
}

/// The results before they are encoded.
struct Drawn {
    /// In the order of the specs.
    pictures: Vec<Pixels>,
    /// Whether the file broke off.
    is_partial: bool,
}

/// The pixels of the results.
fn draw(
    input: &mut dyn ReadSeek,
    header: &Header,
    specs: &[RenderSpec],
    limits: &Limits,
) -> Result<Drawn, ThumbnailError> {
    check_limits(header, specs, limits)?;
    let decoded = input::read(input, limits.deadline, |input| decode::decode(input, header, specs, limits))?;
    let is_partial = decoded.iter().any(|decoded| decoded.is_partial);
    // Those of one reduction together, so that what each needs of it is done once.
    let mut pictures: Vec<Option<Pixels>> = specs.iter().map(|_| None).collect();
    for decoded in decoded {
        let mut source = resize::Reduced::new(decoded.pixels, decoded.divisor);
        let conversion = color::Conversion::new(source.layout(), decoded.icc.as_deref());
        // What needs no filter first: the filter changes the source.
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
    Ok(Drawn { pictures: pictures.ok_or_else(|| ThumbnailError::broken("a size was left out"))?, is_partial })
}

/// Every frame; nothing where only a still can be shown, however much time there is.
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

/// Tables, buffers and thread stacks of the codecs.
const BASE_BYTES: u64 = 2 << 20;

#[cfg(test)]
mod tests;
