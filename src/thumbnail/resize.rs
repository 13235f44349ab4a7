//! The final filter: Lanczos3 in SIMD, alpha premultiplied meanwhile.
//!
//! Owns the geometry between a reduced picture and the part of the source that is wanted. Refuses to know formats.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::ThumbnailError;
use super::pixels::{Layout, Pixels};
use super::plan::Rect;

/// Brings a part of the source to a size. `pixels` is the source reduced by `divisor`; `part` counts the source's own
/// pixels, so that a last row or column of which the reduced picture has only a fraction counts as that fraction.
pub(super) fn resize(
    pixels: &Pixels,
    divisor: u32,
    part: Rect,
    (width, height): (u32, u32),
) -> Result<Pixels, ThumbnailError> {
    let whole = part == Rect { x: 0, y: 0, width: pixels.width, height: pixels.height };
    if divisor == 1 && whole && (pixels.width, pixels.height) == (width, height) {
        return Ok(pixels.clone());
    }
    let kind = match pixels.layout {
        Layout::Grey => PixelType::U8,
        Layout::GreyAlpha => PixelType::U8x2,
        Layout::Rgb => PixelType::U8x3,
        Layout::Rgba | Layout::Cmyk => PixelType::U8x4,
    };
    let along = |at: u32, length: u32, most: u32| {
        let at = f64::from(at) / f64::from(divisor.max(1));
        let length = f64::from(length) / f64::from(divisor.max(1));
        (at, length.min(f64::from(most) - at))
    };
    let (left, part_width) = along(part.x, part.width, pixels.width);
    let (top, part_height) = along(part.y, part.height, pixels.height);
    let options = ResizeOptions::new()
        .crop(left, top, part_width, part_height)
        .use_alpha(pixels.layout.has_alpha())
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    let mut small = Image::new(width, height, kind);
    let source =
        ImageRef::new(pixels.width, pixels.height, &pixels.data, kind).map_err(ThumbnailError::broken)?;
    Resizer::new().resize(&source, &mut small, &options).map_err(ThumbnailError::broken)?;
    Ok(Pixels { width, height, layout: pixels.layout, data: small.into_vec() })
}
