//! Every colour as sRGB.
//!
//! Owns profiles and inks. Colours are converted, on the few pixels of the result, and the profile is dropped: a
//! profile can be larger than the thumbnail, says what made the original, and CMYK ones mean nothing to a browser.

use std::sync::Arc;

use moxcms::{
    Chromaticity, ColorPrimaries, ColorProfile, DataColorSpace, Layout as IccLayout, ToneReprCurve,
    Transform8BitExecutor, TransformOptions, XyY,
};

use super::pixels::{Layout, Pixels, from_unit};

/// The way from a profile's colours to sRGB for pixels of one layout, to be made once for many pictures. Without a profile, or
/// with a broken or unfitting one, colours count as sRGB already.
pub(super) struct Conversion(Option<Transform>);

/// A profile that fits.
struct Transform {
    /// Of the pixels.
    layout: Layout,
    /// Of what comes out.
    to: IccLayout,
    /// What the profile comes to.
    executor: Arc<Transform8BitExecutor>,
}

impl Conversion {
    /// By a profile, if there is one that makes sense and is for such pixels.
    pub(super) fn new(layout: Layout, icc: Option<&[u8]>) -> Self {
        Self(icc.and_then(|icc| Transform::new(layout, icc)))
    }

    /// Converts pixels.
    pub(super) fn apply(&self, pixels: Pixels) -> Pixels {
        match self.0.as_ref().and_then(|transform| transform.apply(&pixels)) {
            Some(converted) => converted,
            None if pixels.layout == Layout::Cmyk => without_profile(&pixels),
            None => pixels,
        }
    }
}

impl Transform {
    /// By a profile; nothing if it is for other pixels or makes no sense.
    fn new(layout: Layout, icc: &[u8]) -> Option<Self> {
        let profile = ColorProfile::new_from_slice(icc).ok()?;
        let (space, from, to) = match layout {
            Layout::Grey => (DataColorSpace::Gray, IccLayout::Gray, IccLayout::Rgb),
            Layout::GreyAlpha => (DataColorSpace::Gray, IccLayout::GrayAlpha, IccLayout::Rgba),
            Layout::Rgb => (DataColorSpace::Rgb, IccLayout::Rgb, IccLayout::Rgb),
            Layout::Rgba => (DataColorSpace::Rgb, IccLayout::Rgba, IccLayout::Rgba),
            Layout::Cmyk => (DataColorSpace::Cmyk, IccLayout::Rgba, IccLayout::Rgb),
        };
        if profile.color_space != space {
            return None;
        }
        let srgb = ColorProfile::new_srgb();
        let executor = profile.create_transform_8bit(from, &srgb, to, TransformOptions::default()).ok()?;
        Some(Self { layout, to, executor })
    }

    /// The pixels through the profile; nothing for those of another layout.
    fn apply(&self, pixels: &Pixels) -> Option<Pixels> {
        if pixels.layout != self.layout {
            return None;
        }
        let count = pixels.data.len().checked_div(pixels.layout.channels())?;
        let mut data = vec![0; count.saturating_mul(self.to.channels())];
        self.executor.transform(&pixels.data, &mut data).ok()?;
        if pixels.layout == Layout::Cmyk {
            let mut black = [0; 3];
            self.executor.transform(&[u8::MAX; 4], &mut black).ok()?;
            deepen(&mut data, black);
        }
        // Grey stays grey: its three channels are equal.
        let (layout, data) = match pixels.layout {
            Layout::Grey => (Layout::Grey, data.as_chunks::<3>().0.iter().map(|[r, ..]| *r).collect()),
            Layout::GreyAlpha => {
                let pairs = data.as_chunks::<4>().0.iter().flat_map(|[r, .., alpha]| [*r, *alpha]);
                (Layout::GreyAlpha, pairs.collect())
            }
            Layout::Rgb | Layout::Cmyk => (Layout::Rgb, data),
            Layout::Rgba => (Layout::Rgba, data),
        };
        Some(Pixels { layout, data, ..*pixels })
    }
}

/// Where a picture's white and its primaries are, in CIE xy.
pub(super) struct Chromaticities {
    /// White.
    pub(super) white: (f32, f32),
    /// Red.
    pub(super) red: (f32, f32),
    /// Green.
    pub(super) green: (f32, f32),
    /// Blue.
    pub(super) blue: (f32, f32),
}

