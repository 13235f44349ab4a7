//! ureq's transport over TCP, with TLS where the URL says `https`.
//!
//! Owns the time limits of reads and writes: a limit is for the whole wait that ureq asks for, however many system calls that
//! takes. A limit for each call would let a peer that sends a byte now and then hold the caller for hours. Refuses to know HTTP,
//! but for the response head, which [`super::response_head`] normalises before ureq sees it.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::unversioned::transport::time::Duration as Span;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::guard::Guard;
use super::happy_eyeballs::{AddressHistory, connect_first};
use super::response_head::ResponseHeadReader;
use crate::sync::admission::Work;

/// How much of a head is read at once, bytes. The normalised head and what one read brings behind it must fit into the input
/// buffer.
const HEAD_CHUNK: usize = 8 * 1024;

/// How often a read that waits looks whether anybody still wants its result.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Makes [`TcpTransport`]s.
pub(super) struct TcpConnector {
    pub(super) guard: Arc<Guard>,
    /// Trusted roots, and sessions to resume.
    pub(super) tls: Arc<ClientConfig>,
    pub(super) history: Arc<AddressHistory>,
}

pub(super) struct TcpTransport {
    buffers: LazyBuffers,
    stream: MaybeTls,
    /// Reads the response head; `None` while a body is read.
    head: Option<ResponseHeadReader>,
}

enum MaybeTls {
    Plain(TimedSocket),
    Tls(Box<StreamOwned<ClientConnection, TimedSocket>>),
}

/// A TCP socket with a deadline for reads and writes. Past it they fail with `TimedOut`.
struct TimedSocket {
    stream: TcpStream,
    deadline: Option<Instant>,
}

impl Connector<()> for TcpConnector {
    type Out = TcpTransport;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let timeout = details.timeout;
        let deadline = deadline(timeout);
        let transport_error = |error| transport_error(error, timeout);
        let stream = connect_first(&details.addrs, &self.guard, &self.history, deadline);
        let stream = stream.map_err(transport_error)?;
        let socket = TimedSocket { stream, deadline };
        let stream = if details.needs_tls() {
            // For an IP literal rustls checks the certificate for the address and sends no SNI.
            let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_invalid| ureq::Error::Tls("not a host name"))?;
            let connection = ClientConnection::new(Arc::clone(&self.tls), name)?;
            let mut stream = StreamOwned::new(connection, socket);
            // Now rather than at the first write, so that the connect timeout covers it.
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).map_err(transport_error)?;
            }
            MaybeTls::Tls(Box::new(stream))
        } else {
            MaybeTls::Plain(socket)
        };
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(TcpTransport { buffers, stream, head: None }))
    }
}

impl Transport for TcpTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.stream.socket().deadline = deadline(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let written = match &mut self.stream {
            MaybeTls::Plain(socket) => socket.write_all(output),
            MaybeTls::Tls(stream) => stream.write_all(output).and_then(|()| stream.flush()),
        };
        // What arrives after a request, or a part of one, begins with a response head.
        self.head = Some(ResponseHeadReader::default());
        written.map_err(|error| transport_error(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.stream.socket().deadline = deadline(timeout);
        let amount = match &mut self.head {
            None => {
                let read = self.stream.read(self.buffers.input_append_buf());
                read.map_err(|error| transport_error(error, timeout))?
            }
            Some(reader) => {
                let head = read_head(&mut self.stream, reader, timeout)?;
                self.head = None;
                let into = self.buffers.input_append_buf().get_mut(..head.len());
                into.ok_or(ureq::Error::BodyStalled)?.copy_from_slice(&head);
                head.len()
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        let stream = &self.stream.socket().stream;
        // Whatever there is to read on an idle connection is its end, or belongs to no request.
        let is_silent = || {
            stream.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            Ok::<bool, io::Error>(seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
        };
        is_silent().unwrap_or(false)
    }

    fn is_tls(&self) -> bool {
        matches!(self.stream, MaybeTls::Tls(_))
    }
}

/// Reads until the head is complete. Returns it normalised, with the bytes that arrived behind it.
fn read_head(
    stream: &mut MaybeTls,
    reader: &mut ResponseHeadReader,
    timeout: NextTimeout,
) -> Result<Vec<u8>, ureq::Error> {
    let mut chunk = vec![0; HEAD_CHUNK];
    loop {
        let count = stream.read(&mut chunk).map_err(|error| transport_error(error, timeout))?;
        let head = reader.push(chunk.get(..count).unwrap_or_default());
        if let Some(head) = head.map_err(|error| ureq::Error::Other(Box::new(error)))? {
            return Ok(head);
        }
    }
}

impl MaybeTls {
    fn socket(&mut self) -> &mut TimedSocket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// Reads decrypted bytes.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => stream.read(into).map_err(not_an_end_of_body),
        }
    }
}

impl TimedSocket {
    /// The time left until the deadline; `None` without one.
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for TimedSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.left()?.unwrap_or(LOOK_EVERY);
            self.stream.set_read_timeout(Some(left.min(LOOK_EVERY)))?;
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Linux reports a socket timeout so (EAGAIN). The deadline is looked at again above.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => check_wanted()?,
                read => return read,
            }
        }
    }
}

impl Write for TimedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends a wait whose result nobody wants any more.
fn check_wanted() -> io::Result<()> {
    if Work::current_should_end() { Err(io::Error::other("nobody waits for it any more")) } else { Ok(()) }
}

/// Linux reports a socket timeout as `WouldBlock` (EAGAIN).
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// When a wait that ureq asks for must end; `None` without a limit.
fn deadline(timeout: NextTimeout) -> Option<Instant> {
    match timeout.after {
        Span::Exact(after) => Instant::now().checked_add(after),
        Span::NotHappening => None,
    }
}

/// An I/O error as ureq has it: a timeout names the limit that was reached. Linux reports a socket's timeout as `WouldBlock`
/// (EAGAIN).
pub(super) fn transport_error(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return ureq::Error::Timeout(timeout.reason);
    }
    error.into()
}

/// ureq takes some errors for the end of a body that has no length. TLS announces a real end (`close_notify`, RFC 8446 §6.1), so
/// under TLS they never are one: a truncated body would pass for a whole one.
fn not_an_end_of_body(error: io::Error) -> io::Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted) {
        return io::Error::other(format!("the connection was aborted: {error}"));
    }
    error
}

impl fmt::Debug for TcpConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnector").finish_non_exhaustive()
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpTransport").finish_non_exhaustive()
    }
}
