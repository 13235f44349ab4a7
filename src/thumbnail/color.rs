//! Conversion of every colour space to sRGB.
//!
//! Owns ICC profiles, PNG's gamma, CMYK and Lab. Refuses to know files. The conversion runs on the few pixels of the
//! result, and the profile is dropped: it can be larger than the thumbnail, it reveals what made the original, and
//! browsers cannot show CMYK.

use std::sync::Arc;

use moxcms::{
    Chromaticity, ColorPrimaries, ColorProfile, DataColorSpace, Layout as IccLayout, ToneReprCurve,
    Transform8BitExecutor, TransformOptions, XyY,
};

use super::pixels::{Layout, Pixels, from_unit};

/// A conversion to sRGB for pixels of one layout, set up once for several pictures. Without a profile, or with one that is
/// broken or for another colour space, colours count as sRGB.
pub(super) struct Conversion(Option<ColorTransform>);

/// A conversion by an ICC profile.
struct ColorTransform {
    /// Of the source.
    layout: Layout,
    /// Of the result.
    to: IccLayout,
    executor: Arc<Transform8BitExecutor>,
}

impl Conversion {
    pub(super) fn new(layout: Layout, icc: Option<&[u8]>) -> Self {
        Self(icc.and_then(|icc| ColorTransform::new(layout, icc)))
    }

    /// Converts pixels. The result is grey, RGB, or one of them with alpha, never CMYK.
    pub(super) fn apply(&self, pixels: Pixels) -> Pixels {
        match self.0.as_ref().and_then(|transform| transform.apply(&pixels)) {
            Some(converted) => converted,
            None if pixels.layout == Layout::Cmyk => cmyk_to_rgb(&pixels),
            None => pixels,
        }
    }
}

impl ColorTransform {
    /// `None` if the profile is malformed or for another colour space.
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

    /// `None` for pixels of another layout.
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
            compensate_black_point(&mut data, black);
        }
        // sRGB's three channels are equal for grey, so one of them is enough.
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

/// White point and primaries in CIE xy.
pub(super) struct Chromaticities {
    pub(super) white: (f32, f32),
    pub(super) red: (f32, f32),
    pub(super) green: (f32, f32),
    pub(super) blue: (f32, f32),
}

/// An ICC profile for a gamma and chromaticities. `gamma` is the encoding exponent: the stored value is the light to this
/// power. As in browsers, chromaticities without a gamma are ignored, and so is the usual gamma without chromaticities.
pub(super) fn gamma_profile(
    gamma: Option<f32>,
    chromaticities: Option<&Chromaticities>,
    is_grey: bool,
) -> Option<Vec<u8>> {
    let gamma = gamma.filter(|gamma| (0.05..=20.0).contains(gamma))?;
    let power = 1.0 / gamma;
    if chromaticities.is_none() && (gamma * SCREEN_GAMMA - 1.0).abs() < GAMMA_TOLERANCE {
        return None;
    }
    if is_grey {
        return ColorProfile::new_gray_with_gamma(power).encode().ok();
    }
    let mut profile = ColorProfile::new_srgb();
    if let Some(&Chromaticities { white, red, green, blue }) = chromaticities {
        let at = |(x, y): (f32, f32)| (y > 0.0).then_some(Chromaticity { x, y });
        let primaries = ColorPrimaries { red: at(red)?, green: at(green)?, blue: at(blue)? };
        let white = at(white).map(|white| XyY { x: white.x.into(), y: white.y.into(), yb: 1.0 })?;
        profile.update_rgb_colorimetry(white, primaries);
    }
    // The code points of sRGB would take precedence over the curves set here.
    profile.cicp = None;
    let curve = ToneReprCurve::Parametric(vec![power]);
    profile.red_trc = Some(curve.clone());
    profile.green_trc = Some(curve.clone());
    profile.blue_trc = Some(curve);
    profile.encode().ok()
}

/// The decoding gamma that browsers assume.
const SCREEN_GAMMA: f32 = 2.2;
/// Relative difference below which two gammas count as equal, as in libpng.
const GAMMA_TOLERANCE: f32 = 0.05;

/// Most bytes of a colour profile; profiles of printing presses have 2 to 3 MB. A picture with a larger one is refused.
pub(super) const MAX_PROFILE: u32 = 4 << 20;
/// Most bytes of a PNG's profile, whose length is known only after inflating, and which is never for CMYK. A larger one is
/// ignored.
pub(super) const MAX_DEFLATED_PROFILE: u32 = 1 << 20;

