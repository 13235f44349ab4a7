//! The header of a PNG or APNG ([PNG, third edition](https://www.w3.org/TR/png-3/)).
//!
//! Owns the chunks before the pixels. Refuses to decode pixels, and to inflate profiles.

use std::io::Read as _;

use super::super::ThumbnailError;
use super::super::color::MAX_DEFLATED_PROFILE;
use super::super::input::Input;
use super::super::plan::Motion;
use super::{Format, Header, MAX_EXIF, Storage, bytes, exif_orientation, skip};

/// Reads chunks up to the first `IDAT`.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    skip(input, 8)?;
    let _length: [u8; 4] = bytes(input)?;
    if &bytes::<4>(input)? != b"IHDR" {
        return Err(ThumbnailError::broken("the first chunk is not the header"));
    }
    let width = u32::from_be_bytes(bytes(input)?);
    let height = u32::from_be_bytes(bytes(input)?);
    let [_depth, color, _compression, _filter, interlace] = bytes(input)?;
    skip(input, 4)?;
    let width_bytes = u64::from(width).saturating_mul(24).saturating_add(1 << 18);
    let pixels = u64::from(width).saturating_mul(u64::from(height));
    let channels: u64 = match color {
        0 | 4 => 2,
        _ => 4,
    };
    // Rows of up to 8 bytes a pixel in the decoder, and the window of the inflater. Of an interlaced picture also all its
    // pixels, at 8 bits a channel.
    let whole = if interlace == 0 { 0 } else { pixels.saturating_mul(channels) };
    let storage = Storage::Rows { held: width_bytes.saturating_add(whole) };
    let mut header = Header::new(Format::Png, (width, height), storage)?;
    for _ in 0..MAX_CHUNKS {
        let length = u32::from_be_bytes(bytes(input)?);
        match &bytes::<4>(input)? {
            b"IDAT" => return Ok(header),
            b"acTL" => {
                let frames = u32::from_be_bytes(bytes(input)?);
                header.motion = if frames > 1 { Motion::Animated } else { Motion::Still };
                skip(input, length.saturating_sub(4))?;
            }
            b"eXIf" if length <= MAX_EXIF => {
                let mut exif = vec![0; usize::try_from(length).unwrap_or(0)];
                input.read_exact(&mut exif)?;
                header.orientation = exif_orientation(&exif);
            }
            b"iCCP" => {
                header.profile_bytes = MAX_DEFLATED_PROFILE;
                skip(input, length)?;
            }
            _ => skip(input, length)?,
        }
        skip(input, 4)?;
    }
    Err(ThumbnailError::broken("no pixels after the headers"))
}

/// Most chunks before the pixels.
const MAX_CHUNKS: usize = 2000;
