//! A blob in a file.

use std::fs::File;
use std::io::{self, IoSliceMut};

use rustix::io::{Errno, ReadWriteFlags};

use super::reader::BlobSource;

/// A file opened for reading.
#[derive(Debug)]
pub(super) struct FileSource(File);

impl FileSource {
    /// The bytes of `file`.
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    /// Reads with `flags`.
    fn read(&self, at: u64, buffer: &mut [u8], flags: ReadWriteFlags) -> io::Result<usize> {
        loop {
            match rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(buffer)], at, flags) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }
}

impl BlobSource for FileSource {
    fn available(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(at, buffer, ReadWriteFlags::empty())
    }

    fn read_cached_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.read(at, buffer, ReadWriteFlags::NOWAIT).map_err(|error| {
            // The file system or the kernel does not know the flag.
            let is_unsupported =
                matches!(Errno::from_io_error(&error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL));
            if is_unsupported { io::ErrorKind::WouldBlock.into() } else { error }
        })
    }
}
