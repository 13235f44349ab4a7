//! The chunks of a WebP ([RFC 9649](https://www.rfc-editor.org/rfc/rfc9649)).
//!
//! Owns where the picture lies: the container's flags name chunks that metadata strippers took out, and lengths that the file
//! does not have when it breaks off, so only what is there counts.

use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};

use image_webp::DecodingError;

use super::super::ThumbnailError;
use super::super::color::MAX_PROFILE;
use super::super::input::Input;
use super::super::plan::{Motion, Rect};
use super::{Format, Header, MAX_EXIF, Storage, bytes, exif_orientation};

/// The picture, or an animation's first frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::thumbnail) struct Still {
    /// Columns and rows of the whole.
    pub(in crate::thumbnail) canvas: (u32, u32),
    /// The frame's place on it.
    pub(in crate::thumbnail) part: Rect,
    /// The frame's data.
    pub(in crate::thumbnail) data: Span,
    /// How it is coded.
    pub(in crate::thumbnail) coding: Coding,
    /// Whether it is one of several frames.
    pub(in crate::thumbnail) motion: Motion,
}

/// How a frame is coded.
#[derive(Clone, Copy, Debug)]
pub(in crate::thumbnail) enum Coding {
    /// VP8, with its alpha apart.
    Lossy {
        /// Where the alpha is.
        alpha: Option<Span>,
    },
    /// VP8L.
    Lossless {
        /// Whether its alpha counts.
        has_alpha: bool,
    },
}

/// A chunk's data in the file.
#[derive(Clone, Copy, Debug)]
pub(in crate::thumbnail) struct Span {
    /// First byte.
    pub(in crate::thumbnail) start: u64,
    /// Bytes that it is said to have.
    pub(in crate::thumbnail) claimed: u64,
    /// Bytes of them that the file has.
    pub(in crate::thumbnail) there: u64,
}

impl Span {
    /// Whether the file breaks off in it.
    pub(in crate::thumbnail) fn is_cut(&self) -> bool {
        self.there < self.claimed
    }
}

