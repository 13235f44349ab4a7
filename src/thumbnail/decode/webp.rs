//! WebP, the picture or the first frame: decoded whole, in the fewest bytes that the decoder allows, then row by row.
//!
//! Owns what `image-webp` would do in more memory, or not at all: a lossy picture's planes become pixels a row at a time,
//! alpha is read apart, and of a file that breaks off the rows are shown that do not depend on what is missing.

use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead, Read, Seek, SeekFrom};

use image_webp::WebPDecoder;
use image_webp::vp8::{Frame, Vp8Decoder};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout, length};
use super::super::plan::Rect;
use super::super::probe::{Coding, Header, Span, from_webp, webp_profile, webp_still};
use super::Sink;
use super::padding::{PAD, padding};

/// Decodes the picture, of an animation its first frame, reduced once for each divisor.
pub(super) fn decode(
    mut input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let icc = webp_profile(&mut input, header)?;
    let still = webp_still(&mut input)?;
    if still.canvas != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    let covers = (still.part.width, still.part.height) == still.canvas;
    let has_alpha = match still.coding {
        Coding::Lossy { alpha } => alpha.is_some(),
        Coding::Lossless { has_alpha } => has_alpha,
    };
    let layout = if covers && !has_alpha { Layout::Rgb } else { Layout::Rgba };
    let row = vec![0; length(still.canvas.0).saturating_mul(layout.channels())];
    let mut canvas = Canvas { sink: Sink::new(header, layout, divisors), layout, part: still.part, row };
    canvas.blank(still.part.y);
    let size = (still.part.width, still.part.height);
    let outcome = match still.coding {
        Coding::Lossy { alpha } => lossy(&mut input, still.data, alpha, size, &mut canvas),
        Coding::Lossless { .. } => lossless(&mut input, still.data, size, &mut canvas),
    };
    if outcome.is_ok() {
        canvas.blank(still.canvas.1);
    }
    canvas.sink.finish(outcome, Some(icc.as_slice()).filter(|icc| !icc.is_empty()))
}

/// Where a frame's rows go.
struct Canvas {
    /// Rows of the whole.
    sink: Sink,
    /// What a pixel of the whole is.
    layout: Layout,
    /// The frame's place.
    part: Rect,
    /// A row of the whole; what the frame does not cover stays nothing.
    row: Vec<u8>,
}

impl Canvas {
    /// Goes on down to a row with rows that the frame does not cover.
    fn blank(&mut self, down_to: u32) {
        let row = vec![0; self.row.len()];
        while self.sink.rows < down_to.min(self.sink.height) {
            self.sink.push(&row);
        }
    }

    /// Takes the frame's next row.
    fn push(&mut self, pixels: impl Iterator<Item = [u8; 4]>) {
        let channels = self.layout.channels();
        let first = length(self.part.x).saturating_mul(channels);
        let places = self.row.get_mut(first..).unwrap_or_default();
        for (place, pixel) in places.chunks_exact_mut(channels).zip(pixels) {
            place.iter_mut().zip(pixel).for_each(|(to, value)| *to = value);
        }
        self.sink.push(&self.row);
    }
}

