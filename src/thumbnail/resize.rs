//! The final filter (Lanczos3, SIMD): from a reduced source to the size of the result.
//!
//! Owns the geometry between a reduced picture and the wanted part of the source, and premultiplied alpha. Refuses to
//! know formats and orientation.

use fast_image_resize::images::TypedImage;
use fast_image_resize::pixels::{U8, U8x2, U8x3, U8x4};
use fast_image_resize::{FilterType, MulDiv, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use super::ThumbnailError;
use super::pixels::{Layout, Pixels, length};
use super::plan::{Rect, RenderSpec};
use super::probe::Header;

/// A source after reduction by a whole divisor, from which results of several sizes can be made.
pub(super) struct Reduced {
    pixels: Pixels,
    /// By how much both sides were divided.
    divisor: u32,
    /// Whether the colours have been multiplied by their alpha. It is done in place, so that no copy is held.
    is_premultiplied: bool,
}

impl Reduced {
    /// Takes pixels with straight alpha.
    pub(super) fn new(pixels: Pixels, divisor: u32) -> Self {
        Self { pixels, divisor, is_premultiplied: false }
    }

    pub(super) fn layout(&self) -> Layout {
        self.pixels.layout
    }

    /// Whether the part is the whole picture and already has the wanted size, so that no filter is needed.
    pub(super) fn is_exact(&self, part: Rect, (width, height): (u32, u32)) -> bool {
        let whole = Rect { x: 0, y: 0, width: self.pixels.width, height: self.pixels.height };
        self.divisor == 1 && part == whole && (part.width, part.height) == (width, height)
    }

    /// Resizes a part to `size`. Exact results ([`Self::is_exact`]) must be taken before all others, which premultiply
    /// the source.
    ///
    /// `part` is given in pixels of the source before reduction. Where the last row or column of the reduced picture
    /// covers only a fraction of a divisor, it counts as that fraction.
    pub(super) fn resize(&mut self, part: Rect, size: (u32, u32)) -> Result<Pixels, ThumbnailError> {
        if self.is_exact(part, size) {
            return Ok(self.pixels.clone());
        }
        // The typed interface compiles the filter for these four kinds of pixel only, not for all thirteen.
        match self.pixels.layout {
            Layout::Grey => self.filter::<U8>(part, size),
            Layout::GreyAlpha => self.filter::<U8x2>(part, size),
            Layout::Rgb => self.filter::<U8x3>(part, size),
            Layout::Rgba | Layout::Cmyk => self.filter::<U8x4>(part, size),
        }
    }

    /// [`Self::resize`] for pixels of type `P`, which must have the size of the layout's pixels.
    fn filter<P: PixelTrait>(
        &mut self,
        part: Rect,
        (width, height): (u32, u32),
    ) -> Result<Pixels, ThumbnailError> {
        let Self { pixels, divisor, is_premultiplied } = self;
        let layout = pixels.layout;
        let divisor = f64::from((*divisor).max(1));
        let along = |at: u32, length: u32, most: u32| {
            let at = f64::from(at) / divisor;
            (at, (f64::from(length) / divisor).min(f64::from(most) - at))
        };
        let (left, part_width) = along(part.x, part.width, pixels.width);
        let (top, part_height) = along(part.y, part.height, pixels.height);
        let options = ResizeOptions::new()
            .crop(left, top, part_width, part_height)
            .use_alpha(false)
            .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
        // The source is a mutable image although it is only read: the filter's own buffer between its two passes has
        // this type too, so that each pass is compiled once.
        let mut source = TypedImage::<P>::from_buffer(pixels.width, pixels.height, &mut pixels.data)
            .map_err(ThumbnailError::broken)?;
        if layout.has_alpha() && !*is_premultiplied {
            MulDiv::new().multiply_alpha_inplace_typed(&mut source).map_err(ThumbnailError::broken)?;
            *is_premultiplied = true;
        }
        let mut data =
            vec![0; length(width).saturating_mul(length(height)).saturating_mul(layout.channels())];
        let mut result =
            TypedImage::<P>::from_buffer(width, height, &mut data).map_err(ThumbnailError::broken)?;
        Resizer::new().resize_typed(&source, &mut result, &options).map_err(ThumbnailError::broken)?;
        if layout.has_alpha() {
            MulDiv::new().divide_alpha_inplace_typed(&mut result).map_err(ThumbnailError::broken)?;
        }
        Ok(Pixels { width, height, layout, data })
    }
}

/// Bytes of the picture between the filter's two passes. It has the part's width and the result's height, or the reverse;
/// since part and result have the same aspect, both take the same.
pub(super) fn between_passes(header: &Header, spec: &RenderSpec) -> u64 {
    let reduced = super::decode::reduction(header, spec).max(1);
    let (width, _) = header.orientation.turn((spec.width, spec.height));
    let rows = u64::from(header.height).div_ceil(u64::from(reduced)).saturating_add(1);
    u64::from(width).saturating_mul(rows).saturating_mul(header.channels())
}
