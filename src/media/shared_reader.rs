//! A place in a file that others read at the same time.
//!
//! A `File` has one position for all who hold it, and the file of a blob served lately is shared.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;

use crate::matrix::len_u64;

/// Reads a file from a position of its own.
#[derive(Debug)]
pub(super) struct SharedReader<'a> {
    /// The file.
    file: &'a File,
    /// Next byte.
    at: u64,
}

impl<'a> SharedReader<'a> {
    /// The beginning of `file`.
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for SharedReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(into, self.at)?;
        self.at = self.at.saturating_add(len_u64(count));
        Ok(count)
    }
}

impl Seek for SharedReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file.metadata()?.len().checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readers_of_one_file_do_not_move_each_other() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), b"0123456789").unwrap();
        let file = File::open(folder.path().join("x")).unwrap();
        let (mut one, mut two) = (SharedReader::new(&file), SharedReader::new(&file));
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
}
