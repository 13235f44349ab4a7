//! Bitmaps, row by row from the top, though most are stored from the bottom; packed ones whole.

use std::io::{Read as _, Seek as _, SeekFrom};

use super::super::ThumbnailError;
use super::super::input::Input;
use super::super::pixels::{Decoded, Layout, length};
use super::super::probe::{Bitmap, Header};
use super::Sink;

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
    if bitmap.is_packed {
        return packed(&mut input, &bitmap, header, divisors);
    }
    let end = input.seek(SeekFrom::End(0))?;
    let there = end.saturating_sub(bitmap.start).checked_div(bitmap.stride()).unwrap_or(0);
    let there = u32::try_from(there).unwrap_or(u32::MAX).min(bitmap.height);
    // Of a file that breaks off the upper rows are the ones that lack.
    let lacking = if bitmap.is_top_down { 0 } else { bitmap.height.saturating_sub(there) };
    let alpha = bitmap.masks.last().copied().unwrap_or(0);
    let has_alpha = alpha != 0 && shows_anything(&mut input, &bitmap, there, alpha)?;
    let layout = if has_alpha || lacking > 0 { Layout::Rgba } else { Layout::Rgb };
    let mut sink = Sink::new(header, layout, divisors);
    let mut pixels = Vec::new();
    if there > 0 {
        let blank = vec![0; length(bitmap.width).saturating_mul(4)];
        (0..lacking).for_each(|_| sink.push(&blank));
        sink.is_partial = lacking > 0;
    }
    let colors = Colors { bitmap: &bitmap, shades: bitmap.masks.map(Shades::new), has_alpha, layout };
    let outcome = each_row(&mut input, &bitmap, there, &mut |row| {
        pixels.clear();
        convert(row, &colors, &mut pixels);
        sink.push(&pixels);
        true
    });
    sink.finish(outcome, None)
}

