//! Fax compression (ITU-T T.4 and T.6; TIFF 6.0, sections 10 and 11): modified Huffman, group 3 with one- and
//! two-dimensional rows, group 4.
//!
//! Owns rows, end-of-line codes and what is done about damage. Refuses to know pixels beyond black and white. The code
//! tables are those of the `fax` crate, whose decoders lack modified Huffman and two-dimensional group 3 and stop at the
//! first bad code.

use std::io::{self, BufRead, Read};

use fax::BitReader;
use fax::maps::{Mode, black, mode, white};

/// How a chunk is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaxScheme {
    /// Modified Huffman (compression 2): each row is one-dimensional and begins at a whole byte, without end-of-line codes.
    Plain,
    /// Group 3: each row follows an end-of-line code.
    Group3 {
        /// Whether a bit after that code says if the row is one- or two-dimensional.
        is_2d: bool,
    },
    /// Group 4: each row is two-dimensional.
    Group4,
}

/// The coding of a row of group 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowCoding {
    /// One-dimensional: by itself.
    One,
    /// Two-dimensional: by the differences from the row above.
    Two,
    /// No row: the page has ended.
    None,
}

/// Reads decompressed rows: one bit a pixel, black is 1, each row from a whole byte on.
pub(super) struct FaxRows<R> {
    bits: FaxBits<R>,
    scheme: FaxScheme,
    /// Pixels of a row.
    width: u32,
    /// The columns at which the last row changes colour, first to black.
    reference: Vec<u32>,
    row: Vec<u8>,
    /// How many bytes of it were returned.
    returned: usize,
    /// Where the runs of the last one-dimensional row ended; beyond the width only in damaged data.
    run_end: u32,
    /// Whether the last row was bad, so that reading goes on after the next end-of-line code.
    is_broken: bool,
    /// Whether the page has ended. Further rows are white.
    is_ended: bool,
}

impl<R: BufRead> FaxRows<R> {
    /// For rows of `width` pixels.
    pub(super) fn new(input: R, scheme: FaxScheme, width: u32) -> Self {
        let bits = FaxBits { input, word: 0, count: 0, added: 0, consumed: 0 };
        let (reference, row) = (Vec::new(), Vec::new());
        Self {
            bits,
            scheme,
            width,
            reference,
            row,
            returned: 0,
            run_end: 0,
            is_broken: false,
            is_ended: false,
        }
    }

