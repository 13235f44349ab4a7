//! A connection that is given up when its other end takes nothing.
//!
//! hyper limits the wait for a request's head and has no word for a client that stops reading an answer, or reads it by the
//! byte; such clients would hold their places for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream whose writes fail when what was written is not all taken, up to the next flush, for a while. hyper flushes after
/// each buffer that it has filled, 64 to 192 KiB of a large answer: the slowest reader is one of that much a `patience`.
#[derive(Debug)]
pub(crate) struct WriteTimeout<S> {
    /// The connection.
    stream: S,
    /// How long writes may wait in all before a flush.
    patience: Duration,
    /// When writing is given up; made when the first write waits.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether a write has waited since the last flush.
    is_waiting: bool,
}

impl<S> WriteTimeout<S> {
    /// A stream that waits for its reader as long as `patience`.
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, deadline: None, is_waiting: false }
    }

    /// Passes on what came of a write, or gives up when writes have waited too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        let patience = self.patience;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if !self.is_waiting {
            self.is_waiting = true;
            if let Some(at) = Instant::now().checked_add(patience) {
                deadline.as_mut().reset(at);
            }
        }
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        if poll.is_ready() {
            self.is_waiting = false;
        }
        self.judge(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Runs with time that passes at once when nothing else happens.
    fn run<F: Future>(future: F) -> F::Output {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(future)
    }

    const PATIENCE: Duration = Duration::from_mins(1);

    #[test]
    fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        run(async {
            let (near, mut far) = duplex(8);
            let mut stream = WriteTimeout::new(near, PATIENCE);
            let slow = tokio::spawn(async move {
                let mut taken = [0; 8];
                for _ in 0..5 {
                    tokio::time::sleep(PATIENCE.div_f32(2.0)).await;
                    far.read_exact(&mut taken).await.unwrap();
                }
                far
            });
            for _ in 0..5 {
                stream.write_all(&[7; 8]).await.unwrap();
                stream.flush().await.unwrap();
            }
            let _far = slow.await.unwrap();
            stream.write_all(&[7; 8]).await.unwrap();
            let error = stream.write_all(&[7; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn a_reader_that_takes_a_byte_now_and_then_is_given_up() {
        run(async {
            let (near, mut far) = duplex(8);
            let mut stream = WriteTimeout::new(near, PATIENCE);
            let trickle = tokio::spawn(async move {
                while far.read_u8().await.is_ok() {
                    tokio::time::sleep(PATIENCE.div_f32(4.0)).await;
                }
            });
            let error = stream.write_all(&[7; 1000]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(stream);
            trickle.await.unwrap();
        });
    }
}
