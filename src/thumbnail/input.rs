//! A source that runs out of time.
//!
//! Owns the deadline while decoders read. Refuses to know what they read.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::time::Instant;

/// Reads on until the deadline. A picture can make its decoder work for minutes over few bytes (a progressive JPEG
/// of thousands of empty scans). Behind a buffer, so that the clock is looked at once for each buffer: rare enough to
/// cost nothing. A decoder that can work long over one buffer looks at the clock itself.
pub(super) struct Timed<'a, R> {
    /// Where the bytes come from.
    inner: &'a mut R,
    /// When reads begin to fail.
    deadline: Option<Instant>,
}

impl<'a, R: Read + Seek> Timed<'a, R> {
    /// A source with a deadline.
    pub(super) fn buffered(inner: &'a mut R, deadline: Option<Instant>) -> BufReader<Self> {
        BufReader::new(Self { inner, deadline })
    }
}

impl<R: Read> Read for Timed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(io::ErrorKind::TimedOut.into()),
            _ => self.inner.read(buffer),
        }
    }
}

impl<R: Seek> Seek for Timed<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }

    // Passed on: by way of `seek`, each would throw away what the inner buffer has read ahead.

    fn stream_position(&mut self) -> io::Result<u64> {
        self.inner.stream_position()
    }

    fn seek_relative(&mut self, by: i64) -> io::Result<()> {
        self.inner.seek_relative(by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ends_at_the_deadline() {
        let mut source = io::Cursor::new(vec![0; 20_000]);
        let mut timed = Timed::buffered(&mut source, Some(Instant::now()));
        let got = io::copy(&mut timed, &mut io::sink()).unwrap_err();
        assert_eq!(got.kind(), io::ErrorKind::TimedOut);
        source.set_position(0);
        let copied = io::copy(&mut Timed::buffered(&mut source, None), &mut io::sink()).unwrap();
        assert_eq!(copied, 20_000);
    }
}
