//! The frames of an animated WebP ([RFC 9649](https://www.rfc-editor.org/rfc/rfc9649)).
//!
//! Owns the container. Refuses to know sizes of thumbnails. Each frame is decoded as a file of its own, because `image-webp` does
//! not clear disposed frames when it decodes an animation.

use std::io::{BufRead as _, Cursor, Read, Seek as _, SeekFrom};

use image_webp::WebPDecoder;

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::plan::Rect;
use super::super::probe::{Header, from_webp, webp_profile};
use super::canvas::{AnimationFrame, Blend, Canvas, Dispose};
use super::{AnimationInfo, FrameReader, MAX_FRAMES};

/// A WebP whose frames are being read.
pub(super) struct WebP<'a> {
    /// At the beginning of a chunk.
    input: Input<'a>,
    info: AnimationInfo,
    /// Most bytes of a frame, stored or decoded: those of the canvas in RGBA and some more.
    max_frame_bytes: u64,
    /// A frame as a file of its own.
    file: Vec<u8>,
    raw: Vec<u8>,
    /// The frame in RGBA, if it was decoded to RGB.
    rgba: Vec<u8>,
}

impl<'a> WebP<'a> {
    /// Reads up to the first frame.
    pub(super) fn open(mut input: Input<'a>, header: &Header) -> Result<Self, ThumbnailError> {
        let icc = Some(webp_profile(&mut input, header)?).filter(|icc| !icc.is_empty());
        input.seek(SeekFrom::Start(RIFF_HEADER))?;
        let mut info = AnimationInfo { loop_count: 1, icc, frames: 0 };
        loop {
            let (name, length) = chunk(&mut input)?;
            match &name {
                b"ANIM" if length >= 6 => {
                    let mut control = [0; 6];
                    input.read_exact(&mut control)?;
                    let [_, _, _, _, low, high] = control;
                    info.loop_count = u16::from_le_bytes([low, high]);
                    skip(&mut input, length, 6)?;
                    break;
                }
                b"ANMF" => return Err(ThumbnailError::broken("a frame before the animation's header")),
                _ => skip(&mut input, length, 0)?,
            }
        }
        let first = input.stream_position()?;
        let max_frame_bytes = header.pixels().saturating_mul(4).saturating_add(SMALL_FRAME);
        let mut webp =
            Self { input, info, max_frame_bytes, file: Vec::new(), raw: Vec::new(), rgba: Vec::new() };
        while webp.info.frames <= MAX_FRAMES
            && let Some(length) = webp.next_chunk()?
        {
            webp.info.frames = webp.info.frames.saturating_add(1);
            skip(&mut webp.input, length, 0)?;
        }
        webp.input.seek(SeekFrom::Start(first))?;
        Ok(webp)
    }

