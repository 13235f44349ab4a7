//! From the decompressed bytes of a TIFF row to pixels.
//!
//! Owns depths, byte orders, predictors, palettes and colour spaces. Refuses to know chunks and compression.

use super::super::super::ThumbnailError;
use super::super::super::color::from_lab;
use super::super::super::pixels::{Layout, from_unit};
use super::super::super::probe::{Directory, FLOATING};

/// The colour space of the samples (`PhotometricInterpretation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Photometric {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    /// Indices into the palette.
    Palette,
    /// Three inks, or four with black.
    Cmyk,
    YCbCr,
    Lab {
        /// Whether a* and b* are unsigned around 128 (ICC), not signed (CIE).
        is_icc: bool,
    },
}

impl Photometric {
    /// # Errors
    /// `Unsupported` for other colour spaces, `Broken` for too few samples.
    pub(super) fn of(directory: &Directory) -> Result<Self, ThumbnailError> {
        let photometric = match directory.photometric {
            0 => Self::WhiteIsZero,
            1 => Self::BlackIsZero,
            2 => Self::Rgb,
            3 if directory.bits <= 8 => Self::Palette,
            5 => Self::Cmyk,
            6 => Self::YCbCr,
            8 => Self::Lab { is_icc: false },
            9 => Self::Lab { is_icc: true },
            _ => return Err(ThumbnailError::Unsupported("TIFF with colours of this kind")),
        };
        if directory.samples < photometric.colors() {
            return Err(ThumbnailError::broken("fewer channels than colours"));
        }
        Ok(photometric)
    }

    /// The least number of samples a pixel.
    fn colors(self) -> u32 {
        match self {
            Self::WhiteIsZero | Self::BlackIsZero | Self::Palette => 1,
            Self::Rgb | Self::Cmyk | Self::YCbCr | Self::Lab { .. } => 3,
        }
    }

    /// The samples of a pixel that is missing in the file: white, or index 0 of a palette.
    pub(super) fn blank(self, directory: &Directory) -> Vec<u8> {
        let (colors, beyond): (&[u8], u8) = match self {
            Self::BlackIsZero => (&[u8::MAX], u8::MAX),
            Self::Rgb => (&[u8::MAX; 3], u8::MAX),
            Self::YCbCr | Self::Lab { is_icc: true } => (&[u8::MAX, 128, 128], u8::MAX),
            Self::Lab { is_icc: false } => (&[u8::MAX, 0, 0], u8::MAX),
            Self::WhiteIsZero | Self::Palette | Self::Cmyk => (&[], 0),
        };
        let count = usize::try_from(directory.samples).unwrap_or(1);
        (0..count).map(|at| colors.get(at).copied().unwrap_or(beyond)).collect()
    }

    /// The layout of the pixels.
    pub(super) fn layout(self, directory: &Directory) -> Layout {
        let colors = self.colors();
        // A fourth sample without `ExtraSamples` counts as alpha, as in other readers.
        let alpha = match directory.extra_samples.first() {
            Some(kind) => matches!(kind, 1 | 2),
            None => self == Self::Rgb,
        };
        let has_alpha = alpha && directory.samples > colors;
        match self {
            Self::Cmyk => Layout::Cmyk,
            Self::WhiteIsZero | Self::BlackIsZero if has_alpha => Layout::GreyAlpha,
            Self::WhiteIsZero | Self::BlackIsZero => Layout::Grey,
            Self::Rgb | Self::Palette | Self::YCbCr | Self::Lab { .. } if has_alpha => Layout::Rgba,
            Self::Rgb | Self::Palette | Self::YCbCr | Self::Lab { .. } => Layout::Rgb,
        }
    }
}

