//! TIFF, whole: grey, RGB and inks at any depth. JPEG inside TIFF is left out: its decoder heeds no limit.

use std::io::{BufRead, Seek};

use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits as TiffLimits};
use tiff::tags::Tag;

use super::super::Limits;
use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Pixels, from_unit};
use super::super::probe::{Header, from_tiff};
use super::reduce;

/// Decodes the first page, reduced once for each divisor.
pub(super) fn decode(
    input: impl BufRead + Seek,
    header: &Header,
    divisors: &[u32],
    limits: &Limits,
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut decoder = Decoder::new(input).map_err(from_tiff)?.with_limits(bounds(limits));
    let (width, height) = decoder.dimensions().map_err(from_tiff)?;
    if (width, height) != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let color = decoder.colortype().map_err(from_tiff)?;
    #[expect(clippy::wildcard_enum_match_arm, reason = "the crate leaves the enum open")]
    let layout = match color {
        ColorType::Gray(_) => Layout::Grey,
        ColorType::RGB(_) => Layout::Rgb,
        ColorType::RGBA(_) => Layout::Rgba,
        ColorType::CMYK(_) => Layout::Cmyk,
        _ => return Err(ThumbnailError::broken("a rare kind of TIFF")),
    };
    let extra: Vec<u16> =
        decoder.find_tag_unsigned_vec(Tag::ExtraSamples).map_err(from_tiff)?.unwrap_or_default();
    let mut icc = vec![0; usize::try_from(header.profile_bytes).unwrap_or(0)];
    let found = decoder.image_ifd().find_tag_bytes(Tag::IccProfile, &mut icc, 0).map_err(from_tiff)?;
    icc.truncate(found.unwrap_or(0));

    let mut samples = DecodingResult::U8(Vec::new());
    let stored = decoder.read_image_to_buffer(&mut samples).map_err(from_tiff)?;
    let columns = usize::try_from(width).unwrap_or(usize::MAX);
    let mut data = to_bytes(samples, color.bit_depth(), columns.saturating_mul(layout.channels()))?;
    if stored.planes > 1 {
        data = interleave(&data, layout.channels());
    }
    let expected = header.pixels().saturating_mul(u64::try_from(layout.channels()).unwrap_or(u64::MAX));
    if u64::try_from(data.len()).ok() != Some(expected) {
        return Err(ThumbnailError::broken("not as many samples as pixels"));
    }
    if layout == Layout::Rgba && extra.first() == Some(&ASSOCIATED_ALPHA) {
        straighten(&mut data);
    }
    Ok(reduce(Pixels { width, height, layout, data }, divisors, Some(&icc)))
}

/// Our limits in the decoder's words.
fn bounds(limits: &Limits) -> TiffLimits {
    let bytes = usize::try_from(limits.memory).unwrap_or(usize::MAX);
    let mut bounds = TiffLimits::default();
    bounds.decoding_buffer_size = bytes;
    bounds.intermediate_buffer_size = bytes;
    bounds
}

/// Samples at 8 bits. `row` is how many of them a row has.
fn to_bytes(samples: DecodingResult, depth: u8, row: usize) -> Result<Vec<u8>, ThumbnailError> {
    let narrow =
        |sample: u16| u8::try_from(u32::from(sample).saturating_add(128).div_euclid(257)).unwrap_or(u8::MAX);
    Ok(match samples {
        DecodingResult::U8(data) if depth == 8 => data,
        DecodingResult::U8(data) if matches!(depth, 1 | 2 | 4) => unpack(&data, depth, row),
        DecodingResult::U16(data) if depth == 16 => data.into_iter().map(narrow).collect(),
        DecodingResult::F32(data) => data.into_iter().map(from_unit).collect(),
        DecodingResult::U8(_)
        | DecodingResult::U16(_)
        | DecodingResult::U32(_)
        | DecodingResult::U64(_)
        | DecodingResult::F16(_)
        | DecodingResult::F64(_)
        | DecodingResult::I8(_)
        | DecodingResult::I16(_)
        | DecodingResult::I32(_)
        | DecodingResult::I64(_) => return Err(ThumbnailError::broken("a rare depth of TIFF")),
    })
}

/// Samples that share bytes, spread over the whole range; rows begin at whole bytes.
fn unpack(data: &[u8], depth: u8, row: usize) -> Vec<u8> {
    let most = u8::MAX.wrapping_shr(8_u32.saturating_sub(u32::from(depth)));
    let step = u8::MAX.checked_div(most).unwrap_or(1);
    let packed = row.saturating_mul(usize::from(depth)).div_ceil(8);
    let shifts = (0..8_u32).step_by(usize::from(depth.max(1)));
    let spread = |byte: &u8| {
        let byte = *byte;
        let shifts =
            shifts.clone().map(move |shift| 8_u32.saturating_sub(shift).saturating_sub(u32::from(depth)));
        shifts.map(move |shift| (byte.wrapping_shr(shift) & most).saturating_mul(step))
    };
    data.chunks_exact(packed.max(1)).flat_map(|bytes| bytes.iter().flat_map(spread).take(row)).collect()
}

/// Colours that have been multiplied with their alpha, as they were before.
fn straighten(data: &mut [u8]) {
    for [red, green, blue, alpha] in data.as_chunks_mut::<4>().0 {
        let alpha = u32::from(*alpha);
        for channel in [red, green, blue] {
            let rounded = u32::from(*channel).saturating_mul(255).saturating_add(alpha.div_euclid(2));
            *channel = u8::try_from(rounded.checked_div(alpha).unwrap_or(0)).unwrap_or(u8::MAX);
        }
    }
}

/// One plane after the other as pixels.
fn interleave(planes: &[u8], channels: usize) -> Vec<u8> {
    let size = planes.len().checked_div(channels).unwrap_or(0);
    let at =
        |index: usize| planes.chunks_exact(size.max(1)).filter_map(move |plane| plane.get(index).copied());
    (0..size).flat_map(at).collect()
}

/// What `ExtraSamples` says of an alpha that colours have been multiplied with (TIFF 6.0, section 18).
const ASSOCIATED_ALPHA: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_samples_are_spread_and_rows_padded() {
        assert_eq!(unpack(&[0b1010_0000, 0b0100_0000], 1, 3), [255, 0, 255, 0, 255, 0]);
        assert_eq!(unpack(&[0b0001_1011], 2, 4), [0, 85, 170, 255]);
        assert_eq!(unpack(&[0x0f, 0x80], 4, 3), [0, 255, 136]);
    }

    #[test]
    fn planes_become_pixels() {
        assert_eq!(interleave(b"adbecf", 3), b"abcdef");
    }

    #[test]
    fn colours_are_divided_by_their_alpha() {
        let mut data = [100, 50, 25, 128, 9, 8, 7, 255, 9, 8, 7, 0, 200, 2, 0, 100];
        straighten(&mut data);
        assert_eq!(data, [199, 100, 50, 128, 9, 8, 7, 255, 0, 0, 0, 0, 255, 5, 0, 100]);
    }

    #[test]
    fn samples_out_of_range_are_clipped() {
        assert_eq!([-1.0, 0.5, 1.0, 7.0, f32::NAN].map(from_unit), [0, 128, 255, 255, 0]);
    }
}
