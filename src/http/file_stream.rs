//! Blob → HTTP body.
//!
//! Owns where a blob is read, on the async thread or off it, and the buffers it is read into. They are used again: a fresh one
//! for each piece would be cleared, and its memory mapped anew, before it is read into.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::matrix::len_u64;
use crate::store::blobs::BlobReader;

/// How much of a blob is read at once, bytes.
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

/// A blob, or a part of one, on its way into an HTTP body. What the page cache holds is read at once on the async thread; what
/// it does not is read on a blocking one.
#[derive(Debug)]
pub(crate) struct FileStream {
    /// The bytes to give.
    blob: BlobReader,
    /// How many of them are given.
    at: u64,
    /// For reads that have to leave the async thread.
    readers: Readers,
    /// One that did.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileStream {
    /// All bytes that `blob` gives.
    pub(crate) fn new(blob: BlobReader, readers: &Readers) -> Self {
        Self { blob, at: 0, readers: readers.clone(), reading: None }
    }

    /// Bytes still to come.
    pub(crate) fn left(&self) -> u64 {
        self.blob.size().saturating_sub(self.at)
    }

    /// Reads in a blocking thread, when one is free.
    fn read_blocking(&self) -> JoinHandle<io::Result<Bytes>> {
        let (blob, at, Readers { cold, buffers }) = (self.blob.clone(), self.at, self.readers.clone());
        tokio::spawn(async move {
            let _permit = cold.acquire_owned().await.map_err(io::Error::other)?;
            let read = spawn_blocking(move || read_piece(&blob, at, &buffers, BlobReader::read_at));
            read.await.map_err(io::Error::other)?
        })
    }

    /// Reads what the page cache holds.
    fn read_cached(&self) -> io::Result<Bytes> {
        read_piece(&self.blob, self.at, &self.readers.buffers, BlobReader::read_cached_at)
    }

    /// The next bytes; `None` at the end. A file that ends early is an error.
    pub(crate) fn poll_chunk(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let result = match &mut self.reading {
            Some(reading) => {
                let joined = ready!(Pin::new(reading).poll(context));
                self.reading = None;
                joined.unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            None => match self.read_cached() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
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
            self.at = self.at.saturating_add(len_u64(bytes.len()));
        }
        Poll::Ready(Some(result))
    }
}

/// One of the two ways to read a blob: what is in memory, or with waiting.
type ReadAt = fn(&BlobReader, u64, &mut [u8]) -> io::Result<usize>;

/// Reads the next piece of a blob, and at least one byte.
fn read_piece(blob: &BlobReader, at: u64, buffers: &Arc<Buffers>, read_at: ReadAt) -> io::Result<Bytes> {
    let left = blob.size().saturating_sub(at);
    let size = usize::try_from(left).unwrap_or(usize::MAX).min(FILE_CHUNK);
    if size < REUSE {
        return read_new(blob, at, size, read_at);
    }
    let mut lease = Lease { buffer: buffers.take(), length: 0, buffers: Arc::clone(buffers) };
    lease.length = read_some(blob, at, lease.buffer.get_mut(..size).unwrap_or_default(), read_at)?;
    Ok(Bytes::from_owner(lease))
}

/// Reads up to `size` bytes, and at least one, into memory of their own.
fn read_new(blob: &BlobReader, at: u64, size: usize, read_at: ReadAt) -> io::Result<Bytes> {
    let mut buffer = vec![0; size];
    let count = read_some(blob, at, &mut buffer, read_at)?;
    buffer.truncate(count);
    Ok(buffer.into())
}

/// Reads at least one byte; gives how many.
fn read_some(blob: &BlobReader, at: u64, buffer: &mut [u8], read_at: ReadAt) -> io::Result<usize> {
    match read_at(blob, at, buffer)? {
        0 => {
            let why = "the blob is shorter than the catalog says";
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
        }
        count => Ok(count),
    }
}

/// All of a small blob, if it is in memory. Never waits for a disk.
pub(crate) fn read_cached(blob: &BlobReader) -> Option<Bytes> {
    let size = usize::try_from(blob.size()).ok()?;
    let bytes = read_new(blob, 0, size, BlobReader::read_cached_at).ok()?;
    (bytes.len() == size).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn pieces_of_a_file_join_up_while_their_buffers_are_used_again() {
        let bytes: Vec<u8> = (0..3 * FILE_CHUNK + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let (blob, readers) = (BlobReader::of(&bytes), Readers::new(1));
        for (start, length) in [(0, bytes.len()), (5, 2 * FILE_CHUNK), (FILE_CHUNK, REUSE), (1, 1)] {
            let mut stream = FileStream::new(blob.range(len_u64(start), len_u64(length)), &readers);
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
        let mut stream = FileStream::new(BlobReader::of(b"short").range(0, 6), &Readers::new(1));
        assert_eq!(poll_fn(|context| stream.poll_chunk(context)).await.unwrap().unwrap(), "short");
        let error = poll_fn(|context| stream.poll_chunk(context)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
