//! Fax rows (ITU-T T.4 and T.6): modified Huffman, group 3 in one and two dimensions, group 4.
//!
//! Owns the lines. The codes are the `fax` crate's, which has decoders of its own for two of the four kinds only.

use std::io::{self, BufRead, Read};

use fax::BitReader;
use fax::maps::{Mode, black, mode, white};

/// How rows are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// TIFF's own: each row in one dimension, from a whole byte on, without end marks.
    Plain,
    /// Group 3: each row after an end mark.
    Group3 {
        /// Whether a bit after the mark says in how many dimensions the row is coded.
        is_mixed: bool,
    },
    /// Group 4: each row in two dimensions.
    Group4,
}

/// In how many dimensions a row is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimensions {
    /// By itself.
    One,
    /// By the row above.
    Two,
    /// There is none.
    None,
}

/// Rows of bits, black 1, each from a whole byte on.
pub(super) struct Rows<R> {
    /// The codes.
    bits: Bits<R>,
    /// How rows are coded.
    kind: Kind,
    /// Pixels of a row.
    width: u32,
    /// Where the last row changes colour, first to black.
    reference: Vec<u32>,
    /// The row at hand.
    row: Vec<u8>,
    /// Bytes of it that were handed on.
    given: usize,
    /// Where the runs of the last row in one dimension ended: past the width only in what is damaged.
    run_end: u32,
    /// Whether the last row was broken, so that the next end mark is the way on.
    is_broken: bool,
    /// Whether the end of the page came: what rows there should still be are white.
    is_ended: bool,
}

impl<R: BufRead> Rows<R> {
    /// Rows of `width` pixels.
    pub(super) fn new(input: R, kind: Kind, width: u32) -> Self {
        let bits = Bits { input, word: 0, count: 0, lacking: 0, passed: 0 };
        let (reference, row) = (Vec::new(), Vec::new());
        Self { bits, kind, width, reference, row, given: 0, run_end: 0, is_broken: false, is_ended: false }
    }

    /// Decodes the next row; nothing at the end.
    fn advance(&mut self) -> io::Result<Option<()>> {
        self.bits.fill()?;
        let changes = match self.kind {
            _ if self.is_ended => Some(Vec::new()),
            Kind::Plain => {
                self.bits.align();
                match self.one_dimension() {
                    Some(changes) => Some(changes),
                    None => self.find_row()?,
                }
            }
            Kind::Group4 => self.two_dimensions(),
            Kind::Group3 { is_mixed } => match self.pass_marks(is_mixed)? {
                Dimensions::One => self.one_dimension(),
                Dimensions::Two => self.two_dimensions(),
                Dimensions::None => {
                    self.is_ended = true;
                    Some(Vec::new())
                }
            },
        };
        if self.bits.is_past_end() && !self.is_ended {
            // What was looked through to the end had no row.
            return if changes.is_none() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(None) };
        }
        match changes {
            Some(changes) => self.reference = changes,
            // The last row stands in for it.
            None if matches!(self.kind, Kind::Group3 { .. }) => self.is_broken = true,
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
        self.draw();
        Ok(Some(()))
    }

    /// Passes over the marks between two rows of group 3. Two of them and more end the page.
    fn pass_marks(&mut self, is_mixed: bool) -> io::Result<Dimensions> {
        let mut dimensions = Dimensions::One;
        for _ in 0..2 {
            self.bits.fill()?;
            if !self.is_broken && self.bits.next(END_MARK_ZEROS) != 0 {
                return Ok(dimensions);
            }
            self.bits.pass_end_mark()?;
            self.is_broken = false;
            if is_mixed && self.bits.take(1)? == 0 {
                dimensions = Dimensions::Two;
            }
        }
        Ok(if self.bits.is_past_end() || self.bits.next(END_MARK_ZEROS) == 0 {
            Dimensions::None
        } else {
            dimensions
        })
    }

