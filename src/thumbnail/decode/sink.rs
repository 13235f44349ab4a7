//! Where decoded rows go: into one reduction for each divisor that is wanted.
//!
//! Owns the count of rows, frames smaller than their canvas, and what is made of a truncated file. Refuses to know formats.

use super::super::ThumbnailError;
use super::super::pixels::{Decoded, Layout, Reducer, length};
use super::super::plan::Rect;
use super::super::probe::Header;

/// Takes rows of the whole picture, from the top.
pub(super) struct Sink {
    /// One for each divisor, in their order.
    reducers: Vec<Reducer>,
    divisors: Vec<u32>,
    /// Rows of the picture.
    height: u32,
    /// Rows taken so far.
    pub(super) rows: u32,
    /// Whether some of these rows stand in for missing ones.
    pub(super) is_partial: bool,
}

impl Sink {
    pub(super) fn new(header: &Header, layout: Layout, divisors: &[u32]) -> Self {
        let reducer = |divisor: &u32| Reducer::new((header.width, header.height), layout, *divisor);
        let reducers = divisors.iter().map(reducer).collect();
        Self { reducers, divisors: divisors.to_vec(), height: header.height, rows: 0, is_partial: false }
    }

    /// Takes the next row, which is dropped if it is below the picture.
    pub(super) fn push(&mut self, row: &[u8]) {
        if self.rows < self.height {
            self.reducers.iter_mut().for_each(|reducer| reducer.push(row));
            self.rows = self.rows.saturating_add(1);
        }
    }

    /// The reduced pictures, with the missing rows transparent.
    ///
    /// # Errors
    /// That of `outcome`, which says how decoding ended; but if rows came before it, a broken picture is returned as partial.
    pub(super) fn finish(
        self,
        outcome: Result<(), ThumbnailError>,
        icc: Option<&[u8]>,
    ) -> Result<Vec<Decoded>, ThumbnailError> {
        let is_partial = self.is_partial || self.rows < self.height || outcome.is_err();
        match outcome {
            Err(ThumbnailError::Broken(_) | ThumbnailError::Unsupported(_)) if self.rows > 0 => {}
            Err(error) => return Err(error),
            Ok(()) if self.rows == 0 => return Err(ThumbnailError::broken("no rows")),
            Ok(()) => {}
        }
        let height = self.height;
        let decoded = |(reducer, divisor): (Reducer, u32)| Decoded {
            pixels: reducer.finish().pad_to(height.div_ceil(divisor.max(1))),
            divisor,
            icc: icc.map(<[u8]>::to_vec),
            is_partial,
        };
        Ok(self.reducers.into_iter().zip(self.divisors).map(decoded).collect())
    }
}

/// Takes the rows of a frame that may cover only a part of its canvas, and adds transparent pixels around it.
pub(super) struct FrameSink {
    sink: Sink,
    layout: Layout,
    /// The part of the canvas that the frame covers.
    part: Rect,
    /// A row of the canvas.
    row: Vec<u8>,
}

impl FrameSink {
    /// For a canvas of the header's size. `layout` is RGB or RGBA; RGB must only be used for frames that cover the canvas.
    pub(super) fn new(header: &Header, layout: Layout, part: Rect, divisors: &[u32]) -> Self {
        let row = vec![0; length(header.width).saturating_mul(layout.channels())];
        let mut frame = Self { sink: Sink::new(header, layout, divisors), layout, part, row };
        frame.add_blank_rows(part.y);
        frame
    }

    /// Takes the next row of the frame. Layouts without alpha ignore the fourth value.
    pub(super) fn push(&mut self, pixels: impl Iterator<Item = [u8; 4]>) {
        let channels = self.layout.channels();
        let first = length(self.part.x).saturating_mul(channels);
        let target = self.row.get_mut(first..).unwrap_or_default();
        for (to, pixel) in target.chunks_exact_mut(channels).zip(pixels) {
            to.iter_mut().zip(pixel).for_each(|(to, value)| *to = value);
        }
        self.sink.push(&self.row);
    }

    /// [`Sink::finish`]. The rows below a whole frame are not missing.
    pub(super) fn finish(
        mut self,
        outcome: Result<(), ThumbnailError>,
        icc: Option<&[u8]>,
    ) -> Result<Vec<Decoded>, ThumbnailError> {
        if outcome.is_ok() {
            self.add_blank_rows(self.sink.height);
        }
        self.sink.finish(outcome, icc)
    }

    /// Adds transparent rows down to a row of the canvas.
    fn add_blank_rows(&mut self, down_to: u32) {
        let row = vec![0; self.row.len()];
        while self.sink.rows < down_to.min(self.sink.height) {
            self.sink.push(&row);
        }
    }
}
