//! The final filter: Lanczos3 in SIMD, alpha premultiplied meanwhile.
//!
//! Owns the geometry between a reduced picture and the part of the source that is wanted. Refuses to know formats.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, MulDiv, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::ThumbnailError;
use super::pixels::{Layout, Pixels};
use super::plan::{Rect, RenderSpec};
use super::probe::Header;

/// A source reduced, of which parts are brought to sizes.
pub(super) struct Source {
    /// The pixels.
    pixels: Pixels,
    /// By how much both sides were reduced.
    divisor: u32,
    /// Whether colours have been multiplied with their alpha: in place, so that no copy is held beside.
    is_multiplied: bool,
}

impl Source {
    /// As it was decoded.
    pub(super) fn new(pixels: Pixels, divisor: u32) -> Self {
        Self { pixels, divisor, is_multiplied: false }
    }

    /// What a pixel is.
    pub(super) fn layout(&self) -> Layout {
        self.pixels.layout
    }

    /// Whether a part is the whole and has the size already.
    pub(super) fn is_as_wanted(&self, part: Rect, (width, height): (u32, u32)) -> bool {
        let whole = Rect { x: 0, y: 0, width: self.pixels.width, height: self.pixels.height };
        self.divisor == 1 && part == whole && (part.width, part.height) == (width, height)
    }

    /// Brings a part to a size; those that are [`Self::is_as_wanted`] must come first. `part` counts the source's own pixels, so that a last row or column of which the reduced
    /// picture has only a fraction counts as that fraction.
    pub(super) fn resize(
        &mut self,
        part: Rect,
        (width, height): (u32, u32),
    ) -> Result<Pixels, ThumbnailError> {
        if self.is_as_wanted(part, (width, height)) {
            return Ok(self.pixels.clone());
        }
        let Self { pixels, divisor, .. } = self;
        let (divisor, layout) = (*divisor, pixels.layout);
        let kind = match layout {
            Layout::Grey => PixelType::U8,
            Layout::GreyAlpha => PixelType::U8x2,
            Layout::Rgb => PixelType::U8x3,
            Layout::Rgba | Layout::Cmyk => PixelType::U8x4,
        };
        if layout.has_alpha() && !self.is_multiplied {
            let mut image = Image::from_slice_u8(pixels.width, pixels.height, &mut pixels.data, kind)
                .map_err(ThumbnailError::broken)?;
            MulDiv::new().multiply_alpha_inplace(&mut image).map_err(ThumbnailError::broken)?;
            self.is_multiplied = true;
        }
        let along = |at: u32, length: u32, most: u32| {
            let at = f64::from(at) / f64::from(divisor.max(1));
            let length = f64::from(length) / f64::from(divisor.max(1));
            (at, length.min(f64::from(most) - at))
        };
        let (left, part_width) = along(part.x, part.width, pixels.width);
        let (top, part_height) = along(part.y, part.height, pixels.height);
        let options = ResizeOptions::new()
            .crop(left, top, part_width, part_height)
            .use_alpha(false)
            .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
        let mut small = Image::new(width, height, kind);
        let source =
            ImageRef::new(pixels.width, pixels.height, &pixels.data, kind).map_err(ThumbnailError::broken)?;
        Resizer::new().resize(&source, &mut small, &options).map_err(ThumbnailError::broken)?;
        if layout.has_alpha() {
            MulDiv::new().divide_alpha_inplace(&mut small).map_err(ThumbnailError::broken)?;
        }
        Ok(Pixels { width, height, layout, data: small.into_vec() })
    }
}

/// Bytes of the filter's picture between its two directions: of the result's width and the part's height.
pub(super) fn halfway(header: &Header, spec: &RenderSpec) -> u64 {
    let reduced = super::decode::reduction(header, spec).max(1);
    let (width, _) = header.orientation.turn((spec.width, spec.height));
    let rows = u64::from(header.height).div_ceil(u64::from(reduced)).saturating_add(1);
    u64::from(width).saturating_mul(rows).saturating_mul(header.channels())
}
