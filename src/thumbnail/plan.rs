//! From the source's size and the request to a crop and a result size: pure integer arithmetic.
//!
//! Owns the choice of size ([spec, Thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails)).
//! Refuses to know formats and pixels. Every size here is the one seen after orientation.

use crate::config::ThumbnailMethod;
use crate::config::ThumbnailSize;

/// What was asked for. Sides of 0 count as 1; the handler refuses them before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ThumbnailRequest {
    /// Pixels, at least.
    pub(crate) width: u32,
    /// Pixels, at least.
    pub(crate) height: u32,
    /// How the source is fitted.
    pub(crate) method: ThumbnailMethod,
    /// Whether it may move.
    pub(crate) motion: Motion,
}

/// Still or moving (`animated`, MSC2705).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Motion {
    /// The first frame.
    Still,
    /// Every frame, where there are several.
    Animated,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// With the source itself: it is not larger than asked.
    Original,
    /// With a picture made for it.
    Render(RenderSpec),
}

/// A picture to make: this part of the source at this size. Equal specs of one source give equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RenderSpec {
    /// The part of the source, as it is seen after orientation.
    pub(crate) crop: Rect,
    /// Pixels of the result, never more than the part has.
    pub(crate) width: u32,
    /// Pixels of the result, never more than the part has.
    pub(crate) height: u32,
    /// Whether all frames are wanted. Only ever true of a moving source.
    pub(crate) animated: bool,
}

/// A part of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rect {
    /// Columns left of it.
    pub(crate) x: u32,
    /// Rows above it.
    pub(crate) y: u32,
    /// Columns.
    pub(crate) width: u32,
    /// Rows.
    pub(crate) height: u32,
}

/// The source as planning sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Pixels after orientation.
    pub(crate) width: u32,
    /// Pixels after orientation.
    pub(crate) height: u32,
    /// Whether it has several frames.
    pub(crate) motion: Motion,
}

impl Plan {
    /// Decides how a request is answered.
    ///
    /// The request is first rounded up: to the smallest configured size of its method that is at least as large in
    /// both sides, or, larger than all of them, to itself. `crop` keeps the exact aspect of the request, as the
    /// largest box of that aspect in the size rounded up to, and then in the source. `scale` covers the box, so
    /// that both sides are at least as asked. A source that cannot cover the box without being enlarged is the
    /// answer itself; only a moving source of which a still is wanted is rendered, at its own size.
    pub(crate) fn new(source: Source, wanted: ThumbnailRequest, sizes: &[ThumbnailSize]) -> Self {
        let animated = source.motion == Motion::Animated && wanted.motion == Motion::Animated;
        let (width, height) = round_up(wanted, sizes);
        let whole = Rect { x: 0, y: 0, width: source.width, height: source.height };
        let spec = match wanted.method {
            ThumbnailMethod::Scale => {
                let (width, height) = cover((source.width, source.height), (width, height));
                RenderSpec { crop: whole, width, height, animated }
            }
            ThumbnailMethod::Crop => crop(source, (width, height), animated),
        };
        let is_source = spec.crop == whole && (spec.width, spec.height) == (source.width, source.height);
        let is_small = source.width <= width && source.height <= height;
        if source.motion == Motion::Animated && !animated {
            let spec = if is_small {
                RenderSpec { crop: whole, width: source.width, height: source.height, animated }
            } else {
                spec
            };
            return Self::Render(spec);
        }
        if is_source || is_small { Self::Original } else { Self::Render(spec) }
    }
}

impl ThumbnailRequest {
    /// Whether a box is to be covered that no configured size covers.
    pub(crate) fn exceeds_all(&self, sizes: &[ThumbnailSize]) -> bool {
        self.method == ThumbnailMethod::Scale && !sizes.iter().any(|size| self.fits(size))
    }

    /// Whether a size is of the same method and at least as large.
    fn fits(&self, size: &ThumbnailSize) -> bool {
        size.method == self.method && size.width >= self.width && size.height >= self.height
    }
}

impl RenderSpec {
    /// The same part at `numerator / denominator` of the size.
    pub(super) fn shrunk(self, numerator: u32, denominator: u32) -> Self {
        Self {
            width: scaled(self.width, numerator, denominator).max(1),
            height: scaled(self.height, numerator, denominator).max(1),
            ..self
        }
    }

