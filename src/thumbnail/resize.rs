//! The final filter: Lanczos3 in SIMD, alpha premultiplied meanwhile.
//!
//! Owns the geometry between a reduced picture and the part of the source that is wanted. Refuses to know formats.

use std::error::Error;

use fast_image_resize::images::TypedImage;
use fast_image_resize::pixels::{U8, U8x2, U8x3, U8x4};
use fast_image_resize::{FilterType, MulDiv, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

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
        let divisor = *divisor;
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
        let layout = pixels.layout;
        let data = match layout {
            Layout::Grey => self.filter::<U8>((width, height), &options),
            Layout::GreyAlpha => self.filter::<U8x2>((width, height), &options),
            Layout::Rgb => self.filter::<U8x3>((width, height), &options),
            Layout::Rgba | Layout::Cmyk => self.filter::<U8x4>((width, height), &options),
        };
        Ok(Pixels { width, height, layout, data: data.map_err(ThumbnailError::broken)? })
    }

    /// Runs the filter over pixels of type `P`. The filter is compiled 30 times for each type of pixel and of view: the four types that
    /// occur are named here, and all views have one type, because the general entrance compiles it for 13 pixel types and more views.
    fn filter<P: PixelTrait>(
        &mut self,
        (width, height): (u32, u32),
        options: &ResizeOptions,
    ) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let pixels = &mut self.pixels;
        let has_alpha = pixels.layout.has_alpha();
        let length = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
        let bytes = length(width).saturating_mul(length(height)).saturating_mul(pixels.layout.channels());
        let mut data = vec![0; bytes];
        let mut source = TypedImage::<P>::from_buffer(pixels.width, pixels.height, &mut pixels.data)?;
        let mut small = TypedImage::<P>::from_buffer(width, height, &mut data)?;
        if has_alpha && !self.is_multiplied {
            MulDiv::new().multiply_alpha_inplace_typed(&mut source)?;
            self.is_multiplied = true;
        }
        Resizer::new().resize_typed(&source, &mut small, options)?;
        if has_alpha {
            MulDiv::new().divide_alpha_inplace_typed(&mut small)?;
        }
        Ok(data)
    }
}

/// Bytes of the filter's picture between its two directions: of the result's width and the part's height.
pub(super) fn halfway(header: &Header, spec: &RenderSpec) -> u64 {
    let reduced = super::decode::reduction(header, spec).max(1);
    let (width, _) = header.orientation.turn((spec.width, spec.height));
    let rows = u64::from(header.height).div_ceil(u64::from(reduced)).saturating_add(1);
    u64::from(width).saturating_mul(rows).saturating_mul(header.channels())
}
