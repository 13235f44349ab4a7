//! From a row's samples, whatever they are, to pixels.
//!
//! Owns depths, predictions, and what TIFF lets samples stand for.

use super::super::super::ThumbnailError;
use super::super::super::color::from_lab;
use super::super::super::pixels::{Layout, from_unit};
use super::super::super::probe::{Directory, FLOATING};

/// What samples stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Grey from white on.
    Ink,
    /// Grey from black on.
    Light,
    /// Red, green, blue.
    Rgb,
    /// Places in the palette.
    Palette,
    /// Inks: three, or four with black.
    Cmyk,
    /// Luma and chromas.
    YCbCr,
    /// Lightness and two opponents (CIE), which have a sign or are shifted.
    Lab {
        /// Whether zero stands in the middle.
        is_shifted: bool,
    },
}

impl Meaning {
    /// What a directory says.
    pub(super) fn of(directory: &Directory) -> Result<Self, ThumbnailError> {
        let meaning = match directory.photometric {
            0 => Self::Ink,
            1 => Self::Light,
            2 => Self::Rgb,
            3 if directory.bits <= 8 => Self::Palette,
            5 => Self::Cmyk,
            6 => Self::YCbCr,
            8 => Self::Lab { is_shifted: false },
            9 => Self::Lab { is_shifted: true },
            _ => return Err(ThumbnailError::Unsupported("TIFF with colours of this kind")),
        };
        if directory.samples < meaning.colors() {
            return Err(ThumbnailError::broken("fewer channels than colours"));
        }
        Ok(meaning)
    }

    /// Samples that it takes at least.
    fn colors(self) -> u32 {
        match self {
            Self::Ink | Self::Light | Self::Palette => 1,
            Self::Rgb | Self::Cmyk | Self::YCbCr | Self::Lab { .. } => 3,
        }
    }

    /// The samples of a pixel that is not in the file: white, and nothing where ink or places are.
    pub(super) fn blank(self, directory: &Directory) -> Vec<u8> {
        let (colors, beyond): (&[u8], u8) = match self {
            Self::Light => (&[u8::MAX], u8::MAX),
            Self::Rgb => (&[u8::MAX; 3], u8::MAX),
            Self::YCbCr | Self::Lab { is_shifted: true } => (&[u8::MAX, 128, 128], u8::MAX),
            Self::Lab { is_shifted: false } => (&[u8::MAX, 0, 0], u8::MAX),
            Self::Ink | Self::Palette | Self::Cmyk => (&[], 0),
        };
        let count = usize::try_from(directory.samples).unwrap_or(1);
        (0..count).map(|at| colors.get(at).copied().unwrap_or(beyond)).collect()
    }

    /// What pixels become of it.
    pub(super) fn layout(self, directory: &Directory) -> Layout {
        let colors = self.colors();
        // Of four samples without a word the fourth is taken for alpha, as other readers do.
        let alpha = match directory.extra.first() {
            Some(kind) => matches!(kind, 1 | 2),
            None => self == Self::Rgb,
        };
        let has_alpha = alpha && directory.samples > colors;
        match self {
            Self::Cmyk => Layout::Cmyk,
            Self::Ink | Self::Light if has_alpha => Layout::GreyAlpha,
            Self::Ink | Self::Light => Layout::Grey,
            Self::Rgb | Self::Palette | Self::YCbCr | Self::Lab { .. } if has_alpha => Layout::Rgba,
            Self::Rgb | Self::Palette | Self::YCbCr | Self::Lab { .. } => Layout::Rgb,
        }
    }
}

