//! PNG, row by row and reduced on the way; interlaced ones whole.

use png::{
    BitDepth, ColorType, Decoder, DecodingError, Info, InterlaceInfo, Limits as PngLimits, Reader,
    ScaledFloat, Transformations, splat_interlaced_row,
};

use super::super::ThumbnailError;
use super::super::color::{Chromaticities, calibrated};
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout};
use super::super::probe::Header;
use super::Sink;

/// Decodes the picture, of an animation its default image, reduced once for each divisor.
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
    let (interlaced, hidden) = (info.interlaced, hidden_grey(info));
    let layout = match reader.output_color_type().0 {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => return Err(ThumbnailError::broken("a palette was left")),
    };
    let mut sink = Sink::new(header, layout, divisors);
    let outcome = if interlaced {
        passes(&mut reader, layout, hidden, &mut sink)
    } else {
        rows(&mut reader, hidden, &mut sink)
    };
    sink.finish(outcome, icc.as_deref())
}

/// What the decoder may hold besides pixels: the profile, inflated and as it comes, and small chunks.
pub(in crate::thumbnail) fn chunk_bytes(header: &Header) -> usize {
    usize::try_from(header.profile_bytes).unwrap_or(0).saturating_mul(2).saturating_add(CHUNK_BYTES)
}

/// The colour profile, or one made of what stands in its place: the gamma and the chromaticities that browsers heed where
/// there is neither a profile nor the mark of sRGB (PNG, 4.3).
pub(in crate::thumbnail) fn profile(info: &Info<'_>) -> Option<Vec<u8>> {
    if let Some(icc) = &info.icc_profile {
        return Some(icc.to_vec());
    }
    if info.srgb.is_some() {
        return None;
    }
    let gamma = info.gama_chunk.map(ScaledFloat::into_value);
    let places = info.chrm_chunk.map(|found| {
        [found.white, found.red, found.green, found.blue].map(|(x, y)| (x.into_value(), y.into_value()))
    });
    let places = places.map(|[white, red, green, blue]| Chromaticities { white, red, green, blue });
    let is_grey = matches!(info.color_type, ColorType::Grayscale | ColorType::GrayscaleAlpha);
    calibrated(gamma, places.as_ref(), is_grey)
}

/// Hands each row on as it comes. What stands behind the last does not matter.
fn rows(reader: &mut Reader<Input<'_>>, hidden: Option<u8>, sink: &mut Sink) -> Result<(), ThumbnailError> {
    for _ in 0..reader.info().height {
        let Some(row) = reader.next_row().map_err(from_png)? else { break };
        match hidden {
            Some(grey) => sink.push(&hide(row.data().to_vec(), grey)),
            None => sink.push(row.data()),
        }
    }
    Ok(())
}

/// Hands on the rows of an interlaced picture. Each pass fills the squares that later ones refine, so what breaks off is coarse
/// below, and of a first pass that breaks off there are the rows that came.
fn passes(
    reader: &mut Reader<Input<'_>>,
    layout: Layout,
    hidden: Option<u8>,
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
        match hidden {
            Some(grey) => sink.push(&hide(row.to_vec(), grey)),
            None => sink.push(row),
        }
    }
    outcome
}

/// The grey that a picture of fewer than 8 bits hides. The specification masks a value of too many bits, which Pillow
/// writes; the decoder compares it as it is.
fn hidden_grey(info: &Info<'_>) -> Option<u8> {
    let most = match (info.color_type, info.bit_depth) {
        (ColorType::Grayscale, BitDepth::One) => 1,
        (ColorType::Grayscale, BitDepth::Two) => 3,
        (ColorType::Grayscale, BitDepth::Four) => 15,
        _ => return None,
    };
    let value = info.trns.as_ref()?.first()? & most;
    Some(u8::MAX.checked_div(most)?.saturating_mul(value))
}

/// Makes a grey invisible and all others visible.
fn hide(mut data: Vec<u8>, hidden: u8) -> Vec<u8> {
    for [grey, alpha] in data.as_chunks_mut::<2>().0 {
        *alpha = if *grey == hidden { 0 } else { u8::MAX };
    }
    data
}

/// A failure inside the decoder as ours.
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

/// Bytes of the chunks before the pixels, but for the profile.
const CHUNK_BYTES: usize = 1 << 18;