    /// A row of runs.
    fn one_dimension(&mut self) -> Option<Vec<u32>> {
        let mut changes = Vec::new();
        let (mut at, mut is_black) = (0_u32, false);
        while at < self.width {
            at = at.saturating_add(self.run(is_black)?);
            self.note(&mut changes, at.min(self.width))?;
            is_black = !is_black;
        }
        self.run_end = at;
        Some(changes)
    }

    /// The next whole row behind damage: one that ends exactly where it should, with nothing up to the next whole byte.
    fn find_row(&mut self) -> io::Result<Option<Vec<u32>>> {
        while !self.bits.is_past_end() {
            self.bits.align();
            self.bits.fill()?;
            if self.bits.next(8) == 0 {
                // No row begins so.
                self.bits.take(8)?;
                continue;
            }
            let before = self.bits.passed;
            let changes = self.one_dimension();
            let is_exact = self.run_end == self.width;
            let rest = self.bits.count & 7;
            let is_aligned = rest == 0 || self.bits.next(rest) == 0;
            if let Some(changes) = changes.filter(|_| is_exact && is_aligned && !self.bits.is_past_end()) {
                return Ok(Some(changes));
            }
            if self.bits.passed == before {
                self.bits.take(8)?;
            }
        }
        Ok(None)
    }

    /// A row by its differences from the last (T.4, 4.2; T.6, 2.2).
    fn two_dimensions(&mut self) -> Option<Vec<u32>> {
        let mut changes: Vec<u32> = Vec::new();
        let (mut at, mut is_black) = (0_u32, false);
        let (mut is_start, mut passed) = (true, 0_usize);
        while at < self.width {
            // The first change of the last row to the right of here that is to the other colour, and the one after it.
            while self.reference.get(passed).is_some_and(|change| *change < at || !is_start && *change == at)
            {
                passed = passed.saturating_add(1);
            }
            let first = if passed & 1 == usize::from(is_black) { passed } else { passed.saturating_add(1) };
            let place = |index: usize| self.reference.get(index).copied().unwrap_or(self.width);
            let (b1, b2) = (place(first), place(first.saturating_add(1)));
            match mode::decode(&mut self.bits)? {
                Mode::Pass => at = b2,
                Mode::Vertical(by) => {
                    let to = b1.checked_add_signed(by.into())?.min(self.width);
                    if to < at {
                        return None;
                    }
                    self.note(&mut changes, to)?;
                    (at, is_black) = (to, !is_black);
                }
                Mode::Horizontal => {
                    for is_black in [is_black, !is_black] {
                        at = at.saturating_add(self.run(is_black)?).min(self.width);
                        self.note(&mut changes, at)?;
                    }
                }
                // Behind the end, or behind damage that looks like it, there is nothing to show.
                Mode::EOF | Mode::Extension => return None,
            }
            is_start = false;
            if self.bits.is_past_end() {
                return None;
            }
        }
        Some(changes)
    }

    /// Notes a change of colour. Runs may be empty, but no row has many more changes than pixels: `None` for one that would grow without
    /// an end.
    fn note(&self, changes: &mut Vec<u32>, at: u32) -> Option<()> {
        let most = usize::try_from(self.width).ok()?.saturating_add(4);
        (changes.len() < most).then(|| changes.push(at))
    }

    /// A run's length: codes of multiples of 64, then one below.
    fn run(&mut self, is_black: bool) -> Option<u32> {
        let mut length = 0_u32;
        loop {
            let part = if is_black { black::decode(&mut self.bits)? } else { white::decode(&mut self.bits)? };
            length = length.checked_add(part.into()).filter(|length| *length <= MAX_RUN)?;
            if part < 64 {
                return Some(length);
            }
        }
    }

    /// The row at hand out of its changes.
    fn draw(&mut self) {
        let size = usize::try_from(self.width.div_ceil(8)).unwrap_or(0);
        self.row.clear();
        self.row.resize(size, 0);
        self.given = 0;
        for [from, to] in pairs(&self.reference, self.width) {
            for at in from..to {
                let byte = usize::try_from(at.wrapping_shr(3)).ok().and_then(|at| self.row.get_mut(at));
                if let Some(byte) = byte {
                    *byte |= 0x80_u8.wrapping_shr(at & 7);
                }
            }
        }
    }
}