    /// The largest whole factor by which the part may be reduced before the final filter such that a margin of
    /// `numerator / denominator` is left for it.
    pub(super) fn factor(&self, numerator: u32, denominator: u32) -> u32 {
        let side = |from: u32, to: u32| {
            product(from, denominator).checked_div(product(to, numerator)).unwrap_or(1).max(1)
        };
        let factor = side(self.crop.width, self.width).min(side(self.crop.height, self.height));
        u32::try_from(factor).unwrap_or(u32::MAX)
    }
}

/// The box that a request is rounded up to.
fn round_up(wanted: ThumbnailRequest, sizes: &[ThumbnailSize]) -> (u32, u32) {
    let (width, height) = (wanted.width.max(1), wanted.height.max(1));
    let fits = |size: &&ThumbnailSize| wanted.fits(size);
    let area = |size: &&ThumbnailSize| (product(size.width, size.height), size.width);
    match (sizes.iter().filter(fits).min_by_key(area), wanted.method) {
        (None, _) => (width, height),
        (Some(size), ThumbnailMethod::Scale) => (size.width, size.height),
        (Some(size), ThumbnailMethod::Crop) => inside((size.width, size.height), (width, height)),
    }
}

/// The size of a picture scaled down to cover a box; the picture's own when it cannot.
fn cover((width, height): (u32, u32), (box_width, box_height): (u32, u32)) -> (u32, u32) {
    if width <= box_width || height <= box_height {
        return (width, height);
    }
    if product(box_width, height) >= product(box_height, width) {
        (box_width, scaled(height, box_width, width).min(height))
    } else {
        (scaled(width, box_height, height).min(width), box_height)
    }
}

/// The middle of the source in the aspect of the box, at the size of the box or, where the source is smaller, at its own.
fn crop(source: Source, (box_width, box_height): (u32, u32), animated: bool) -> RenderSpec {
    let (width, height) = inside((source.width, source.height), (box_width, box_height));
    let x = source.width.saturating_sub(width).div_euclid(2);
    let y = source.height.saturating_sub(height).div_euclid(2);
    RenderSpec {
        crop: Rect { x, y, width, height },
        width: box_width.min(width),
        height: box_height.min(height),
        animated,
    }
}

/// The largest box of an aspect inside a size.
fn inside((width, height): (u32, u32), (aspect_width, aspect_height): (u32, u32)) -> (u32, u32) {
    if product(width, aspect_height) >= product(height, aspect_width) {
        (scaled(height, aspect_width, aspect_height).clamp(1, width.max(1)), height)
    } else {
        (width, scaled(width, aspect_height, aspect_width).clamp(1, height.max(1)))
    }
}

/// `length × numerator ÷ denominator`, rounded to the nearest.
fn scaled(length: u32, numerator: u32, denominator: u32) -> u32 {
    let half = u64::from(denominator).div_euclid(2);
    let rounded = product(length, numerator).saturating_add(half).checked_div(u64::from(denominator));
    u32::try_from(rounded.unwrap_or(0)).unwrap_or(u32::MAX)
}

