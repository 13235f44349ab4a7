//! JPEG (ITU-T T.81), decoded straight to 1/1, 1/2, 1/4 or 1/8 of its size.
//!
//! Owns the format: segments, entropy codes, coefficients, the scaled transform, JPEG's colours. Refuses to know what
//! the picture is for. Of the crates, those that scale while decoding take several times the time or memory: every
//! coefficient of a progressive file is kept, and every one is read a byte at a time. Here a block keeps only the
//! coefficients that its fraction of the size can show, and a sequential file never stands in memory but for a row
//! of blocks and the result.
//!
//! Read are baseline, extended sequential and progressive files of 8 bits a sample with Huffman codes, with 1, 3 or 4
//! components, interleaved or not. Arithmetic codes, 12 bits, lossless and hierarchical files are refused: browsers
//! do not show them either.

mod bits;
mod blocks;
mod coefficients;
mod colors;
mod geometry;
mod headers;
mod huffman;
mod transform;

use std::io::BufRead;
use std::time::Instant;

use self::bits::Bits;
use self::blocks::{Buffered, Streamed};
use self::coefficients::Coefficients;
use self::colors::{Colors, Strips};
use self::geometry::Geometry;
pub(super) use self::headers::Summary;
use self::headers::{Headers, Scan};
use super::ThumbnailError;

/// A decoded picture, as it is stored: not yet oriented.
#[derive(Debug)]
pub(super) struct Picture {
    /// Columns: the file's, divided and rounded up.
    pub(super) width: u32,
    /// Rows: the file's, divided and rounded up.
    pub(super) height: u32,
    /// 1: grey; 3: red, green, blue; 4: inks, 0 bare paper.
    pub(super) channels: usize,
    /// Pixels, rows from the top.
    pub(super) data: Vec<u8>,
    /// The colour profile.
    pub(super) icc: Option<Vec<u8>>,
}

/// Reads the segments up to the first scan: what the file is, and its EXIF block.
pub(super) fn probe(input: &mut impl BufRead) -> Result<(Summary, Option<Vec<u8>>), ThumbnailError> {
    let (headers, scan) = Headers::read(input)?;
    let summary = headers.summary(&scan)?;
    // Refuses sampling that cannot be read.
    Geometry::new(&summary, 8)?;
    Ok((summary, headers.exif))
}

/// Decodes at `1 / divisor` of the size until `deadline`; `divisor` is 1, 2, 4 or 8.
pub(super) fn decode(
    mut input: impl BufRead,
    divisor: u32,
    deadline: Option<Instant>,
) -> Result<Picture, ThumbnailError> {
    let (mut headers, scan) = Headers::read(&mut input)?;
    let icc = headers.profile.close();
    let summary = headers.summary(&scan)?;
    let geometry = Geometry::new(&summary, divisor)?;
    let mut colors = Colors::new(&geometry, headers.color_space());
    let mut bits = Bits::new(input, deadline);
    if summary.is_buffered() {
        let mut kept = Coefficients::new(&geometry);
        let mut next = Some(scan);
        let mut scans = 0_u32;
        while let Some(scan) = next {
            scans = scans.saturating_add(1);
            if scans > MAX_SCANS {
                return Err(ThumbnailError::TooLarge("the image takes too long to decode"));
            }
            kept.take_divisors(&geometry, &headers, &scan)?;
            read_scan(&mut bits, &headers, &scan, &geometry, &mut kept)?;
            let marker = bits.end_scan();
            next = headers.next_scan(bits.input(), marker)?;
        }
        kept.render(&geometry, &mut colors);
    } else {
        stream(&mut bits, &headers, &scan, &geometry, &mut colors)?;
    }
    let (width, height) = geometry.size;
    Ok(Picture { width, height, channels: colors.channels(), data: colors.into_pixels(), icc })
}

/// Bytes held at the peak of [`decode`], but for the profile.
pub(super) fn estimate(summary: &Summary, divisor: u32) -> u64 {
    let Ok(geometry) = Geometry::new(summary, divisor) else { return u64::MAX };
    let kept = if summary.is_buffered() { Coefficients::bytes(&geometry) } else { 0 };
    let (width, height) = geometry.size;
    let pixels = u64::from(width).saturating_mul(u64::from(height));
    let pixels = pixels.saturating_mul(summary.frame.count.into());
    [kept, pixels, geometry.strip_bytes()].into_iter().fold(0, u64::saturating_add)
}

/// The one scan of a sequential file, transformed while it is read.
fn stream(
    bits: &mut Bits<impl BufRead>,
    headers: &Headers,
    scan: &Scan,
    geometry: &Geometry,
    colors: &mut Colors,
) -> Result<(), ThumbnailError> {
    let mut strips = Strips::new(geometry);
    let mut reader = Streamed::new(headers, scan, geometry)?;
    let mut restarts = Restarts::new(headers);
    for _ in 0..geometry.mcu_rows {
        for unit in 0..geometry.mcu_columns {
            if restarts.is_due() {
                bits.restart()?;
                reader.restart();
            }
            reader.unit(bits, |(component, column, row), values| {
                let across = geometry.components().get(component).map_or(1, |blocks| blocks.across);
                strips.put((component, unit.saturating_mul(across).saturating_add(column), row), values);
            })?;
        }
        bits.check_end()?;
        colors.push(&strips);
    }
    Ok(())
}

/// One of several scans, into the coefficients.
fn read_scan(
    bits: &mut Bits<impl BufRead>,
    headers: &Headers,
    scan: &Scan,
    geometry: &Geometry,
    kept: &mut Coefficients,
) -> Result<(), ThumbnailError> {
    let mut reader = Buffered::new(headers, scan)?;
    let mut restarts = Restarts::new(headers);
    let grid = geometry.scan_grid(scan);
    for row in 0..grid.rows {
        for column in 0..grid.columns {
            if restarts.is_due() {
                bits.restart()?;
                reader.restart();
            }
            for (index, part) in scan.parts.iter().enumerate() {
                for at in geometry.blocks_of(scan, part.component, (column, row)) {
                    let block = kept
                        .block(part.component, at)
                        .ok_or_else(|| ThumbnailError::broken("no such block"))?;
                    reader.block(bits, index, block)?;
                }
            }
        }
        bits.check_end()?;
    }
    Ok(())
}

/// Counts units towards the next restart marker.
struct Restarts {
    /// Units between two; 0 for none.
    interval: u32,
    /// Units since the last.
    since: u32,
}

impl Restarts {
    /// At the start of a scan.
    fn new(headers: &Headers) -> Self {
        Self { interval: headers.tables.restart_interval, since: 0 }
    }

    /// Whether a marker stands before the unit that comes now.
    fn is_due(&mut self) -> bool {
        let due = self.interval > 0 && self.since == self.interval;
        self.since = if due { 1 } else { self.since.saturating_add(1) };
        due
    }
}

/// Encoders write about ten.
const MAX_SCANS: u32 = 100;

#[cfg(test)]
mod tests;