/// The black runs of a row.
fn pairs(changes: &[u32], width: u32) -> impl Iterator<Item = [u32; 2]> {
    changes.chunks(2).filter_map(move |pair| match pair {
        [from, to] => Some([*from, *to]),
        [from] => Some([*from, width]),
        _ => None,
    })
}

impl<R: BufRead> Read for Rows<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given >= self.row.len() && self.advance()?.is_none() {
            return Ok(0);
        }
        let rest = self.row.get(self.given..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
        self.given = self.given.saturating_add(count);
        Ok(count)
    }
}

/// Bits, the highest of a byte first. Behind the end they are 0.
struct Bits<R> {
    /// Bytes.
    input: R,
    /// Bits read ahead, in the low part.
    word: u64,
    /// How many.
    count: u32,
    /// How many were added behind the end.
    lacking: u32,
    /// How many were taken by codes.
    passed: u64,
}

impl<R: BufRead> Bits<R> {
    /// Makes sure of 32 bits.
    fn fill(&mut self) -> io::Result<()> {
        while self.count <= 32 {
            let byte = self.input.fill_buf()?.first().copied();
            match byte {
                Some(_) => self.input.consume(1),
                None => self.lacking = self.lacking.saturating_add(8),
            }
            self.word = self.word.wrapping_shl(8) | u64::from(byte.unwrap_or(0));
            self.count = self.count.saturating_add(8);
        }
        Ok(())
    }

    /// Whether bits were taken that are not there.
    fn is_past_end(&self) -> bool {
        self.count < self.lacking
    }

    /// The next bits.
    fn next(&self, count: u32) -> u64 {
        let rest = self.word.wrapping_shr(self.count.saturating_sub(count));
        rest & u64::MAX.wrapping_shr(64_u32.saturating_sub(count.max(1)))
    }

    /// Takes bits.
    fn take(&mut self, count: u32) -> io::Result<u64> {
        self.fill()?;
        let bits = self.next(count);
        self.count = self.count.saturating_sub(count);
        Ok(bits)
    }

    /// Goes on to a whole byte.
    fn align(&mut self) {
        self.count = self.count.saturating_sub(self.count & 7);
    }

    /// Passes over what is before the end mark of the last row, and the mark: eleven zeros or more, and a one.
    fn pass_end_mark(&mut self) -> io::Result<()> {
        let mut zeros = 0_u32;
        while !self.is_past_end() {
            if self.take(1)? == 1 {
                if zeros >= END_MARK_ZEROS {
                    break;
                }
                zeros = 0;
            } else {
                zeros = zeros.saturating_add(1);
            }
        }
        Ok(())
    }
}

impl<R: BufRead> BitReader for Bits<R> {
    type Error = io::Error;

    fn peek(&self, bits: u8) -> Option<u16> {
        u16::try_from(self.next(u32::from(bits).min(16))).ok()
    }

    fn consume(&mut self, bits: u8) -> Result<(), io::Error> {
        self.count = self.count.saturating_sub(bits.into());
        self.passed = self.passed.saturating_add(bits.into());
        self.fill()
    }

    fn bits_to_byte_boundary(&self) -> u8 {
        u8::try_from(self.count & 7).unwrap_or(0)
    }
}

/// Zeros before the one of an end mark.
const END_MARK_ZEROS: u32 = 11;
/// Pixels of a run, past any row.
const MAX_RUN: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn runs_of_nothing_end_their_row_and_take_no_memory() {
        // White and black runs of length 0, again and again: 8 and 10 bits, so that 9 bytes hold four of each.
        let bits: Vec<u8> = "001101010000110111".repeat(4).bytes().map(|bit| bit - b'0').collect();
        let bytes: Vec<u8> =
            bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect();
        let page = bytes.repeat(100_000);
        let mut rows = Rows::new(&page[..], Kind::Plain, 100);
        rows.bits.fill().unwrap();
        assert!(rows.one_dimension().is_none());
        let mut row = [0; 13];
        assert!(Rows::new(&page[..], Kind::Plain, 100).read(&mut row).is_err());
    }
}
