//! What a WebP says of itself, through its decoder
//! ([container](https://developers.google.com/speed/webp/docs/riff_container)).

use std::io::{BufRead, Seek};

use image_webp::{DecodingError, WebPDecoder};

use super::super::ThumbnailError;
use super::super::plan::Motion;
use super::{Format, Header, Storage, exif_orientation};

/// Reads the chunks' headers, and EXIF.
pub(super) fn probe(input: &mut (impl BufRead + Seek)) -> Result<Header, ThumbnailError> {
    let mut decoder = WebPDecoder::new(input).map_err(from_webp)?;
    // Otherwise memory is taken by the length that a chunk claims.
    decoder.set_memory_limit(MAX_EXIF);
    let result: u32 = if decoder.has_alpha() { 4 } else { 3 };
    // The planes of a lossy picture with alpha, or the two buffers of a lossless one, and the canvas of an animation.
    let storage = Storage::Whole { bytes_per_pixel: result.saturating_add(16) };
    let header = Header::new(Format::WebP, decoder.dimensions(), storage)?;
    let motion = if decoder.is_animated() { Motion::Animated } else { Motion::Still };
    let exif = decoder.exif_metadata().unwrap_or_default().unwrap_or_default();
    Ok(Header { motion, orientation: exif_orientation(&exif), ..header })
}

/// A failure inside the decoder as ours.
pub(in crate::thumbnail) fn from_webp(error: DecodingError) -> ThumbnailError {
    if let DecodingError::IoError(error) = error { error.into() } else { ThumbnailError::broken(error) }
}

/// Bytes; what JPEG allows for the same block.
const MAX_EXIF: usize = 1 << 16;
