//! Blob → HTTP body.
//!
//! Owns on which thread a blob is read, and the buffers. Buffers are reused: a new one for each piece would have to be mapped and cleared
//! before the read.

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

/// Smallest piece that is read into a reused buffer, bytes. Smaller ones get their own memory.
const REUSE: usize = 32 * 1024;

/// Most unused buffers kept, 1 MiB together.
const KEPT: usize = 8;

/// What all bodies that read blobs share.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    /// Permits for reads from the disk: few at a time, because each uses a thread.
    cold: Arc<Semaphore>,
    /// Buffers for the next reads.
    buffers: Arc<Buffers>,
}

/// Unused buffers of [`FILE_CHUNK`] bytes.
#[derive(Debug, Default)]
struct Buffers(Mutex<Vec<Box<[u8]>>>);

/// A buffer with bytes in it. When it is dropped, the buffer is given back.
#[derive(Debug)]
struct Lease {
    /// [`FILE_CHUNK`] bytes; empty once given back.
    buffer: Box<[u8]>,
    /// How many of them were read.
    length: usize,
    buffers: Arc<Buffers>,
}

impl Readers {
    /// Allows `cold` reads from the disk at the same time.
    pub(crate) fn new(cold: usize) -> Self {
        Self { cold: Arc::new(Semaphore::new(cold)), buffers: Arc::default() }
    }
}

impl Buffers {
    /// An unused buffer, or a new one.
    fn take(&self) -> Box<[u8]> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; FILE_CHUNK].into())
    }

    /// Keeps a buffer for the next read, unless there are enough.
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

/// The body of a response that sends a blob or a part of one. Bytes in the page cache are read at once on the async thread, others on a
/// blocking thread.
#[derive(Debug)]
pub(crate) struct FileStream {
    /// The bytes to send.
    blob: BlobReader,
    /// How many of them were read.
    at: u64,
    readers: Readers,
    /// A read from the disk that is in progress.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FileStream {
    /// A body of all bytes of `blob`.
    pub(crate) fn new(blob: BlobReader, readers: &Readers) -> Self {
        Self { blob, at: 0, readers: readers.clone(), reading: None }
    }

    /// Bytes still to be read.
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

/// One of the two ways to read a blob: from memory only, or waiting for the disk.
type ReadAt = fn(&BlobReader, u64, &mut [u8]) -> io::Result<usize>;

/// Reads the next piece of a blob, at least one byte.
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

/// Reads up to `size` bytes, at least one, into new memory.
fn read_new(blob: &BlobReader, at: u64, size: usize, read_at: ReadAt) -> io::Result<Bytes> {
    let mut buffer = vec![0; size];
    let count = read_some(blob, at, &mut buffer, read_at)?;
    buffer.truncate(count);
    Ok(buffer.into())
}

/// Reads at least one byte and returns how many.
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
