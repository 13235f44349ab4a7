//! A picture's bytes as decoders get them: watched, so that what our disk did is told from what a decoder made up.
//!
//! Owns the deadline while decoders read, and whose fault a failure is. Refuses to know what they read.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::ThumbnailError;

/// A picture's file, as the callers of this module have it.
pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// What decoders read: buffered, and watched below the buffer.
pub(super) type Input<'a> = BufReader<Watched<'a>>;

/// Reads on until the deadline. A picture can make its decoder work for minutes over few bytes (a progressive JPEG
/// of thousands of empty scans). Behind a buffer, so that the clock is looked at once for each buffer: rare enough to
/// cost nothing. A decoder that can work long over one buffer looks at the clock itself.
pub(super) struct Watched<'a> {
    /// Where the bytes come from.
    inner: &'a mut dyn ReadSeek,
    /// When reads begin to fail.
    deadline: Option<Instant>,
    /// The first failure of ours.
    fault: &'a mut Option<ThumbnailError>,
}

/// Does work on a picture's bytes, from their beginning. Decoders clothe many a broken picture as an I/O error, swallow real
/// ones, and a few panic over what they did not think of; so what they say of a failure counts only if reading itself went
/// well. Then it is the picture's.
pub(super) fn read<T>(
    inner: &mut dyn ReadSeek,
    deadline: Option<Instant>,
    work: impl FnOnce(Input<'_>) -> Result<T, ThumbnailError>,
) -> Result<T, ThumbnailError> {
    inner.rewind().map_err(ThumbnailError::Io)?;
    let mut fault = None;
    let watched = BufReader::new(Watched { inner, deadline, fault: &mut fault });
    let done = catch_unwind(AssertUnwindSafe(|| work(watched)));
    match (fault, done) {
        (Some(fault), _) => Err(fault),
        (None, Ok(done)) => done,
        (None, Err(_panic)) => Err(ThumbnailError::broken("the decoder gave up")),
    }
}

impl Watched<'_> {
    /// Notes a failure of ours: any but a place that is none, for a picture may name any. What the decoder gets of it does not
    /// matter.
    fn judged<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        match result {
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Interrupted) =>
            {
                let kind = error.kind();
                self.fault.get_or_insert(ThumbnailError::Io(error));
                Err(kind.into())
            }
            other => other,
        }
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.fault.get_or_insert(ThumbnailError::Timeout);
            return Err(io::ErrorKind::TimedOut.into());
        }
        let result = self.inner.read(buffer);
        self.judged(result)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let result = self.inner.seek(to);
        self.judged(result)
    }

    // Passed on: by way of `seek`, each would throw away what the inner buffer has read ahead.

    fn stream_position(&mut self) -> io::Result<u64> {
        let result = self.inner.stream_position();
        self.judged(result)
    }

    fn seek_relative(&mut self, by: i64) -> io::Result<()> {
        let result = self.inner.seek_relative(by);
        self.judged(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that fails after some bytes, as one with bad sectors does.
    struct Failing {
        good: io::Cursor<Vec<u8>>,
        kind: io::ErrorKind,
    }

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.good.read(buffer)? {
                0 => Err(self.kind.into()),
                count => Ok(count),
            }
        }
    }

    impl Seek for Failing {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.good.seek(to)
        }
    }

    #[test]
    fn reading_ends_at_the_deadline() {
        let mut source = io::Cursor::new(vec![0; 20_000]);
        let copy = |mut input: Input<'_>| Ok(io::copy(&mut input, &mut io::sink())?);
        let got = read(&mut source, Some(Instant::now()), copy);
        assert!(matches!(got, Err(ThumbnailError::Timeout)), "{got:?}");
        assert_eq!(read(&mut source, None, copy).unwrap(), 20_000);
    }

    #[test]
    fn only_what_reading_did_is_ours_whatever_a_decoder_says() {
        let kinds = [
            io::ErrorKind::Other,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::InvalidData,
            io::ErrorKind::TimedOut,
            io::ErrorKind::PermissionDenied,
        ];
        for kind in kinds {
            // Said by a decoder, of bytes that could be read.
            let mut good = io::Cursor::new(vec![0; 100]);
            let got: Result<(), _> = read(&mut good, None, |_| Err(io::Error::from(kind).into()));
            assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{kind:?}: {got:?}");
            // Said by the disk, whatever the decoder makes of it.
            let mut bad = Failing { good: io::Cursor::new(vec![0; 100]), kind };
            let swallowed = read(&mut bad, None, |mut input| {
                let mut bytes = Vec::new();
                drop(input.read_to_end(&mut bytes));
                Ok(bytes)
            });
            assert!(matches!(swallowed, Err(ThumbnailError::Io(_))), "{kind:?}: {swallowed:?}");
            let renamed: Result<(), _> = read(&mut bad, None, |mut input| {
                io::copy(&mut input, &mut io::sink())
                    .map_err(|_ignored| ThumbnailError::broken("no such code"))?;
                Ok(())
            });
            assert!(matches!(renamed, Err(ThumbnailError::Io(_))), "{kind:?}: {renamed:?}");
        }
    }

    #[test]
    fn a_place_before_the_beginning_is_the_pictures_fault() {
        let mut source = io::Cursor::new(vec![0; 10]);
        let got = read(&mut source, None, |mut input| Ok(input.seek(SeekFrom::Current(-5))?));
        assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{got:?}");
    }

    #[test]
    fn a_decoder_that_panics_has_met_a_broken_picture() {
        let mut source = io::Cursor::new(Vec::new());
        let got: Result<(), _> = read(&mut source, None, |_| panic!("index out of bounds"));
        assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{got:?}");
    }
}
