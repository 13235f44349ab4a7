//! Decoding of entropy-coded blocks to coefficients (T.81, F.2 and G.2).
//!
//! Owns the sequence of codes in a block and the predictions. Refuses to know restart markers and damage. Every code must be
//! read to find the next one, but only coefficients that can be seen at the result's size are kept.

use std::io::BufRead;

use super::ThumbnailError;
use super::bits::Bits;
use super::coefficients::Block;
use super::geometry::Geometry;
use super::headers::{Headers, Scan, ScanComponent};
use super::huffman::{Huffman, RunValue};
use super::transform::Values;

/// For each coefficient in zigzag order, its position in rows of eight (T.81, figure A.6).
#[rustfmt::skip]
pub(super) const ZIGZAG: Places = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// For each coefficient in zigzag order, its position in a block; [`DROPPED`] for those that are not kept.
pub(super) type Places = [u8; 64];

/// A position that no block has.
const DROPPED: u8 = u8::MAX;

/// The positions in rows of `stride`, for blocks that keep `columns × rows` coefficients.
pub(super) fn places((columns, rows): (u32, u32), stride: u32) -> Places {
    ZIGZAG.map(|natural| {
        let (row, column) = (u32::from(natural).wrapping_shr(3), u32::from(natural & 7));
        let place = row.wrapping_mul(stride).wrapping_add(column);
        if row < rows && column < columns { u8::try_from(place).unwrap_or(DROPPED) } else { DROPPED }
    })
}

/// Reads the blocks of the only scan of a sequential file.
pub(super) struct Streamed<'a> {
    /// In the scan's order.
    parts: Vec<StreamedPart<'a>>,
}

/// A component of that scan.
struct StreamedPart<'a> {
    /// Its index in the frame.
    component: usize,
    /// Blocks across and down an MCU.
    unit: (u32, u32),
    dc: &'a Huffman,
    ac: &'a Huffman,
    /// The quantisation table, in zigzag order.
    divisors: &'a [u16; 64],
    places: Places,
    /// The DC coefficient of the last block.
    prediction: i32,
}

/// The position of a block: component, and column and row of the block.
pub(super) type At = (usize, u32, u32);

impl<'a> Streamed<'a> {
    /// # Errors
    /// `Broken` if a table is missing.
    pub(super) fn new(
        headers: &'a Headers,
        scan: &Scan,
        geometry: &Geometry,
    ) -> Result<Self, ThumbnailError> {
        let tables = &headers.tables;
        let part = |part: &ScanComponent| {
            let blocks = geometry.components().get(part.component)?;
            Some(StreamedPart {
                component: part.component,
                unit: (blocks.across, blocks.down),
                dc: tables.dc.get(part.dc)?.as_ref()?,
                ac: tables.ac.get(part.ac)?.as_ref()?,
                divisors: tables.quantization.get(blocks.quantization)?.as_ref()?,
                places: places(blocks.kept(), 8),
                prediction: 0,
            })
        };
        let parts: Option<Vec<_>> = scan.parts.iter().map(part).collect();
        Ok(Self { parts: parts.ok_or_else(no_table)? })
    }

    /// Resets the predictions, at a restart marker.
    pub(super) fn restart(&mut self) {
        self.parts.iter_mut().for_each(|part| part.prediction = 0);
    }

    /// Reads an MCU and passes on its blocks, with column and row counted within the MCU.
    pub(super) fn unit(
        &mut self,
        bits: &mut Bits<impl BufRead>,
        mut put: impl FnMut(At, &Values),
    ) -> Result<(), ThumbnailError> {
        for part in &mut self.parts {
            let (across, down) = part.unit;
            for row in 0..down {
                for column in 0..across {
                    let mut values = [0; 64];
                    let keep = |at: usize, value: i32| {
                        let (place, divisor) = (part.places.get(at), part.divisors.get(at));
                        let to = place.and_then(|place| values.get_mut(usize::from(*place)));
                        if let (Some(to), Some(divisor)) = (to, divisor) {
                            *to = value.wrapping_mul(i32::from(*divisor));
                        }
                    };
                    sequential(bits, part.dc, part.ac, &mut part.prediction, keep)?;
                    put((part.component, column, row), &values);
                }
            }
        }
        Ok(())
    }
}

