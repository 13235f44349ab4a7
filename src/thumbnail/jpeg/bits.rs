//! The bits of entropy-coded data (T.81, F.2.2.5), read a machine word at a time.
//!
//! Owns byte stuffing, the markers between, and the deadline. Refuses to know codes. After a marker, and after the end of the
//! file, bits are 0; [`Bits::is_exhausted`] tells whether such bits were used.

use std::io::{self, BufRead};
use std::time::Instant;

use super::ThumbnailError;

/// Reads bits.
pub(super) struct Bits<R> {
    input: R,
    /// Bits read ahead, from the highest on.
    word: u64,
    /// How many bits of `word` are valid.
    count: u32,
    /// How many zeros were added after a marker or the end of the file.
    padding: u32,
    /// What ended the entropy-coded data, once it has ended.
    stop: Option<Stop>,
    deadline: Option<Instant>,
}

/// What ends entropy-coded data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A marker, with its code.
    Marker(u8),
    EndOfFile,
}

impl<R: BufRead> Bits<R> {
    pub(super) fn new(input: R, deadline: Option<Instant>) -> Self {
        Self { input, word: 0, count: 0, padding: 0, stop: None, deadline }
    }

    /// The input, for the segments between scans.
    pub(super) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Reads ahead to at least 32 bits: a code and the number after it.
    #[inline]
    pub(super) fn refill(&mut self) -> io::Result<()> {
        if self.count >= 32 {
            return Ok(());
        }
        if self.stop.is_none()
            && let Some(bytes) = self.input.fill_buf()?.first_chunk::<8>()
        {
            let next = u64::from_be_bytes(*bytes);
            if !has_ff(next) {
                // The last byte may fit only in part. Its bits are written here all the same, and once more when it is read again.
                self.word |= next.wrapping_shr(self.count);
                let whole = 63_u32.wrapping_sub(self.count).wrapping_shr(3);
                self.count = self.count.wrapping_add(whole.wrapping_mul(8));
                self.input.consume(usize::try_from(whole).unwrap_or(0));
                return Ok(());
            }
        }
        self.refill_bytes()
    }

    /// The next `count` bits, at most 16, without taking them. They must have been read ahead.
    #[inline]
    pub(super) fn peek(&self, count: u32) -> u32 {
        // Two shifts, since one by 64 would be no shift at all.
        let top = self.word.wrapping_shr(1).wrapping_shr(63_u32.wrapping_sub(count));
        u32::try_from(top).unwrap_or(0)
    }

    /// Drops bits that were read ahead.
    #[inline]
    pub(super) fn skip(&mut self, count: u32) {
        self.word = self.word.wrapping_shl(count);
        self.count = self.count.saturating_sub(count);
    }

