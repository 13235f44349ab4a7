//! Huffman codes (T.81, annex C and F.2.2.3), looked up ten bits at a time. Owns the tables; refuses to know blocks.

use std::io::BufRead;

use super::ThumbnailError;
use super::bits::Bits;

/// Bits looked up at once, enough for most codes together with the number after them.
const LOOKUP_BITS: u32 = 10;
/// Entries of a lookup table.
const ENTRIES: usize = 1 << LOOKUP_BITS;

/// A table of codes.
#[derive(Clone, Debug)]
pub(super) struct Huffman {
    /// By the next ten bits: a short code and, where they cover it, the number after it.
    lookup: Box<[CodeEntry; ENTRIES]>,
    /// By code length: the first 16-bit value above all codes of this length; 0 if there are none.
    limits: [u32; 17],
    /// By code length: what to add to a code to get the index of its symbol.
    offsets: [i32; 17],
    /// The symbols by ascending code.
    symbols: Vec<u8>,
}

/// The meaning of ten bits.
#[derive(Clone, Copy, Debug, Default)]
struct CodeEntry {
    /// The number after the code, if the ten bits cover it.
    value: i16,
    symbol: u8,
    /// The length of the code in the low half, of code and number in the high half; 0 if longer than ten bits.
    lengths: u8,
}

/// A symbol of an AC table with its number: a run of zeros and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunValue {
    /// Zeros before the value.
    pub(super) run: u32,
    /// 0 means no value: the end of a block (EOB), sixteen zeros (ZRL), or the end of several blocks (`EOBn`).
    pub(super) value: i32,
}

impl Huffman {
    /// A table from a DHT segment: the number of codes of each length, and the symbols. `None` if they do not make a code.
    pub(super) fn new(counts: [u8; 16], symbols: Vec<u8>) -> Option<Self> {
        let mut table = Self {
            lookup: Box::new([CodeEntry::default(); ENTRIES]),
            limits: [0; 17],
            offsets: [0; 17],
            symbols,
        };
        let (mut code, mut place) = (0_u32, 0_u32);
        for (length, count) in (1_u32..).zip(counts) {
            let count = u32::from(count);
            let index = usize::try_from(length).ok()?;
            *table.offsets.get_mut(index)? =
                i32::try_from(place).ok()?.wrapping_sub(i32::try_from(code).ok()?);
            for step in 0..count {
                let symbol = *table.symbols.get(usize::try_from(place.checked_add(step)?).ok()?)?;
                table.fill(code.checked_add(step)?, length, symbol)?;
            }
            code = code.checked_add(count)?;
            place = place.checked_add(count)?;
            if code > 1_u32.checked_shl(length)? {
                return None;
            }
            if count > 0 {
                *table.limits.get_mut(index)? = code.checked_shl(16_u32.checked_sub(length)?)?;
            }
            code = code.checked_mul(2)?;
        }
        Some(table)
    }

    /// Fills all entries whose ten bits begin with a code.
    fn fill(&mut self, code: u32, length: u32, symbol: u8) -> Option<()> {
        let Some(free) = LOOKUP_BITS.checked_sub(length) else { return Some(()) };
        let first = usize::try_from(code.checked_shl(free)?).ok()?;
        let size = u32::from(symbol & 15);
        for rest in 0..1_u32.checked_shl(free)? {
            let entry = self.lookup.get_mut(first.checked_add(usize::try_from(rest).ok()?)?)?;
            let (mut value, mut total) = (0, 0);
            if let Some(unused) = free.checked_sub(size) {
                let bits = i32::try_from(rest.wrapping_shr(unused)).ok()?;
                let half = 1_i32.checked_shl(size)?.wrapping_shr(1);
                let number =
                    if bits < half { bits.wrapping_sub(half.wrapping_mul(2)).wrapping_add(1) } else { bits };
                value = i16::try_from(number).ok()?;
                total = length.checked_add(size)?;
            }
            let lengths = u8::try_from(total.wrapping_shl(4) | length).ok()?;
            *entry = CodeEntry { value, symbol, lengths };
        }
        Some(())
    }

    /// Reads a symbol. At least 15 bits after it are read ahead.
    #[inline]
    pub(super) fn symbol(&self, bits: &mut Bits<impl BufRead>) -> Result<u8, ThumbnailError> {
        bits.refill()?;
        let entry = self.entry(bits);
        let length = u32::from(entry.lengths & 15);
        if length > 0 {
            bits.skip(length);
            return Ok(entry.symbol);
        }
        self.long_symbol(bits)
    }

