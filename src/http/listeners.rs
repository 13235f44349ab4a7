//! The sockets that requests come in by.
//!
//! Owns their making. Accepting is `server.rs`'s.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::ListenAddr;
use crate::error::in_words;

/// A socket to accept from.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    /// TCP, and whose it is.
    Tcp(TcpStream, IpAddr),
    /// Through a Unix socket.
    Unix(UnixStream),
}

/// Connections that were made and not accepted.
#[derive(Debug)]
pub(crate) enum Queue {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Through a Unix socket.
    Unix(std::os::unix::net::UnixListener),
}

impl Queue {
    /// Takes one; `None` when there is none. The kernel is asked: what the runtime knows of readiness may be old.
    pub(crate) fn next(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Self::Tcp(listener) => listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream).map(|stream| Stream::Tcp(stream, peer.ip()))
            }),
            Self::Unix(listener) => listener.accept().and_then(|(stream, _)| {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream).map(Stream::Unix)
            }),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream, _) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Stream {
    /// The address at the other end; none through a Unix socket.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(_, peer) => Some(*peer),
            Self::Unix(_) => None,
        }
    }
}

impl Listener {
    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        std::future::poll_fn(|context| self.poll_accept(context)).await
    }

    /// Stops waiting: only what is in the queue now is left to be taken.
    pub(crate) fn into_queue(self) -> io::Result<Queue> {
        Ok(match self {
            Self::Tcp(listener) => Queue::Tcp(listener.into_std()?),
            Self::Unix(listener) => Queue::Unix(listener.into_std()?),
        })
    }

    /// The next connection, if there is one.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        match self {
            Self::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, peer)| {
                // Answers are written whole: waiting for more to send only delays them. What is closed by now shows later.
                drop(stream.set_nodelay(true));
                Stream::Tcp(stream, peer.ip())
            }),
            Self::Unix(listener) => listener.poll_accept(context).map_ok(|(stream, _)| Stream::Unix(stream)),
        }
    }
}
/// What to do about an address that cannot be listened on.
const MENDS: [(io::ErrorKind, &str); 3] = [
    (io::ErrorKind::AddrInUse, "stop what listens there, or set `listen`"),
    (io::ErrorKind::NotFound, "make its folder, or set `listen`"),
    (io::ErrorKind::AddrNotAvailable, "it is no address of this machine; set `listen`"),
];

/// Opens the sockets of `addresses`. A Unix socket that an earlier run left is replaced, and may be used by its group.
pub fn bind(addresses: &[ListenAddr]) -> io::Result<Vec<Listener>> {
    let with_address = |address: &ListenAddr, error: io::Error| {
        let mend =
            MENDS.iter().find(|(kind, _)| *kind == error.kind()).map_or("set `listen`", |(_, mend)| *mend);
        io::Error::new(error.kind(), format!("cannot listen on {address}: {}; {mend}", in_words(&error)))
    };
    let bind_one = |address: &ListenAddr| match address {
        ListenAddr::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Listener::Tcp)
        }
        ListenAddr::Unix(path) => bind_unix(path).map(Listener::Unix),
    };
    addresses.iter().map(|address| bind_one(address).map_err(|error| with_address(address, error))).collect()
}

/// Opens a Unix socket.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::FileTypeExt as _;
    if path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

impl AsyncRead for Stream {
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

impl AsyncWrite for Stream {
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
