//! Animated thumbnails ([MSC2705](https://github.com/matrix-org/matrix-spec-proposals/pull/2705)): every frame of a GIF, APNG or
//! animated WebP, resized, as animated WebP.
//!
//! Owns the bounds on frames, pixels and bytes; an animation that exceeds one becomes a still. Holds one frame at a time
//! beside the canvas and the result. Refuses to know stills.

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

/// What is known of an animation before its frames are decoded.
#[derive(Clone, Debug)]
struct AnimationInfo {
    /// How often it is played; 0 for endless.
    loop_count: u16,
    icc: Option<Vec<u8>>,
    /// How many frames it has. They are counted without decoding, so that a refusal costs little; above [`MAX_FRAMES`] the
    /// count may stop.
    frames: u32,
}

/// Reads the frames of a file one by one.
trait FrameReader {
    fn info(&self) -> AnimationInfo;

    /// Draws the next frame and returns its duration in milliseconds; `None` after the last.
    fn draw_next(&mut self, canvas: &mut Canvas) -> Result<Option<u32>, ThumbnailError>;
}

/// Renders an animation; `None` if there is only one frame to show. As in browsers, a broken frame ends it.
///
/// # Errors
/// `TooLarge` if it exceeds a bound. `Timeout` past the deadline: it never ends early for lack of time.
pub(super) fn animate<'a>(
    input: Input<'a>,
    header: &Header,
    spec: &RenderSpec,
    deadline: Option<Instant>,
) -> Result<Option<Rendered>, ThumbnailError> {
    let mut frames: Box<dyn FrameReader + 'a> = match header.format {
        Format::Gif => Box::new(gif::Gif::open(input, header)?),
        Format::Png => Box::new(apng::Apng::open(input, header)?),
        Format::WebP => Box::new(webp::WebP::open(input, header)?),
        Format::Jpeg | Format::Bmp | Format::Tiff => return Ok(None),
    };
    let AnimationInfo { loop_count, icc, frames: count } = frames.info();
    if count > MAX_FRAMES || header.pixels().saturating_mul(count.into()) > MAX_DECODED_PIXELS {
        return Err(TOO_LONG);
    }
    let part = header.orientation.stored_part(spec.crop, (header.width, header.height));
    let size = header.orientation.turn((spec.width, spec.height));
    let divisor = decode::row_divisor(header, spec);
    let mut canvas = Canvas::new(header.width, header.height);
    let conversion = Conversion::new(Layout::Rgba, icc.as_deref());
    let mut writer = Writer::new((spec.width, spec.height))?;
    for _ in 0..count {
        let next = frames.draw_next(&mut canvas);
        // Checked before the result, because a frame can look broken when its bytes are late.
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(ThumbnailError::Timeout);
        }
        let duration = match next {
            Ok(Some(duration)) => duration,
            Ok(None) | Err(ThumbnailError::Broken(_)) => break,
            Err(error) => return Err(error),
        };
        let small = resize::Reduced::new(canvas.reduced(divisor), divisor).resize(part, size)?;
        writer.add(header.orientation.apply(conversion.apply(small)), displayed_duration(duration))?;
    }
    writer.finish(loop_count)
}

/// An upper bound of the bytes held by [`animate`], except for pictures of the result's size.
pub(super) fn estimate(header: &Header, spec: &RenderSpec) -> u64 {
    // The canvas, a frame, the pixels it covered; for WebP also the frame's file, planes, alpha and RGB.
    let per_pixel: u64 = match header.format {
        Format::WebP => 28,
        Format::Gif | Format::Png => 14,
        Format::Jpeg | Format::Bmp | Format::Tiff => 0,
    };
    let reduced = decode::reduced_bytes(header, decode::row_divisor(header, spec), 4).saturating_mul(3);
    let file = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_mul(2);
    let conversion = decode::conversion_bytes(header);
    [header.pixels().saturating_mul(per_pixel), reduced, file, conversion]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// The duration in milliseconds that browsers use: 100 for a frame of 10 or less.
fn displayed_duration(duration: u32) -> u32 {
    if duration <= 10 { 100 } else { duration }
}

/// The animation exceeds a bound.
const TOO_LONG: ThumbnailError = ThumbnailError::TooLarge("the animation is too long");
/// Most frames.
const MAX_FRAMES: u32 = 1000;
/// Most pixels of the source's canvas times frames.
const MAX_DECODED_PIXELS: u64 = 256 << 20;
/// Most pixels that are encoded, over all frames.
const MAX_ENCODED_PIXELS: u64 = 64 << 20;
/// Most bytes of the result.
const MAX_BYTES: usize = 8 << 20;

#[cfg(test)]
mod tests;
