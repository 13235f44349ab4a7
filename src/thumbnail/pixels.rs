//! Pixels in memory, and the reduction of rows by a whole divisor while they are decoded.
//!
//! Owns the five pixel layouts of this module, all of 8 bits a channel. Refuses to know files and colour profiles.

/// A picture in memory: rows from the top, without padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pixels {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) layout: Layout,
    /// `width × height × channels` bytes.
    pub(super) data: Vec<u8>,
}

/// The channels of a pixel. Alpha is straight, not premultiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Grey,
    GreyAlpha,
    Rgb,
    Rgba,
    /// Amounts of ink: 0 is no ink.
    Cmyk,
}

impl Layout {
    /// Channels, which is also the bytes of a pixel.
    pub(super) fn channels(self) -> usize {
        match self {
            Self::Grey => 1,
            Self::GreyAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    pub(super) fn has_alpha(self) -> bool {
        matches!(self, Self::GreyAlpha | Self::Rgba)
    }
}

/// The result of a decoder.
#[derive(Debug)]
pub(super) struct Decoded {
    /// As stored, before orientation.
    pub(super) pixels: Pixels,
    /// By how much both sides were reduced while decoding.
    pub(super) divisor: u32,
    pub(super) icc: Option<Vec<u8>>,
    /// Whether the file is truncated. The missing part is grey in a JPEG, as in browsers, and transparent in other formats.
    pub(super) is_partial: bool,
}

impl Pixels {
    /// Adds transparent rows (in CMYK: without ink) below, up to a height.
    pub(super) fn pad_to(mut self, height: u32) -> Self {
        if self.height >= height {
            return self;
        }
        self.layout = match self.layout {
            Layout::Grey => self.add_alpha::<1, 2>(Layout::GreyAlpha),
            Layout::Rgb => self.add_alpha::<3, 4>(Layout::Rgba),
            layout @ (Layout::GreyAlpha | Layout::Rgba | Layout::Cmyk) => layout,
        };
        let length = |side: u32| usize::try_from(side).unwrap_or(0);
        let row = length(self.width).saturating_mul(self.layout.channels());
        self.data.resize(row.saturating_mul(length(height)), 0);
        self.height = height;
        self
    }

    /// Appends opaque alpha to every pixel, in place. `N` and `M` are the channels before and after.
    fn add_alpha<const N: usize, const M: usize>(&mut self, to: Layout) -> Layout {
        let count = self.data.len().checked_div(N).unwrap_or(0);
        self.data.resize(count.saturating_mul(M), u8::MAX);
        for at in (0..count).rev() {
            let from = at.saturating_mul(N);
            let Some(pixel) = self.data.get(from..).and_then(|rest| rest.first_chunk::<N>()).copied() else {
                continue;
            };
            if let Some(place) =
                self.data.get_mut(at.saturating_mul(M)..).and_then(|rest| rest.first_chunk_mut::<M>())
            {
                *place = [u8::MAX; M];
                place.iter_mut().zip(pixel).for_each(|(to, value)| *to = value);
            }
        }
        to
    }
}

/// Averages squares of `divisor × divisor` pixels, row by row. Colours are weighted by their alpha, so that transparent
/// pixels do not tint their neighbours.
pub(super) struct Reducer {
    /// 1 to [`MAX_DIVISOR`].
    divisor: u32,
    /// Pixels of a source row.
    width: u32,
    layout: Layout,
    /// For each sample of a source row, the sum over the rows since the last result row.
    sums: Vec<u32>,
    /// How many rows are in `sums`.
    rows: u32,
    /// The finished result rows.
    data: Vec<u8>,
    /// How many result rows are finished.
    height: u32,
}

/// The sums do not overflow: 128 × 128 × 255 × 255 fits in 32 bits.
pub(super) const MAX_DIVISOR: u32 = 128;

impl Reducer {
    /// For `height` rows of `width` pixels.
    pub(super) fn new((width, height): (u32, u32), layout: Layout, divisor: u32) -> Self {
        let divisor = divisor.clamp(1, MAX_DIVISOR);
        let side = |length: u32| usize::try_from(length.div_ceil(divisor)).unwrap_or(0);
        // Allocated at once: a growing vector is held twice while it moves.
        let room = side(width).saturating_mul(side(height)).saturating_mul(layout.channels());
        let data = Vec::with_capacity(room);
        Self { divisor, width, layout, sums: Vec::new(), rows: 0, data, height: 0 }
    }

    /// Adds the next row.
    pub(super) fn push(&mut self, row: &[u8]) {
        if self.divisor == 1 {
            self.data.extend_from_slice(row);
            self.height = self.height.saturating_add(1);
            return;
        }
        self.sums.resize(row.len(), 0);
        match self.layout {
            Layout::GreyAlpha => add_weighted::<2>(&mut self.sums, row),
            Layout::Rgba => add_weighted::<4>(&mut self.sums, row),
            Layout::Grey | Layout::Rgb | Layout::Cmyk => {
                for (sum, value) in self.sums.iter_mut().zip(row) {
                    *sum = sum.wrapping_add(u32::from(*value));
                }
            }
        }
        self.rows = self.rows.saturating_add(1);
        if self.rows == self.divisor {
            self.flush();
        }
    }

    /// The reduced picture.
    pub(super) fn finish(mut self) -> Pixels {
        if self.rows > 0 {
            self.flush();
        }
        let width = self.width.div_ceil(self.divisor.max(1));
        Pixels { width, height: self.height, layout: self.layout, data: self.data }
    }

    /// Averages the sums into a result row.
    fn flush(&mut self) {
        let side = usize::try_from(self.divisor).unwrap_or(1);
        let (sums, rows, data) = (&self.sums, self.rows, &mut self.data);
        match self.layout {
            Layout::Grey => average::<1>(sums, side, rows, data),
            Layout::Rgb => average::<3>(sums, side, rows, data),
            Layout::Cmyk => average::<4>(sums, side, rows, data),
            Layout::GreyAlpha => average_weighted::<2>(sums, side, rows, data),
            Layout::Rgba => average_weighted::<4>(sums, side, rows, data),
        }
        self.sums.fill(0);
        self.rows = 0;
        self.height = self.height.saturating_add(1);
    }
}

/// Adds a row of pixels whose last channel is alpha: colours times alpha, and alpha itself.
fn add_weighted<const C: usize>(sums: &mut [u32], row: &[u8]) {
    for (sums, pixel) in sums.as_chunks_mut::<C>().0.iter_mut().zip(row.as_chunks::<C>().0) {
        let alpha = u32::from(pixel.last().copied().unwrap_or(0));
        let channels = pixel.len();
        for (index, (sum, value)) in sums.iter_mut().zip(pixel).enumerate() {
            let weight = if index.wrapping_add(1) == channels { 1 } else { alpha };
            *sum = sum.wrapping_add(u32::from(*value).wrapping_mul(weight));
        }
    }
}

/// Averages sums into one result row.
fn average<const C: usize>(sums: &[u32], side: usize, rows: u32, out: &mut Vec<u8>) {
    for square in sums.as_chunks::<C>().0.chunks(side.max(1)) {
        let count = rows.saturating_mul(u32::try_from(square.len()).unwrap_or(1));
        out.extend(total(square).map(|sum| quotient(sum, count)));
    }
}

/// Averages sums that are weighted by alpha into one result row.
fn average_weighted<const C: usize>(sums: &[u32], side: usize, rows: u32, out: &mut Vec<u8>) {
    for square in sums.as_chunks::<C>().0.chunks(side.max(1)) {
        let count = rows.saturating_mul(u32::try_from(square.len()).unwrap_or(1));
        let total = total(square);
        let alpha = total.last().copied().unwrap_or(0);
        let mut pixel = total.map(|sum| quotient(sum, alpha));
        if let Some(last) = pixel.last_mut() {
            *last = quotient(alpha, count);
        }
        out.extend(pixel);
    }
}

/// The sums of each channel over some pixels.
fn total<const C: usize>(pixels: &[[u32; C]]) -> [u32; C] {
    let mut total = [0_u32; C];
    for pixel in pixels {
        for (sum, value) in total.iter_mut().zip(pixel) {
            *sum = sum.wrapping_add(*value);
        }
    }
    total
}

/// The quotient, rounded; 0 for a count of 0.
fn quotient(sum: u32, count: u32) -> u8 {
    let rounded = sum.saturating_add(count.div_euclid(2)).checked_div(count).unwrap_or(0);
    u8::try_from(rounded).unwrap_or(u8::MAX)
}

/// A number of pixels, rows or columns as a length in memory.
pub(super) fn length(side: u32) -> usize {
    usize::try_from(side).unwrap_or(usize::MAX)
}

/// A sample from 0 to 1 as a byte; what is out of range is clipped.
pub(super) fn from_unit(sample: f32) -> u8 {
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates"
    )]
    let byte = (sample * 255.0).round() as u8;
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_at_the_edges_are_averaged_over_what_they_have() {
        let mut reducer = Reducer::new((5, 3), Layout::Grey, 2);
        for row in [[0, 10, 20, 30, 40], [10, 20, 30, 40, 50], [7, 9, 0, 0, 100]] {
            reducer.push(&row);
        }
        let pixels = reducer.finish();
        assert_eq!((pixels.width, pixels.height), (3, 2));
        assert_eq!(pixels.data, [10, 30, 45, 8, 0, 100]);
    }