/// Reads the blocks of one scan of a file with several.
pub(super) struct Buffered<'a> {
    pub(super) scan: &'a Scan,
    kind: ScanKind,
    /// The first and last coefficient.
    band: (usize, usize),
    /// The bit position of this scan.
    low: u32,
    /// DC and AC table of each component of the scan.
    tables: Vec<(Option<&'a Huffman>, Option<&'a Huffman>)>,
    /// The DC coefficient of the last block of each component of the scan.
    predictions: Vec<i32>,
    /// Blocks still to come without new coefficients (EOBRUN; T.81, G.1.2.2).
    ended: u32,
}

/// What a scan contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanKind {
    /// All coefficients of a sequential file's component.
    Sequential,
    /// The upper bits of DC coefficients.
    FirstDc,
    /// One more bit of DC coefficients.
    RefineDc,
    /// The upper bits of AC coefficients.
    FirstAc,
    /// One more bit of AC coefficients.
    RefineAc,
}

impl<'a> Buffered<'a> {
    /// # Errors
    /// `Broken` if a table is missing.
    pub(super) fn new(headers: &'a Headers, scan: &'a Scan) -> Result<Self, ThumbnailError> {
        let (start, end) = scan.band;
        let (high, low) = scan.bits;
        let kind = match (headers.is_progressive(), start, high) {
            (false, _, _) => ScanKind::Sequential,
            (true, 0, 0) => ScanKind::FirstDc,
            (true, 0, _) => ScanKind::RefineDc,
            (true, _, 0) => ScanKind::FirstAc,
            (true, _, _) => ScanKind::RefineAc,
        };
        let table = |tables: &'a [Option<Huffman>; 4], index: usize| tables.get(index)?.as_ref();
        let tables: Vec<_> = scan
            .parts
            .iter()
            .map(|part| (table(&headers.tables.dc, part.dc), table(&headers.tables.ac, part.ac)))
            .collect();
        let dc_needed = matches!(kind, ScanKind::Sequential | ScanKind::FirstDc);
        let ac_needed = matches!(kind, ScanKind::Sequential | ScanKind::FirstAc | ScanKind::RefineAc);
        if tables.iter().any(|(dc, ac)| dc_needed && dc.is_none() || ac_needed && ac.is_none()) {
            return Err(no_table());
        }
        let index = |at: u32| usize::try_from(at).unwrap_or(0);
        let predictions = vec![0; tables.len()];
        Ok(Self { scan, kind, band: (index(start), index(end)), low, tables, predictions, ended: 0 })
    }

    /// Resets the predictions, at a restart marker.
    pub(super) fn restart(&mut self) {
        self.predictions.fill(0);
        self.ended = 0;
    }

    /// Reads a block of the component with index `part` in the scan.
    pub(super) fn block(
        &mut self,
        bits: &mut Bits<impl BufRead>,
        part: usize,
        mut block: Block<'_>,
    ) -> Result<(), ThumbnailError> {
        let (Some((dc, ac)), Some(prediction)) = (self.tables.get(part), self.predictions.get_mut(part))
        else {
            return Ok(());
        };
        match (self.kind, dc, ac) {
            (ScanKind::Sequential, Some(dc), Some(ac)) => {
                sequential(bits, dc, ac, prediction, |at, value| block.set(at, value))
            }
            (ScanKind::FirstDc, Some(dc), _) => {
                *prediction = prediction.wrapping_add(dc.difference(bits)?);
                block.set(0, prediction.wrapping_shl(self.low));
                Ok(())
            }
            (ScanKind::RefineDc, _, _) => {
                if bits.bit()? {
                    block.refine(0, 1_i32.wrapping_shl(self.low));
                }
                Ok(())
            }
            (ScanKind::FirstAc, _, Some(ac)) => self.first_ac(bits, ac, &mut block),
            (ScanKind::RefineAc, _, Some(ac)) => self.refine_ac(bits, ac, &mut block),
            _ => Ok(()),
        }
    }

