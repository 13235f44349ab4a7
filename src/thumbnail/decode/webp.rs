//! Decoding of WebP: the picture or, of an animation, the first frame.
//!
//! Owns what `image-webp` does with more memory or not at all: it converts a whole picture to RGB at once, where here a
//! lossy picture's planes are converted row by row; and it refuses a truncated file, of which here the rows are shown that
//! do not depend on the missing end. Refuses to know further frames.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use image_webp::WebPDecoder;
use image_webp::vp8::{Frame as Vp8Frame, Vp8Decoder};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout, length};
use super::super::probe::{ByteSpan, Coding, Header, bytes, from_webp, webp_first_frame, webp_profile};
use super::padding::{PAD, padding};
use super::sink::FrameSink;

/// Decodes the picture, reduced once for each divisor.
pub(super) fn decode(
    mut input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let icc = webp_profile(&mut input, header)?;
    let image = webp_first_frame(&mut input)?;
    if image.canvas != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let covers = (image.part.width, image.part.height) == image.canvas;
    let has_alpha = match image.coding {
        Coding::Lossy { alpha } => alpha.is_some(),
        Coding::Lossless { has_alpha } => has_alpha,
    };
    let layout = if covers && !has_alpha { Layout::Rgb } else { Layout::Rgba };
    let mut frame_sink = FrameSink::new(header, layout, image.part, divisors);
    let size = (image.part.width, image.part.height);
    let outcome = match image.coding {
        Coding::Lossy { alpha } => lossy(&mut input, image.data, alpha, size, &mut frame_sink),
        Coding::Lossless { .. } => lossless(&mut input, image.data, size, &mut frame_sink),
    };
    frame_sink.finish(outcome, Some(icc.as_slice()).filter(|icc| !icc.is_empty()))
}

/// Decodes a lossy picture. Its alpha is stored before it, and so is complete if any of the picture is present.
fn lossy(
    input: &mut Input<'_>,
    data: ByteSpan,
    alpha: Option<ByteSpan>,
    (width, height): (u32, u32),
    frame_sink: &mut FrameSink,
) -> Result<(), ThumbnailError> {
    let size = (width, height);
    // Of a truncated picture, the rows that come out the same with two kinds of padding do not depend on it.
    let mut known: Option<Vec<u64>> = None;
    if data.is_truncated() {
        let other = LOSSY_PADS.into_iter().find_map(|pad| planes(input, data, size, pad).ok());
        let other = other.ok_or_else(truncated)?;
        known = Some((0..length(height)).map(|row| PlaneRows::new(&other, row).hash()).collect());
    }
    let alpha = alpha.map(|span| read_alpha(input, span, size)).transpose()?;
    let frame = planes(input, data, size, 0)?;
    let mut chroma = ChromaRow::default();
    for row in 0..length(height) {
        let rows = PlaneRows::new(&frame, row);
        if known.as_ref().is_some_and(|known| known.get(row) != Some(&rows.hash())) {
            return Err(truncated());
        }
        chroma.fill(&rows);
        let colors = rows.luma.iter().zip(chroma.u.iter().zip(&chroma.v));
        let colors = colors.map(|(y, (u, v))| to_rgb(*y, *u, *v));
        match &alpha {
            Some(alpha) => {
                let start = row.saturating_mul(length(width));
                let values = alpha.get(start..).unwrap_or_default();
                frame_sink.push(colors.zip(values).map(|([r, g, b], alpha)| [r, g, b, *alpha]));
            }
            None => frame_sink.push(colors.map(|[r, g, b]| [r, g, b, u8::MAX])),
        }
    }
    Ok(())
}

