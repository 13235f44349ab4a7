//! One connection: TCP to the first address that answers, TLS where the URL says so, and heads made clean.
//!
//! Every wait ends when the HTTP client says, however many reads or writes it takes: else a byte now and then would hold the
//! caller for hours.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use ureq::unversioned::transport::time::Duration as Span;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

use super::guard::Guard;
use super::head::{self, Head};
use super::race::{Memory, connect_first};

/// How much of a head is read at once, bytes. What comes after it in one read must fit beside it in the input buffer.
const HEAD_CHUNK: usize = 8 * 1024;

/// Connects.
pub(super) struct Wires {
    /// Who permits.
    pub(super) guard: Arc<Guard>,
    /// Roots to trust, and sessions to resume.
    pub(super) tls: Arc<ClientConfig>,
    /// Which addresses were slow.
    pub(super) memory: Arc<Memory>,
}

/// A connection.
pub(super) struct Wire {
    /// Plain bytes in and out.
    buffers: LazyBuffers,
    /// Where they go.
    stream: Stream,
    /// What has come of a head that is not whole yet; `None` once it is.
    head: Option<Vec<u8>>,
}

/// With or without TLS.
enum Stream {
    /// Without.
    Plain(Socket),
    /// With.
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// TCP whose reads and writes end in time.
struct Socket {
    /// The connection.
    stream: TcpStream,
    /// When.
    until: Option<Instant>,
}

impl Connector<()> for Wires {
    type Out = Wire;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Wire>, ureq::Error> {
        let timeout = details.timeout;
        let until = end_of(timeout);
        let in_time = |error| in_time(error, timeout);
        let stream = connect_first(&details.addrs, &self.guard, &self.memory, until).map_err(in_time)?;
        let socket = Socket { stream, until };
        let stream = if details.needs_tls() {
            // For an IP literal rustls checks the certificate for the address and sends no SNI.
            let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_invalid| ureq::Error::Tls("not a host name"))?;
            let connection = ClientConnection::new(Arc::clone(&self.tls), name)?;
            let mut stream = StreamOwned::new(connection, socket);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).map_err(in_time)?;
            }
            Stream::Tls(Box::new(stream))
        } else {
            Stream::Plain(socket)
        };
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Wire { buffers, stream, head: None }))
    }
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let timeout = timeout.for_write();
        self.stream.socket().until = end_of(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let written = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(output),
            Stream::Tls(stream) => stream.write_all(output).and_then(|()| stream.flush()),
        };
        // The answer to it begins with a head.
        self.head = Some(Vec::new());
        written.map_err(|error| in_time(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let timeout = timeout.for_read();
        self.stream.socket().until = end_of(timeout);
        let amount = match &mut self.head {
            None => {
                self.stream.read(self.buffers.input_append_buf()).map_err(|error| in_time(error, timeout))?
            }
            Some(raw) => {
                let clean = read_head(&mut self.stream, raw, timeout)?;
                self.head = None;
                let into = self.buffers.input_append_buf().get_mut(..clean.len());
                into.ok_or(ureq::Error::BodyStalled)?.copy_from_slice(&clean);
                clean.len()
            }
        };
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        let stream = &self.stream.socket().stream;
        let is_silent = || {
            stream.set_nonblocking(true)?;
            let seen = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            Ok::<bool, io::Error>(seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
        };
        is_silent().unwrap_or(false)
    }

    fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }
}

/// Reads a head until it is whole. Gives it clean, with what came after it; nothing when the connection ends before it begins.
fn read_head(stream: &mut Stream, raw: &mut Vec<u8>, timeout: NextTimeout) -> Result<Vec<u8>, ureq::Error> {
    let mut chunk = vec![0; HEAD_CHUNK];
    loop {
        let count = stream.read(&mut chunk).map_err(|error| in_time(error, timeout))?;
        raw.extend_from_slice(chunk.get(..count).unwrap_or_default());
        if raw.is_empty() {
            return Ok(Vec::new());
        }
        let malformed = |error| ureq::Error::Other(Box::new(error));
        if let Head::Whole(mut clean, taken) = head::read(raw, count == 0).map_err(malformed)? {
            clean.extend_from_slice(raw.get(taken..).unwrap_or_default());
            return Ok(clean);
        }
        if count == 0 {
            return Ok(Vec::new());
        }
    }
}

impl Stream {
    /// What is below.
    fn socket(&mut self) -> &mut Socket {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// Reads plain bytes.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(stream) => stream.read(into).map_err(not_an_end),
        }
    }
}

impl Socket {
    /// What is left of the time; `None` for ever.
    fn left(&self) -> io::Result<Option<std::time::Duration>> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.stream.set_read_timeout(self.left()?)?;
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(waited),
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(waited)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the system calls a wait that ended.
fn waited(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

/// When a wait must end.
fn end_of(timeout: NextTimeout) -> Option<Instant> {
    match timeout.after {
        Span::Exact(after) => Instant::now().checked_add(after),
        Span::NotHappening => None,
    }
}

/// The error of a wait that ended, or another.
fn in_time(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    if error.kind() == io::ErrorKind::TimedOut { ureq::Error::Timeout(timeout.reason) } else { error.into() }
}

/// A connection that breaks. ureq takes some of these errors for the end of a body without a length; TLS announces a real
/// end, so here they never are one.
fn not_an_end(error: io::Error) -> io::Error {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    if matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted) {
        return io::Error::other(format!("the connection broke off: {error}"));
    }
    error
}

impl fmt::Debug for Wires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wires").finish_non_exhaustive()
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}