    /// Decodes the next row; `None` at the end of the data.
    fn advance(&mut self) -> io::Result<Option<()>> {
        self.bits.fill()?;
        let changes = match self.scheme {
            _ if self.is_ended => Some(Vec::new()),
            FaxScheme::Plain => {
                self.bits.align();
                match self.read_one_dimensional() {
                    Some(changes) => Some(changes),
                    None => self.find_row()?,
                }
            }
            FaxScheme::Group4 => self.read_two_dimensional(),
            FaxScheme::Group3 { is_2d } => match self.skip_eol(is_2d)? {
                RowCoding::One => self.read_one_dimensional(),
                RowCoding::Two => self.read_two_dimensional(),
                RowCoding::None => {
                    self.is_ended = true;
                    Some(Vec::new())
                }
            },
        };
        if self.bits.is_past_end() && !self.is_ended {
            // The rest of the data was searched for a row in vain.
            return if changes.is_none() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(None) };
        }
        match changes {
            Some(changes) => self.reference = changes,
            // The last row is repeated in place of the bad one.
            None if matches!(self.scheme, FaxScheme::Group3 { .. }) => self.is_broken = true,
            None => return Err(io::ErrorKind::InvalidData.into()),
        }
        self.draw();
        Ok(Some(()))
    }

    /// Skips the end-of-line code before a row of group 3. Two in succession end the page.
    fn skip_eol(&mut self, is_2d: bool) -> io::Result<RowCoding> {
        let mut coding = RowCoding::One;
        for _ in 0..2 {
            self.bits.fill()?;
            if !self.is_broken && self.bits.peek_bits(EOL_ZEROS) != 0 {
                return Ok(coding);
            }
            self.bits.skip_one_eol()?;
            self.is_broken = false;
            if is_2d && self.bits.take(1)? == 0 {
                coding = RowCoding::Two;
            }
        }
        Ok(if self.bits.is_past_end() || self.bits.peek_bits(EOL_ZEROS) == 0 {
            RowCoding::None
        } else {
            coding
        })
    }

    /// Reads a one-dimensional row as its changes of colour; `None` for a bad code.
    fn read_one_dimensional(&mut self) -> Option<Vec<u32>> {
        let mut changes = Vec::new();
        let (mut at, mut is_black) = (0_u32, false);
        while at < self.width {
            at = at.saturating_add(self.run(is_black)?);
            self.add_change(&mut changes, at.min(self.width))?;
            is_black = !is_black;
        }
        self.run_end = at;
        Some(changes)
    }

    /// Searches for the next intact row after damage: one that ends exactly at the width, with zeros up to the next whole byte.
    fn find_row(&mut self) -> io::Result<Option<Vec<u32>>> {
        while !self.bits.is_past_end() {
            self.bits.align();
            self.bits.fill()?;
            if self.bits.peek_bits(8) == 0 {
                // No row begins with eight zeros.
                self.bits.take(8)?;
                continue;
            }
            let before = self.bits.consumed;
            let changes = self.read_one_dimensional();
            let is_exact = self.run_end == self.width;
            let rest = self.bits.count & 7;
            let is_aligned = rest == 0 || self.bits.peek_bits(rest) == 0;
            if let Some(changes) = changes.filter(|_| is_exact && is_aligned && !self.bits.is_past_end()) {
                return Ok(Some(changes));
            }
            if self.bits.consumed == before {
                self.bits.take(8)?;
            }
        }
        Ok(None)
    }

    /// Reads a two-dimensional row as its changes of colour (T.4, 4.2; T.6, 2.2); `None` for a bad code.
    fn read_two_dimensional(&mut self) -> Option<Vec<u32>> {
        let mut changes: Vec<u32> = Vec::new();
        let (mut at, mut is_black) = (0_u32, false);
        let (mut is_start, mut passed) = (true, 0_usize);
        while at < self.width {
            // b1 is the first change of the row above to the right of here and to the other colour, b2 the one after it.
            while self.reference.get(passed).is_some_and(|change| *change < at || !is_start && *change == at)
            {
                passed = passed.saturating_add(1);
            }
            let first = if passed & 1 == usize::from(is_black) { passed } else { passed.saturating_add(1) };
            let change_at = |index: usize| self.reference.get(index).copied().unwrap_or(self.width);
            let (b1, b2) = (change_at(first), change_at(first.saturating_add(1)));
            match mode::decode(&mut self.bits)? {
                Mode::Pass => at = b2,
                Mode::Vertical(by) => {
                    let to = b1.checked_add_signed(by.into())?.min(self.width);
                    if to < at {
                        return None;
                    }
                    self.add_change(&mut changes, to)?;
                    (at, is_black) = (to, !is_black);
                }
                Mode::Horizontal => {
                    for is_black in [is_black, !is_black] {
                        at = at.saturating_add(self.run(is_black)?).min(self.width);
                        self.add_change(&mut changes, at)?;
                    }
                }
                // The end of the page, or damage that looks like it.
                Mode::EOF | Mode::Extension => return None,
            }
            is_start = false;
            if self.bits.is_past_end() {
                return None;
            }
        }
        Some(changes)
    }

    /// Adds a change of colour. Runs may be empty, but no row has many more changes than pixels: `None` for one that would grow
    /// without end.
    fn add_change(&self, changes: &mut Vec<u32>, at: u32) -> Option<()> {
        let most = usize::try_from(self.width).ok()?.saturating_add(4);
        (changes.len() < most).then(|| changes.push(at))
    }

    /// Reads the length of a run: make-up codes of multiples of 64, then a terminating code below 64.
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

    /// Draws the current row from its changes of colour.
    fn draw(&mut self) {
        let size = usize::try_from(self.width.div_ceil(8)).unwrap_or(0);
        self.row.clear();
        self.row.resize(size, 0);
        self.returned = 0;
        for [from, to] in black_runs(&self.reference, self.width) {
            for at in from..to {
                let byte = usize::try_from(at.wrapping_shr(3)).ok().and_then(|at| self.row.get_mut(at));
                if let Some(byte) = byte {
                    *byte |= 0x80_u8.wrapping_shr(at & 7);
                }
            }
        }
    }
}