/// Decodes the planes of a lossy picture. Bytes of `pad` stand in for the missing ones, and more than are missing, because the
/// decoder may consume more of them.
fn planes(
    input: &mut Input<'_>,
    data: ByteSpan,
    size: (u32, u32),
    pad: u8,
) -> Result<Vp8Frame, ThumbnailError> {
    input.seek(SeekFrom::Start(data.start))?;
    let padding = if data.is_truncated() {
        data.claimed
            .saturating_sub(data.present)
            .min(data.present.saturating_add(EXTRA_PADDING))
            .saturating_add(EXTRA_PADDING)
    } else {
        0
    };
    let mut file = input.by_ref().take(data.present).chain(io::repeat(pad).take(padding));
    let frame = Vp8Decoder::decode_frame(&mut file).map_err(from_webp)?;
    if (u32::from(frame.width), u32::from(frame.height)) != size {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    Ok(frame)
}

fn truncated() -> ThumbnailError {
    ThumbnailError::broken("the file breaks off in the picture")
}

/// The rows of the planes that a row of pixels is computed from.
struct PlaneRows<'a> {
    luma: &'a [u8],
    /// U and V of the nearer chroma row.
    near: [&'a [u8]; 2],
    /// U and V of the chroma row on the other side.
    far: [&'a [u8]; 2],
}

impl<'a> PlaneRows<'a> {
    fn new(frame: &'a Vp8Frame, row: usize) -> Self {
        let columns = usize::from(frame.width);
        let half = columns.div_ceil(2);
        let stride = columns.next_multiple_of(16);
        let at = row.wrapping_shr(1);
        let last = usize::from(frame.height).div_ceil(2).saturating_sub(1);
        let other = if row & 1 == 0 { at.saturating_sub(1) } else { at.saturating_add(1).min(last) };
        let part = |plane: &'a [u8], stride: usize, row: usize, count: usize| {
            let start = row.saturating_mul(stride);
            plane.get(start..start.saturating_add(count)).unwrap_or_default()
        };
        let chroma = stride.wrapping_shr(1);
        let pair = |row: usize| [&frame.ubuf, &frame.vbuf].map(|plane| part(plane, chroma, row, half));
        Self { luma: part(&frame.ybuf, stride, row, columns), near: pair(at), far: pair(other) }
    }

    /// A hash of everything that the row of pixels depends on.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.luma);
        self.near.iter().chain(&self.far).for_each(|row| hasher.write(row));
        hasher.finish()
    }
}

/// A row of chroma at the resolution of luma.
#[derive(Default)]
struct ChromaRow {
    u: Vec<u8>,
    v: Vec<u8>,
    /// Scratch space: three parts of the nearer row and one of the other.
    sums: Vec<u16>,
}

impl ChromaRow {
    /// Computes a row as libwebp's fancy upsampling does: of the four samples around a pixel, nine parts of the nearest, three
    /// of each of its neighbours, one of the farthest.
    fn fill(&mut self, rows: &PlaneRows<'_>) {
        let Self { u, v, sums } = self;
        let [near_u, near_v] = rows.near;
        let [far_u, far_v] = rows.far;
        for (near, far, out) in [(near_u, far_u, u), (near_v, far_v, v)] {
            sums.clear();
            sums.extend(
                near.iter()
                    .zip(far)
                    .map(|(near, far)| u16::from(*near).wrapping_mul(3).wrapping_add(u16::from(*far))),
            );
            out.clear();
            let mix = |nearest: u16, other: u16| {
                let sum = nearest.wrapping_mul(3).wrapping_add(other).wrapping_add(8).wrapping_shr(4);
                u8::try_from(sum).unwrap_or(u8::MAX)
            };
            let mut before = sums.first().copied().unwrap_or(0);
            for (at, sum) in sums.iter().enumerate() {
                let after = sums.get(at.wrapping_add(1)).copied().unwrap_or(*sum);
                out.push(mix(*sum, before));
                out.push(mix(*sum, after));
                before = *sum;
            }
        }
    }
}

/// YUV to RGB by BT.601 (RFC 9649, 2.5), with libwebp's constants.
#[inline]
fn to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let times = |value: u8, factor: i32| i32::from(value).wrapping_mul(factor) >> 8;
    let luma = times(y, 19_077);
    let red = luma.wrapping_add(times(v, 26_149)).wrapping_sub(14_234);
    let green = luma.wrapping_sub(times(u, 6_419)).wrapping_sub(times(v, 13_320)).wrapping_add(8_708);
    let blue = luma.wrapping_add(times(u, 33_050)).wrapping_sub(17_685);
    [red, green, blue].map(|sum| u8::try_from((sum >> 6).clamp(0, 255)).unwrap_or(0))
}

/// Reads an alpha plane (RFC 9649, 2.7.1.2).
fn read_alpha(
    input: &mut Input<'_>,
    span: ByteSpan,
    (width, height): (u32, u32),
) -> Result<Vec<u8>, ThumbnailError> {
    input.seek(SeekFrom::Start(span.start))?;
    let [flags] = bytes(input)?;
    let rest = |bytes: u64| bytes.saturating_sub(1);
    let span = ByteSpan {
        start: span.start.saturating_add(1),
        claimed: rest(span.claimed),
        present: rest(span.present),
    };
    let pixels = length(width).saturating_mul(length(height));
    let mut alpha = match flags & 3 {
        0 => {
            let mut alpha = vec![0; pixels];
            input.read_exact(&mut alpha)?;
            alpha
        }
        1 => {
            // A lossless stream without its header, whose green channel is the alpha.
            let mut colors = argb(input, span, (width, height), 0, 0)?;
            for at in 0..pixels {
                let green = colors.get(at.saturating_mul(4).saturating_add(1)).copied().unwrap_or(0);
                if let Some(to) = colors.get_mut(at) {
                    *to = green;
                }
            }
            colors.truncate(pixels);
            colors.shrink_to_fit();
            colors
        }
        _ => return Err(ThumbnailError::broken("unknown compression of alpha")),
    };
    unfilter(&mut alpha, length(width), flags.wrapping_shr(2) & 3);
    Ok(alpha)
}