/// A row as it is stored as samples of 8 bits; of palettes, places.
pub(super) fn to_bytes(
    row: &mut [u8],
    directory: &Directory,
    count: usize,
    out: &mut Vec<u8>,
) -> Result<(), ThumbnailError> {
    undo_prediction(row, directory)?;
    out.clear();
    let is_place = directory.photometric == 3;
    let is_little = directory.is_little && directory.predictor != 3;
    match (directory.bits, directory.sample_format) {
        // Numbers with a sign are read as if they had none, as other readers do.
        (8, _) => out.extend(row.iter()),
        (bits @ (16 | 32 | 64), FLOATING) => {
            let size = usize::try_from(bits.div_ceil(8)).unwrap_or(1);
            out.extend(row.chunks_exact(size).map(|value| from_unit(float(value, is_little))));
        }
        (_, FLOATING) => return Err(ThumbnailError::Unsupported("TIFF with numbers of this depth")),
        (bits @ (16 | 24 | 32 | 64), _) => {
            let size = usize::try_from(bits.div_ceil(8)).unwrap_or(1);
            out.extend(row.chunks_exact(size).map(|value| {
                let pair = if is_little { value.last_chunk::<2>() } else { value.first_chunk::<2>() };
                let [low, high] = pair.copied().unwrap_or_default();
                let [high, low] = if is_little { [high, low] } else { [low, high] };
                // The highest byte and what rounds it: 65535 is 255.
                let value = u32::from(u16::from_be_bytes([high, low]));
                if directory.photometric == 8 { high } else { narrow(value, 65_535) }
            }));
        }
        (bits, _) => {
            let most = u32::MAX.wrapping_shr(32_u32.saturating_sub(bits.clamp(1, 32)));
            let mut word = 0_u64;
            let mut held = 0_u32;
            let mut bytes = row.iter();
            for _ in 0..count {
                while held < bits {
                    let Some(byte) = bytes.next() else { return Ok(()) };
                    word = word.wrapping_shl(8) | u64::from(*byte);
                    held = held.saturating_add(8);
                }
                held = held.saturating_sub(bits);
                let value = u32::try_from(word.wrapping_shr(held) & u64::from(most)).unwrap_or(0);
                out.push(if is_place { u8::try_from(value).unwrap_or(u8::MAX) } else { narrow(value, most) });
            }
        }
    }
    out.truncate(count);
    Ok(())
}

/// A number of up to `most` as one of 8 bits.
fn narrow(value: u32, most: u32) -> u8 {
    let spread = u64::from(value).saturating_mul(255).saturating_add(u64::from(most.div_euclid(2)));
    u8::try_from(spread.checked_div(most.into()).unwrap_or(0)).unwrap_or(u8::MAX)
}

/// A float of two, four or eight bytes.
fn float(bytes: &[u8], is_little: bool) -> f32 {
    let mut value = [0; 8];
    value.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    let size = bytes.len().min(8);
    if is_little {
        value.get_mut(..size).unwrap_or_default().reverse();
    }
    let [a, b, c, d, ..] = value;
    match size {
        2 => half(u16::from_be_bytes([a, b])),
        4 => f32::from_be_bytes([a, b, c, d]),
        _ => {
            #[expect(
                clippy::as_conversions,
                clippy::cast_possible_truncation,
                reason = "what is out of range is clipped later"
            )]
            let narrow = f64::from_be_bytes(value) as f32;
            narrow
        }
    }
}

/// A float of 16 bits.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000).wrapping_shl(16);
    let exponent = u32::from(bits.wrapping_shr(10) & 31);
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        // Too small to be seen.
        0 => 0.0,
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction.wrapping_shl(13)),
        _ => f32::from_bits(sign | exponent.wrapping_add(112).wrapping_shl(23) | fraction.wrapping_shl(13)),
    }
}

/// Adds up what was stored as differences (TIFF 6.0, section 14; technical note 3 for floats).
fn undo_prediction(row: &mut [u8], directory: &Directory) -> Result<(), ThumbnailError> {
    let together = usize::try_from(directory.together()).unwrap_or(1);
    let size = usize::try_from(directory.bits.div_ceil(8)).unwrap_or(1);
    match directory.predictor {
        2 if matches!(directory.bits, 8 | 16 | 24 | 32 | 64) => {
            let step = together.saturating_mul(size);
            for at in (step..row.len()).step_by(size) {
                let mut carry = 0_u16;
                for place in 0..size {
                    // From the lowest byte on.
                    let place = if directory.is_little {
                        place
                    } else {
                        size.saturating_sub(place).saturating_sub(1)
                    };
                    let at = at.saturating_add(place);
                    let before = at.checked_sub(step).and_then(|at| row.get(at)).copied().unwrap_or(0);
                    if let Some(byte) = row.get_mut(at) {
                        let sum = u16::from(*byte).wrapping_add(before.into()).wrapping_add(carry);
                        let [high, low] = sum.to_be_bytes();
                        (*byte, carry) = (low, high.into());
                    }
                }
            }
            Ok(())
        }
        2 => {
            // Of few bits: not written by anybody but tests.
            Err(ThumbnailError::Unsupported("TIFF predicted in this way"))
        }
        3 if matches!(directory.bits, 16 | 32 | 64) => {
            for at in together..row.len() {
                let before = at.checked_sub(together).and_then(|at| row.get(at)).copied().unwrap_or(0);
                if let Some(byte) = row.get_mut(at) {
                    *byte = byte.wrapping_add(before);
                }
            }
            // All highest bytes, then all next ones.
            let planes = row.to_vec();
            let count = row.len().checked_div(size).unwrap_or(0);
            for (at, value) in row.chunks_exact_mut(size).enumerate() {
                for (plane, byte) in value.iter_mut().enumerate() {
                    *byte = planes.get(plane.saturating_mul(count).saturating_add(at)).copied().unwrap_or(0);
                }
            }
            Ok(())
        }
        3 => Err(ThumbnailError::Unsupported("TIFF predicted in this way")),
        _ => Ok(()),
    }
}