/// An area.
fn product(width: u32, height: u32) -> u64 {
    u64::from(width).saturating_mul(u64::from(height))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        clippy::arithmetic_side_effects,
        reason = "tests"
    )]

    use super::*;
    use proptest::prelude::*;

    /// The sizes that the specification names.
    fn sizes() -> Vec<ThumbnailSize> {
        ["32x32-crop", "96x96-crop", "320x240-scale", "640x480-scale", "800x600-scale"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect()
    }

    fn plan(source: (u32, u32), wanted: (u32, u32), method: ThumbnailMethod) -> Plan {
        let source = Source { width: source.0, height: source.1, motion: Motion::Still };
        let wanted = ThumbnailRequest { width: wanted.0, height: wanted.1, method, motion: Motion::Still };
        Plan::new(source, wanted, &sizes())
    }

    #[test]
    fn requests_are_answered_as_the_table_says() {
        use ThumbnailMethod::{Crop, Scale};
        for (source, wanted, method, expected) in [
            ((6000, 4000), (800, 600), Scale, Some((900, 600))),
            ((4000, 6000), (800, 600), Scale, Some((800, 1200))),
            ((6000, 4000), (30, 30), Scale, Some((360, 240))),
            ((6000, 4000), (900, 600), Scale, Some((900, 600))),
            ((6000, 4000), (901, 600), Scale, Some((901, 601))),
            ((500, 400), (640, 480), Scale, None),
            ((500, 400), (400, 300), Scale, None),
            ((20000, 400), (800, 600), Scale, None),
            ((1, 60000), (32, 32), Scale, None),
            ((6000, 4000), (32, 32), Crop, Some((32, 32))),
            ((6000, 4000), (33, 32), Crop, Some((96, 93))),
            ((6000, 4000), (96, 96), Crop, Some((96, 96))),
            ((6000, 4000), (200, 100), Crop, Some((200, 100))),
            ((200, 60), (96, 96), Crop, Some((60, 60))),
            ((90, 60), (96, 96), Crop, None),
            ((96, 96), (96, 96), Crop, None),
            ((100, 100), (1_000_000_000, 1_000_000_000), Scale, None),
            ((100, 100), (1_000_000_000, 1_000_000_000), Crop, None),
            ((100, 100), (0, 0), Crop, Some((32, 32))),
        ] {
            let got = match plan(source, wanted, method) {
                Plan::Original => None,
                Plan::Render(spec) => Some((spec.width, spec.height)),
            };
            assert_eq!(got, expected, "{source:?} {wanted:?} {method:?}");
        }
    }

    #[test]
    fn only_boxes_to_cover_lie_beyond_the_sizes() {
        use ThumbnailMethod::{Crop, Scale};
        for (width, height, method, expected) in [
            (800, 600, Scale, false),
            (801, 600, Scale, true),
            (10, 601, Scale, true),
            (0, 0, Scale, false),
            (801, 600, Crop, false),
        ] {
            let wanted = ThumbnailRequest { width, height, method, motion: Motion::Still };
            assert_eq!(wanted.exceeds_all(&sizes()), expected, "{wanted:?}");
        }
    }

    #[test]
    fn a_still_of_a_moving_source_is_never_the_source() {
        let source = Source { width: 20, height: 10, motion: Motion::Animated };
        let mut wanted =
            ThumbnailRequest { width: 96, height: 96, method: ThumbnailMethod::Crop, motion: Motion::Still };
        let Plan::Render(spec) = Plan::new(source, wanted, &sizes()) else { panic!("the source moves") };
        assert_eq!((spec.width, spec.height, spec.animated), (20, 10, false));
        wanted.motion = Motion::Animated;
        assert_eq!(Plan::new(source, wanted, &sizes()), Plan::Original);
    }

    proptest! {
        #[test]
        fn a_plan_never_enlarges_and_stays_inside(
            source in (1_u32..70_000, 1_u32..70_000), wanted in (1_u32..3000, 1_u32..3000), crop in any::<bool>(),
        ) {
            let method = if crop { ThumbnailMethod::Crop } else { ThumbnailMethod::Scale };
            if let Plan::Render(spec) = plan(source, wanted, method) {
                prop_assert!(spec.width >= 1 && spec.height >= 1);
                prop_assert!(spec.width <= spec.crop.width && spec.height <= spec.crop.height);
                prop_assert!(spec.crop.x + spec.crop.width <= source.0 && spec.crop.y + spec.crop.height <= source.1);
                let covers = spec.width >= wanted.0 && spec.height >= wanted.1;
                let could = source.0 >= wanted.0 && source.1 >= wanted.1;
                prop_assert!(covers || !could || crop, "{spec:?}");
                let stretch = |a: (u32, u32), b: (u32, u32)| {
                    (f64::from(a.0) * f64::from(b.1) - f64::from(a.1) * f64::from(b.0)).abs()
                };
                // Rounding moves one side by half a pixel, so the cross product by half the other size's side.
                let off = stretch((spec.width, spec.height), (spec.crop.width, spec.crop.height));
                prop_assert!(off <= f64::from(spec.crop.width.max(spec.crop.height)) * 1.5, "{spec:?}");
                if crop {
                    let off = stretch((spec.width, spec.height), wanted);
                    prop_assert!(off <= f64::from(wanted.0.max(wanted.1)) * 1.5, "{spec:?}");
                }
            }
        }

        #[test]
        fn what_is_large_enough_is_covered_by_crop(wanted in (1_u32..97, 1_u32..97)) {
            let Plan::Render(spec) = plan((5000, 5000), wanted, ThumbnailMethod::Crop) else { panic!("it is large") };
            prop_assert!(spec.width >= wanted.0 && spec.height >= wanted.1 && spec.width.max(spec.height) <= 96);
        }
    }
}