/// Whether a mask's bits are set anywhere. Many writers leave room for alpha and never write any; browsers show such a bitmap
/// opaque.
fn shows_anything(
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

/// Hands on the stored rows from the upper one down, many read at once, as long as they are wanted.
fn each_row(
    input: &mut Input<'_>,
    bitmap: &Bitmap,
    rows: u32,
    take: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<(), ThumbnailError> {
    let stride = bitmap.stride();
    let together = u32::try_from(AT_ONCE.checked_div(stride).unwrap_or(1)).unwrap_or(u32::MAX).max(1);
    let row_bytes = usize::try_from(stride).map_err(ThumbnailError::broken)?;
    let mut block = Vec::new();
    let mut done = 0_u32;
    while done < rows {
        let count = together.min(rows.saturating_sub(done));
        let first = if bitmap.is_top_down { done } else { rows.saturating_sub(done).saturating_sub(count) };
        input.seek(SeekFrom::Start(bitmap.start.saturating_add(stride.saturating_mul(first.into()))))?;
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

/// A channel's values by the bits that a mask has.
struct Shades {
    /// Its bits.
    mask: u32,
    /// Zeros below it.
    shift: u32,
    /// Its largest value.
    most: u32,
}

impl Shades {
    /// Of a mask.
    fn new(mask: u32) -> Self {
        let shift = if mask == 0 { 0 } else { mask.trailing_zeros() };
        Self { mask, shift, most: mask.wrapping_shr(shift) }
    }

    /// The channel of a pixel, spread over the whole range.
    fn of(&self, pixel: u32) -> u8 {
        let value = (pixel & self.mask).wrapping_shr(self.shift);
        if self.most == u32::from(u8::MAX) {
            return u8::try_from(value).unwrap_or(u8::MAX);
        }
        let (value, most) = (u64::from(value), u64::from(self.most));
        let spread = value.saturating_mul(255).saturating_add(most.div_euclid(2)).checked_div(most);
        u8::try_from(spread.unwrap_or(0)).unwrap_or(u8::MAX)
    }
}

/// What pixels are made by.
struct Colors<'a> {
    /// The headers.
    bitmap: &'a Bitmap,
    /// Red, green, blue and alpha.
    shades: [Shades; 4],
    /// Whether alpha counts.
    has_alpha: bool,
    /// What a pixel becomes.
    layout: Layout,
}

/// A stored row as pixels.
fn convert(row: &[u8], colors: &Colors<'_>, out: &mut Vec<u8>) {
    let Colors { bitmap, shades, has_alpha, layout } = colors;
    let columns = length(bitmap.width);
    let mut add = |[red, green, blue]: [u8; 3], alpha: u8| {
        out.extend([red, green, blue]);
        if *layout == Layout::Rgba {
            out.push(alpha);
        }
    };
    let mut masked = |pixel: u32| {
        let [red, green, blue, alpha] = shades;
        let alpha = if *has_alpha { alpha.of(pixel) } else { u8::MAX };
        add([red.of(pixel), green.of(pixel), blue.of(pixel)], alpha);
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
            pixels.for_each(|[blue, green, red]| add([*red, *green, *blue], u8::MAX));
        }
        bits => {
            let bits = bits.clamp(1, 8);
            let most = u8::MAX.wrapping_shr(8_u32.saturating_sub(bits));
            let shifts = (0..8_u32.checked_div(bits).unwrap_or(1)).rev().map(|at| at.saturating_mul(bits));
            let indices =
                row.iter().flat_map(|byte| shifts.clone().map(move |shift| byte.wrapping_shr(shift) & most));
            indices.take(columns).for_each(|index| add(color(bitmap, index), u8::MAX));
        }
    }
}

/// The colour of an index; black beyond the palette.
fn color(bitmap: &Bitmap, index: u8) -> [u8; 3] {
    bitmap.palette.get(usize::from(index)).copied().unwrap_or_default()
}

/// A bitmap of runs. What they leave out is transparent, as browsers have it.
fn packed(
    input: &mut Input<'_>,
    bitmap: &Bitmap,
    header: &Header,
    divisors: &[u32],
) -> Result<Vec<Decoded>, ThumbnailError> {
    let (width, height) = (length(bitmap.width), length(bitmap.height));
    let size = width.saturating_mul(height);
    let mut canvas = Runs { indices: vec![0; size], is_set: vec![false; size], width, at: (0, 0), last: 0 };
    input.seek(SeekFrom::Start(bitmap.start))?;
    let outcome = canvas.read(input, bitmap.bits == 4, height);
    let mut sink = Sink::new(header, Layout::Rgba, divisors);
    if outcome.is_err() && canvas.last == 0 {
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

/// Pixels while runs are read, in stored order.
struct Runs {
    /// An index for each.
    indices: Vec<u8>,
    /// Which have come.
    is_set: Vec<bool>,
    /// Pixels of a row.
    width: usize,
    /// Column and row of the next.
    at: (usize, usize),
    /// Pixels that came.
    last: usize,
}

impl Runs {
    /// Reads runs to their end.
    fn read(&mut self, input: &mut Input<'_>, is_half: bool, height: usize) -> Result<(), ThumbnailError> {
        while self.at.1 < height {
            let [count, value] = super::super::probe::bytes(input)?;
            match (count, value) {
                (0, 0) => self.at = (0, self.at.1.saturating_add(1)),
                (0, 1) => return Ok(()),
                (0, 2) => {
                    let [right, up] = super::super::probe::bytes(input)?;
                    self.at.0 = self.at.0.saturating_add(right.into());
                    self.at.1 = self.at.1.saturating_add(up.into());
                }
                // As they are, to a whole number of words.
                (0, count) => {
                    let bytes = if is_half { count.div_ceil(2) } else { count };
                    let mut values = vec![0; usize::from(bytes).next_multiple_of(2)];
                    input.read_exact(&mut values)?;
                    for at in 0..count {
                        let value = values.get(usize::from(if is_half { at.wrapping_shr(1) } else { at }));
                        self.set(value.copied().unwrap_or(0), is_half, at);
                    }
                }
                (count, value) => (0..count).for_each(|at| self.set(value, is_half, at)),
            }
        }
        Ok(())
    }

    /// Sets the next pixel: a byte, or of it the upper or lower half by turns.
    fn set(&mut self, value: u8, is_half: bool, turn: u8) {
        let value = match (is_half, turn & 1) {
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
            self.last = self.last.saturating_add(1);
        }
    }
}

/// Bytes read at once, if a row has no more.
const AT_ONCE: u64 = 1 << 16;