/// Converts a decompressed row to `count` samples of 8 bits. Palette indices keep their value, other samples are scaled.
///
/// # Errors
/// `Unsupported` for floats of other sizes and for predictors of few bits.
pub(super) fn to_bytes(
    row: &mut [u8],
    directory: &Directory,
    count: usize,
    out: &mut Vec<u8>,
) -> Result<(), ThumbnailError> {
    undo_prediction(row, directory)?;
    out.clear();
    let is_palette = directory.photometric == 3;
    let is_little_endian = directory.is_little_endian && directory.predictor != 3;
    match (directory.bits, directory.sample_format) {
        // Signed samples are read as unsigned, as in other readers.
        (8, _) => out.extend(row.iter()),
        (bits @ (16 | 32 | 64), FLOATING) => {
            let size = usize::try_from(bits.div_ceil(8)).unwrap_or(1);
            out.extend(row.chunks_exact(size).map(|value| from_unit(float(value, is_little_endian))));
        }
        (_, FLOATING) => return Err(ThumbnailError::Unsupported("TIFF with numbers of this depth")),
        (bits @ (16 | 24 | 32 | 64), _) => {
            let size = usize::try_from(bits.div_ceil(8)).unwrap_or(1);
            out.extend(row.chunks_exact(size).map(|value| {
                let pair = if is_little_endian { value.last_chunk::<2>() } else { value.first_chunk::<2>() };
                let [low, high] = pair.copied().unwrap_or_default();
                let [high, low] = if is_little_endian { [high, low] } else { [low, high] };
                // The upper 16 bits are enough to round to 8.
                let value = u32::from(u16::from_be_bytes([high, low]));
                if directory.photometric == 8 { high } else { scale_to_byte(value, 65_535) }
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
                out.push(if is_palette {
                    u8::try_from(value).unwrap_or(u8::MAX)
                } else {
                    scale_to_byte(value, most)
                });
            }
        }
    }
    out.truncate(count);
    Ok(())
}

/// Scales a value of 0 to `most` to 0 to 255.
fn scale_to_byte(value: u32, most: u32) -> u8 {
    let spread = u64::from(value).saturating_mul(255).saturating_add(u64::from(most.div_euclid(2)));
    u8::try_from(spread.checked_div(most.into()).unwrap_or(0)).unwrap_or(u8::MAX)
}

/// Reads a float of two, four or eight bytes.
fn float(bytes: &[u8], is_little_endian: bool) -> f32 {
    let mut value = [0; 8];
    value.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
    let size = bytes.len().min(8);
    if is_little_endian {
        value.get_mut(..size).unwrap_or_default().reverse();
    }
    let [a, b, c, d, ..] = value;
    match size {
        2 => half_to_f32(u16::from_be_bytes([a, b])),
        4 => f32::from_be_bytes([a, b, c, d]),
        _ => {
            #[expect(
                clippy::as_conversions,
                clippy::cast_possible_truncation,
                reason = "out-of-range values are clipped later"
            )]
            let narrow = f64::from_be_bytes(value) as f32;
            narrow
        }
    }
}

/// An IEEE 754 half-precision float. Subnormal numbers become 0, since they are below any visible level.
fn half_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000).wrapping_shl(16);
    let exponent = u32::from(bits.wrapping_shr(10) & 31);
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        0 => 0.0,
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction.wrapping_shl(13)),
        _ => f32::from_bits(sign | exponent.wrapping_add(112).wrapping_shl(23) | fraction.wrapping_shl(13)),
    }
}