/// Decodes planes and hands on their rows. The alpha stands before the picture, so it is there whole if any of that is.
fn lossy(
    input: &mut Input<'_>,
    data: Span,
    alpha: Option<Span>,
    (width, height): (u32, u32),
    canvas: &mut Canvas,
) -> Result<(), ThumbnailError> {
    let size = (width, height);
    // Rows that come out the same whatever stands for what is missing do not depend on it.
    let mut known: Option<Vec<u64>> = None;
    if data.is_cut() {
        let other = PADS.into_iter().find_map(|pad| planes(input, data, size, pad).ok());
        let other = other.ok_or_else(broken_off)?;
        known = Some((0..length(height)).map(|row| PlaneRows::new(&other, row).mark()).collect());
    }
    let alpha = alpha.map(|span| read_alpha(input, span, size)).transpose()?;
    let frame = planes(input, data, size, 0)?;
    let mut upsampled = Upsampled::default();
    for row in 0..length(height) {
        let rows = PlaneRows::new(&frame, row);
        if known.as_ref().is_some_and(|known| known.get(row) != Some(&rows.mark())) {
            return Err(broken_off());
        }
        upsampled.fill(&rows);
        let colors = rows.luma.iter().zip(upsampled.u.iter().zip(&upsampled.v));
        let colors = colors.map(|(y, (u, v))| to_rgb(*y, *u, *v));
        match &alpha {
            Some(alpha) => {
                let start = row.saturating_mul(length(width));
                let values = alpha.get(start..).unwrap_or_default();
                canvas.push(colors.zip(values).map(|([r, g, b], alpha)| [r, g, b, *alpha]));
            }
            None => canvas.push(colors.map(|[r, g, b]| [r, g, b, u8::MAX])),
        }
    }
    Ok(())
}

