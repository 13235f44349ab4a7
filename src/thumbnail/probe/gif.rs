//! The header of a GIF ([GIF 89a](https://www.w3.org/Graphics/GIF/spec-gif89a.txt)).
//!
//! Owns the blocks up to the second frame, which tells an animation from a still, and the count of frames. Refuses to
//! decode pixels.

use std::io::Read as _;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::input::Input;
use super::super::plan::{Motion, Rect};
use super::{Format, Header, Storage, bytes, skip};

/// Reads blocks up to a second frame, the end of the file, or [`MAX_BLOCKS`].
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    skip(input, 6)?;
    let [w0, w1, h0, h1, flags, _background, _aspect] = bytes(input)?;
    let screen = (u32::from(u16::from_le_bytes([w0, w1])), u32::from(u16::from_le_bytes([h0, h1])));
    skip_palette(input, flags)?;
    let mut found: Option<Header> = None;
    let mut metadata = 0_u32;
    for _block in 0..MAX_BLOCKS {
        // A file that is truncated in or after its first frame is a still.
        match (bytes::<1>(input), found) {
            (Ok([0x21]), _) => {
                skip(input, 1)?;
                let length = skip_blocks(input, u32::from(found.is_some()))?;
                if found.is_some() {
                    continue;
                }
                // The decoder keeps the profile and XMP in memory.
                metadata = metadata.saturating_add(length);
                if metadata > MAX_PROFILE {
                    return Err(ThumbnailError::TooLarge("the image's metadata is too large"));
                }
            }
            (Ok([0x2c]), Some(header)) => return Ok(Header { motion: Motion::Animated, ..header }),
            (Ok([0x2c]), None) => {
                let header = first_frame(input, screen)?;
                found = Some(Header { profile_bytes: metadata, ..header });
                skip_blocks(input, 1)?;
            }
            (Ok(_) | Err(ThumbnailError::Broken(_)), Some(header)) => return Ok(header),
            (Ok(_), None) => return Err(ThumbnailError::broken("no frame")),
            (Err(error), _) => return Err(error),
        }
    }
    // Too long a way to a second frame: it is a still.
    found.ok_or(ThumbnailError::TooLarge("the image has too many blocks before its first frame"))
}

/// Reads the first image descriptor, up to the frame's data.
fn first_frame(input: &mut Input<'_>, screen: (u32, u32)) -> Result<Header, ThumbnailError> {
    let [x0, x1, y0, y1, w0, w1, h0, h1, flags] = bytes(input)?;
    let number = |low, high| u32::from(u16::from_le_bytes([low, high]));
    let part = Rect { x: number(x0, x1), y: number(y0, y1), width: number(w0, w1), height: number(h0, h1) };
    let (size, part) = canvas(screen, part);
    skip_palette(input, flags)?;
    skip(input, 1)?;
    // A row of the canvas and of the frame, and the LZW tables. Of an interlaced frame also all its indices.
    let rows = u64::from(size.0).saturating_mul(8).saturating_add(part.width.into()).saturating_add(1 << 18);
    let whole = u64::from(part.width).saturating_mul(part.height.into());
    let held = if flags & INTERLACED == 0 { rows } else { rows.saturating_add(whole) };
    Header::new(Format::Gif, size, Storage::Rows { held })
}

/// The size of the canvas and the part of it that the first frame covers. A first frame that is larger than the logical screen
/// becomes the canvas, as in browsers.
pub(in crate::thumbnail) fn canvas(screen: (u32, u32), frame: Rect) -> ((u32, u32), Rect) {
    let (width, height) = screen;
    if frame.width > width || frame.height > height {
        return ((frame.width, frame.height), Rect { x: 0, y: 0, ..frame });
    }
    (screen, frame)
}

/// Counts frames up to `most`; the last one may be truncated.
pub(in crate::thumbnail) fn count_frames(input: &mut Input<'_>, most: u32) -> Result<u32, ThumbnailError> {
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

/// Skips a colour table if the flags say that there is one.
fn skip_palette(input: &mut Input<'_>, flags: u8) -> Result<(), ThumbnailError> {
    let entries = 2_u32.wrapping_shl(u32::from(flags & 7));
    if flags & 0x80 == 0 { Ok(()) } else { skip(input, entries.saturating_mul(3)) }
}

/// Skips sub-blocks including the terminator, and returns their bytes. If `frames` is above 0, the end of the file ends them
/// too.
fn skip_blocks(input: &mut Input<'_>, frames: u32) -> Result<u32, ThumbnailError> {
    let mut total = 0_u32;
    loop {
        match bytes::<1>(input) {
            Ok([0]) => return Ok(total),
            Ok([length]) => {
                // Read, not seeked: a seek would discard the buffer for each of these small blocks.
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

/// Most blocks before the second frame. They take a byte or more each, and reading a header must not take longer than decoding.
const MAX_BLOCKS: u32 = 1 << 17;

/// The flag of a frame whose rows are stored in four passes (GIF 89a, section 20).
const INTERLACED: u8 = 0x40;
