//! Decoding of BMP, from the top row down; run-length encoded pictures whole.
//!
//! Owns channel masks, palettes and runs. Refuses to know the headers, which [`Bitmap`] has read. Written here because the
//! decoder of the `image` crate holds the whole picture in memory, where this one holds a block of rows.

use std::io::{Read as _, Seek as _, SeekFrom};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout, length};
use super::super::probe::{Bitmap, Header, bytes};
use super::sink::Sink;

/// Decodes the picture, reduced once for each divisor.
pub(super) fn decode(
    mut input: Input<'_>,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let bitmap = Bitmap::read(&mut input)?;
    if (bitmap.width, bitmap.height) != (header.width, header.height) {
        return Err(ThumbnailError::broken("the size is not what the header says"));
    }
    if bitmap.is_rle {
        return decode_rle(&mut input, &bitmap, header, divisors);
    }
    let end = input.seek(SeekFrom::End(0))?;
    let present = end.saturating_sub(bitmap.pixel_offset).checked_div(bitmap.stride()).unwrap_or(0);
    let present = u32::try_from(present).unwrap_or(u32::MAX).min(bitmap.height);
    // If the bottom row is stored first, a truncated file lacks its upper rows.
    let missing = if bitmap.is_top_down { 0 } else { bitmap.height.saturating_sub(present) };
    let alpha = bitmap.masks.last().copied().unwrap_or(0);
    let has_alpha = alpha != 0 && has_any_bits(&mut input, &bitmap, present, alpha)?;
    let layout = if has_alpha || missing > 0 { Layout::Rgba } else { Layout::Rgb };
    let mut sink = Sink::new(header, layout, divisors);
    let mut pixels = Vec::new();
    if present > 0 {
        let blank = vec![0; length(bitmap.width).saturating_mul(4)];
        (0..missing).for_each(|_| sink.push(&blank));
        sink.is_partial = missing > 0;
    }
    let format = PixelFormat { bitmap: &bitmap, channels: bitmap.masks.map(Channel::new), has_alpha, layout };
    let outcome = each_row(&mut input, &bitmap, present, &mut |row| {
        pixels.clear();
        convert(row, &format, &mut pixels);
        sink.push(&pixels);
        true
    });
    sink.finish(outcome, None)
}

/// Whether any pixel has a bit of the mask set. Many writers declare alpha and leave it 0 everywhere; browsers show such a
/// bitmap as opaque.
fn has_any_bits(
    input: &mut Input<'_>,
    bitmap: &Bitmap,
    rows: u32,
    mask: u32,
) -> Result<bool, ThumbnailError> {
    let mut shows = false;
    each_row(input, bitmap, rows, &mut |row| {
        shows = match bitmap.bits {
            16 => {
                row.as_chunks::<2>().0.iter().any(|pixel| u32::from(u16::from_le_bytes(*pixel)) & mask != 0)
            }
            _ => row.as_chunks::<4>().0.iter().any(|pixel| u32::from_le_bytes(*pixel) & mask != 0),
        };
        !shows
    })?;
    Ok(shows)
}

