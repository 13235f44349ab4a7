//! Reading blobs.
//!
//! Owns the bounds of what is read. Where the bytes are is up to the [`BlobSource`]: a file today. There is no file descriptor in this
//! interface, so that another source can fetch its bytes from elsewhere.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::matrix::len_u64;

/// The bytes of a blob, or of one that is still being written, at any offset.
pub(crate) trait BlobSource: Send + Sync + fmt::Debug {
    /// Bytes that can be read at this moment.
    fn available(&self) -> io::Result<u64>;

    /// Reads from offset `at`, waiting for the medium if necessary. Returns the number of bytes read: 0 only at the end or for an empty
    /// buffer.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// The same, but only reads what is in memory.
    ///
    /// # Errors
    /// `WouldBlock` when the first of the bytes is not, or when it cannot be known.
    fn read_cached_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// An open blob, or a part of one. Cheap to clone. It can be read to its end even after the blob was removed.
#[derive(Clone, Debug)]
pub(crate) struct BlobReader {
    /// Where the bytes come from.
    source: Arc<dyn BlobSource>,
    /// Bytes of the whole blob.
    blob_size: u64,
    /// The first byte of the part.
    start: u64,
    /// Bytes of the part.
    size: u64,
}

impl BlobReader {
    /// A whole blob of `size` bytes. For a blob that is still being written these are the bytes so far.
    pub(super) fn new(source: impl BlobSource + 'static, size: u64) -> Self {
        Self { source: Arc::new(source), blob_size: size, start: 0, size }
    }

    /// The part of `length` bytes at offset `start` of this one. It may lie beyond the end of a blob that is still being written.
    pub(crate) fn range(&self, start: u64, length: u64) -> Self {
        let start = self.start.saturating_add(start);
        Self { source: Arc::clone(&self.source), start, size: length, ..*self }
    }

    /// Length of this part, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the whole blob that can be read at this moment. The number grows while the blob is being written.
    pub(crate) fn available(&self) -> io::Result<u64> {
        self.source.available()
    }

    /// Whether the blob still has its full length: its file may have been truncated since it was opened.
    pub(crate) fn is_whole(&self) -> bool {
        self.source.available().is_ok_and(|available| available == self.blob_size)
    }

    /// Reads from offset `at`, waiting for the medium if necessary. Returns the number of bytes read: 0 only at the end or for an empty
    /// buffer.
    pub(crate) fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read_at(self.start.saturating_add(at), self.bounded(at, buffer))
    }

    /// The same without waiting, so that it may be called on an async thread.
    ///
    /// # Errors
    /// `WouldBlock` when the first of the bytes is not in memory; then call [`Self::read_at`] on another thread.
    pub(crate) fn read_cached_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read_cached_at(self.start.saturating_add(at), self.bounded(at, buffer))
    }

    /// A cursor at the start of this part. Reading from it blocks.
    pub(crate) fn cursor(&self) -> BlobCursor {
        BlobCursor { reader: self.clone(), at: 0 }
    }

    /// As much of `buffer` as there are bytes from `at` on.
    fn bounded<'a>(&self, at: u64, buffer: &'a mut [u8]) -> &'a mut [u8] {
        let left = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = left.min(buffer.len());
        buffer.get_mut(..length).unwrap_or_default()
    }
}

/// A position in a blob, for decoders.
#[derive(Debug)]
pub(crate) struct BlobCursor {
    reader: BlobReader,
    /// Offset of the next byte.
    at: u64,
}

impl Read for BlobCursor {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read_at(self.at, into)?;
        self.at = self.at.saturating_add(len_u64(count));
        Ok(count)
    }
}

impl Seek for BlobCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.reader.size().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
impl BlobReader {
    /// A blob with these bytes, outside any store.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        use std::io::Write as _;

        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Self::new(super::directory::FileSource::new(file), len_u64(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_cursors_over_one_blob_do_not_move_each_other() {
        let blob = BlobReader::of(b"0123456789");
        let (mut one, mut two) = (blob.cursor(), blob.cursor());
        let mut bytes = [0; 4];
        one.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"0123");
        two.seek(SeekFrom::End(-5)).unwrap();
        two.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"5678");
        one.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"4567");
        assert_eq!(one.seek(SeekFrom::Current(-8)).unwrap(), 0);
        assert!(one.seek(SeekFrom::Current(-1)).is_err());
    }

    #[test]
    fn a_range_gives_its_own_bytes_and_no_others() {
        let blob = BlobReader::of(b"0123456789");
        let range = blob.range(2, 5).range(1, 3);
        let mut text = String::new();
        range.cursor().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), range.size()), ("345", 3));
        let mut rest = [0; 8];
        assert_eq!((range.read_at(2, &mut rest).unwrap(), rest[0]), (1, b'5'));
        assert_eq!(range.read_at(3, &mut rest).unwrap(), 0, "at its end");
        assert_eq!(range.read_at(u64::MAX, &mut rest).unwrap(), 0);
        assert!(range.is_whole(), "the blob is");
        assert_eq!(blob.range(8, 5).read_at(0, &mut rest).unwrap(), 2, "what is there of it");
    }
}