/// Black point compensation: the darkest printable colour becomes black, and linear light above it is scaled in proportion.
/// Without it, every print looks faded.
fn compensate_black_point(data: &mut [u8], black: [u8; 3]) {
    let tables = black.map(|black| {
        let floor = to_linear(black).min(MAX_BLACK);
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

/// CIE L\*a\*b\* under D50 as sRGB, with the lightness scaled to 0–255 as in TIFF 6.0, section 23.
pub(super) fn from_lab(lightness: u8, green_red: i16, blue_yellow: i16) -> [u8; 3] {
    let middle = (f32::from(lightness) * (100.0 / 255.0) + 16.0) / 116.0;
    let parts = [middle + f32::from(green_red) / 500.0, middle, middle - f32::from(blue_yellow) / 200.0];
    let cubed = |part: f32| {
        if part > 6.0 / 29.0 { part.powi(3) } else { (part - 4.0 / 29.0) * (108.0 / 841.0) }
    };
    let [x, y, z] = parts.map(cubed);
    let (x, z) = (x * 0.9642, z * 0.8249);
    // XYZ under D50 to linear sRGB, adapted by Bradford's method.
    let row = |[of_x, of_y, of_z]: [f32; 3]| from_linear(x.mul_add(of_x, y.mul_add(of_y, z * of_z)));
    [
        row([3.133_856, -1.616_867, -0.490_615]),
        row([-0.978_768, 1.916_142, 0.033_454]),
        row([0.071_945, -0.228_991, 1.405_243]),
    ]
}

/// An sRGB value as linear light from 0 to 1 (IEC 61966-2-1).
fn to_linear(value: u8) -> f32 {
    let value = f32::from(value) / 255.0;
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

/// Linear light as an sRGB value; what is out of range is clipped.
fn from_linear(light: f32) -> u8 {
    let light = light.clamp(0.0, 1.0);
    from_unit(if light <= 0.003_130_8 { light * 12.92 } else { light.powf(1.0 / 2.4).mul_add(1.055, -0.055) })
}

/// Most linear light of a black point; a lighter one is taken for a mistake of the profile.
const MAX_BLACK: f32 = 0.1;

/// CMYK without a profile: each channel is the light that its ink and black let through.
fn cmyk_to_rgb(pixels: &Pixels) -> Pixels {
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
    fn wide_gamut_colours_are_converted() {
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
    fn a_gamma_and_chromaticities_make_a_profile() {
        let converted = |gamma: f32, places: Option<Chromaticities>, layout, data: &[u8]| {
            let icc = gamma_profile(Some(gamma), places.as_ref(), matches!(layout, Layout::Grey));
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
        // Linear light: half of it is 188 in sRGB.
        near(&converted(1.0, None, Layout::Rgb, &[128, 10, 255]), &[188, 56, 255]);
        near(&converted(1.0, Some(srgb()), Layout::Rgb, &[128, 10, 255]), &[188, 56, 255]);
        near(&converted(1.0, None, Layout::Grey, &[128]), &[188]);
        near(&converted(0.45455, Some(srgb()), Layout::Rgb, &[128, 60, 255]), &[128, 58, 255]);
        // Red and green exchanged.
        let odd = Chromaticities { red: (0.3, 0.6), green: (0.64, 0.33), ..srgb() };
        near(&converted(0.45455, Some(odd), Layout::Rgb, &[200, 50, 100]), &[46, 201, 100]);
        for gamma in [None, Some(0.0), Some(0.45455), Some(0.46)] {
            assert_eq!(gamma_profile(gamma, None, false), None, "{gamma:?}");
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
    fn lab_is_converted_to_srgb() {
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
    fn the_black_point_becomes_black_and_white_stays() {
        let mut data = [40, 40, 40, 255, 255, 255, 128, 128, 128, 20, 50, 255];
        compensate_black_point(&mut data, [40; 3]);
        assert_eq!(data, [0, 0, 0, 255, 255, 255, 123, 123, 123, 0, 27, 255]);
    }

    #[test]
    fn broken_profiles_and_those_of_other_colour_spaces_are_ignored() {
        let icc = ColorProfile::new_display_p3().encode().unwrap();
        assert_eq!(to_srgb(one(Layout::Grey, &[9]), Some(&icc)).data, [9]);
        assert_eq!(to_srgb(one(Layout::Rgb, &[1, 2, 3]), Some(b"profile")).data, [1, 2, 3]);
        assert_eq!(to_srgb(one(Layout::Cmyk, &[0, 255, 128, 0]), None).data, [255, 0, 127]);
    }
}
