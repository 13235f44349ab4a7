//! The header of a WebP ([RFC 9649](https://www.rfc-editor.org/rfc/rfc9649)).
//!
//! Owns the positions of the chunks. Refuses to decode pixels, and to trust the container: its flags may name chunks that a
//! metadata stripper removed, and its lengths may exceed a truncated file, so only what is in the file counts.

use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};

use image_webp::DecodingError;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::input::Input;
use super::super::plan::{Motion, Rect};
use super::{Format, Header, MAX_EXIF, Storage, bytes, exif_orientation};

/// The picture or, of an animation, its first frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::thumbnail) struct FirstFrame {
    /// Width and height.
    pub(in crate::thumbnail) canvas: (u32, u32),
    /// The part of the canvas that the frame covers.
    pub(in crate::thumbnail) part: Rect,
    pub(in crate::thumbnail) data: ByteSpan,
    pub(in crate::thumbnail) coding: Coding,
    pub(in crate::thumbnail) motion: Motion,
}

/// The kind of bitstream.
#[derive(Clone, Copy, Debug)]
pub(in crate::thumbnail) enum Coding {
    /// VP8.
    Lossy {
        /// The separate alpha channel (`ALPH`).
        alpha: Option<ByteSpan>,
    },
    /// VP8L.
    Lossless {
        /// Whether the alpha channel is used.
        has_alpha: bool,
    },
}

/// The data of a chunk in the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::thumbnail) struct ByteSpan {
    /// Offset of the first byte.
    pub(in crate::thumbnail) start: u64,
    /// Its length according to the chunk.
    pub(in crate::thumbnail) claimed: u64,
    /// How many of these bytes the file has.
    pub(in crate::thumbnail) present: u64,
}

impl ByteSpan {
    /// Whether the file ends inside it.
    pub(in crate::thumbnail) fn is_truncated(&self) -> bool {
        self.present < self.claimed
    }
}

pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let image = first_frame_of(input)?;
    let area = |width: u32, height: u32| u64::from(width).saturating_mul(height.into());
    // Planes consist of macroblocks of 16 × 16 pixels.
    let pixels = area(image.part.width.next_multiple_of(16), image.part.height.next_multiple_of(16))
        .saturating_add(1 << 12);
    let row = u64::from(image.canvas.0).saturating_mul(8);
    let data = image.data.present;
    let held = match image.coding {
        // The planes have 3/2 bytes a pixel, the notes on each macroblock 1/2; the bitstream is read whole and copied.
        Coding::Lossy { alpha: None } => pixels.saturating_mul(2).saturating_add(data.saturating_mul(3)),
        // Before that, the alpha channel is decoded into four channels.
        Coding::Lossy { alpha: Some(_) } => pixels.saturating_mul(4).saturating_add(data.saturating_mul(3)),
        // Four channels, and the Huffman tables.
        Coding::Lossless { .. } => pixels.saturating_mul(6).saturating_add(data.min(MAX_CODES)),
    };
    // A truncated bitstream is padded and decoded twice, to find out which rows are present.
    let again = match image.coding {
        _ if !image.data.is_truncated() => 0,
        Coding::Lossy { .. } => data.saturating_add(1 << 21).saturating_mul(3),
        Coding::Lossless { .. } => 0,
    };
    let marks = u64::from(image.part.height).saturating_mul(8);
    let held = held.saturating_add(again).saturating_add(marks).saturating_add(row).saturating_add(1 << 18);
    let mut header = Header::new(Format::WebP, image.canvas, Storage::Rows { held })?;
    header.motion = image.motion;
    header.profile_bytes = find(input, *b"ICCP")?.unwrap_or(0);
    if header.profile_bytes > MAX_PROFILE {
        return Err(ThumbnailError::TooLarge("the image's colour profile is too large"));
    }
    if let Some(length) = find(input, *b"EXIF")?.filter(|length| *length <= MAX_EXIF) {
        let exif = payload(input, length)?;
        // The prefix of JPEG's EXIF segment does not belong here, but some writers leave it.
        header.orientation = exif_orientation(exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif));
    }
    Ok(header)
}

/// Finds the picture in the container.
///
/// # Errors
/// `Broken` if there is none, or its size differs from the canvas.
pub(in crate::thumbnail) fn first_frame_of(input: &mut Input<'_>) -> Result<FirstFrame, ThumbnailError> {
    let end = input.seek(SeekFrom::End(0))?;
    let mut at = RIFF_HEADER;
    let mut canvas = None;
    let mut is_animation = false;
    let mut alpha = None;
    for _ in 0..MAX_CHUNKS {
        input.seek(SeekFrom::Start(at))?;
        let Some((name, length)) = chunk(input)? else { break };
        let start = at.saturating_add(8);
        let span =
            ByteSpan { start, claimed: length.into(), present: end.saturating_sub(start).min(length.into()) };
        match &name {
            b"VP8X" => {
                let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = bytes(input)?;
                is_animation = flags & ANIMATION_FLAG != 0;
                canvas = Some((side(w0, w1, w2), side(h0, h1, h2)));
            }
            b"ALPH" => alpha = Some(span),
            b"VP8 " | b"VP8L" => {
                let found = image(input, name, span, alpha)?;
                let (width, height) = (found.part.width, found.part.height);
                if canvas.is_some_and(|canvas| canvas != (width, height)) {
                    return Err(ThumbnailError::broken("a picture of another size than its canvas"));
                }
                return Ok(found);
            }
            b"ANMF" if is_animation && canvas.is_some() => {
                return animation_frame(input, canvas.unwrap_or_default(), start, end);
            }
            _ => {}
        }
        // Chunks are padded to even lengths.
        at = start.saturating_add(u64::from(length)).saturating_add(u64::from(length & 1));
    }
    Err(ThumbnailError::broken("no picture in the container"))
}

