//! Reading of scans, MCU by MCU, past damage.
//!
//! Owns what is done about damage: as in browsers, MCUs that cannot be read stay grey up to the next restart marker with the
//! right number, and a truncated scan counts as far as it goes. Refuses to know codes and coefficients.

use std::io::{self, BufRead};

use super::super::ThumbnailError;
use super::bits::{Bits, Stop};
use super::blocks::{Buffered, Streamed};
use super::coefficients::Coefficients;
use super::colors::{Colors, Strips};
use super::geometry::Geometry;
use super::headers::{Headers, Scan};

/// How much of a scan could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    /// MCUs that were read.
    good: u64,
    /// MCUs of a row.
    across: u64,
    /// MCUs of the scan.
    total: u64,
}

impl Coverage {
    /// For a scan of which nothing has been read.
    fn none(across: u32, down: u32) -> Self {
        Self { good: 0, across: across.into(), total: u64::from(across).saturating_mul(down.into()) }
    }

    /// Whether all of it could be read.
    pub(super) fn is_complete(&self) -> bool {
        self.good >= self.total
    }

    /// Whether the picture is worth showing: at least a row was read, or half of a scan of one or two rows.
    pub(super) fn is_enough(&self) -> bool {
        self.good > 0 && self.good >= self.across.min(self.total.div_ceil(2))
    }
}

/// Reads the only scan of a sequential file and transforms it row by row.
pub(super) fn stream(
    bits: &mut Bits<impl BufRead>,
    headers: &Headers,
    scan: &Scan,
    geometry: &Geometry,
    colors: &mut Colors,
) -> Result<Coverage, ThumbnailError> {
    let mut strips = Strips::new(geometry);
    let mut reader = Streamed::new(headers, scan, geometry)?;
    let mut pace = Pace::new(headers, Coverage::none(geometry.mcu_columns, geometry.mcu_rows));
    pace.goes_on = pace.interval == 0;
    for _ in 0..geometry.mcu_rows {
        for unit in 0..geometry.mcu_columns {
            if pace.advance(bits)? {
                reader.restart();
            }
            let is_good = !pace.is_lost && {
                let outcome = reader.unit(bits, |(component, column, row), values| {
                    let across = geometry.components().get(component).map_or(1, |blocks| blocks.across);
                    strips.put((component, unit.saturating_mul(across).saturating_add(column), row), values);
                });
                pace.note(outcome, bits)?
            };
            if !is_good {
                strips.blank(geometry, unit);
            }
        }
        bits.check_time()?;
        colors.push(&mut strips);
        if pace.is_ended {
            (0..geometry.mcu_columns).for_each(|unit| strips.blank(geometry, unit));
            while !colors.is_full() {
                colors.push(&mut strips);
            }
            break;
        }
    }
    Ok(pace.coverage)
}

/// Reads one of several scans into the coefficients.
pub(super) fn read(
    bits: &mut Bits<impl BufRead>,
    headers: &Headers,
    scan: &Scan,
    geometry: &Geometry,
    kept: &mut Coefficients,
) -> Result<Coverage, ThumbnailError> {
    let mut reader = Buffered::new(headers, scan)?;
    let grid = geometry.scan_grid(scan);
    let mut pace = Pace::new(headers, Coverage::none(grid.columns, grid.rows));
    for row in 0..grid.rows {
        for column in 0..grid.columns {
            if pace.advance(bits)? {
                reader.restart();
            }
            if !pace.is_lost {
                let outcome = unit(bits, geometry, (column, row), &mut reader, kept);
                pace.note(outcome, bits)?;
            }
        }
        bits.check_time()?;
        if pace.is_ended {
            break;
        }
    }
    Ok(pace.coverage)
}

/// Reads one MCU of one of several scans.
fn unit(
    bits: &mut Bits<impl BufRead>,
    geometry: &Geometry,
    at: (u32, u32),
    reader: &mut Buffered<'_>,
    kept: &mut Coefficients,
) -> Result<(), ThumbnailError> {
    let scan = reader.scan;
    for (index, part) in scan.parts.iter().enumerate() {
        for at in geometry.blocks_of(scan, part.component, at) {
            let block = kept.block(part.component, at);
            reader.block(bits, index, block.ok_or_else(|| ThumbnailError::broken("no such block"))?)?;
        }
    }
    Ok(())
}

/// The position between restart markers, and whether MCUs can be read there.
struct Pace {
    /// MCUs between two markers; 0 if there are no markers.
    interval: u32,
    /// MCUs since the last marker.
    since: u32,
    /// The number of the next marker, 0 to 7.
    expected: u8,
    /// Whether nothing can be read up to the next marker.
    is_lost: bool,
    /// Whether nothing more can be read.
    is_ended: bool,
    /// Whether reading continues after a bad code. Without markers there is no better place to continue, and browsers show what
    /// follows too, though it may be shifted.
    goes_on: bool,
    coverage: Coverage,
}

impl Pace {
    /// At the start of a scan.
    fn new(headers: &Headers, coverage: Coverage) -> Self {
        let interval = headers.tables.restart_interval;
        Self { interval, since: 0, expected: 0, is_lost: false, is_ended: false, goes_on: false, coverage }
    }

    /// Advances to the next MCU, past the restart marker before it if there must be one. Returns whether there must.
    #[inline]
    fn advance(&mut self, bits: &mut Bits<impl BufRead>) -> io::Result<bool> {
        let is_due = self.interval > 0 && self.since == self.interval;
        if is_due {
            self.since = 1;
            self.is_lost = self.is_ended || !self.resume(bits)?;
        } else {
            self.since = self.since.saturating_add(1);
        }
        Ok(is_due)
    }

    /// Searches for the expected marker and returns whether it was found. If a later one is found, the ones between are lost
    /// together with the MCUs after them.
    fn resume(&mut self, bits: &mut Bits<impl BufRead>) -> io::Result<bool> {
        let wanted = self.expected;
        self.expected = wanted.wrapping_add(1) & 7;
        loop {
            match bits.find_marker()? {
                Stop::Marker(code @ 0xd0..=0xd7) => match code.wrapping_sub(wanted) & 7 {
                    0 => {
                        bits.pass_marker();
                        return Ok(true);
                    }
                    1..=3 => return Ok(false),
                    // An earlier number: a repeated marker, which is skipped.
                    _ => bits.pass_marker(),
                },
                // No marker occurs here with these codes: damaged bytes.
                Stop::Marker(0..=0xbf) => bits.pass_marker(),
                Stop::Marker(_) | Stop::EndOfFile => {
                    self.is_ended = true;
                    return Ok(false);
                }
            }
        }
    }

    /// Records the result of reading an MCU and returns whether it can be shown.
    #[inline]
    fn note(
        &mut self,
        outcome: Result<(), ThumbnailError>,
        bits: &Bits<impl BufRead>,
    ) -> Result<bool, ThumbnailError> {
        let is_good = match outcome {
            Ok(()) => true,
            Err(ThumbnailError::Broken(_)) => false,
            Err(error) => return Err(error),
        };
        if is_good && !bits.is_exhausted() {
            self.coverage.good = self.coverage.good.saturating_add(1);
        } else if bits.is_exhausted() || !self.goes_on {
            self.is_lost = true;
            self.is_ended = self.interval == 0;
        }
        Ok(is_good)
    }
}