/// Start and end of the black runs of a row.
fn black_runs(changes: &[u32], width: u32) -> impl Iterator<Item = [u32; 2]> {
    changes.chunks(2).filter_map(move |pair| match pair {
        [from, to] => Some([*from, *to]),
        [from] => Some([*from, width]),
        _ => None,
    })
}

impl<R: BufRead> Read for FaxRows<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.returned >= self.row.len() && self.advance()?.is_none() {
            return Ok(0);
        }
        let rest = self.row.get(self.returned..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
        self.returned = self.returned.saturating_add(count);
        Ok(count)
    }
}

/// Reads bits, the highest of a byte first. After the end of the data they are 0.
struct FaxBits<R> {
    input: R,
    /// Bits read ahead, in the low part.
    word: u64,
    /// How many bits are in `word`.
    count: u32,
    /// How many zeros were added after the end of the data.
    added: u32,
    /// How many bits the codes took.
    consumed: u64,
}

impl<R: BufRead> FaxBits<R> {
    /// Reads ahead to more than 32 bits.
    fn fill(&mut self) -> io::Result<()> {
        while self.count <= 32 {
            let byte = self.input.fill_buf()?.first().copied();
            match byte {
                Some(_) => self.input.consume(1),
                None => self.added = self.added.saturating_add(8),
            }
            self.word = self.word.wrapping_shl(8) | u64::from(byte.unwrap_or(0));
            self.count = self.count.saturating_add(8);
        }
        Ok(())
    }

    /// Whether bits were taken after the end of the data.
    fn is_past_end(&self) -> bool {
        self.count < self.added
    }

    /// The next `count` bits, which are not taken.
    fn peek_bits(&self, count: u32) -> u64 {
        let rest = self.word.wrapping_shr(self.count.saturating_sub(count));
        rest & u64::MAX.wrapping_shr(64_u32.saturating_sub(count.max(1)))
    }

    /// Takes the next `count` bits.
    fn take(&mut self, count: u32) -> io::Result<u64> {
        self.fill()?;
        let bits = self.peek_bits(count);
        self.count = self.count.saturating_sub(count);
        Ok(bits)
    }

    /// Skips to the next whole byte.
    fn align(&mut self) {
        self.count = self.count.saturating_sub(self.count & 7);
    }

    /// Skips to the end of the next end-of-line code: eleven or more zeros and a one.
    fn skip_one_eol(&mut self) -> io::Result<()> {
        let mut zeros = 0_u32;
        while !self.is_past_end() {
            if self.take(1)? == 1 {
                if zeros >= EOL_ZEROS {
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

impl<R: BufRead> BitReader for FaxBits<R> {
    type Error = io::Error;

    fn peek(&self, bits: u8) -> Option<u16> {
        u16::try_from(self.peek_bits(u32::from(bits).min(16))).ok()
    }

    fn consume(&mut self, bits: u8) -> Result<(), io::Error> {
        self.count = self.count.saturating_sub(bits.into());
        self.consumed = self.consumed.saturating_add(bits.into());
        self.fill()
    }

    fn bits_to_byte_boundary(&self) -> u8 {
        u8::try_from(self.count & 7).unwrap_or(0)
    }
}

/// Zeros before the one of an end-of-line code (T.4, 4.1.2).
const EOL_ZEROS: u32 = 11;
/// Pixels of a run, more than any row has.
const MAX_RUN: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn endless_empty_runs_are_an_error_and_take_no_memory() {
        // White and black runs of length 0 in turn: 8 and 10 bits, so that 9 bytes hold four of each.
        let bits: Vec<u8> = "001101010000110111".repeat(4).bytes().map(|bit| bit - b'0').collect();
        let bytes: Vec<u8> =
            bits.chunks(8).map(|byte| byte.iter().fold(0, |all, bit| all << 1 | bit)).collect();
        let page = bytes.repeat(100_000);
        let mut rows = FaxRows::new(&page[..], FaxScheme::Plain, 100);
        rows.bits.fill().unwrap();
        assert!(rows.read_one_dimensional().is_none());
        let mut row = [0; 13];
        assert!(FaxRows::new(&page[..], FaxScheme::Plain, 100).read(&mut row).is_err());
    }
}
