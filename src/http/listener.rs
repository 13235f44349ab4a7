//! Listeners: opening the sockets of `listen` and `ops.listen`, and accepting from them.
//!
//! Refuses to know what is done with a connection.

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::connection::Socket;
use crate::config::{Config, ListenAddr};
use crate::error::in_words;

/// Connections that the kernel keeps until they are accepted, if `net.core.somaxconn` allows it. When they are more, a client waits for
/// seconds before it tries again.
const BACKLOG: i32 = 4096;

/// Mode of a Unix socket of `listen`: the reverse proxy shares the group.
const LISTEN_MODE: u32 = 0o660;

/// Mode of a Unix socket of `ops.listen`.
const OPS_MODE: u32 = 0o600;

/// A socket to accept from.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// Accepts the next connection from the kernel's queue.
type Take = Box<dyn FnMut() -> io::Result<Socket> + Send>;

impl Listener {
    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                // Responses are written in large pieces, so Nagle's algorithm would only delay the last one. An error here does not matter.
                drop(stream.set_nodelay(true));
                Ok(Socket::Tcp(stream, peer.ip()))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }

    /// The connections in the kernel's queue. Asks the kernel directly, because the runtime's readiness may be out of date.
    pub(crate) fn into_queue(self) -> io::Result<impl Iterator<Item = io::Result<Socket>>> {
        let mut take: Take = match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (stream, peer) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    TcpStream::from_std(stream).map(|stream| Socket::Tcp(stream, peer.ip()))
                })
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                Box::new(move || {
                    let (stream, _) = listener.accept()?;
                    stream.set_nonblocking(true)?;
                    UnixStream::from_std(stream).map(Socket::Unix)
                })
            }
        };
        Ok(std::iter::from_fn(move || match take() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            taken => Some(taken),
        }))
    }
}

/// The address it listens on, for log lines.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("?"),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("unix:?"),
                }
            }
        }
    }
}

/// Opens the sockets of `listen`. A Unix socket left by an earlier run is replaced; its group may connect.
pub fn bind(config: &Config) -> io::Result<Vec<Listener>> {
    let addresses = &config.listen.addresses;
    addresses.iter().map(|address| bind_one(address, LISTEN_MODE, "listen")).collect()
}

/// Opens the socket of `ops.listen`, unless that is off. A Unix socket left by an earlier run is replaced; only its owner may connect.
///
/// # Errors
/// When the configured address cannot be used. The default socket is an error only if another process listens on it: on a file system
/// without sockets, or with a path that is too long, the service runs without it.
pub fn bind_ops(config: &Config) -> io::Result<Option<Listener>> {
    let Some(address) = config.ops_address() else { return Ok(None) };
    match bind_one(&address, OPS_MODE, "ops.listen") {
        Err(error) if config.ops.listen.is_none() && error.kind() != io::ErrorKind::AddrInUse => {
            tracing::warn!("{error}; the service runs without it");
            Ok(None)
        }
        bound => bound.map(Some),
    }
}

/// How to fix an address that cannot be used, besides setting another one.
const FIXES: [(io::ErrorKind, &str); 4] = [
    (io::ErrorKind::AddrInUse, "stop the program that listens there, or "),
    (io::ErrorKind::AlreadyExists, "remove it, or "),
    (io::ErrorKind::NotFound, "create its folder, or "),
    (io::ErrorKind::AddrNotAvailable, "this machine does not have that address; "),
];

/// Opens the socket at `address`, the value of the configuration key `key`.
fn bind_one(address: &ListenAddr, mode: u32, key: &str) -> io::Result<Listener> {
    let bound = match address {
        ListenAddr::Tcp(address) => std::net::TcpListener::bind(address).and_then(|listener| {
            // Once more, because the standard library asks for 128.
            rustix::net::listen(&listener, BACKLOG)?;
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Listener::Tcp)
        }),
        ListenAddr::Unix(path) => bind_unix(path, mode).map(Listener::Unix),
    };
    bound.map_err(|error| {
        let fix = FIXES.iter().find(|(kind, _)| *kind == error.kind()).map_or("", |(_, fix)| *fix);
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address}: {}; {fix}set `{key}`", in_words(&error)),
        )
    })
}

/// Opens a Unix socket. Replaces a socket file whose process has ended, but not one that is in use.
fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = || {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    };
    match path.symlink_metadata() {
        Ok(metadata) if metadata.file_type().is_socket() => {
            match rustix::net::connect(socket()?, &address) {
                Err(Errno::CONNREFUSED) => std::fs::remove_file(path)?,
                // A full queue means that a process owns the socket.
                Ok(()) | Err(Errno::AGAIN) => return Err(io::ErrorKind::AddrInUse.into()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is not a socket exists there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = socket()?;
    rustix::net::bind(&socket, &address)?;
    // Set before `listen`: no one can connect before that, so the socket is never open with another mode.
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}