/// Undoes the predictor in place (TIFF 6.0, section 14; Technical Note 3 for floats).
fn undo_prediction(row: &mut [u8], directory: &Directory) -> Result<(), ThumbnailError> {
    let samples_in_chunk = usize::try_from(directory.samples_in_chunk()).unwrap_or(1);
    let size = usize::try_from(directory.bits.div_ceil(8)).unwrap_or(1);
    match directory.predictor {
        2 if matches!(directory.bits, 8 | 16 | 24 | 32 | 64) => {
            let step = samples_in_chunk.saturating_mul(size);
            for at in (step..row.len()).step_by(size) {
                let mut carry = 0_u16;
                for place in 0..size {
                    // With carry, from the lowest byte up.
                    let place = if directory.is_little_endian {
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
            // No known program writes it for samples of fewer than 8 bits.
            Err(ThumbnailError::Unsupported("TIFF predicted in this way"))
        }
        3 if matches!(directory.bits, 16 | 32 | 64) => {
            for at in samples_in_chunk..row.len() {
                let before =
                    at.checked_sub(samples_in_chunk).and_then(|at| row.get(at)).copied().unwrap_or(0);
                if let Some(byte) = row.get_mut(at) {
                    *byte = byte.wrapping_add(before);
                }
            }
            // The row stores the highest byte of every value, then the next byte of every value, and so on.
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

/// Converts samples of 8 bits to pixels.
pub(super) fn to_pixels(
    samples: &[u8],
    directory: &Directory,
    photometric: Photometric,
    layout: Layout,
    out: &mut Vec<u8>,
) {
    out.clear();
    let each = usize::try_from(directory.samples).unwrap_or(1).max(1);
    let colors = usize::try_from(photometric.colors()).unwrap_or(1);
    let is_premultiplied = directory.extra_samples.first() == Some(&ASSOCIATED_ALPHA);
    for pixel in samples.chunks_exact(each) {
        let at = |index: usize| pixel.get(index).copied().unwrap_or(0);
        let rgb = match photometric {
            Photometric::WhiteIsZero | Photometric::BlackIsZero => {
                let grey = if photometric == Photometric::WhiteIsZero { !at(0) } else { at(0) };
                let alpha = if layout == Layout::GreyAlpha { at(1) } else { u8::MAX };
                out.push(if is_premultiplied { unmultiply(grey, alpha) } else { grey });
                if layout == Layout::GreyAlpha {
                    out.push(alpha);
                }
                continue;
            }
            Photometric::Cmyk => {
                let black = if each > 3 { at(3) } else { 0 };
                out.extend([at(0), at(1), at(2), black]);
                continue;
            }
            Photometric::Rgb => [at(0), at(1), at(2)],
            Photometric::Palette => palette_color(directory, at(0)),
            Photometric::YCbCr => super::super::super::jpeg::to_rgb([at(0), at(1), at(2)]),
            Photometric::Lab { is_icc } => {
                let opponent = |value: u8| {
                    if is_icc { i16::from(value).wrapping_sub(128) } else { i16::from(value.cast_signed()) }
                };
                from_lab(at(0), opponent(at(1)), opponent(at(2)))
            }
        };
        if layout == Layout::Rgba {
            let alpha = at(colors);
            out.extend(if is_premultiplied { rgb.map(|value| unmultiply(value, alpha)) } else { rgb });
            out.push(alpha);
        } else {
            out.extend(rgb);
        }
    }
}

/// A colour of the palette. Its channels have 16 bits, but some writers store only 8.
fn palette_color(directory: &Directory, index: u8) -> [u8; 3] {
    let count = directory.palette.len().div_euclid(3);
    let is_narrow = directory.palette.iter().all(|value| *value < 256);
    [0, 1, 2].map(|plane: usize| {
        let at = plane.saturating_mul(count).saturating_add(index.into());
        let value = directory.palette.get(at).copied().filter(|_| usize::from(index) < count).unwrap_or(0);
        u8::try_from(if is_narrow { value } else { value.wrapping_shr(8) }).unwrap_or(u8::MAX)
    })
}

/// Undoes the multiplication of a colour by its alpha.
fn unmultiply(value: u8, alpha: u8) -> u8 {
    let alpha = u32::from(alpha);
    let rounded = u32::from(value).saturating_mul(255).saturating_add(alpha.div_euclid(2));
    u8::try_from(rounded.checked_div(alpha).unwrap_or(0)).unwrap_or(u8::MAX)
}

/// `ExtraSamples`: colours are premultiplied by this alpha (TIFF 6.0, section 18).
const ASSOCIATED_ALPHA: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_divided_by_their_alpha() {
        let got = [(100, 128), (50, 128), (25, 128), (9, 255), (9, 0), (200, 100), (2, 100)];
        assert_eq!(got.map(|(value, alpha)| unmultiply(value, alpha)), [199, 100, 50, 9, 0, 255, 5]);
    }

    #[test]
    fn samples_out_of_range_are_clipped() {
        assert_eq!([-1.0, 0.5, 1.0, 7.0, f32::NAN].map(from_unit), [0, 128, 255, 255, 0]);
    }

    #[test]
    fn floats_of_every_size_are_read() {
        let is = |value: f32, expected: f32| assert_eq!(value.to_bits(), expected.to_bits());
        is(half_to_f32(0x3c00), 1.0);
        is(half_to_f32(0xb800), -0.5);
        is(half_to_f32(0x3555), 0.333_251_95);
        for is_little_endian in [false, true] {
            let ordered = |mut bytes: Vec<u8>| {
                if is_little_endian {
                    bytes.reverse();
                }
                float(&bytes, is_little_endian)
            };
            is(ordered(0.25_f32.to_be_bytes().to_vec()), 0.25);
            is(ordered(0.25_f64.to_be_bytes().to_vec()), 0.25);
            is(ordered(vec![0x34, 0]), 0.25);
        }
    }
}