    /// Takes at most 16 bits that were read ahead.
    #[inline]
    pub(super) fn take(&mut self, count: u32) -> u32 {
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    /// Takes one bit.
    #[inline]
    pub(super) fn bit(&mut self) -> io::Result<bool> {
        if self.count == 0 {
            self.refill()?;
        }
        Ok(self.take(1) == 1)
    }

    /// Takes a number of `size` bits, at most 15, that were read ahead. A leading 0 means a negative number (EXTEND; T.81,
    /// F.2.2.1).
    #[inline]
    pub(super) fn signed(&mut self, size: u32) -> i32 {
        let bits = i32::try_from(self.take(size)).unwrap_or(0);
        let half = 1_i32.wrapping_shl(size).wrapping_shr(1);
        if bits < half { bits.wrapping_sub(half.wrapping_mul(2)).wrapping_add(1) } else { bits }
    }

    /// Whether bits were taken after a marker or the end of the file.
    #[inline]
    pub(super) fn is_exhausted(&self) -> bool {
        self.count < self.padding
    }

    /// Fails past the deadline. To be called after each row of MCUs: after a marker, bits are 0 without any read, and a file of
    /// few bytes can have many scans.
    pub(super) fn check_time(&self) -> Result<(), ThumbnailError> {
        let is_late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_late { Err(ThumbnailError::Timeout) } else { Ok(()) }
    }

    /// Skips to the next marker and returns it, without skipping the marker itself.
    pub(super) fn find_marker(&mut self) -> io::Result<Stop> {
        (self.word, self.count, self.padding) = (0, 0, 0);
        loop {
            if let Some(stop) = self.stop {
                return Ok(stop);
            }
            let bytes = self.input.fill_buf()?;
            let passed = memchr::memchr(0xff, bytes).unwrap_or(bytes.len());
            self.input.consume(passed);
            if let Err(stop) = self.entropy_byte()? {
                self.stop = Some(stop);
            }
        }
    }

    /// Skips the marker that [`Self::find_marker`] found.
    pub(super) fn pass_marker(&mut self) {
        (self.word, self.count, self.padding) = (0, 0, 0);
        self.stop = None;
    }

    /// Ends a scan: skips to the next marker that is no restart marker and returns its code; `None` at the end of the file.
    pub(super) fn end_scan(&mut self) -> io::Result<Option<u8>> {
        loop {
            let stop = self.find_marker()?;
            self.stop = None;
            match stop {
                Stop::EndOfFile => return Ok(None),
                Stop::Marker(0xc0..=0xcf | 0xd8..=0xfe) if let Stop::Marker(code) = stop => {
                    return Ok(Some(code));
                }
                Stop::Marker(_) => {}
            }
        }
    }

    /// [`Self::refill`] a byte at a time, around stuffing, markers and the ends of buffers.
    #[cold]
    fn refill_bytes(&mut self) -> io::Result<()> {
        while self.count <= 56 {
            let byte = match self.stop {
                Some(_) => {
                    self.padding = self.padding.saturating_add(8);
                    0
                }
                None => match self.entropy_byte()? {
                    Ok(byte) => byte,
                    Err(stop) => {
                        self.stop = Some(stop);
                        continue;
                    }
                },
            };
            let shift = 56_u32.wrapping_sub(self.count);
            self.word |= u64::from(byte).wrapping_shl(shift);
            self.count = self.count.wrapping_add(8);
        }
        Ok(())
    }

    /// The next byte of entropy-coded data, or what ended it.
    fn entropy_byte(&mut self) -> io::Result<Result<u8, Stop>> {
        match next_byte(&mut self.input)? {
            None => Ok(Err(Stop::EndOfFile)),
            Some(0xff) => loop {
                match next_byte(&mut self.input)? {
                    None => return Ok(Err(Stop::EndOfFile)),
                    Some(0xff) => {}
                    Some(0) => return Ok(Ok(0xff)),
                    Some(code) => return Ok(Err(Stop::Marker(code))),
                }
            },
            Some(byte) => Ok(Ok(byte)),
        }
    }
}

/// Reads a byte; `None` at the end of the file.
#[inline]
pub(super) fn next_byte(input: &mut (impl BufRead + ?Sized)) -> io::Result<Option<u8>> {
    let byte = input.fill_buf()?.first().copied();
    if byte.is_some() {
        input.consume(1);
    }
    Ok(byte)
}

/// Whether one of the eight bytes is 0xff.
#[inline]
fn has_ff(word: u64) -> bool {
    let inverted = !word;
    // Subtracting 1 sets the top bit of a byte that was 0.
    inverted.wrapping_sub(0x0101_0101_0101_0101) & word & 0x8080_8080_8080_8080 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_in_order_around_stuffing() {
        let bytes = [0xa5, 0xff, 0x00, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0xff, 0xd9];
        let mut bits = Bits::new(bytes.as_slice(), None);
        let mut got = Vec::new();
        for _ in 0..12 {
            bits.refill().unwrap();
            got.push(bits.take(4) << 4 | bits.take(4));
        }
        assert_eq!(got, [0xa5, 0xff, 0x0f, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        // After the marker, bits are 0.
        bits.refill().unwrap();
        assert!(!bits.is_exhausted());
        assert_eq!(bits.take(16), 0);
        assert!(bits.is_exhausted());
        assert_eq!(bits.end_scan().unwrap(), Some(0xd9));
    }

    #[test]
    fn bits_after_the_end_of_the_file_are_noticed() {
        let bytes = [0x12, 0x34];
        let mut bits = Bits::new(bytes.as_slice(), None);
        bits.refill().unwrap();
        assert_eq!(bits.take(16), 0x1234);
        assert!(!bits.is_exhausted());
        bits.take(1);
        assert!(bits.is_exhausted());
        for _ in 0..100 {
            bits.refill().unwrap();
            bits.take(16);
        }
        assert!(bits.is_exhausted());
        assert_eq!(bits.end_scan().unwrap(), None);
    }

    #[test]
    fn data_is_skipped_up_to_the_next_marker() {
        let mut bytes = vec![7; 100_000];
        bytes.extend([0xff, 0, 0xff, 0xff, 0xd3, 1, 2, 0xff, 0x02, 3, 0xff, 0xda]);
        let mut bits = Bits::new(bytes.as_slice(), None);
        assert_eq!(bits.find_marker().unwrap(), Stop::Marker(0xd3));
        assert_eq!(bits.find_marker().unwrap(), Stop::Marker(0xd3), "the marker is not skipped");
        bits.pass_marker();
        bits.refill().unwrap();
        assert_eq!(bits.take(16), 0x0102);
        assert_eq!(bits.end_scan().unwrap(), Some(0xda));
    }

    #[test]
    fn a_leading_zero_means_a_negative_number() {
        for (byte, size, expected) in
            [(0b1000_0000, 1, 1), (0, 1, -1), (0b1010_0000, 3, 5), (0b0100_0000, 3, -5)]
        {
            let bytes = [byte, 0];
            let mut bits = Bits::new(bytes.as_slice(), None);
            bits.refill().unwrap();
            assert_eq!(bits.signed(size), expected);
        }
        let mut bits = Bits::new([1_u8].as_slice(), None);
        assert_eq!(bits.signed(0), 0);
    }

    #[test]
    fn every_byte_is_searched_for_ff() {
        for byte in 0..8 {
            assert!(has_ff(0xff_u64 << (byte * 8)), "{byte}");
        }
        for word in [0, 0xfe7f_0080_fe01_7ffe, 0x8080_8080_8080_8080, 0x0101_0101_0101_0101] {
            assert!(!has_ff(word), "{word:x}");
        }
    }
}
