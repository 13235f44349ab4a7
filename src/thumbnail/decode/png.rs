//! PNG, row by row and reduced on the way; interlaced ones whole.

use std::io::{BufRead, Seek};

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Limits as PngLimits, Reader, Transformations};

use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Pixels, Reducer};
use super::super::probe::Header;
use super::reduce;

/// Decodes the picture, of an animation its default image, reduced once for each divisor.
pub(super) fn decode(
    input: impl BufRead + Seek,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let mut decoder = Decoder::new_with_limits(input, PngLimits { bytes: chunk_bytes(header) });
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let reader = decoder.read_info().map_err(from_png)?;
    let info = reader.info();
    if (info.width, info.height) != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let interlaced = info.interlaced;
    let icc = info.icc_profile.as_ref().map(|profile| profile.to_vec());
    let layout = match reader.output_color_type().0 {
        ColorType::Grayscale => Layout::Grey,
        ColorType::GrayscaleAlpha => Layout::GreyAlpha,
        ColorType::Rgb => Layout::Rgb,
        ColorType::Rgba => Layout::Rgba,
        ColorType::Indexed => return Err(ThumbnailError::broken("a palette was left")),
    };
    let hidden = hidden_grey(info);
    if interlaced {
        return Ok(reduce(whole(reader, layout, hidden)?, divisors, icc.as_deref()));
    }
    let reduced = rows(reader, layout, divisors, hidden)?.into_iter().zip(divisors);
    Ok(reduced.map(|(pixels, divisor)| Decoded { pixels, divisor: *divisor, icc: icc.clone() }).collect())
}

/// What the decoder may hold besides pixels: the profile, inflated and as it comes, and small chunks.
pub(in crate::thumbnail) fn chunk_bytes(header: &Header) -> usize {
    usize::try_from(header.profile_bytes).unwrap_or(0).saturating_mul(2).saturating_add(CHUNK_BYTES)
}

/// Reduces each row as it comes, once for each divisor.
fn rows(
    mut reader: Reader<impl BufRead + Seek>,
    layout: Layout,
    divisors: &[u32],
    hidden: Option<u8>,
) -> Result<Vec<Pixels>, ThumbnailError> {
    let width = reader.info().width;
    let mut reducers: Vec<Reducer> =
        divisors.iter().map(|divisor| Reducer::new(width, layout, *divisor)).collect();
    while let Some(row) = reader.next_row().map_err(from_png)? {
        let corrected = hidden.map(|grey| hide(row.data().to_vec(), grey));
        for reducer in &mut reducers {
            reducer.push(corrected.as_deref().unwrap_or(row.data()));
        }
    }
    Ok(reducers.into_iter().map(Reducer::finish).collect())
}

/// The picture once it is whole.
fn whole(
    mut reader: Reader<impl BufRead + Seek>,
    layout: Layout,
    hidden: Option<u8>,
) -> Result<Pixels, ThumbnailError> {
    let size =
        reader.output_buffer_size().ok_or(ThumbnailError::TooLarge("the image has too many pixels"))?;
    let mut data = vec![0; size];
    reader.next_frame(&mut data).map_err(from_png)?;
    if let Some(grey) = hidden {
        data = hide(data, grey);
    }
    let (width, height) = reader.info().size();
    Ok(Pixels { width, height, layout, data })
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
        DecodingError::IoError(error) => error.into(),
        DecodingError::LimitsExceeded => {
            ThumbnailError::TooLarge("the image takes too much memory to decode")
        }
        DecodingError::Format(_) | DecodingError::Parameter(_) => ThumbnailError::broken(error),
    }
}

/// Bytes of the chunks before the pixels, but for the profile.
const CHUNK_BYTES: usize = 1 << 18;