/// Passes on the stored rows from the top down until `take` returns false. They are read in blocks of [`BLOCK_BYTES`].
fn each_row(
    input: &mut Input<'_>,
    bitmap: &Bitmap,
    rows: u32,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<(), ThumbnailError> {
    let stride = bitmap.stride();
    let rows_per_block =
        u32::try_from(BLOCK_BYTES.checked_div(stride).unwrap_or(1)).unwrap_or(u32::MAX).max(1);
    let row_bytes = usize::try_from(stride).map_err(ThumbnailError::broken)?;
    let mut block = Vec::new();
    let mut done = 0_u32;
    while done < rows {
        let count = rows_per_block.min(rows.saturating_sub(done));
        let first = if bitmap.is_top_down { done } else { rows.saturating_sub(done).saturating_sub(count) };
        input
            .seek(SeekFrom::Start(bitmap.pixel_offset.saturating_add(stride.saturating_mul(first.into()))))?;
        block.resize(row_bytes.saturating_mul(length(count)), 0);
        input.read_exact(&mut block)?;
        let mut stored = block.chunks_exact(row_bytes.max(1));
        while let Some(row) = if bitmap.is_top_down { stored.next() } else { stored.next_back() } {
            if !take(row) {
                return Ok(());
            }
        }
        done = done.saturating_add(count);
    }
    Ok(())
}

/// The bits of one channel in a pixel.
struct Channel {
    mask: u32,
    /// The position of the lowest bit.
    shift: u32,
    /// The largest value.
    most: u32,
}

impl Channel {
    fn new(mask: u32) -> Self {
        let shift = if mask == 0 { 0 } else { mask.trailing_zeros() };
        Self { mask, shift, most: mask.wrapping_shr(shift) }
    }

    /// The value in a pixel, scaled to 0–255.
    fn value(&self, pixel: u32) -> u8 {
        let value = (pixel & self.mask).wrapping_shr(self.shift);
        if self.most == u32::from(u8::MAX) {
            return u8::try_from(value).unwrap_or(u8::MAX);
        }
        let (value, most) = (u64::from(value), u64::from(self.most));
        let spread = value.saturating_mul(255).saturating_add(most.div_euclid(2)).checked_div(most);
        u8::try_from(spread.unwrap_or(0)).unwrap_or(u8::MAX)
    }
}

/// How stored pixels are converted.
struct PixelFormat<'a> {
    bitmap: &'a Bitmap,
    /// Red, green, blue and alpha.
    channels: [Channel; 4],
    /// Whether stored alpha is used; else pixels are opaque.
    has_alpha: bool,
    /// RGB or RGBA.
    layout: Layout,
}

/// Converts a stored row to pixels.
fn convert(row: &[u8], format: &PixelFormat<'_>, out: &mut Vec<u8>) {
    let PixelFormat { bitmap, channels, has_alpha, layout } = format;
    let columns = length(bitmap.width);
    let mut push = |[red, green, blue]: [u8; 3], alpha: u8| {
        out.extend([red, green, blue]);
        if *layout == Layout::Rgba {
            out.push(alpha);
        }
    };
    let mut masked = |pixel: u32| {
        let [red, green, blue, alpha] = channels;
        let alpha = if *has_alpha { alpha.value(pixel) } else { u8::MAX };
        push([red.value(pixel), green.value(pixel), blue.value(pixel)], alpha);
    };
    match bitmap.bits {
        16 => row
            .as_chunks::<2>()
            .0
            .iter()
            .take(columns)
            .for_each(|two| masked(u16::from_le_bytes(*two).into())),
        32 => row.as_chunks::<4>().0.iter().take(columns).for_each(|four| masked(u32::from_le_bytes(*four))),
        24 => {
            let pixels = row.as_chunks::<3>().0.iter().take(columns);
            pixels.for_each(|[blue, green, red]| push([*red, *green, *blue], u8::MAX));
        }
        bits => {
            let bits = bits.clamp(1, 8);
            let most = u8::MAX.wrapping_shr(8_u32.saturating_sub(bits));
            let shifts = (0..8_u32.checked_div(bits).unwrap_or(1)).rev().map(|at| at.saturating_mul(bits));
            let indices =
                row.iter().flat_map(|byte| shifts.clone().map(move |shift| byte.wrapping_shr(shift) & most));
            indices.take(columns).for_each(|index| push(color(bitmap, index), u8::MAX));
        }
    }
}

/// The colour of an index; black if the palette has no such index.
fn color(bitmap: &Bitmap, index: u8) -> [u8; 3] {
    bitmap.palette.get(usize::from(index)).copied().unwrap_or_default()
}

