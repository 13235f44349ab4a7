//! The reader that every decoder gets, which enforces the deadline and tells failures of the disk from broken pictures.
//!
//! Owns the deadline of reads, panics of decoders, and the classification of errors. Refuses to know formats.

use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::ThumbnailError;

/// The file of a picture as callers pass it in. A trait object, so that the decoders are compiled once and not once for
/// each kind of file; a virtual call for each filled buffer costs nothing.
pub(crate) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// What decoders read from.
pub(super) type Input<'a> = BufReader<Watched<'a>>;

/// A file that fails reads after a deadline and remembers the first real failure.
///
/// It sits below a buffer, so the clock is read once for each 8 KiB. A decoder that can work for long on one buffer (a
/// progressive JPEG of thousands of empty scans, say) checks the deadline itself.
pub(super) struct Watched<'a> {
    inner: &'a mut dyn ReadSeek,
    deadline: Option<Instant>,
    /// The first failure that is not the picture's fault.
    failure: &'a mut Option<ThumbnailError>,
}

/// Runs `work` on a file from its beginning.
///
/// Decoders report many broken pictures as I/O errors, swallow real I/O errors, and sometimes panic on malformed data. So a
/// failed or late read decides the result whatever `work` returns; an error or panic after successful reads means that the
/// picture is broken.
///
/// # Errors
/// `Io` for a failed read, `Timeout` past the deadline, `Broken` for a panic, else what `work` returns.
pub(super) fn read<T>(
    inner: &mut dyn ReadSeek,
    deadline: Option<Instant>,
    work: impl FnOnce(Input<'_>) -> Result<T, ThumbnailError>,
) -> Result<T, ThumbnailError> {
    inner.rewind().map_err(ThumbnailError::Io)?;
    let mut failure = None;
    let watched = BufReader::new(Watched { inner, deadline, failure: &mut failure });
    let done = catch_unwind(AssertUnwindSafe(|| work(watched)));
    match (failure, done) {
        (Some(failure), _) => Err(failure),
        (None, Ok(done)) => done,
        (None, Err(_panic)) => Err(ThumbnailError::broken("the decoder gave up")),
    }
}

impl Watched<'_> {
    /// Remembers a failure of the file. `InvalidInput` is none: it is the answer to a seek before the beginning, and a broken
    /// picture may name any offset.
    fn record<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        match result {
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Interrupted) =>
            {
                let kind = error.kind();
                self.failure.get_or_insert(ThumbnailError::Io(error));
                Err(kind.into())
            }
            other => other,
        }
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.failure.get_or_insert(ThumbnailError::Timeout);
            return Err(io::ErrorKind::TimedOut.into());
        }
        let result = self.inner.read(buffer);
        self.record(result)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let result = self.inner.seek(to);
        self.record(result)
    }

    // Without these two, the default methods would call `seek`, which discards the buffer of the caller's file.

    fn stream_position(&mut self) -> io::Result<u64> {
        let result = self.inner.stream_position();
        self.record(result)
    }

    fn seek_relative(&mut self, by: i64) -> io::Result<()> {
        let result = self.inner.seek_relative(by);
        self.record(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with a bad sector at the end.
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
    fn reads_fail_after_the_deadline() {
        let mut source = io::Cursor::new(vec![0; 20_000]);
        let copy = |mut input: Input<'_>| Ok(io::copy(&mut input, &mut io::sink())?);
        let got = read(&mut source, Some(Instant::now()), copy);
        assert!(matches!(got, Err(ThumbnailError::Timeout)), "{got:?}");
        assert_eq!(read(&mut source, None, copy).unwrap(), 20_000);
    }

    #[test]
    fn a_failed_read_is_an_io_error_and_any_other_error_a_broken_picture() {
        let kinds = [
            io::ErrorKind::Other,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::InvalidData,
            io::ErrorKind::TimedOut,
            io::ErrorKind::PermissionDenied,
        ];
        for kind in kinds {
            // The decoder makes up an I/O error.
            let mut good = io::Cursor::new(vec![0; 100]);
            let got: Result<(), _> = read(&mut good, None, |_| Err(io::Error::from(kind).into()));
            assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{kind:?}: {got:?}");
            // The disk fails and the decoder swallows it, or turns it into another error.
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
    fn seeking_before_the_beginning_means_a_broken_picture() {
        let mut source = io::Cursor::new(vec![0; 10]);
        let got = read(&mut source, None, |mut input| Ok(input.seek(SeekFrom::Current(-5))?));
        assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{got:?}");
    }

    #[test]
    fn a_panicking_decoder_means_a_broken_picture() {
        let mut source = io::Cursor::new(Vec::new());
        let got: Result<(), _> = read(&mut source, None, |_| panic!("index out of bounds"));
        assert!(matches!(got, Err(ThumbnailError::Broken(_))), "{got:?}");
    }
}