/// A profile of a gamma and chromaticities, as browsers make it: chromaticities count with a gamma alone, and without them a
/// gamma that is a screen's changes nothing. `gamma` is that of encoding: light to this power is what is stored.
pub(super) fn calibrated(
    gamma: Option<f32>,
    places: Option<&Chromaticities>,
    is_grey: bool,
) -> Option<Vec<u8>> {
    let gamma = gamma.filter(|gamma| (0.05..=20.0).contains(gamma))?;
    let power = 1.0 / gamma;
    if places.is_none() && (gamma * SCREEN_GAMMA - 1.0).abs() < INSIGNIFICANT {
        return None;
    }
    if is_grey {
        return ColorProfile::new_gray_with_gamma(power).encode().ok();
    }
    let mut profile = ColorProfile::new_srgb();
    if let Some(&Chromaticities { white, red, green, blue }) = places {
        let at = |(x, y): (f32, f32)| (y > 0.0).then_some(Chromaticity { x, y });
        let primaries = ColorPrimaries { red: at(red)?, green: at(green)?, blue: at(blue)? };
        let white = at(white).map(|white| XyY { x: white.x.into(), y: white.y.into(), yb: 1.0 })?;
        profile.update_rgb_colorimetry(white, primaries);
    }
    // What the profile of sRGB says of its curves elsewhere would win.
    profile.cicp = None;
    let curve = ToneReprCurve::Parametric(vec![power]);
    profile.red_trc = Some(curve.clone());
    profile.green_trc = Some(curve.clone());
    profile.blue_trc = Some(curve);
    profile.encode().ok()
}

/// What browsers take for a screen's.
const SCREEN_GAMMA: f32 = 2.2;
/// As libpng: a gamma that near is the same.
const INSIGNIFICANT: f32 = 0.05;

/// Bytes of a colour profile; those of printing presses have 2 to 3 MB. A picture with a larger one is refused.
pub(super) const MAX_PROFILE: u32 = 4 << 20;
/// The same in a PNG, where the length is known only after inflating, and inks do not occur. A larger one is passed over.
pub(super) const MAX_DEFLATED_PROFILE: u32 = 1 << 20;

/// Black point compensation: the darkest that a press prints becomes black, all light above it in proportion. Without it
/// every print looks faded.
fn deepen(data: &mut [u8], black: [u8; 3]) {
    let tables = black.map(|black| {
        let floor = to_linear(black).min(MAX_FLOOR);
        let mut table = [0; 256];
        for (value, deep) in (0..=u8::MAX).zip(&mut table) {
            *deep = from_linear((to_linear(value) - floor) / (1.0 - floor));
        }
        table
    });
    for pixel in data.as_chunks_mut::<3>().0 {
        for (value, table) in pixel.iter_mut().zip(&tables) {
            *value = table.get(usize::from(*value)).copied().unwrap_or(*value);
        }
    }
}

/// A colour of CIE's L\*a\*b\* under D50, as TIFF has it: lightness over the whole range of a byte.
pub(super) fn from_lab(lightness: u8, green_red: i16, blue_yellow: i16) -> [u8; 3] {
    let middle = (f32::from(lightness) * (100.0 / 255.0) + 16.0) / 116.0;
    let parts = [middle + f32::from(green_red) / 500.0, middle, middle - f32::from(blue_yellow) / 200.0];
    let cubed = |part: f32| {
        if part > 6.0 / 29.0 { part.powi(3) } else { (part - 4.0 / 29.0) * (108.0 / 841.0) }
    };
    let [x, y, z] = parts.map(cubed);
    let (x, z) = (x * 0.9642, z * 0.8249);
    // From D50 by Bradford's way to sRGB's primaries.
    let row = |[of_x, of_y, of_z]: [f32; 3]| from_linear(x.mul_add(of_x, y.mul_add(of_y, z * of_z)));
    [
        row([3.133_856, -1.616_867, -0.490_615]),
        row([-0.978_768, 1.916_142, 0.033_454]),
        row([0.071_945, -0.228_991, 1.405_243]),
    ]
}