/// Decodes run-length encoded pixels. Those that the runs skip are transparent, as in browsers.
fn decode_rle(
    input: &mut Input<'_>,
    bitmap: &Bitmap,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let (width, height) = (length(bitmap.width), length(bitmap.height));
    let size = width.saturating_mul(height);
    let mut canvas =
        RleDecoder { indices: vec![0; size], is_set: vec![false; size], width, at: (0, 0), written: 0 };
    input.seek(SeekFrom::Start(bitmap.pixel_offset))?;
    let outcome = canvas.read(input, bitmap.bits == 4, height);
    let mut sink = Sink::new(header, Layout::Rgba, divisors);
    if outcome.is_err() && canvas.written == 0 {
        return outcome.map(|()| Vec::new());
    }
    sink.is_partial = outcome.is_err();
    let rows = canvas.indices.chunks_exact(width.max(1)).zip(canvas.is_set.chunks_exact(width.max(1)));
    let mut pixels = Vec::new();
    let mut push = |(indices, is_set): (&[u8], &[bool])| {
        pixels.clear();
        for (index, is_set) in indices.iter().zip(is_set) {
            let [red, green, blue] = color(bitmap, *index);
            pixels.extend(if *is_set { [red, green, blue, u8::MAX] } else { [0; 4] });
        }
        sink.push(&pixels);
    };
    if bitmap.is_top_down {
        rows.for_each(&mut push);
    } else {
        rows.rev().for_each(&mut push);
    }
    sink.finish(Ok(()), None)
}

/// Decodes runs, in stored order
/// ([bitmap compression](https://learn.microsoft.com/en-us/windows/win32/gdi/bitmap-compression)).
struct RleDecoder {
    /// The palette index of each pixel.
    indices: Vec<u8>,
    /// Which pixels were written.
    is_set: Vec<bool>,
    /// Pixels of a row.
    width: usize,
    /// Column and row of the next pixel.
    at: (usize, usize),
    /// How many pixels were written.
    written: usize,
}

impl RleDecoder {
    /// Reads runs up to the end marker or the last row.
    fn read(&mut self, input: &mut Input<'_>, is_4_bit: bool, height: usize) -> Result<(), ThumbnailError> {
        while self.at.1 < height {
            let [count, value] = bytes(input)?;
            match (count, value) {
                (0, 0) => self.at = (0, self.at.1.saturating_add(1)),
                (0, 1) => return Ok(()),
                (0, 2) => {
                    let [right, up] = bytes(input)?;
                    self.at.0 = self.at.0.saturating_add(right.into());
                    self.at.1 = self.at.1.saturating_add(up.into());
                }
                // Absolute mode: literal indices, padded to 16 bits.
                (0, count) => {
                    let bytes = if is_4_bit { count.div_ceil(2) } else { count };
                    let mut values = vec![0; usize::from(bytes).next_multiple_of(2)];
                    input.read_exact(&mut values)?;
                    for at in 0..count {
                        let value = values.get(usize::from(if is_4_bit { at.wrapping_shr(1) } else { at }));
                        self.set(value.copied().unwrap_or(0), is_4_bit, at);
                    }
                }
                (count, value) => (0..count).for_each(|at| self.set(value, is_4_bit, at)),
            }
        }
        Ok(())
    }

    /// Writes the next pixel: the whole byte, or its upper and lower half in turn.
    fn set(&mut self, value: u8, is_4_bit: bool, turn: u8) {
        let value = match (is_4_bit, turn & 1) {
            (false, _) => value,
            (true, 0) => value.wrapping_shr(4),
            (true, _) => value & 15,
        };
        let (column, row) = self.at;
        self.at.0 = column.saturating_add(1);
        if column >= self.width {
            return;
        }
        let place = row.saturating_mul(self.width).saturating_add(column);
        if let (Some(to), Some(is_set)) = (self.indices.get_mut(place), self.is_set.get_mut(place)) {
            (*to, *is_set) = (value, true);
            self.written = self.written.saturating_add(1);
        }
    }
}

/// Bytes read at once, unless a row is larger.
const BLOCK_BYTES: u64 = 1 << 16;
