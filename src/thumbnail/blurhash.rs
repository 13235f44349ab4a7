//! Blurhashes: 28 characters from which clients draw a placeholder while the picture loads
//! ([algorithm](https://github.com/woltapp/blurhash/blob/master/Algorithm.md),
//! [MSC2448](https://github.com/matrix-org/matrix-spec-proposals/pull/2448)).
//!
//! Owns the size and the number of components that go into the hash. Refuses to know formats and decoding.

use fast_blurhash::compute_dct;

use super::ThumbnailError;
use super::pixels::Pixels;
use super::plan::{Rect, RenderSpec, Source};

/// The spec whose result a blurhash is computed from: the whole picture in at most [`MAX_SIDE`] pixels a side. A hash of
/// twelve components cannot show more.
pub(super) fn cheapest_spec(Source { width, height, .. }: Source) -> RenderSpec {
    let crop = Rect { x: 0, y: 0, width, height };
    let longest = u64::from(width.max(height)).max(MAX_SIDE);
    let side = |length: u32| {
        let reduced = u64::from(length).saturating_mul(MAX_SIDE).checked_div(longest).unwrap_or(1);
        u32::try_from(reduced).unwrap_or(u32::MAX).max(1)
    };
    RenderSpec { crop, width: side(width), height: side(height), animated: false }
}

/// The blurhash of a result, with transparency over white.
///
/// # Errors
/// `Broken` if the data does not have the length that the size says.
pub(super) fn blurhash(pixels: &Pixels) -> Result<String, ThumbnailError> {
    let over_white = |value: u8, alpha: u8| {
        let product = u16::from(value).wrapping_mul(u16::from(alpha));
        let rounded = u8::try_from(product.wrapping_add(127).div_euclid(255)).unwrap_or(u8::MAX);
        rounded.saturating_add(!alpha)
    };
    let opaque = |pixel: &[u8]| match *pixel {
        [grey] => [grey; 3],
        [grey, alpha] => [over_white(grey, alpha); 3],
        [r, g, b] => [r, g, b],
        [r, g, b, alpha] => [r, g, b].map(|value| over_white(value, alpha)),
        _ => [u8::MAX; 3],
    };
    let colours: Vec<[u8; 3]> = pixels.data.chunks_exact(pixels.layout.channels()).map(opaque).collect();
    let side = |length: u32| usize::try_from(length).map_err(ThumbnailError::broken);
    let (width, height) = (side(pixels.width)?, side(pixels.height)?);
    if colours.is_empty() || width.checked_mul(height) != Some(colours.len()) {
        return Err(ThumbnailError::broken("the size is not that of the pixels"));
    }
    let (across, down) = COMPONENTS;
    Ok(compute_dct(&colours, width, height, across, down).into_blurhash())
}

/// Pixels.
const MAX_SIDE: u64 = 32;

/// Components across and down, as in conduwuit and the examples of the algorithm.
const COMPONENTS: (usize, usize) = (4, 3);

#[cfg(test)]
mod tests {
    use super::super::pixels::Layout;
    use super::super::plan::Motion;
    use super::*;

    #[test]
    fn the_cheapest_spec_keeps_the_aspect_ratio_and_never_enlarges() {
        for (source, expected) in [
            ((6000, 4000), (32, 21)),
            ((4000, 6000), (21, 32)),
            ((1, 60_000), (1, 32)),
            ((20, 10), (20, 10)),
            ((1, 1), (1, 1)),
        ] {
            let spec = cheapest_spec(Source { width: source.0, height: source.1, motion: Motion::Still });
            assert_eq!((spec.width, spec.height), expected, "{source:?}");
            assert_eq!((spec.crop.width, spec.crop.height), source);
        }
    }

    #[test]
    fn every_layout_is_hashed_over_white() {
        let one = |layout, data: &[u8]| Pixels { width: 1, height: 1, layout, data: data.to_vec() };
        let white = blurhash(&one(Layout::Rgb, &[255, 255, 255])).unwrap();
        assert_eq!(blurhash(&one(Layout::Rgba, &[1, 2, 3, 0])).unwrap(), white);
        assert_eq!(blurhash(&one(Layout::GreyAlpha, &[9, 0])).unwrap(), white);
        assert_eq!(blurhash(&one(Layout::Grey, &[255])).unwrap(), white);
        let half = blurhash(&one(Layout::Rgba, &[0, 0, 0, 127])).unwrap();
        assert_eq!(half, blurhash(&one(Layout::Grey, &[128])).unwrap());
        assert_ne!(half, white);
        assert!(blurhash(&one(Layout::Rgb, &[1, 2])).is_err());
    }
}