/// Undoes the prediction of alpha from neighbouring pixels: 1 horizontal, 2 vertical, 3 gradient.
fn unfilter(alpha: &mut [u8], width: usize, method: u8) {
    if method == 0 || width == 0 {
        return;
    }
    for at in 0..alpha.len() {
        let is_first_column = at.checked_rem(width) == Some(0);
        let before = |distance: usize| at.checked_sub(distance).and_then(|at| alpha.get(at)).copied();
        let above = before(width);
        let left = if is_first_column { None } else { before(1) };
        let predicted = match (left, above, method) {
            (None, None, _) => 0,
            (Some(left), None, _) | (Some(left), Some(_), 1) => left,
            (None, Some(above), _) | (Some(_), Some(above), 2) => above,
            (Some(left), Some(above), _) => {
                let corner = before(width.saturating_add(1)).unwrap_or(0);
                let sum = i32::from(left).wrapping_add(above.into()).wrapping_sub(corner.into());
                u8::try_from(sum.clamp(0, 255)).unwrap_or(0)
            }
        };
        if let Some(value) = alpha.get_mut(at) {
            *value = value.wrapping_add(predicted);
        }
    }
}

/// Decodes a lossless picture.
fn lossless(
    input: &mut Input<'_>,
    data: ByteSpan,
    (width, height): (u32, u32),
    frame_sink: &mut FrameSink,
) -> Result<(), ThumbnailError> {
    let stride = length(width).saturating_mul(4);
    let hash = |row: &[u8]| {
        let mut hasher = DefaultHasher::new();
        hasher.write(row);
        hasher.finish()
    };
    if !data.is_truncated() {
        let pixels = argb(input, data, (width, height), LOSSLESS_HEADER, 0)?;
        let rows = pixels.chunks_exact(stride.max(1));
        rows.for_each(|row| frame_sink.push(row.as_chunks::<4>().0.iter().copied()));
        return Ok(());
    }
    // The decoder rejects some padding, because it decodes to references out of range. Two kinds that it accepts give pictures
    // that differ from the first missing row on.
    let area = u64::from(width).saturating_mul(height.into()).max(1);
    let (most, least) = LOSSLESS_PADS;
    let tries = u8::try_from(MAX_TRIED_PIXELS.div_euclid(area)).unwrap_or(u8::MAX).clamp(least, most);
    let mut known: Option<Vec<u64>> = None;
    let cut = data.present.saturating_sub(data.present.div_euclid(64).clamp(16, 256));
    for pad in 0..tries {
        if known.is_none() {
            // The same file cut a little earlier makes a second picture.
            let shorter =
                argb(input, ByteSpan { present: cut, ..data }, (width, height), LOSSLESS_HEADER, pad);
            known = shorter.ok().map(|pixels| pixels.chunks_exact(stride.max(1)).map(hash).collect());
        }
        let Ok(pixels) = argb(input, data, (width, height), LOSSLESS_HEADER, pad) else { continue };
        let rows = || pixels.chunks_exact(stride.max(1));
        let Some(known) = &known else {
            known = Some(rows().map(hash).collect());
            continue;
        };
        // If there is no difference, the first missing row is not known.
        let present = rows().zip(known).position(|(row, known)| *known != hash(row));
        let Some(present) = present else { continue };
        rows().take(present).for_each(|row| frame_sink.push(row.as_chunks::<4>().0.iter().copied()));
        break;
    }
    Err(truncated())
}

