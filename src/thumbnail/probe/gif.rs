//! The blocks of a GIF until it is known whether it moves ([GIF 89a](https://www.w3.org/Graphics/GIF/spec-gif89a.txt)).

use std::io::Read as _;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::input::Input;
use super::super::plan::{Motion, Rect};
use super::{Format, Header, Storage, bytes, skip};

/// Reads blocks until a second frame or the end.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    skip(input, 6)?;
    let [w0, w1, h0, h1, flags, _background, _aspect] = bytes(input)?;
    let screen = (u32::from(u16::from_le_bytes([w0, w1])), u32::from(u16::from_le_bytes([h0, h1])));
    skip_palette(input, flags)?;
    let mut found: Option<Header> = None;
    let mut metadata = 0_u32;
    loop {
        // A file that breaks off in its first frame or behind it still has that one.
        match (bytes::<1>(input), found) {
            (Ok([0x21]), _) => {
                skip(input, 1)?;
                let length = skip_blocks(input, u32::from(found.is_some()))?;
                if found.is_some() {
                    continue;
                }
                // The decoder keeps a profile and XMP until its end.
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
}

/// What the first frame's descriptor makes of the picture, read up to the frame's data.
fn first_frame(input: &mut Input<'_>, screen: (u32, u32)) -> Result<Header, ThumbnailError> {
    let [x0, x1, y0, y1, w0, w1, h0, h1, flags] = bytes(input)?;
    let number = |low, high| u32::from(u16::from_le_bytes([low, high]));
    let part = Rect { x: number(x0, x1), y: number(y0, y1), width: number(w0, w1), height: number(h0, h1) };
    let (size, part) = canvas(screen, part);
    skip_palette(input, flags)?;
    skip(input, 1)?;
    // Rows of the canvas and of the frame, and the tables of the codes. Interlaced, all of the frame's indices.
    let rows = u64::from(size.0).saturating_mul(8).saturating_add(part.width.into()).saturating_add(1 << 18);
    let whole = u64::from(part.width).saturating_mul(part.height.into());
    let held = if flags & INTERLACED == 0 { rows } else { rows.saturating_add(whole) };
    Header::new(Format::Gif, size, Storage::Rows { held })
}

/// The size of the picture and the place of its first frame. A frame that is larger than the screen is the picture, as in
/// browsers.
pub(in crate::thumbnail) fn canvas(screen: (u32, u32), frame: Rect) -> ((u32, u32), Rect) {
    let (width, height) = screen;
    if frame.width > width || frame.height > height {
        return ((frame.width, frame.height), Rect { x: 0, y: 0, ..frame });
    }
    (screen, frame)
}

/// Counts frames, up to so many; the last one may be cut short.
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

/// Passes over a colour table if the flags say that there is one.
fn skip_palette(input: &mut Input<'_>, flags: u8) -> Result<(), ThumbnailError> {
    let entries = 2_u32.wrapping_shl(u32::from(flags & 7));
    if flags & 0x80 == 0 { Ok(()) } else { skip(input, entries.saturating_mul(3)) }
}

/// Passes over sub-blocks up to and with the empty one and counts their bytes; what follows the first frame may be missing.
fn skip_blocks(input: &mut Input<'_>, frames: u32) -> Result<u32, ThumbnailError> {
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

/// The flag of a frame whose rows come in four passes.
const INTERLACED: u8 = 0x40;
