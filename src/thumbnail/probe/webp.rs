//! The chunks of a WebP ([RFC 9649](https://www.rfc-editor.org/rfc/rfc9649)).
//!
//! Owns what the decoder would do without a bound: read metadata as long as its chunk says, and set a lossy frame's planes
//! up as large as the frame says, whatever the canvas.

use std::io::{BufRead, ErrorKind, Seek, SeekFrom};

use image_webp::{DecodingError, WebPDecoder};

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::plan::Motion;
use super::{Format, Header, MAX_EXIF, Storage, bytes, exif_orientation, skip};

/// Asks the decoder what the picture is, and the chunks for what surrounds it.
pub(super) fn probe(input: &mut (impl BufRead + Seek)) -> Result<Header, ThumbnailError> {
    let decoder = WebPDecoder::new(&mut *input).map_err(from_webp)?;
    let motion = if decoder.is_animated() { Motion::Animated } else { Motion::Still };
    let native: u32 = if decoder.has_alpha() { 4 } else { 3 };
    // The planes of a lossy picture with alpha, or the two buffers of a lossless one, and the container's canvas.
    let storage = Storage::Whole { bytes_per_pixel: native.saturating_add(16) };
    let mut header = Header::new(Format::WebP, decoder.dimensions(), storage)?;
    header.motion = motion;
    check_frames(input, (header.width, header.height))?;
    header.held_bytes = held(input, motion)?;
    header.profile_bytes = find(input, *b"ICCP")?.unwrap_or(0);
    if header.profile_bytes > MAX_PROFILE {
        return Err(ThumbnailError::TooLarge("the image's colour profile is too large"));
    }
    if let Some(length) = find(input, *b"EXIF")?.filter(|length| *length <= MAX_EXIF) {
        let exif = payload(input, length)?;
        // The mark of JPEG's block does not belong here but occurs.
        header.orientation = exif_orientation(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif));
    }
    Ok(header)
}

/// Refuses lossy frames larger than the canvas.
fn check_frames(input: &mut (impl BufRead + Seek), canvas: (u32, u32)) -> Result<(), ThumbnailError> {
    input.seek(SeekFrom::Start(12))?;
    for _ in 0..MAX_CHUNKS {
        let Some((name, length)) = chunk(input)? else { return Ok(()) };
        let start = input.stream_position()?;
        if &name == b"ANMF" {
            // Place, size, duration and flags, then perhaps alpha, then the frame.
            skip(input, 16)?;
            if let Some((inner, length)) = chunk(input)?
                && &inner == b"ALPH"
            {
                skip(input, length.saturating_add(length & 1))?;
            } else {
                let passed = i64::try_from(input.stream_position()?.saturating_sub(start)).unwrap_or(0);
                input.seek_relative(16_i64.saturating_sub(passed))?;
            }
            match chunk(input)? {
                Some((inner, _)) if &inner == b"VP8 " => check_frame(input, canvas)?,
                Some(_) | None => {}
            }
        } else if &name == b"VP8 " {
            check_frame(input, canvas)?;
        }
        // Chunks are padded to even lengths.
        let padded = i64::from(length).saturating_add(i64::from(length & 1));
        let passed = i64::try_from(input.stream_position()?.saturating_sub(start)).unwrap_or(0);
        // Relative: what has been read ahead stays good.
        input.seek_relative(padded.saturating_sub(passed))?;
    }
    Err(ThumbnailError::TooLarge("the image has too many frames"))
}

/// Refuses the lossy frame that the input is at if it is larger than the canvas
/// ([RFC 6386, 9.1](https://www.rfc-editor.org/rfc/rfc6386#section-9.1)).
fn check_frame(input: &mut impl BufRead, (width, height): (u32, u32)) -> Result<(), ThumbnailError> {
    let [_, _, _, _, _, _, w0, w1, h0, h1] = bytes(input)?;
    // Two bits of each are a scale for the screen.
    let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    if side(w0, w1) > width || side(h0, h1) > height {
        return Err(ThumbnailError::broken("a frame larger than its canvas"));
    }
    Ok(())
}

/// The name and length of the chunk at hand; nothing at the end of the file.
fn chunk(input: &mut impl BufRead) -> Result<Option<([u8; 4], u32)>, ThumbnailError> {
    let mut head = [0; 8];
    match input.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [a, b, c, d, length @ ..] = head;
    Ok(Some(([a, b, c, d], u32::from_le_bytes(length))))
}

/// What the decoder holds of a lossy picture, or of an animation's first frame: its data as they are gathered, twice at
/// worst, and in words.
fn held(input: &mut (impl BufRead + Seek), motion: Motion) -> Result<u64, ThumbnailError> {
    let name = if motion == Motion::Animated { *b"ANMF" } else { *b"VP8 " };
    let claimed = u64::from(find(input, name)?.unwrap_or(0));
    let there = input.seek(SeekFrom::End(0))?;
    Ok(claimed.min(there).saturating_mul(3))
}

/// The colour profile, whose length the header knows.
pub(in crate::thumbnail) fn profile(
    input: &mut (impl BufRead + Seek),
    header: &Header,
) -> Result<Vec<u8>, ThumbnailError> {
    match find(input, *b"ICCP")? {
        Some(length) if length <= header.profile_bytes => payload(input, length),
        Some(_) | None => Ok(Vec::new()),
    }
}

/// A failure inside the decoder as ours.
pub(in crate::thumbnail) fn from_webp(error: DecodingError) -> ThumbnailError {
    if let DecodingError::IoError(error) = error { error.into() } else { ThumbnailError::broken(error) }
}

/// A chunk's bytes, from where [`find`] left off.
fn payload(input: &mut impl BufRead, length: u32) -> Result<Vec<u8>, ThumbnailError> {
    let mut payload = vec![0; usize::try_from(length).unwrap_or(0)];
    input.read_exact(&mut payload)?;
    Ok(payload)
}

/// The length of the first chunk of a name, and the input at its first byte.
fn find(input: &mut (impl BufRead + Seek), name: [u8; 4]) -> Result<Option<u32>, ThumbnailError> {
    input.seek(SeekFrom::Start(12))?;
    for _ in 0..MAX_CHUNKS {
        let Some((found, length)) = chunk(input)? else { return Ok(None) };
        if found == name {
            return Ok(Some(length));
        }
        // Chunks are padded to even lengths.
        input.seek_relative(i64::from(length).saturating_add(i64::from(length & 1)))?;
    }
    Ok(None)
}

/// Chunks looked at, so frames of an animation.
const MAX_CHUNKS: usize = 10_000;
