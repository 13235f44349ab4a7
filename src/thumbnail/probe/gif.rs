//! The blocks of a GIF until it is known whether it moves ([GIF 89a](https://www.w3.org/Graphics/GIF/spec-gif89a.txt)).

use std::io::{BufRead, Seek};

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::plan::Motion;
use super::{Format, Header, Storage, bytes, skip};

/// Reads blocks until a second frame or the end.
pub(super) fn probe(input: &mut (impl BufRead + Seek)) -> Result<Header, ThumbnailError> {
    skip(input, 6)?;
    let [w0, w1, h0, h1, flags, _background, _aspect] = bytes(input)?;
    let size = (u32::from(u16::from_le_bytes([w0, w1])), u32::from(u16::from_le_bytes([h0, h1])));
    // The canvas and a frame in four channels, and the frame's indices.
    let mut header = Header::new(Format::Gif, size, Storage::Whole { bytes_per_pixel: 13 })?;
    skip_palette(input, flags)?;
    let mut frames = 0_u32;
    loop {
        // A file that breaks off after its first frame still has that one.
        match bytes::<1>(input) {
            Ok([0x21]) => {
                skip(input, 1)?;
                let length = skip_blocks(input, frames)?;
                if frames > 0 {
                    continue;
                }
                // The decoder keeps a profile and XMP until its end.
                header.profile_bytes = header.profile_bytes.saturating_add(length);
                if header.profile_bytes > MAX_PROFILE {
                    return Err(ThumbnailError::TooLarge("the image's metadata is too large"));
                }
            }
            Ok([0x2c]) if frames > 0 => {
                header.motion = Motion::Animated;
                return Ok(header);
            }
            Ok([0x2c]) => {
                skip(input, 8)?;
                let [flags] = bytes(input)?;
                skip_palette(input, flags)?;
                skip(input, 1)?;
                frames = 1;
                skip_blocks(input, frames)?;
            }
            Ok(_) | Err(ThumbnailError::Broken(_)) if frames > 0 => return Ok(header),
            Ok(_) => return Err(ThumbnailError::broken("no frame")),
            Err(error) => return Err(error),
        }
    }
}

/// Counts frames, up to so many; the last one may be cut short.
pub(in crate::thumbnail) fn count_frames(
    input: &mut (impl BufRead + Seek),
    most: u32,
) -> Result<u32, ThumbnailError> {
    skip(input, 10)?;
    let [flags, _background, _aspect] = bytes(input)?;
    skip_palette(input, flags)?;
    let mut frames = 0_u32;
    while frames < most {
        match bytes::<1>(input) {
            Ok([0x21]) => skip(input, 1)?,
            Ok([0x2c]) => {
                frames = frames.saturating_add(1);
                skip(input, 8)?;
                let Ok([flags]) = bytes(input) else { break };
                skip_palette(input, flags)?;
                skip(input, 1)?;
            }
            Ok(_) | Err(ThumbnailError::Broken(_)) => break,
            Err(error) => return Err(error),
        }
        skip_blocks(input, frames)?;
    }
    Ok(frames)
}

/// Passes over a colour table if the flags say that there is one.
fn skip_palette(input: &mut impl Seek, flags: u8) -> Result<(), ThumbnailError> {
    let entries = 2_u32.wrapping_shl(u32::from(flags & 7));
    if flags & 0x80 == 0 { Ok(()) } else { skip(input, entries.saturating_mul(3)) }
}

/// Passes over sub-blocks up to and with the empty one and counts their bytes; what follows the first frame may be missing.
fn skip_blocks(input: &mut (impl BufRead + Seek), frames: u32) -> Result<u32, ThumbnailError> {
    let mut total = 0_u32;
    loop {
        match bytes::<1>(input) {
            Ok([0]) => return Ok(total),
            Ok([length]) => {
                // Consumed, not sought: a seek would throw the buffer away for each of these small blocks.
                let mut block = [0; 255];
                let block = block.get_mut(..usize::from(length)).unwrap_or_default();
                match input.read_exact(block) {
                    Err(_end) if frames > 0 => return Ok(total),
                    other => other?,
                }
                total = total.saturating_add(u32::from(length));
            }
            Err(_end) if frames > 0 => return Ok(total),
            Err(error) => return Err(error),
        }
    }
}