/// Turns samples of 8 bits into pixels.
pub(super) fn to_pixels(
    samples: &[u8],
    directory: &Directory,
    meaning: Meaning,
    layout: Layout,
    out: &mut Vec<u8>,
) {
    out.clear();
    let each = usize::try_from(directory.samples).unwrap_or(1).max(1);
    let colors = usize::try_from(meaning.colors()).unwrap_or(1);
    let is_multiplied = directory.extra.first() == Some(&ASSOCIATED_ALPHA);
    for pixel in samples.chunks_exact(each) {
        let at = |index: usize| pixel.get(index).copied().unwrap_or(0);
        let rgb = match meaning {
            Meaning::Ink | Meaning::Light => {
                let grey = if meaning == Meaning::Ink { !at(0) } else { at(0) };
                let alpha = if layout == Layout::GreyAlpha { at(1) } else { u8::MAX };
                out.push(if is_multiplied { straight(grey, alpha) } else { grey });
                if layout == Layout::GreyAlpha {
                    out.push(alpha);
                }
                continue;
            }
            Meaning::Cmyk => {
                let black = if each > 3 { at(3) } else { 0 };
                out.extend([at(0), at(1), at(2), black]);
                continue;
            }
            Meaning::Rgb => [at(0), at(1), at(2)],
            Meaning::Palette => palette_color(directory, at(0)),
            Meaning::YCbCr => super::super::super::jpeg::to_rgb([at(0), at(1), at(2)]),
            Meaning::Lab { is_shifted } => {
                let opponent = |value: u8| {
                    if is_shifted {
                        i16::from(value).wrapping_sub(128)
                    } else {
                        i16::from(value.cast_signed())
                    }
                };
                from_lab(at(0), opponent(at(1)), opponent(at(2)))
            }
        };
        if layout == Layout::Rgba {
            let alpha = at(colors);
            out.extend(if is_multiplied { rgb.map(|value| straight(value, alpha)) } else { rgb });
            out.push(alpha);
        } else {
            out.extend(rgb);
        }
    }
}

/// A colour of the palette, of 16 bits a channel; some writers leave the upper eight out.
fn palette_color(directory: &Directory, index: u8) -> [u8; 3] {
    let count = directory.palette.len().div_euclid(3);
    let is_narrow = directory.palette.iter().all(|value| *value < 256);
    [0, 1, 2].map(|plane: usize| {
        let at = plane.saturating_mul(count).saturating_add(index.into());
        let value = directory.palette.get(at).copied().filter(|_| usize::from(index) < count).unwrap_or(0);
        u8::try_from(if is_narrow { value } else { value.wrapping_shr(8) }).unwrap_or(u8::MAX)
    })
}

/// A colour that has been multiplied with its alpha, as it was before.
fn straight(value: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    let rounded = u32::from(value).saturating_mul(255).saturating_add(alpha.div_euclid(2));
    u8::try_from(rounded.checked_div(alpha).unwrap_or(0)).unwrap_or(u8::MAX)
}

/// What `ExtraSamples` says of an alpha that colours have been multiplied with (TIFF 6.0, section 18).
const ASSOCIATED_ALPHA: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_divided_by_their_alpha() {
        let got = [(100, 128), (50, 128), (25, 128), (9, 255), (9, 0), (200, 100), (2, 100)];
        assert_eq!(got.map(|(value, alpha)| straight(value, alpha)), [199, 100, 50, 9, 0, 255, 5]);
    }

    #[test]
    fn samples_out_of_range_are_clipped() {
        assert_eq!([-1.0, 0.5, 1.0, 7.0, f32::NAN].map(from_unit), [0, 128, 255, 255, 0]);
    }

    #[test]
    fn floats_of_every_size_are_read() {
        let is = |value: f32, expected: f32| assert_eq!(value.to_bits(), expected.to_bits());
        is(half(0x3c00), 1.0);
        is(half(0xb800), -0.5);
        is(half(0x3555), 0.333_251_95);
        for is_little in [false, true] {
            let ordered = |mut bytes: Vec<u8>| {
                if is_little {
                    bytes.reverse();
                }
                float(&bytes, is_little)
            };
            is(ordered(0.25_f32.to_be_bytes().to_vec()), 0.25);
            is(ordered(0.25_f64.to_be_bytes().to_vec()), 0.25);
            is(ordered(vec![0x34, 0]), 0.25);
        }
    }
}