    /// Reads a symbol of a DC table and the number after it (T.81, F.2.2.1).
    #[inline]
    pub(super) fn difference(&self, bits: &mut Bits<impl BufRead>) -> Result<i32, ThumbnailError> {
        let symbol = self.symbol(bits)?;
        // Valid sizes go up to 11.
        Ok(bits.signed(u32::from(symbol & 15)))
    }

    /// Reads a symbol of an AC table and the number after it (T.81, F.2.2.2).
    #[inline]
    pub(super) fn run_value(&self, bits: &mut Bits<impl BufRead>) -> Result<RunValue, ThumbnailError> {
        bits.refill()?;
        let entry = self.entry(bits);
        let total = u32::from(entry.lengths.wrapping_shr(4));
        if total > 0 {
            bits.skip(total);
            return Ok(RunValue {
                run: u32::from(entry.symbol.wrapping_shr(4)),
                value: i32::from(entry.value),
            });
        }
        let symbol = self.symbol(bits)?;
        let value = bits.signed(u32::from(symbol & 15));
        Ok(RunValue { run: u32::from(symbol.wrapping_shr(4)), value })
    }

    #[inline]
    fn entry(&self, bits: &Bits<impl BufRead>) -> CodeEntry {
        let index = usize::try_from(bits.peek(LOOKUP_BITS)).unwrap_or(0);
        self.lookup.get(index).copied().unwrap_or_default()
    }

    /// Reads a symbol whose code is longer than ten bits.
    #[cold]
    fn long_symbol(&self, bits: &mut Bits<impl BufRead>) -> Result<u8, ThumbnailError> {
        let next = bits.peek(16);
        for (length, (limit, offset)) in (0_u32..).zip(self.limits.iter().zip(&self.offsets)) {
            if next < *limit {
                let code = i32::try_from(next.wrapping_shr(16_u32.wrapping_sub(length))).unwrap_or(0);
                let place = usize::try_from(code.wrapping_add(*offset)).unwrap_or(usize::MAX);
                let symbol = self
                    .symbols
                    .get(place)
                    .ok_or_else(|| ThumbnailError::broken("a code without a symbol"))?;
                bits.skip(length);
                return Ok(*symbol);
            }
        }
        // Skipped, so that a caller that continues makes progress.
        bits.skip(16);
        Err(ThumbnailError::broken("no such code"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of every length from 1 to 16: 0, 10, 110, …
    fn ladder() -> Huffman {
        Huffman::new([1; 16], (0..16).collect()).unwrap()
    }

    #[test]
    fn codes_of_every_length_are_found() {
        let table = ladder();
        for length in 1..=16_u32 {
            let code = ((1_u32 << length) - 2) << (32 - length);
            let mut bytes = code.to_be_bytes().to_vec();
            bytes = bytes
                .into_iter()
                .flat_map(|byte| if byte == 255 { vec![255, 0] } else { vec![byte] })
                .collect();
            bytes.extend([0; 8]);
            let mut bits = Bits::new(bytes.as_slice(), None);
            assert_eq!(u32::from(table.symbol(&mut bits).unwrap()), length - 1);
        }
        let mut bits = Bits::new([255, 0, 255, 0, 255, 0, 0].as_slice(), None);
        assert!(table.symbol(&mut bits).is_err());
    }

    #[test]
    fn numbers_are_read_within_the_lookup_and_beyond_it() {
        // Symbol 0x25 (two zeros, five bits) as a code of 2 bits, 0x3a (ten bits) as one of 3.
        let mut counts = [0; 16];
        (counts[1], counts[2]) = (1, 1);
        let table = Huffman::new(counts, vec![0x25, 0x3a]).unwrap();
        let mut bits = Bits::new([0b0010_0110, 0, 0].as_slice(), None);
        assert_eq!(table.run_value(&mut bits).unwrap(), RunValue { run: 2, value: 19 });
        let mut bits = Bits::new([0b0100_0000, 0b0000_1000, 0, 0].as_slice(), None);
        assert_eq!(table.run_value(&mut bits).unwrap(), RunValue { run: 3, value: -1022 });
    }

    #[test]
    fn malformed_tables_are_refused() {
        let mut counts = [0; 16];
        counts[0] = 3;
        assert!(Huffman::new(counts, vec![1, 2, 3]).is_none());
        counts[0] = 1;
        assert!(Huffman::new(counts, vec![]).is_none());
    }
}
