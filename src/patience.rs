//! A connection that is given up when its other end takes nothing.
//!
//! hyper limits the wait for a request's head and has no word for a client that stops reading an answer; such clients would
//! hold their places for ever.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream whose writes fail when none of them moves a byte for a while.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    /// The connection.
    stream: S,
    /// How long a write may wait.
    patience: Duration,
    /// When the write that waits is given up; made when the first one waits.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether a write waits now.
    is_waiting: bool,
}

impl<S> Patient<S> {
    /// A stream that waits for its reader as long as `patience`.
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, deadline: None, is_waiting: false }
    }

    /// Passes on what came of a write, or gives up one that has waited too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.is_waiting = false;
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

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
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

    #[test]
    fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let patience = Duration::from_mins(1);
            let (near, mut far) = duplex(8);
            let mut stream = Patient::new(near, patience);
            let slow = tokio::spawn(async move {
                let mut taken = [0; 8];
                for _ in 0..3 {
                    tokio::time::sleep(patience.div_f32(2.0)).await;
                    far.read_exact(&mut taken).await.unwrap();
                }
                far
            });
            stream.write_all(&[7; 24]).await.unwrap();
            let _far = slow.await.unwrap();
            stream.write_all(&[7; 8]).await.unwrap();
            let error = stream.write_all(&[7; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
