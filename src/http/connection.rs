//! A client's connection: the socket, the write timeout, and the end of the connection when the service stops.
//!
//! Both are here, below hyper, for two reasons. hyper limits the wait for a request's head, but not for a client that stops reading a
//! response: such a client would hold its connection for ever. Here a write that waits too long fails. And hyper's graceful shutdown
//! closes a connection on which it has read nothing yet, even if a request is already in the socket. Here a connection without a request
//! reports its end to hyper when the service stops, but only if there is nothing to read.

use std::future::Future as _;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep};

/// How long a new connection may take to send its request after the service began to stop.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// How often it is looked whether the client of a running request has hung up, where hyper does not see it.
const HANG_UP_CHECK: Duration = Duration::from_secs(5);

/// An accepted socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP, and the client's address.
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
}

/// A stream whose other end may have hung up.
pub(crate) trait HangUp {
    /// Whether the other end will send nothing more, even if there is something left to read.
    fn is_hung_up(&self) -> bool;
}

impl HangUp for Socket {
    fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(self, PollFlags::RDHUP)];
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled.iter().any(|socket| socket.revents().intersects(gone))
    }
}

/// The requests of one connection, shared by its task, its stream and its responses.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Requests whose responses are not completely sent.
    in_flight: AtomicUsize,
    /// Whether nothing or only a part of a request has been read. During a stop the rest is waited for, but not for long.
    is_expecting: AtomicBool,
    /// Notified when a request begins.
    begun: Notify,
}

/// A request whose response is not completely sent.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Requests>);

/// A stream that ends when the service stops and no request is in flight. Its writes fail if the client does not read everything written
/// up to the next flush within `write_timeout`. hyper flushes after each filled buffer, 64 to 192 KiB of a large response, so a client
/// must read at least that much per `write_timeout`.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    requests: Arc<Requests>,
    /// Changes when the service stops.
    stopped: watch::Receiver<()>,
    /// Whether written bytes are not flushed yet: hyper reports a response as done before all of it is sent.
    is_sending: bool,
    /// Time left for the rest of a request; created when the service stops.
    last_wait: Option<Pin<Box<Sleep>>>,
    /// How long all writes before a flush may wait together.
    write_timeout: Duration,
    /// When writing fails; created when the first write has to wait.
    write_deadline: Option<Pin<Box<Sleep>>>,
    /// Whether a write has waited since the last flush.
    is_write_waiting: bool,
    /// When it is looked next whether the client has hung up; created while a request runs.
    hang_up_check: Option<Pin<Box<Sleep>>>,
    /// Whether hyper wanted to read since then: it sees the end itself.
    is_read_wanted: bool,
}

impl Socket {
    /// The client's address; none through a Unix socket.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
        }
    }
}

impl Requests {
    /// The requests of a new connection, on which nothing has arrived yet.
    pub(crate) fn new() -> Arc<Self> {
        let requests = Self::default();
        requests.is_expecting.store(true, Ordering::Relaxed);
        Arc::new(requests)
    }

