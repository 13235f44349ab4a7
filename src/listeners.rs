//! The sockets that requests come in by.
//!
//! Owns their making. Accepting is `server.rs`'s.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::{TcpListener, UnixListener};

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