/// Finds the picture and what surrounds it.
pub(super) fn probe(input: &mut Input<'_>) -> Result<Header, ThumbnailError> {
    let still = still(input)?;
    let area = |width: u32, height: u32| u64::from(width).saturating_mul(height.into());
    // Planes are made of squares of 16.
    let pixels = area(still.part.width.next_multiple_of(16), still.part.height.next_multiple_of(16))
        .saturating_add(1 << 12);
    let row = u64::from(still.canvas.0).saturating_mul(8);
    let data = still.data.there;
    let held = match still.coding {
        // The planes have 3/2 bytes a pixel, what is noted of each square 1/2; the data are gathered and copied.
        Coding::Lossy { alpha: None } => pixels.saturating_mul(2).saturating_add(data.saturating_mul(3)),
        // Before, the alpha in four channels.
        Coding::Lossy { alpha: Some(_) } => pixels.saturating_mul(4).saturating_add(data.saturating_mul(3)),
        // Four channels, and its codes.
        Coding::Lossless { .. } => pixels.saturating_mul(6).saturating_add(data.min(MOST_CODES)),
    };
    // What breaks off is padded and read once more, to tell which rows are there.
    let again = match still.coding {
        _ if !still.data.is_cut() => 0,
        Coding::Lossy { .. } => data.saturating_add(1 << 21).saturating_mul(3),
        Coding::Lossless { .. } => 0,
    };
    let marks = u64::from(still.part.height).saturating_mul(8);
    let held = held.saturating_add(again).saturating_add(marks).saturating_add(row).saturating_add(1 << 18);
    let mut header = Header::new(Format::WebP, still.canvas, Storage::Rows { held })?;
    header.motion = still.motion;
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

/// Finds the picture.
pub(in crate::thumbnail) fn still(input: &mut Input<'_>) -> Result<Still, ThumbnailError> {
    let end = input.seek(SeekFrom::End(0))?;
    let mut at = RIFF_HEADER;
    let mut canvas = None;
    let mut moves = false;
    let mut alpha = None;
    for _ in 0..MAX_CHUNKS {
        input.seek(SeekFrom::Start(at))?;
        let Some((name, length)) = chunk(input)? else { break };
        let start = at.saturating_add(8);
        let span =
            Span { start, claimed: length.into(), there: end.saturating_sub(start).min(length.into()) };
        match &name {
            b"VP8X" => {
                let [flags, _, _, _, w0, w1, w2, h0, h1, h2] = bytes(input)?;
                moves = flags & MOVES != 0;
                canvas = Some((side(w0, w1, w2), side(h0, h1, h2)));
            }
            b"ALPH" => alpha = Some(span),
            b"VP8 " | b"VP8L" => {
                let found = frame(input, name, span, alpha)?;
                let (width, height) = (found.part.width, found.part.height);
                if canvas.is_some_and(|canvas| canvas != (width, height)) {
                    return Err(ThumbnailError::broken("a picture of another size than its canvas"));
                }
                return Ok(found);
            }
            b"ANMF" if moves && canvas.is_some() => {
                return first_frame(input, canvas.unwrap_or_default(), start, end);
            }
            _ => {}
        }
        // Chunks are padded to even lengths.
        at = start.saturating_add(u64::from(length)).saturating_add(u64::from(length & 1));
    }
    Err(ThumbnailError::broken("no picture in the container"))
}

/// An animation's first frame, of whose chunk `start` is the first byte.
fn first_frame(
    input: &mut Input<'_>,
    canvas: (u32, u32),
    start: u64,
    end: u64,
) -> Result<Still, ThumbnailError> {
    let [x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2, _, _, _, _flags] = bytes(input)?;
    // Places are counted in pairs, and both as if they were sides.
    let place = |low, middle, high| side(low, middle, high).saturating_sub(1).saturating_mul(2);
    let (x, y) = (place(x0, x1, x2), place(y0, y1, y2));
    let size = (side(w0, w1, w2), side(h0, h1, h2));
    let mut at = start.saturating_add(16);
    let mut alpha = None;
    for _ in 0..MAX_PARTS {
        input.seek(SeekFrom::Start(at))?;
        let Some((name, length)) = chunk(input)? else { break };
        let start = at.saturating_add(8);
        let span =
            Span { start, claimed: length.into(), there: end.saturating_sub(start).min(length.into()) };
        match &name {
            b"ALPH" => alpha = Some(span),
            b"VP8 " | b"VP8L" => {
                let found = frame(input, name, span, alpha)?;
                let (width, height) = (found.part.width, found.part.height);
                let is_inside = x.saturating_add(width) <= canvas.0 && y.saturating_add(height) <= canvas.1;
                if (width, height) != size || !is_inside {
                    return Err(ThumbnailError::broken("a frame that does not fit its canvas"));
                }
                let part = Rect { x, y, ..found.part };
                return Ok(Still { canvas, part, motion: Motion::Animated, ..found });
            }
            _ => {}
        }
        at = start.saturating_add(u64::from(length)).saturating_add(u64::from(length & 1));
    }
    Err(ThumbnailError::broken("a frame without a picture"))
}

/// The picture whose data begin here ([RFC 6386, 9.1](https://www.rfc-editor.org/rfc/rfc6386#section-9.1); RFC 9649, 3.4).
fn frame(
    input: &mut Input<'_>,
    name: [u8; 4],
    data: Span,
    alpha: Option<Span>,
) -> Result<Still, ThumbnailError> {
    let (width, height, coding) = if &name == b"VP8 " {
        let [_, _, _, _, _, _, w0, w1, h0, h1] = bytes(input)?;
        // Two bits of each are a scale for the screen.
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
    Ok(Still { canvas: (width, height), part, data, coding, motion: Motion::Still })
}

/// A side of three bytes that count from 1.
fn side(low: u8, middle: u8, high: u8) -> u32 {
    u32::from_le_bytes([low, middle, high, 0]).saturating_add(1)
}

/// The name and length of the chunk at hand; nothing at the end of the file.
fn chunk(input: &mut Input<'_>) -> Result<Option<([u8; 4], u32)>, ThumbnailError> {
    let mut head = [0; 8];
    match input.read_exact(&mut head) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [a, b, c, d, length @ ..] = head;
    Ok(Some(([a, b, c, d], u32::from_le_bytes(length))))
}

/// The colour profile, whose length the header knows; none if the file breaks off in it.
pub(in crate::thumbnail) fn profile(
    input: &mut Input<'_>,
    header: &Header,
) -> Result<Vec<u8>, ThumbnailError> {
    match find(input, *b"ICCP")? {
        Some(length) if length <= header.profile_bytes => payload(input, length),
        Some(_) | None => Ok(Vec::new()),
    }
}

/// A failure inside the decoder as ours.
pub(in crate::thumbnail) fn from_webp(error: DecodingError) -> ThumbnailError {
    ThumbnailError::broken(error)
}

/// A chunk's bytes, from where [`find`] left off; fewer if the file breaks off.
fn payload(input: &mut Input<'_>, length: u32) -> Result<Vec<u8>, ThumbnailError> {
    let mut payload = Vec::new();
    input.by_ref().take(length.into()).read_to_end(&mut payload)?;
    Ok(payload)
}

/// The length of the first chunk of a name, and the input at its first byte.
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

/// `RIFF`, a length, `WEBP`.
const RIFF_HEADER: u64 = 12;
/// The flag of `VP8X` that says that there are several frames.
const MOVES: u8 = 2;
/// Chunks looked at, so frames of an animation.
const MAX_CHUNKS: usize = 10_000;
/// Chunks of a frame looked at for its picture.
const MAX_PARTS: usize = 16;
/// Bytes that the codes of a lossless picture take, for what real ones have.
const MOST_CODES: u64 = 4 << 20;
