//! The choice of crop and size for a request, by integer arithmetic alone
//! ([spec, Thumbnails](https://spec.matrix.org/v1.19/client-server-api/#thumbnails)).
//!
//! Owns that choice. Refuses to know formats and pixels. Every size here is in pixels after orientation.

use crate::config::ThumbnailMethod;
use crate::config::ThumbnailSize;

/// What a client asks for. A side of 0 counts as 1; the endpoint refuses it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ThumbnailRequest {
    /// Least width, in pixels.
    pub(crate) width: u32,
    /// Least height, in pixels.
    pub(crate) height: u32,
    pub(crate) method: ThumbnailMethod,
    /// Whether an animation is accepted.
    pub(crate) motion: Motion,
}

/// Still or animated: of a source what it is, of a request what is accepted (`animated`, MSC2705).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Motion {
    /// One frame.
    Still,
    /// Several frames.
    Animated,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// With the source itself, which is not larger than asked.
    Original,
    Render(RenderSpec),
}

/// A picture to render: a part of the source at a size. Equal specs of one source give equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RenderSpec {
    /// The part of the source.
    pub(crate) crop: Rect,
    /// Of the result: 1 to the part's width.
    pub(crate) width: u32,
    /// Of the result: 1 to the part's height.
    pub(crate) height: u32,
    /// Whether all frames are rendered. Only ever true of an animated source.
    pub(crate) animated: bool,
}

/// A part of a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Rect {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

/// What planning needs to know of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) motion: Motion,
}

impl Plan {
    /// Decides how a request is answered.
    ///
    /// The request is first rounded up to a box: the smallest configured size of its method that is at least as large in
    /// both sides, or the request itself if it is larger than all of them. `crop` keeps the exact aspect ratio of the
    /// request: it takes the largest box of that ratio in the configured size, and then in the source. `scale` covers the
    /// box, so that both sides are at least as asked. A source that cannot cover the box without being enlarged is itself
    /// the answer, except an animated source of which a still is wanted: that is rendered at its own size.
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
    /// Whether this is a request to `scale` to a box that is larger than every configured size.
    pub(crate) fn exceeds_all(&self, sizes: &[ThumbnailSize]) -> bool {
        self.method == ThumbnailMethod::Scale && !sizes.iter().any(|size| self.fits(size))
    }

    /// Whether a configured size has the same method and is at least as large.
    fn fits(&self, size: &ThumbnailSize) -> bool {
        size.method == self.method && size.width >= self.width && size.height >= self.height
    }
}

impl RenderSpec {
    /// The same part at `numerator / denominator` of the size, at least one pixel.
    pub(super) fn shrunk(self, numerator: u32, denominator: u32) -> Self {
        Self {
            width: scaled(self.width, numerator, denominator).max(1),
            height: scaled(self.height, numerator, denominator).max(1),
            ..self
        }
    }

    /// The largest whole divisor that leaves both sides of the part at least `numerator / denominator` times as long as the
    /// result's; at least 1.
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

/// The size of a picture scaled down until it just covers a box; its own size if it does not cover the box.
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

/// The middle of the source in the box's aspect ratio, at the size of the box or, where that is smaller, of the part.
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

/// The largest box of an aspect ratio inside a size.
fn inside((width, height): (u32, u32), (aspect_width, aspect_height): (u32, u32)) -> (u32, u32) {
    if product(width, aspect_height) >= product(height, aspect_width) {
        (scaled(height, aspect_width, aspect_height).clamp(1, width.max(1)), height)
    } else {
        (width, scaled(width, aspect_height, aspect_width).clamp(1, height.max(1)))
    }
}

/// `length × numerator ÷ denominator`, rounded to the nearest integer.
fn scaled(length: u32, numerator: u32, denominator: u32) -> u32 {
    let half = u64::from(denominator).div_euclid(2);
    let rounded = product(length, numerator).saturating_add(half).checked_div(u64::from(denominator));
    u32::try_from(rounded.unwrap_or(0)).unwrap_or(u32::MAX)
}

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
    fn requests_are_planned_as_the_table_says() {
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
    fn only_requests_to_scale_exceed_all_configured_sizes() {
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
    fn a_still_of_an_animated_source_is_always_rendered() {
        let source = Source { width: 20, height: 10, motion: Motion::Animated };
        let mut wanted =
            ThumbnailRequest { width: 96, height: 96, method: ThumbnailMethod::Crop, motion: Motion::Still };
        let Plan::Render(spec) = Plan::new(source, wanted, &sizes()) else {
            panic!("the source is animated")
        };
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
        fn crops_of_large_sources_cover_the_request(wanted in (1_u32..97, 1_u32..97)) {
            let Plan::Render(spec) = plan((5000, 5000), wanted, ThumbnailMethod::Crop) else { panic!("the source is large") };
            prop_assert!(spec.width >= wanted.0 && spec.height >= wanted.1 && spec.width.max(spec.height) <= 96);
        }
    }
}
