//! How a connection ends when the service stops: what has been asked is answered, and nothing more is waited for.
//!
//! hyper's own graceful shutdown closes a connection on which it has read nothing yet, also when a request lies in the socket
//! already. Here the end is told to hyper by the stream: once the service stops, a connection without a request reads like one
//! whose client has closed it, but only when nothing is there to be read.

use std::future::Future as _;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Sleep;

/// How long a connection that was just made may take to send its request, once the service stops.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What the task of a connection, its stream and its requests know of each other.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// Requests whose answers are not sent yet.
    in_flight: AtomicUsize,
    /// Whether a part of a request has been read, or nothing at all: its rest is waited for, for a moment.
    is_expecting: AtomicBool,
    /// Hears of each request.
    begun: Notify,
}

/// A request whose answer is not sent yet.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Connection>);

/// A stream that ends when the service stops and no request is under way.
#[derive(Debug)]
pub(crate) struct Draining<S> {
    /// The stream.
    stream: S,
    /// What its task knows.
    connection: Arc<Connection>,
    /// Closed when the service stops.
    stopped: watch::Receiver<()>,
    /// Whether something was written that is not flushed: hyper is through with an answer before all of it is sent.
    is_sending: bool,
    /// How long the rest of a request is waited for; made when the service stops.
    moment: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// A connection on which nothing has come yet.
    pub(crate) fn new() -> Arc<Self> {
        let connection = Self::default();
        connection.is_expecting.store(true, Ordering::Relaxed);
        Arc::new(connection)
    }

    /// Notes a request, until its answer is sent or given up.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.is_expecting.store(false, Ordering::Release);
        self.begun.notify_one();
        InFlight(Arc::clone(self))
    }

    /// Waits until a request is under way.
    pub(crate) async fn request(&self) {
        while self.in_flight.load(Ordering::Acquire) == 0 {
            self.begun.notified().await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S: AsFd> Draining<S> {
    /// `stream`, of which `connection` is known, until `stopped` changes.
    pub(crate) fn new(stream: S, connection: Arc<Connection>, stopped: watch::Receiver<()>) -> Self {
        Self { stream, connection, stopped, is_sending: false, moment: None }
    }

    /// Whether a stream that has nothing to read has ended.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_sending
            || !self.stopped.has_changed().unwrap_or(true)
            || self.connection.in_flight.load(Ordering::Acquire) > 0
        {
            return false;
        }
        // The kernel is asked: what the runtime knows of readiness may be old.
        if rustix::io::ioctl_fionread(&self.stream).is_ok_and(|waiting| waiting > 0) {
            return false;
        }
        if !self.connection.is_expecting.load(Ordering::Acquire) {
            return true;
        }
        let moment = self.moment.get_or_insert_with(|| Box::pin(tokio::time::sleep(FIRST_REQUEST)));
        moment.as_mut().poll(context).is_ready()
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Draining<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, into);
        if poll.is_pending() && self.is_over(context) {
            return Poll::Ready(Ok(()));
        }
        if into.filled().len() > before && self.connection.in_flight.load(Ordering::Acquire) == 0 {
            self.connection.is_expecting.store(true, Ordering::Release);
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Draining<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_sending = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.is_sending &= poll.is_pending();
        poll
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_sending = true;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