/// Decodes a lossless stream to RGBA. `skipped` is the length of its own header, which is replaced.
fn argb(
    input: &mut Input<'_>,
    span: ByteSpan,
    (width, height): (u32, u32),
    skipped: u64,
    pad: u8,
) -> Result<Vec<u8>, ThumbnailError> {
    let rest = |bytes: u64| bytes.saturating_sub(skipped);
    // More padding than is missing, because the decoder may consume more of it.
    let endless = u64::from(width).saturating_mul(height.into()).saturating_mul(8).min(MAX_PADDING);
    let claimed =
        if span.is_truncated() { rest(span.present).saturating_add(endless) } else { rest(span.claimed) };
    let size = |more: u64| u32::try_from(claimed.saturating_add(more)).unwrap_or(u32::MAX).to_le_bytes();
    let sides = width.saturating_sub(1) | height.saturating_sub(1).wrapping_shl(14);
    let mut head = b"RIFF".to_vec();
    head.extend(size(17));
    head.extend(b"WEBPVP8L");
    head.extend(size(LOSSLESS_HEADER));
    // Declared to have alpha, so that the decoder writes RGBA directly into the result.
    head.push(0x2f);
    head.extend((sides | 1 << 28).to_le_bytes());
    let file = LosslessFile {
        head,
        start: span.start.saturating_add(skipped),
        present: rest(span.present),
        claimed,
        pad: padding(pad),
        at: 0,
        input,
    };
    let mut decoder = WebPDecoder::new(file).map_err(from_webp)?;
    let size = decoder.output_buffer_size().ok_or_else(|| ThumbnailError::broken("a huge picture"))?;
    let mut pixels = vec![0; size];
    decoder.read_image(&mut pixels).map_err(from_webp)?;
    Ok(pixels)
}

/// A lossless WebP file put together from a header, a part of another file, and padding for its missing end.
struct LosslessFile<'a, 'b> {
    head: Vec<u8>,
    input: &'a mut Input<'b>,
    /// Where the part begins in `input`.
    start: u64,
    /// Bytes of the part.
    present: u64,
    /// Bytes of the part with its padding.
    claimed: u64,
    pad: [u8; PAD],
    at: u64,
}

impl Read for LosslessFile<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer.iter_mut().zip(available).for_each(|(to, byte)| *to = *byte);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for LosslessFile<'_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        if at < self.head.len() {
            return Ok(self.head.get(at..).unwrap_or_default());
        }
        let body_position = self.body_position();
        let part = |bytes: &'_ [u8], left: u64| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(left) = self.present.checked_sub(body_position).filter(|left| *left > 0) {
            let bytes = self.input.fill_buf()?;
            return Ok(bytes.get(..part(bytes, left)).unwrap_or_default());
        }
        let left = self.claimed.saturating_sub(body_position);
        let from = usize::try_from(body_position.saturating_sub(self.present))
            .unwrap_or(0)
            .checked_rem(PAD)
            .unwrap_or(0);
        let pad = self.pad.get(from..).unwrap_or_default();
        Ok(pad.get(..part(pad, left)).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        let from_input = self.at >= head_length(&self.head) && self.body_position() < self.present;
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if from_input {
            self.input.consume(count);
        } else if self.body_position() == 0 && self.at == head_length(&self.head) {
            // The part begins where the head ends. The input remembers a failed seek itself.
            drop(self.input.seek(SeekFrom::Start(self.start)));
        }
    }
}

impl Seek for LosslessFile<'_, '_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = head_length(&self.head).saturating_add(self.claimed);
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => end.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        let body_position = self.body_position();
        if body_position <= self.present {
            self.input.seek(SeekFrom::Start(self.start.saturating_add(body_position)))?;
        }
        Ok(self.at)
    }
}

impl LosslessFile<'_, '_> {
    /// The read position after the head.
    fn body_position(&self) -> u64 {
        self.at.saturating_sub(head_length(&self.head))
    }
}

fn head_length(head: &[u8]) -> u64 {
    u64::try_from(head.len()).unwrap_or(u64::MAX)
}

/// Bytes that stand in for the missing ones of a lossy picture in the second decode; the first uses zeros. The first one that
/// the decoder accepts is taken. All decode to little, and soon to something else than zeros.
const LOSSY_PADS: [u8; 4] = [0x10, 0x20, 0x08, 0x40];
/// Bytes of padding beyond those that are missing.
const EXTRA_PADDING: u64 = 1 << 20;
/// How many kinds of [`padding`] are tried for a truncated lossless picture: at most, and at least for the largest.
const LOSSLESS_PADS: (u8, u8) = (100, 8);
/// Pixels that may be decoded in these trials.
const MAX_TRIED_PIXELS: u64 = 64_000_000;
/// Bytes of padding at most, so that the chunk's length fits in 32 bits.
const MAX_PADDING: u64 = 1 << 31;
/// Bytes of a lossless stream's header: signature, sides, alpha flag, version (RFC 9649, 3.4).
const LOSSLESS_HEADER: u64 = 5;