/// An sRGB value as light between 0 and 1 (IEC 61966-2-1).
fn to_linear(value: u8) -> f32 {
    let value = f32::from(value) / 255.0;
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

/// Light as an sRGB value; less than none is none.
fn from_linear(light: f32) -> u8 {
    let light = light.clamp(0.0, 1.0);
    from_unit(if light <= 0.003_130_8 { light * 12.92 } else { light.powf(1.0 / 2.4).mul_add(1.055, -0.055) })
}

/// A paler black than this is none, or a profile's mistake.
const MAX_FLOOR: f32 = 0.1;

/// Inks as light that they let through.
fn without_profile(pixels: &Pixels) -> Pixels {
    let light = |ink: u8, black: u8| {
        let product = u16::from(!ink).wrapping_mul(u16::from(!black));
        u8::try_from(product.wrapping_add(127).div_euclid(255)).unwrap_or(u8::MAX)
    };
    let inks = pixels.data.as_chunks::<4>().0;
    let data = inks.iter().flat_map(|[c, m, y, k]| [light(*c, *k), light(*m, *k), light(*y, *k)]).collect();
    Pixels { layout: Layout::Rgb, data, ..*pixels }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_srgb(pixels: Pixels, icc: Option<&[u8]>) -> Pixels {
        Conversion::new(pixels.layout, icc).apply(pixels)
    }

    fn one(layout: Layout, data: &[u8]) -> Pixels {
        Pixels { width: 1, height: 1, layout, data: data.to_vec() }
    }

    #[test]
    fn wide_gamut_colours_keep_their_strength() {
        let icc = ColorProfile::new_display_p3().encode().unwrap();
        let got = to_srgb(one(Layout::Rgb, &[200, 100, 50]), Some(&icc));
        // Display P3 (200, 100, 50) is sRGB (214, 95, 32), within rounding.
        for (got, expected) in got.data.iter().zip([214_u8, 95, 32]) {
            assert!(got.abs_diff(expected) <= 3, "{got} {expected}");
        }
        let same =
            to_srgb(one(Layout::Rgba, &[200, 100, 50, 7]), Some(&ColorProfile::new_srgb().encode().unwrap()));
        assert!(same.data.iter().zip([200_u8, 100, 50, 7]).all(|(got, was)| got.abs_diff(was) <= 1));
    }

    #[test]
    fn a_gamma_and_chromaticities_are_a_profile() {
        let converted = |gamma: f32, places: Option<Chromaticities>, layout, data: &[u8]| {
            let icc = calibrated(Some(gamma), places.as_ref(), matches!(layout, Layout::Grey));
            to_srgb(one(layout, data), icc.as_deref()).data
        };
        let near = |got: &[u8], expected: &[u8]| {
            assert!(got.iter().zip(expected).all(|(a, b)| a.abs_diff(*b) <= 3), "{got:?} {expected:?}");
        };
        let srgb = || Chromaticities {
            white: (0.3127, 0.329),
            red: (0.64, 0.33),
            green: (0.3, 0.6),
            blue: (0.15, 0.06),
        };
        // Light itself: half of it is 188 in sRGB.
        near(&converted(1.0, None, Layout::Rgb, &[128, 10, 255]), &[188, 56, 255]);
        near(&converted(1.0, Some(srgb()), Layout::Rgb, &[128, 10, 255]), &[188, 56, 255]);
        near(&converted(1.0, None, Layout::Grey, &[128]), &[188]);
        near(&converted(0.45455, Some(srgb()), Layout::Rgb, &[128, 60, 255]), &[128, 58, 255]);
        // Red and green exchanged.
        let odd = Chromaticities { red: (0.3, 0.6), green: (0.64, 0.33), ..srgb() };
        near(&converted(0.45455, Some(odd), Layout::Rgb, &[200, 50, 100]), &[46, 201, 100]);
        for gamma in [None, Some(0.0), Some(0.45455), Some(0.46)] {
            assert_eq!(calibrated(gamma, None, false), None, "{gamma:?}");
        }
    }

    #[test]
    fn grey_profiles_leave_grey() {
        let icc = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
        let got = to_srgb(one(Layout::Grey, &[55]), Some(&icc));
        assert_eq!(got.layout, Layout::Grey);
        assert!(got.data[0].abs_diff(128) <= 2, "{:?}", got.data);
    }

    #[test]
    fn lab_is_seen_as_its_colour() {
        for (lab, rgb) in [
            ((255, 0, 0), [255, 255, 255]),
            ((0, 0, 0), [0, 0, 0]),
            ((137, 0, 0), [128, 128, 128]),
            // sRGB's red and blue: (54.3, 80.8, 69.9) and (29.6, 68.3, -112) under D50.
            ((138, 81, 70), [255, 0, 0]),
            ((75, 68, -112), [0, 0, 255]),
        ] {
            let got = from_lab(lab.0, lab.1, lab.2);
            assert!(
                got.iter().zip(rgb).all(|(got, expected)| got.abs_diff(expected) <= 6),
                "{lab:?}: {got:?}"
            );
        }
    }

    #[test]
    fn the_darkest_ink_becomes_black_and_white_stays() {
        let mut data = [40, 40, 40, 255, 255, 255, 128, 128, 128, 20, 50, 255];
        deepen(&mut data, [40; 3]);
        assert_eq!(data, [0, 0, 0, 255, 255, 255, 123, 123, 123, 0, 27, 255]);
    }

    #[test]
    fn unfitting_and_broken_profiles_are_passed_over() {
        let icc = ColorProfile::new_display_p3().encode().unwrap();
        assert_eq!(to_srgb(one(Layout::Grey, &[9]), Some(&icc)).data, [9]);
        assert_eq!(to_srgb(one(Layout::Rgb, &[1, 2, 3]), Some(b"profile")).data, [1, 2, 3]);
        assert_eq!(to_srgb(one(Layout::Cmyk, &[0, 255, 128, 0]), None).data, [255, 0, 127]);
    }
}