/// Reads the first frame of an animation. `start` is the offset of the data of its `ANMF` chunk.
fn animation_frame(
    input: &mut Input<'_>,
    canvas: (u32, u32),
    start: u64,
    end: u64,
) -> Result<FirstFrame, ThumbnailError> {
    let [x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2, _, _, _, _flags] = bytes(input)?;
    // Offsets count in units of two pixels; `side` adds 1, which they do not have.
    let place = |low, middle, high| side(low, middle, high).saturating_sub(1).saturating_mul(2);
    let (x, y) = (place(x0, x1, x2), place(y0, y1, y2));
    let size = (side(w0, w1, w2), side(h0, h1, h2));
    let mut at = start.saturating_add(16);
    let mut alpha = None;
    for _ in 0..MAX_FRAME_CHUNKS {
        input.seek(SeekFrom::Start(at))?;
        let Some((name, length)) = chunk(input)? else { break };
        let start = at.saturating_add(8);
        let span =
            ByteSpan { start, claimed: length.into(), present: end.saturating_sub(start).min(length.into()) };
        match &name {
            b"ALPH" => alpha = Some(span),
            b"VP8 " | b"VP8L" => {
                let found = image(input, name, span, alpha)?;
                let (width, height) = (found.part.width, found.part.height);
                let is_inside = x.saturating_add(width) <= canvas.0 && y.saturating_add(height) <= canvas.1;
                if (width, height) != size || !is_inside {
                    return Err(ThumbnailError::broken("a frame that does not fit its canvas"));
                }
                let part = Rect { x, y, ..found.part };
                return Ok(FirstFrame { canvas, part, motion: Motion::Animated, ..found });
            }
            _ => {}
        }
        at = start.saturating_add(u64::from(length)).saturating_add(u64::from(length & 1));
    }
    Err(ThumbnailError::broken("a frame without a picture"))
}

/// Reads the header of a bitstream ([RFC 6386, 9.1](https://www.rfc-editor.org/rfc/rfc6386#section-9.1); RFC 9649, 3.4).
fn image(
    input: &mut Input<'_>,
    name: [u8; 4],
    data: ByteSpan,
    alpha: Option<ByteSpan>,
) -> Result<FirstFrame, ThumbnailError> {
    let (width, height, coding) = if &name == b"VP8 " {
        let [_, _, _, _, _, _, w0, w1, h0, h1] = bytes(input)?;
        // The upper two bits are a scale for display, which decoders ignore.
        let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
        (side(w0, w1), side(h0, h1), Coding::Lossy { alpha })
    } else {
        let [signature, head @ ..] = bytes::<5>(input)?;
        let head = u32::from_le_bytes(head);
        if signature != 0x2f {
            return Err(ThumbnailError::broken("no lossless picture where one belongs"));
        }
        let side = |bits: u32| (bits & 0x3fff).saturating_add(1);
        let has_alpha = head.wrapping_shr(28) & 1 == 1;
        (side(head), side(head.wrapping_shr(14)), Coding::Lossless { has_alpha })
    };
    let part = Rect { x: 0, y: 0, width, height };
    Ok(FirstFrame { canvas: (width, height), part, data, coding, motion: Motion::Still })
}

/// A side in three bytes, stored as one less.
fn side(low: u8, middle: u8, high: u8) -> u32 {
    u32::from_le_bytes([low, middle, high, 0]).saturating_add(1)
}

/// Reads the name and length of a chunk; `None` at the end of the file.
fn chunk(input: &mut Input<'_>) -> Result<Option<([u8; 4], u32)>, ThumbnailError> {
    let mut head = [0; 8];
    match input.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [a, b, c, d, length @ ..] = head;
    Ok(Some(([a, b, c, d], u32::from_le_bytes(length))))
}

/// The colour profile, which must not be longer than the header said; shorter if the file ends inside it.
pub(in crate::thumbnail) fn profile(
    input: &mut Input<'_>,
    header: &Header,
) -> Result<Vec<u8>, ThumbnailError> {
    match find(input, *b"ICCP")? {
        Some(length) if length <= header.profile_bytes => payload(input, length),
        Some(_) | None => Ok(Vec::new()),
    }
}

/// Errors of the decoder, also those of reads, which [`super::super::input::read`] tells apart.
pub(in crate::thumbnail) fn from_webp(error: DecodingError) -> ThumbnailError {
    ThumbnailError::broken(error)
}

/// Reads the data of a chunk after [`find`]; fewer bytes if the file ends inside it.
fn payload(input: &mut Input<'_>, length: u32) -> Result<Vec<u8>, ThumbnailError> {
    let mut payload = Vec::new();
    input.by_ref().take(length.into()).read_to_end(&mut payload)?;
    Ok(payload)
}

/// Seeks to the data of the first chunk of a name and returns its length.
fn find(input: &mut Input<'_>, name: [u8; 4]) -> Result<Option<u32>, ThumbnailError> {
    input.seek(SeekFrom::Start(RIFF_HEADER))?;
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

/// Bytes of `RIFF`, the length and `WEBP`.
const RIFF_HEADER: u64 = 12;
/// The flag of `VP8X` for animations.
const ANIMATION_FLAG: u8 = 2;
/// Most chunks that are looked at; an animation has one for each frame.
const MAX_CHUNKS: usize = 10_000;
/// Most chunks of a frame that are looked at.
const MAX_FRAME_CHUNKS: usize = 16;
/// Bytes of the Huffman tables of a lossless picture; real ones have fewer.
const MAX_CODES: u64 = 4 << 20;