    #[test]
    fn padding_below_is_transparent() {
        let pixels = |layout, data: &[u8]| Pixels { width: 1, height: 2, layout, data: data.to_vec() };
        let padded = |layout, data: &[u8]| {
            let got = pixels(layout, data).pad_to(3);
            assert_eq!(got.height, 3);
            got.data
        };
        assert_eq!(padded(Layout::Grey, &[7, 9]), [7, 255, 9, 255, 0, 0]);
        assert_eq!(padded(Layout::Rgb, &[1, 2, 3, 4, 5, 6]), [1, 2, 3, 255, 4, 5, 6, 255, 0, 0, 0, 0]);
        assert_eq!(padded(Layout::Cmyk, &[1; 8]), [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0], "CMYK: no ink");
        assert_eq!(pixels(Layout::Rgb, &[1; 6]).pad_to(2).layout, Layout::Rgb);
    }

    #[test]
    fn transparent_colours_do_not_tint_their_neighbours() {
        let mut reducer = Reducer::new((2, 2), Layout::Rgba, 2);
        reducer.push(&[255, 0, 0, 255, 0, 255, 0, 0]);
        reducer.push(&[255, 0, 0, 255, 0, 255, 0, 0]);
        assert_eq!(reducer.finish().data, [255, 0, 0, 128]);
    }

    #[test]
    fn the_sums_of_the_largest_square_do_not_overflow() {
        let mut reducer = Reducer::new((300, 300), Layout::Rgba, 1000);
        for _ in 0..300 {
            reducer.push(&[255; 1200]);
        }
        let pixels = reducer.finish();
        assert_eq!((pixels.width, pixels.height), (3, 3));
        assert!(pixels.data.iter().all(|value| *value == 255));
    }
}