    /// Counts a request until the guard is dropped, when its response is sent or abandoned.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.is_expecting.store(false, Ordering::Release);
        self.begun.notify_one();
        InFlight(Arc::clone(self))
    }

    /// Waits until a request is in flight.
    pub(crate) async fn next(&self) {
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

impl<S> Connection<S> {
    /// `stream` with its `requests`. It ends when `stopped` changes, and fails when a write waits for longer than
    /// `write_timeout`.
    pub(crate) fn new(
        stream: S,
        requests: Arc<Requests>,
        stopped: watch::Receiver<()>,
        write_timeout: Duration,
    ) -> Self {
        Self {
            stream,
            requests,
            stopped,
            is_sending: false,
            last_wait: None,
            write_timeout,
            write_deadline: None,
            is_write_waiting: false,
            hang_up_check: None,
            is_read_wanted: true,
        }
    }

    /// Passes on the result of a write, or an error if writes have waited too long.
    fn limit_wait<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        let timeout = self.write_timeout;
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !self.is_write_waiting {
            self.is_write_waiting = true;
            if let Some(at) = Instant::now().checked_add(timeout) {
                deadline.as_mut().reset(at);
            }
        }
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client stopped reading")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: HangUp> Connection<S> {
    /// Whether the client of a running request has hung up. hyper does not see it while it has the beginning of a further request in its
    /// buffer, and the request would go on for nobody.
    fn has_hung_up(&mut self, context: &mut Context<'_>) -> bool {
        if self.requests.in_flight.load(Ordering::Acquire) == 0 {
            return false;
        }
        let check = self.hang_up_check.get_or_insert_with(|| Box::pin(tokio::time::sleep(HANG_UP_CHECK)));
        while check.as_mut().poll(context).is_ready() {
            let was_read_wanted = std::mem::replace(&mut self.is_read_wanted, false);
            if !was_read_wanted && self.stream.is_hung_up() {
                return true;
            }
            match Instant::now().checked_add(HANG_UP_CHECK) {
                Some(at) => check.as_mut().reset(at),
                None => return false,
            }
        }
        false
    }
}

impl<S: AsFd> Connection<S> {
    /// Whether a stream that has nothing to read should report its end.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        if self.is_sending
            || !self.stopped.has_changed().unwrap_or(true)
            || self.requests.in_flight.load(Ordering::Acquire) > 0
        {
            return false;
        }
        // Asks the kernel directly, because the runtime's readiness may be out of date.
        if rustix::io::ioctl_fionread(&self.stream).is_ok_and(|waiting| waiting > 0) {
            return false;
        }
        if !self.requests.is_expecting.load(Ordering::Acquire) {
            return true;
        }
        let last_wait = self.last_wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(FIRST_REQUEST)));
        last_wait.as_mut().poll(context).is_ready()
    }
}

impl<S: AsyncRead + AsFd + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        self.is_read_wanted = true;
        let poll = Pin::new(&mut self.stream).poll_read(context, into);
        if poll.is_pending() && self.is_over(context) {
            return Poll::Ready(Ok(()));
        }
        if into.filled().len() > before && self.requests.in_flight.load(Ordering::Acquire) == 0 {
            self.requests.is_expecting.store(true, Ordering::Release);
        }
        poll
    }
}

impl<S: AsyncWrite + HangUp + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_sending = true;
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit_wait(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        if poll.is_ready() {
            self.is_sending = false;
            self.is_write_waiting = false;
        }
        if self.has_hung_up(context) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the client has gone")));
        }
        self.limit_wait(context, poll)
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
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limit_wait(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream, _) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_read(context, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream, _) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream, _) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    impl HangUp for tokio::io::DuplexStream {
        fn is_hung_up(&self) -> bool {
            false
        }
    }

    /// Runs with time that passes at once when nothing else happens.
    fn run<F: Future>(future: F) -> F::Output {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(future)
    }

    const TIMEOUT: Duration = Duration::from_mins(1);

    /// A connection of a service that goes on.
    fn connection<S>(stream: S) -> Connection<S> {
        let (_, stopped) = watch::channel(());
        Connection::new(stream, Requests::new(), stopped, TIMEOUT)
    }

    #[test]
    fn a_reader_that_takes_nothing_is_given_up_and_a_slow_one_is_not() {
        run(async {
            let (near, mut far) = duplex(8);
            let mut stream = connection(near);
            let slow = tokio::spawn(async move {
                let mut taken = [0; 8];
                for _ in 0..5 {
                    tokio::time::sleep(TIMEOUT.div_f32(2.0)).await;
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
            let mut stream = connection(near);
            let trickle = tokio::spawn(async move {
                while far.read_u8().await.is_ok() {
                    tokio::time::sleep(TIMEOUT.div_f32(4.0)).await;
                }
            });
            let error = stream.write_all(&[7; 1000]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            drop(stream);
            trickle.await.unwrap();
        });
    }
}