    /// Reads the upper bits of a band (T.81, G.1.2.2).
    fn first_ac(
        &mut self,
        bits: &mut Bits<impl BufRead>,
        ac: &Huffman,
        block: &mut Block<'_>,
    ) -> Result<(), ThumbnailError> {
        if self.ended > 0 {
            self.ended = self.ended.wrapping_sub(1);
            return Ok(());
        }
        let (mut at, end) = self.band;
        while at <= end {
            let RunValue { run, value } = ac.run_value(bits)?;
            if value == 0 && run < 15 {
                self.ended = end_run(bits, run).wrapping_sub(1);
                break;
            }
            at = at.wrapping_add(usize::try_from(run).unwrap_or(0));
            if value != 0 && at <= end {
                block.set(at, value.wrapping_shl(self.low));
            }
            at = at.wrapping_add(1);
        }
        Ok(())
    }

    /// Reads one more bit of a band (T.81, G.1.2.3): a correction for each coefficient that is not 0, and new coefficients between
    /// them.
    fn refine_ac(
        &mut self,
        bits: &mut Bits<impl BufRead>,
        ac: &Huffman,
        block: &mut Block<'_>,
    ) -> Result<(), ThumbnailError> {
        let (mut at, end) = self.band;
        let bit = 1_i32.wrapping_shl(self.low);
        while self.ended == 0 && at <= end {
            let RunValue { mut run, value } = ac.run_value(bits)?;
            if value == 0 && run < 15 {
                self.ended = end_run(bits, run);
                break;
            }
            while at <= end {
                if block.is_set(at) {
                    if bits.bit()? {
                        block.refine(at, bit);
                    }
                } else if run == 0 {
                    break;
                } else {
                    run = run.wrapping_sub(1);
                }
                at = at.wrapping_add(1);
            }
            if value != 0 && at <= end {
                block.set(at, if value > 0 { bit } else { bit.wrapping_neg() });
            }
            at = at.wrapping_add(1);
        }
        if self.ended > 0 {
            self.ended = self.ended.wrapping_sub(1);
            for at in block.set_within(at, end) {
                if bits.bit()? {
                    block.refine(at, bit);
                }
            }
        }
        Ok(())
    }
}

/// Reads a whole block (T.81, F.2.2). `keep` gets the DC coefficient and every AC coefficient that is not 0, with its index in
/// zigzag order.
#[inline]
fn sequential(
    bits: &mut Bits<impl BufRead>,
    dc: &Huffman,
    ac: &Huffman,
    prediction: &mut i32,
    mut keep: impl FnMut(usize, i32),
) -> Result<(), ThumbnailError> {
    *prediction = prediction.wrapping_add(dc.difference(bits)?);
    keep(0, *prediction);
    let mut at = 1;
    while at < 64 {
        let RunValue { run, value } = ac.run_value(bits)?;
        if value == 0 && run < 15 {
            break;
        }
        at = usize::wrapping_add(at, usize::try_from(run).unwrap_or(0));
        if value != 0 {
            keep(at, value);
        }
        at = at.wrapping_add(1);
    }
    Ok(())
}

/// The number of blocks that end here, including this one (T.81, G.1.2.2).
fn end_run(bits: &mut Bits<impl BufRead>, size: u32) -> u32 {
    1_u32.wrapping_shl(size).wrapping_add(bits.take(size))
}

/// The error for a scan without its tables.
fn no_table() -> ThumbnailError {
    ThumbnailError::broken("a table is missing")
}