/// Decodes planes. In the place of what is missing comes padding, and more than is missing: what it decodes to may be longer.
fn planes(input: &mut Input<'_>, data: Span, size: (u32, u32), pad: u8) -> Result<Frame, ThumbnailError> {
    input.seek(SeekFrom::Start(data.start))?;
    let padding = if data.is_cut() {
        data.claimed.saturating_sub(data.there).min(data.there.saturating_add(MORE)).saturating_add(MORE)
    } else {
        0
    };
    let mut file = input.by_ref().take(data.there).chain(io::repeat(pad).take(padding));
    let frame = Vp8Decoder::decode_frame(&mut file).map_err(from_webp)?;
    if (u32::from(frame.width), u32::from(frame.height)) != size {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    Ok(frame)
}

/// The file ends too early.
fn broken_off() -> ThumbnailError {
    ThumbnailError::broken("the file breaks off in the picture")
}

/// The rows of the planes that a row of pixels is made of.
struct PlaneRows<'a> {
    /// Luma.
    luma: &'a [u8],
    /// The chromas of the nearer row.
    near: [&'a [u8]; 2],
    /// The chromas of the other one.
    far: [&'a [u8]; 2],
}

impl<'a> PlaneRows<'a> {
    /// Those of a row.
    fn new(frame: &'a Frame, row: usize) -> Self {
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

    /// What tells this row from another.
    fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(self.luma);
        self.near.iter().chain(&self.far).for_each(|row| hasher.write(row));
        hasher.finish()
    }
}

/// A row of chromas at the luma's resolution.
#[derive(Default)]
struct Upsampled {
    /// Blue against yellow.
    u: Vec<u8>,
    /// Red against cyan.
    v: Vec<u8>,
    /// Both rows of one, added: three parts of the nearer and one of the other.
    sums: Vec<u16>,
}

impl Upsampled {
    /// Makes the next row: of the four samples around, nine parts of the nearest, three of its neighbours, one of the farthest,
    /// as libwebp does it.
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

/// Luma and chromas as red, green and blue (RFC 9649 leaves it to BT.601; the numbers are libwebp's).
#[inline]
fn to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let times = |value: u8, factor: i32| i32::from(value).wrapping_mul(factor) >> 8;
    let luma = times(y, 19_077);
    let red = luma.wrapping_add(times(v, 26_149)).wrapping_sub(14_234);
    let green = luma.wrapping_sub(times(u, 6_419)).wrapping_sub(times(v, 13_320)).wrapping_add(8_708);
    let blue = luma.wrapping_add(times(u, 33_050)).wrapping_sub(17_685);
    [red, green, blue].map(|sum| u8::try_from((sum >> 6).clamp(0, 255)).unwrap_or(0))
}

/// An alpha plane (RFC 9649, 2.7.1.2).
fn read_alpha(
    input: &mut Input<'_>,
    span: Span,
    (width, height): (u32, u32),
) -> Result<Vec<u8>, ThumbnailError> {
    input.seek(SeekFrom::Start(span.start))?;
    let [flags] = super::super::probe::bytes(input)?;
    let rest = |bytes: u64| bytes.saturating_sub(1);
    let span =
        Span { start: span.start.saturating_add(1), claimed: rest(span.claimed), there: rest(span.there) };
    let pixels = length(width).saturating_mul(length(height));
    let mut alpha = match flags & 3 {
        0 => {
            let mut alpha = vec![0; pixels];
            input.read_exact(&mut alpha)?;
            alpha
        }
        1 => {
            // Without the header of a picture of its own.
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
        _ => return Err(ThumbnailError::broken("a rare coding of alpha")),
    };
    unfilter(&mut alpha, length(width), flags.wrapping_shr(2) & 3);
    Ok(alpha)
}

/// Undoes the prediction of an alpha plane from its neighbours.
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

/// Decodes a lossless picture and hands on its rows.
fn lossless(
    input: &mut Input<'_>,
    data: Span,
    (width, height): (u32, u32),
    canvas: &mut Canvas,
) -> Result<(), ThumbnailError> {
    let stride = length(width).saturating_mul(4);
    let mark = |row: &[u8]| {
        let mut hasher = DefaultHasher::new();
        hasher.write(row);
        hasher.finish()
    };
    if !data.is_cut() {
        let pixels = argb(input, data, (width, height), LOSSLESS_HEADER, 0)?;
        let rows = pixels.chunks_exact(stride.max(1));
        rows.for_each(|row| canvas.push(row.as_chunks::<4>().0.iter().copied()));
        return Ok(());
    }
    // The decoder does not take all padding: what it decodes to may reach back or on too far. Two kinds that it takes give
    // pictures that differ from the first row on that is not there.
    let area = u64::from(width).saturating_mul(height.into()).max(1);
    let (most, least) = LOSSLESS_PADS;
    let tries = u8::try_from(MOST_TRIED.div_euclid(area)).unwrap_or(u8::MAX).clamp(least, most);
    let mut known: Option<Vec<u64>> = None;
    let cut = data.there.saturating_sub(data.there.div_euclid(64).clamp(16, 256));
    for pad in 0..tries {
        if known.is_none() {
            // Cut a little earlier, the picture differs, too.
            let shorter = argb(input, Span { there: cut, ..data }, (width, height), LOSSLESS_HEADER, pad);
            known = shorter.ok().map(|pixels| pixels.chunks_exact(stride.max(1)).map(mark).collect());
        }
        let Ok(pixels) = argb(input, data, (width, height), LOSSLESS_HEADER, pad) else { continue };
        let rows = || pixels.chunks_exact(stride.max(1));
        let Some(known) = &known else {
            known = Some(rows().map(mark).collect());
            continue;
        };
        // Without any difference it cannot be told which rows are there.
        let there = rows().zip(known).position(|(row, known)| *known != mark(row));
        let Some(there) = there else { continue };
        rows().take(there).for_each(|row| canvas.push(row.as_chunks::<4>().0.iter().copied()));
        break;
    }
    Err(broken_off())
}

/// Decodes a lossless stream to four channels, after `skipped` bytes of its own header.
fn argb(
    input: &mut Input<'_>,
    span: Span,
    (width, height): (u32, u32),
    skipped: u64,
    pad: u8,
) -> Result<Vec<u8>, ThumbnailError> {
    let rest = |bytes: u64| bytes.saturating_sub(skipped);
    // Padding has no end: what it decodes to may be longer than what is missing.
    let endless = u64::from(width).saturating_mul(height.into()).saturating_mul(8).min(MOST_PADDING);
    let claimed = if span.is_cut() { rest(span.there).saturating_add(endless) } else { rest(span.claimed) };
    let size = |more: u64| u32::try_from(claimed.saturating_add(more)).unwrap_or(u32::MAX).to_le_bytes();
    let sides = width.saturating_sub(1) | height.saturating_sub(1).wrapping_shl(14);
    let mut head = b"RIFF".to_vec();
    head.extend(size(17));
    head.extend(b"WEBPVP8L");
    head.extend(size(LOSSLESS_HEADER));
    // As if there were alpha: so it is decoded in place.
    head.push(0x2f);
    head.extend((sides | 1 << 28).to_le_bytes());
    let file = Pieces {
        head,
        start: span.start.saturating_add(skipped),
        there: rest(span.there),
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

/// A file put together: a head, a part of another file, and padding for what that lacks.
struct Pieces<'a, 'b> {
    /// What comes first.
    head: Vec<u8>,
    /// The other file.
    input: &'a mut Input<'b>,
    /// Where the part begins.
    start: u64,
    /// Bytes of it that are there.
    there: u64,
    /// Bytes of it that should be.
    claimed: u64,
    /// What stands for those that lack.
    pad: [u8; PAD],
    /// Next byte.
    at: u64,
}

impl Read for Pieces<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer.iter_mut().zip(available).for_each(|(to, byte)| *to = *byte);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Pieces<'_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let at = usize::try_from(self.at).unwrap_or(usize::MAX);
        if at < self.head.len() {
            return Ok(self.head.get(at..).unwrap_or_default());
        }
        let passed = self.passed();
        let part = |bytes: &'_ [u8], left: u64| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if let Some(left) = self.there.checked_sub(passed).filter(|left| *left > 0) {
            let bytes = self.input.fill_buf()?;
            return Ok(bytes.get(..part(bytes, left)).unwrap_or_default());
        }
        let left = self.claimed.saturating_sub(passed);
        let from =
            usize::try_from(passed.saturating_sub(self.there)).unwrap_or(0).checked_rem(PAD).unwrap_or(0);
        let pad = self.pad.get(from..).unwrap_or_default();
        Ok(pad.get(..part(pad, left)).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        let from_input = self.at >= head_length(&self.head) && self.passed() < self.there;
        self.at = self.at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        if from_input {
            self.input.consume(count);
        } else if self.passed() == 0 && self.at == head_length(&self.head) {
            // Where the head ends the part begins; a failure is noted below.
            drop(self.input.seek(SeekFrom::Start(self.start)));
        }
    }
}

impl Seek for Pieces<'_, '_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = head_length(&self.head).saturating_add(self.claimed);
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => end.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        let passed = self.passed();
        if passed <= self.there {
            self.input.seek(SeekFrom::Start(self.start.saturating_add(passed)))?;
        }
        Ok(self.at)
    }
}

impl Pieces<'_, '_> {
    /// Bytes behind the head.
    fn passed(&self) -> u64 {
        self.at.saturating_sub(head_length(&self.head))
    }
}

/// Bytes of a head.
fn head_length(head: &[u8]) -> u64 {
    u64::try_from(head.len()).unwrap_or(u64::MAX)
}

/// What is put in the place of a lossy picture's missing bytes besides zeros, which decode to little: the first that the decoder
/// takes. They differ from zeros soon, and decode to little, too.
const PADS: [u8; 4] = [0x10, 0x20, 0x08, 0x40];
/// Bytes of padding beyond what is missing.
const MORE: u64 = 1 << 20;
/// Kinds of [`padding`] that are tried in the place of a lossless picture's missing bytes, at most and for large pictures.
const LOSSLESS_PADS: (u8, u8) = (100, 8);
/// Pixels that are decoded for these trials before they are given up.
const MOST_TRIED: u64 = 64_000_000;
/// Bytes of padding that a chunk's length leaves room for.
const MOST_PADDING: u64 = 1 << 31;
/// Bytes of a lossless stream's own header.
const LOSSLESS_HEADER: u64 = 5;
