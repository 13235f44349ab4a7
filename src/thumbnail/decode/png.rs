//! Decoding of PNG, row by row; interlaced pictures whole.
//!
//! Owns transparency that the `png` crate gets wrong, gamma, and what is shown of a truncated picture. Refuses to know
//! animations, of which it decodes the default image.

use png::{
    BitDepth, ColorType, Decoder, DecodingError, Info, InterlaceInfo, Limits as PngLimits, Reader,
    ScaledFloat, Transformations, splat_interlaced_row,
};

use super::super::ThumbnailError;
use super::super::color::{Chromaticities, gamma_profile};
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout};
use super::super::probe::Header;
use super::sink::Sink;

/// Decodes the picture, reduced once for each divisor.
pub(super) fn decode(
    input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut decoder = Decoder::new_with_limits(input, PngLimits { bytes: chunk_bytes(header) });
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(from_png)?;
    let info = reader.info();
    if (info.width, info.height) != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let icc = profile(info);
    let (interlaced, transparent_grey) = (info.interlaced, transparent_grey(info));
    let layout = match reader.output_color_type().0 {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => return Err(ThumbnailError::broken("a palette was left")),
    };
    let mut sink = Sink::new(header, layout, divisors);
    let outcome = if interlaced {
        read_interlaced_rows(&mut reader, layout, transparent_grey, &mut sink)
    } else {
        read_rows(&mut reader, transparent_grey, &mut sink)
    };
    sink.finish(outcome, icc.as_deref())
}

/// Bytes that the decoder may hold besides pixels: the profile, inflated and deflated, and small chunks.
pub(in crate::thumbnail) fn chunk_bytes(header: &Header) -> usize {
    usize::try_from(header.profile_bytes).unwrap_or(0).saturating_mul(2).saturating_add(CHUNK_BYTES)
}

/// The colour profile. If there is neither one nor an `sRGB` chunk, one made of gamma and chromaticities, as in browsers (PNG,
/// section 4.3).
pub(in crate::thumbnail) fn profile(info: &Info<'_>) -> Option<Vec<u8>> {
    if let Some(icc) = &info.icc_profile {
        return Some(icc.to_vec());
    }
    if info.srgb.is_some() {
        return None;
    }
    let gamma = info.gama_chunk.map(ScaledFloat::into_value);
    let chromaticities = info.chrm_chunk.map(|found| {
        [found.white, found.red, found.green, found.blue].map(|(x, y)| (x.into_value(), y.into_value()))
    });
    let chromaticities =
        chromaticities.map(|[white, red, green, blue]| Chromaticities { white, red, green, blue });
    let is_grey = matches!(info.color_type, ColorType::Grayscale | ColorType::GrayscaleAlpha);
    gamma_profile(gamma, chromaticities.as_ref(), is_grey)
}

/// Passes on each row. What follows the last row is not read.
fn read_rows(
    reader: &mut Reader<Input<'_>>,
    transparent_grey: Option<u8>,
    sink: &mut Sink,
) -> Result<(), ThumbnailError> {
    for _ in 0..reader.info().height {
        let Some(row) = reader.next_row().map_err(from_png)? else { break };
        match transparent_grey {
            Some(grey) => sink.push(&apply_transparency(row.data().to_vec(), grey)),
            None => sink.push(row.data()),
        }
    }
    Ok(())
}

/// Passes on the rows of an interlaced picture. Each pass fills the squares that later ones refine, so the end of a truncated
/// picture is coarse; if the first pass is truncated, the rows it had are shown.
fn read_interlaced_rows(
    reader: &mut Reader<Input<'_>>,
    layout: Layout,
    transparent_grey: Option<u8>,
    sink: &mut Sink,
) -> Result<(), ThumbnailError> {
    let size =
        reader.output_buffer_size().ok_or(ThumbnailError::TooLarge("the image has too many pixels"))?;
    let (width, height) = reader.info().size();
    let length = |side: u32| usize::try_from(side).unwrap_or(0);
    let stride = length(width).saturating_mul(layout.channels());
    let bits = u8::try_from(layout.channels().saturating_mul(8)).unwrap_or(u8::MAX);
    let mut data = vec![0; size];
    let mut filled = 0_u32;
    let outcome = loop {
        match reader.next_interlaced_row() {
            Ok(Some(row)) => {
                let InterlaceInfo::Adam7(place) = row.interlace() else { break Ok(()) };
                splat_interlaced_row(&mut data, stride, row.data(), place, bits);
                // The first pass has every eighth row.
                filled = filled.saturating_add(8).min(height);
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(from_png(error)),
        }
    };
    for row in data.chunks_exact(stride.max(1)).take(length(filled)) {
        match transparent_grey {
            Some(grey) => sink.push(&apply_transparency(row.to_vec(), grey)),
            None => sink.push(row),
        }
    }
    outcome
}

/// The transparent level (`tRNS`) of a grey picture of fewer than 8 bits, scaled to 8 bits. Pillow writes values of more bits
/// than the picture has. The specification masks them (PNG, 11.3.1.1); the `png` crate compares them as they are.
fn transparent_grey(info: &Info<'_>) -> Option<u8> {
    let most = match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale, BitDepth::One) => 1,
        (ColorType::Grayscale, BitDepth::Two) => 3,
        (ColorType::Grayscale, BitDepth::Four) => 15,
        _ => return None,
    };
    let value = info.trns.as_ref()?.first()? & most;
    Some(u8::MAX.checked_div(most)?.saturating_mul(value))
}

/// Makes one grey level transparent and all others opaque.
fn apply_transparency(mut data: Vec<u8>, transparent_grey: u8) -> Vec<u8> {
    for [grey, alpha] in data.as_chunks_mut::<2>().0 {
        *alpha = if *grey == transparent_grey { 0 } else { u8::MAX };
    }
    data
}

/// Errors of the decoder, also those of reads, which [`super::super::input::read`] tells apart.
pub(in crate::thumbnail) fn from_png(error: DecodingError) -> ThumbnailError {
    match error {
        DecodingError::LimitsExceeded => {
            ThumbnailError::TooLarge("the image takes too much memory to decode")
        }
        DecodingError::IoError(_) | DecodingError::Format(_) | DecodingError::Parameter(_) => {
            ThumbnailError::broken(error)
        }
    }
}

/// Bytes for the chunks before the pixels, except the profile.
const CHUNK_BYTES: usize = 1 << 18;
