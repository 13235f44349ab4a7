//! A JPEG whose metadata ends with its headers.
//!
//! Owns what would let a small picture fill the memory: the decoder keeps every profile segment, also those between
//! scans, which [`probe`](super::super::probe()) did not count.

use std::io::{self, Read};

/// Passes a JPEG through; segments that the decoder would keep become ones that it passes over, from a place on.
pub(super) struct Hushed<R> {
    /// The whole file.
    inner: R,
    /// Bytes to pass untouched.
    untouched: u64,
    /// Whether the last byte began a marker.
    in_marker: bool,
}

impl<R: Read> Hushed<R> {
    /// `from` is where the first scan begins.
    pub(super) fn new(inner: R, from: u64) -> Self {
        Self { inner, untouched: from, in_marker: false }
    }

    /// Renames the segments that begin in `bytes`. No scan has such a byte after 0xff, and no table has reason to.
    fn hush(&mut self, bytes: &mut [u8]) {
        if self.in_marker
            && let Some(first) = bytes.first_mut()
        {
            rename(first);
        }
        let mut at = 0_usize;
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(0xff, rest)) {
            at = at.saturating_add(found).saturating_add(1);
            if let Some(code) = bytes.get_mut(at) {
                rename(code);
            }
        }
        self.in_marker = bytes.last() == Some(&0xff);
    }
}

impl<R: Read> Read for Hushed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let whole = u64::try_from(count).unwrap_or(u64::MAX);
        let passed = usize::try_from(self.untouched).unwrap_or(usize::MAX);
        self.untouched = self.untouched.saturating_sub(whole);
        if let Some(bytes) = buffer.get_mut(..count).and_then(|read| read.get_mut(passed..))
            && !bytes.is_empty()
        {
            self.hush(bytes);
        }
        Ok(count)
    }
}

/// EXIF, XMP, profiles and Photoshop's block are renamed to a segment without a meaning.
fn rename(code: &mut u8) {
    if matches!(*code, 0xe1 | 0xe2 | 0xed) {
        *code = 0xef;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes one, two, three, … at a time.
    struct Bits<'a>(&'a [u8], usize);

    impl Read for Bits<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1.saturating_add(1);
            let most = self.1.min(7).min(buffer.len());
            self.0.read(&mut buffer[..most])
        }
    }

    #[test]
    fn segments_are_renamed_from_the_first_scan_on_however_the_bytes_come() {
        let before = b"\xff\xd8\xff\xe2ab\xff\xda";
        let after = b"x\xff\x00\xff\xe2\xff\xff\xe1\xff\xed\xe2\xff\xe0\xff\xd9\xff";
        let expected = b"x\xff\x00\xff\xef\xff\xff\xef\xff\xef\xe2\xff\xe0\xff\xd9\xff";
        let whole = [before.as_slice(), after].concat();
        let mut got = Vec::new();
        Hushed::new(Bits(&whole, 0), 8).read_to_end(&mut got).unwrap();
        assert_eq!(got, [before.as_slice(), expected].concat());
        got.clear();
        Hushed::new(whole.as_slice(), 8).read_to_end(&mut got).unwrap();
        assert_eq!(got, [before.as_slice(), expected].concat());
    }
}
