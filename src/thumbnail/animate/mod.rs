//! Thumbnails that move (MSC2705): every frame of a GIF, APNG or WebP made small, as animated WebP.
//!
//! Owns what that may cost. One frame is held at a time, beside the canvas and the result. Refuses to be more than an
//! offer: what does not fit its bounds is shown still.

mod apng;
mod canvas;
mod gif;
mod webp;
mod writer;

use std::time::Instant;

use self::canvas::Canvas;
use self::writer::Writer;
use super::ThumbnailError;
use super::color::Conversion;
use super::decode;
use super::encode::Rendered;
use super::input::Input;
use super::pixels::Layout;
use super::plan::RenderSpec;
use super::probe::{Format, Header};
use super::resize;

/// What a file says of its animation before the frames.
#[derive(Clone, Debug)]
struct Film {
    /// How often it is shown; 0 for ever.
    plays: u16,
    /// The colour profile.
    icc: Option<Vec<u8>>,
    /// How many frames there are. Counted without decoding any, so that a refusal costs nothing; past [`MAX_FRAMES`] the
    /// count may stop.
    frames: u32,
}

/// A file whose frames come one by one.
trait Frames {
    /// What it says before the first.
    fn film(&self) -> Film;

    /// Draws the next frame and says for how many milliseconds it is seen; nothing after the last.
    fn next(&mut self, canvas: &mut Canvas) -> Result<Option<u32>, ThumbnailError>;
}

/// Makes an animation; nothing if there is but one picture to show. A broken frame ends it, as in browsers.
///
/// # Errors
/// What is over a bound is [`ThumbnailError::TooLarge`]: a still is to be made instead. Past the deadline it is
/// [`ThumbnailError::Timeout`], never an animation that ends early.
pub(super) fn animate<'a>(
    input: Input<'a>,
    header: &Header,
    spec: &RenderSpec,
    deadline: Option<Instant>,
) -> Result<Option<Rendered>, ThumbnailError> {
    let mut frames: Box<dyn Frames + 'a> = match header.format {
        Format::Gif => Box::new(gif::Gif::open(input, header)?),
        Format::Png => Box::new(apng::Apng::open(input, header)?),
        Format::WebP => Box::new(webp::WebP::open(input, header)?),
        Format::Jpeg | Format::Bmp | Format::Tiff => return Ok(None),
    };
    let Film { plays, icc, frames: count } = frames.film();
    if count > MAX_FRAMES || header.pixels().saturating_mul(count.into()) > MAX_DRAWN {
        return Err(UNFIT);
    }
    let part = header.orientation.stored_part(spec.crop, (header.width, header.height));
    let size = header.orientation.turn((spec.width, spec.height));
    let divisor = decode::divisor(header, spec);
    let mut canvas = Canvas::new(header.width, header.height);
    let conversion = Conversion::new(Layout::Rgba, icc.as_deref());
    let mut writer = Writer::new((spec.width, spec.height))?;
    for _ in 0..count {
        let next = frames.next(&mut canvas);
        // Asked first: a frame can look broken because its bytes did not come in time.
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(ThumbnailError::Timeout);
        }
        let duration = match next {
            Ok(Some(duration)) => duration,
            Ok(None) | Err(ThumbnailError::Broken(_)) => break,
            Err(error) => return Err(error),
        };
        let small = resize::Reduced::new(canvas.reduced(divisor), divisor).resize(part, size)?;
        writer.add(header.orientation.apply(conversion.apply(small)), seen_for(duration))?;
    }
    writer.finish(plays)
}

/// Bytes held while animating, but for the result's pictures.
pub(super) fn estimate(header: &Header, spec: &RenderSpec) -> u64 {
    // The canvas, a frame, what it covered; of WebP the frame's file, its planes, alpha and RGB besides.
    let per_pixel: u64 = match header.format {
        Format::WebP => 28,
        Format::Gif | Format::Png => 14,
        Format::Jpeg | Format::Bmp | Format::Tiff => 0,
    };
    let reduced = decode::reduced(header, decode::divisor(header, spec), 4).saturating_mul(3);
    let file = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_mul(2);
    let conversion = decode::conversion(header);
    [header.pixels().saturating_mul(per_pixel), reduced, file, conversion]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// How long a frame is seen. Browsers take 10 ms and less for no duration at all, and show the frame for 100 ms.
fn seen_for(duration: u32) -> u32 {
    if duration <= 10 { 100 } else { duration }
}

/// Over a bound.
const UNFIT: ThumbnailError = ThumbnailError::TooLarge("the animation is too long");
/// Frames of the source.
const MAX_FRAMES: u32 = 1000;
/// Pixels of the source's canvas, over all frames.
const MAX_DRAWN: u64 = 256 << 20;
/// Pixels that are encoded.
const MAX_CHANGED: u64 = 64 << 20;
/// Bytes of the result.
const MAX_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests;
