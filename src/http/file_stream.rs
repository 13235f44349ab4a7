//! File → HTTP body.
//!
//! Owns where a file is read, on the async thread or off it, and the buffers it is read into. They are used again: a fresh one
//! for each piece would be cleared, and its memory mapped anew, before it is read into.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::matrix::len_u64;

/// How much of a file is read at once, bytes.
const FILE_CHUNK: usize = 128 * 1024;

/// Smallest piece that is read into one of the buffers that are used again, bytes.
const REUSE: usize = 32 * 1024;

/// Buffers kept for the next piece, at most: 1 MiB.
const KEPT: usize = 8;

/// What bodies that read files share.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    /// The right to read what the page cache does not hold, a few at a time.
    cold: Arc<Semaphore>,
    /// Buffers to read into.
    buffers: Arc<Buffers>,
}

/// Buffers of [`FILE_CHUNK`] bytes that nobody uses at the moment.
#[derive(Debug, Default)]
struct Buffers(Mutex<Vec<Box<[u8]>>>);

/// A buffer with bytes in it, given back when nobody needs them any more.
#[derive(Debug)]
struct Lease {
    /// [`FILE_CHUNK`] bytes; empty once given back.
    buffer: Box<[u8]>,
    /// How many of them were read.
    length: usize,
    /// Where it goes.
    buffers: Arc<Buffers>,
}

impl Readers {
    /// So many cold reads at the same time.
    pub(crate) fn new(cold: usize) -> Self {
        Self { cold: Arc::new(Semaphore::new(cold)), buffers: Arc::default() }
    }
}

impl Buffers {
    /// One that was used before, or a new one.
    fn take(&self) -> Box<[u8]> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; FILE_CHUNK].into())
    }

    /// Keeps a buffer for the next one who takes, unless there are enough.
    fn give_back(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.buffer));
    }
}

/// A stretch of a file on its way into an HTTP body. What the page cache holds is read at once on the async thread; what
/// it does not is read on a blocking one.
#[derive(Debug)]
pub(crate) struct FileStream {
    /// The file.
    file: Arc<File>,
    /// Next byte.
    at: u64,
    /// Bytes still to come.
    left: u64,
    /// For reads that have to leave the async thread.
    readers: Readers,
    /// One that did.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileStream {
    /// `length` bytes of `file` from `start` on.
    pub(crate) fn new(file: Arc<File>, start: u64, length: u64, readers: &Readers) -> Self {
        Self { file, at: start, left: length, readers: readers.clone(), reading: None }
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Reads in a blocking thread, when one is free.
    fn read_blocking(&self) -> JoinHandle<io::Result<Bytes>> {
        let (file, at, left) = (Arc::clone(&self.file), self.at, self.left);
        let Readers { cold, buffers } = self.readers.clone();
        tokio::spawn(async move {
            let _permit = cold.acquire_owned().await.map_err(io::Error::other)?;
            let read = spawn_blocking(move || read_piece(&file, at, left, &buffers, ReadWriteFlags::empty()));
            read.await.map_err(io::Error::other)?
        })
    }

    /// Reads what the page cache holds.
    fn read_cached(&self) -> io::Result<Bytes> {
        read_piece(&self.file, self.at, self.left, &self.readers.buffers, ReadWriteFlags::NOWAIT)
    }

    /// The next bytes; `None` at the end. A file that ends early is an error.
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let result = match &mut self.reading {
            Some(reading) => {
                let joined = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                joined.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match self.read_cached() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_unsupported(&error) => {
                    let mut reading = self.read_blocking();
                    let poll = Pin::new(&mut reading).poll(context);
                    match poll {
                        Poll::Ready(joined) => joined.unwrap_or_else(|error| Err(io::Error::other(error))),
                        Poll::Pending => {
                            self.reading = Some(reading);
                            return Poll::Pending;
                        }
                    }
                }
                result => result,
            },
        };
        if let Ok(bytes) = &result {
            let count = len_u64(bytes.len());
            self.at = self.at.saturating_add(count);
            self.left = self.left.saturating_sub(count);
        }
        Poll::Ready(Some(result))
    }
}

/// Reads the next piece of a file of which `left` bytes are to come, and at least one byte.
fn read_piece(
    file: &File,
    at: u64,
    left: u64,
    buffers: &Arc<Buffers>,
    flags: ReadWriteFlags,
) -> io::Result<Bytes> {
    let size = usize::try_from(left).unwrap_or(usize::MAX).min(FILE_CHUNK);
    if size < REUSE {
        return read_new(file, at, size, flags);
    }
    let mut lease = Lease { buffer: buffers.take(), length: 0, buffers: Arc::clone(buffers) };
    lease.length = read_at(file, at, lease.buffer.get_mut(..size).unwrap_or_default(), flags)?;
    Ok(Bytes::from_owner(lease))
}

/// Reads up to `size` bytes, and at least one, into memory of their own.
fn read_new(file: &File, at: u64, size: usize, flags: ReadWriteFlags) -> io::Result<Bytes> {
    let mut buffer = vec![0; size];
    let count = read_at(file, at, &mut buffer, flags)?;
    buffer.truncate(count);
    Ok(buffer.into())
}

/// Reads at least one byte; gives how many.
fn read_at(file: &File, at: u64, buffer: &mut [u8], flags: ReadWriteFlags) -> io::Result<usize> {
    loop {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], at, flags) {
            Err(Errno::INTR) => {}
            Ok(0) => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the blob is shorter than the catalog says",
                ));
            }
            result => return Ok(result?),
        }
    }
}

/// A whole small file, if the page cache has it. Never waits for a disk.
pub(crate) fn read_cached(file: &File, size: u64) -> Option<Bytes> {
    let bytes = read_new(file, 0, usize::try_from(size).ok()?, ReadWriteFlags::NOWAIT).ok()?;
    (len_u64(bytes.len()) == size).then_some(bytes)
}

/// Whether the file system or kernel does not know `RWF_NOWAIT`.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn pieces_of_a_file_join_up_while_their_buffers_are_used_again() {
        let bytes: Vec<u8> = (0..3 * FILE_CHUNK + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let (file, readers) = (Arc::new(file), Readers::new(1));
        for (start, length) in [(0, bytes.len()), (5, 2 * FILE_CHUNK), (FILE_CHUNK, REUSE), (1, 1)] {
            let mut stream = FileStream::new(Arc::clone(&file), len_u64(start), len_u64(length), &readers);
            let mut read = Vec::new();
            while let Some(piece) = poll_fn(|context| stream.poll_chunk(context)).await {
                read.extend_from_slice(&piece.unwrap());
            }
            assert!(read == bytes[start..start + length], "{start} {length}");
        }
        assert_eq!(readers.buffers.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"short").unwrap();
        let mut stream = FileStream::new(Arc::new(file), 0, 6, &Readers::new(1));
        assert_eq!(poll_fn(|context| stream.poll_chunk(context)).await.unwrap().unwrap(), "short");
        let error = poll_fn(|context| stream.poll_chunk(context)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