    /// Skips to the data of the next frame and returns its length; `None` at the end of the file, even inside a chunk's header.
    fn next_chunk(&mut self) -> Result<Option<u32>, ThumbnailError> {
        loop {
            if self.input.fill_buf()?.is_empty() {
                return Ok(None);
            }
            match chunk(&mut self.input) {
                Ok((name, length)) if &name == b"ANMF" => return Ok(Some(length)),
                Ok((_, length)) => skip(&mut self.input, length, 0)?,
                Err(ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Decodes the chunks of a frame to RGBA.
    fn decode(&mut self, payload: &[u8], width: u32, height: u32) -> Result<&[u8], ThumbnailError> {
        check_size(payload, (width, height))?;
        // Every frame may have alpha, except a lossy bitstream without an `ALPH` chunk.
        let alpha = if payload.starts_with(b"VP8 ") { 0 } else { ALPHA };
        self.file.clear();
        self.file.extend(b"RIFF");
        let size = u32::try_from(payload.len()).map_err(ThumbnailError::broken)?.saturating_add(22);
        self.file.extend(size.to_le_bytes());
        self.file.extend(b"WEBPVP8X\x0a\0\0\0");
        self.file.extend([alpha, 0, 0, 0]);
        for side in [width, height] {
            let [low, middle, high, _] = side.saturating_sub(1).to_le_bytes();
            self.file.extend([low, middle, high]);
        }
        self.file.extend(payload);
        let mut decoder = WebPDecoder::new(Cursor::new(&self.file)).map_err(from_webp)?;
        let size = decoder.output_buffer_size().ok_or_else(|| ThumbnailError::broken("a huge frame"))?;
        self.raw.resize(size, 0);
        decoder.read_image(&mut self.raw).map_err(from_webp)?;
        if decoder.has_alpha() {
            return Ok(&self.raw);
        }
        self.rgba.clear();
        self.rgba.extend(self.raw.as_chunks::<3>().0.iter().flat_map(|[r, g, b]| [*r, *g, *b, u8::MAX]));
        Ok(&self.rgba)
    }
}

impl FrameReader for WebP<'_> {
    fn info(&self) -> AnimationInfo {
        self.info.clone()
    }

    fn draw_next(&mut self, canvas: &mut Canvas) -> Result<Option<u32>, ThumbnailError> {
        let Some(length) = self.next_chunk()? else { return Ok(None) };
        if u64::from(length) > self.max_frame_bytes {
            return Err(ThumbnailError::broken("a frame larger than its pixels"));
        }
        let chunk = payload(&mut self.input, length)?;
        let (head, rest) = chunk
            .split_first_chunk::<16>()
            .ok_or_else(|| ThumbnailError::broken("a frame without its header"))?;
        let [x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2, d0, d1, d2, flags] = *head;
        let number = |low, middle, high| u32::from_le_bytes([low, middle, high, 0]);
        let (x, y) = (number(x0, x1, x2).saturating_mul(2), number(y0, y1, y2).saturating_mul(2));
        let (width, height) = (number(w0, w1, w2).saturating_add(1), number(h0, h1, h2).saturating_add(1));
        if u64::from(width).saturating_mul(u64::from(height)).saturating_mul(4) > self.max_frame_bytes {
            return Err(ThumbnailError::broken("a frame larger than the canvas"));
        }
        canvas.draw(&AnimationFrame {
            part: Rect { x, y, width, height },
            data: self.decode(rest, width, height)?,
            stride: usize::try_from(width).unwrap_or(0).saturating_mul(4),
            blend: if flags & 2 == 0 { Blend::Over } else { Blend::Replace },
            dispose: if flags & 1 == 0 { Dispose::Keep } else { Dispose::Clear },
        })?;
        Ok(Some(number(d0, d1, d2)))
    }
}

/// Refuses a lossy bitstream of another size than its frame, because the decoder allocates planes by the bitstream
/// ([RFC 6386, 9.1](https://www.rfc-editor.org/rfc/rfc6386#section-9.1)).
fn check_size(mut payload: &[u8], (width, height): (u32, u32)) -> Result<(), ThumbnailError> {
    while let Ok((name, length)) = chunk(&mut payload) {
        if &name == b"VP8 " {
            let Some([_, _, _, _, _, _, w0, w1, h0, h1]) = payload.first_chunk() else { break };
            // The upper two bits are a scale for display.
            let side = |low: &u8, high: &u8| u32::from(u16::from_le_bytes([*low, *high]) & 0x3fff);
            if (side(w0, w1), side(h0, h1)) != (width, height) {
                return Err(ThumbnailError::broken("a frame of another size than it says"));
            }
        }
        let padded = usize::try_from(length.next_multiple_of(2)).unwrap_or(usize::MAX);
        payload = payload.get(padded..).unwrap_or_default();
    }
    Ok(())
}

/// Reads the name and length of a chunk.
fn chunk(input: &mut dyn Read) -> Result<([u8; 4], u32), ThumbnailError> {
    let (mut name, mut length) = ([0; 4], [0; 4]);
    input.read_exact(&mut name)?;
    input.read_exact(&mut length)?;
    Ok((name, u32::from_le_bytes(length)))
}

/// Reads the data of a chunk and skips its padding. Memory grows with the bytes that are there, not with the length.
fn payload(input: &mut Input<'_>, length: u32) -> Result<Vec<u8>, ThumbnailError> {
    let mut bytes = Vec::new();
    input.by_ref().take(length.into()).read_to_end(&mut bytes)?;
    if bytes.len() != usize::try_from(length).unwrap_or(usize::MAX) {
        return Err(ThumbnailError::broken("the file ends in a chunk"));
    }
    skip(input, length, length)?;
    Ok(bytes)
}

/// Skips the rest of a chunk and its padding, after `read` bytes of it were read.
fn skip(input: &mut Input<'_>, length: u32, read: u32) -> Result<(), ThumbnailError> {
    let rest = i64::from(length).saturating_add(i64::from(length & 1)).saturating_sub(read.into());
    Ok(input.seek_relative(rest)?)
}

/// Bytes of `RIFF`, the length and `WEBP`.
const RIFF_HEADER: u64 = 12;
/// The flag of `VP8X` for alpha.
const ALPHA: u8 = 0x10;
/// Bytes that a frame of few pixels may have beyond its pixels: headers and Huffman tables.
const SMALL_FRAME: u64 = 16 << 10;
