//! Scripted HTTP servers, plain or with TLS.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// A server whose every answer a test decides. Each connection carries one request.
pub struct Peer {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    accepted: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
    scheme: &'static str,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query as on the wire.
    pub target: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        let raw = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(percent_encoding::percent_decode_str(raw).decode_utf8().unwrap().into_owned())
    }
}

/// An answer: bytes and pauses.
pub struct Reply {
    steps: Vec<Step>,
    status: u16,
    headers: Vec<(String, String)>,
    has_length: bool,
}

enum Step {
    Send(Vec<u8>),
    /// Again and again, until the other end is gone.
    Endless(Vec<u8>),
    /// So many bytes, so many a second.
    Paced(usize, usize),
    /// So many bytes, one every few milliseconds.
    Drip(usize),
    /// Until the other end speaks or is gone.
    Wait(Receiver<()>),
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { steps: Vec::new(), status, headers: Vec::new(), has_length: false }
    }

    /// One whose very first bytes are its body's.
    #[allow(dead_code, reason = "the measurements, which share this file, do not use it")]
    pub fn raw() -> Self {
        Self::new(0)
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status).header("Content-Type", "application/json").body(body.to_string())
    }

    pub fn error(status: u16, errcode: &str) -> Self {
        Self::json(status, &json!({"errcode": errcode, "error": "scripted"}))
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.has_length |= ["content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str());
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Send(body.as_ref().to_vec()));
        self
    }

    /// Without a length: it ends when the connection does.
    #[allow(dead_code, reason = "the measurements, which share this file, do not use it")]
    pub fn until_close(mut self) -> Self {
        self.has_length = true;
        self
    }

    /// A body that goes on until the other end hangs up.
    #[allow(dead_code, reason = "the measurements, which share this file, do not use it")]
    pub fn endless(mut self, piece: impl AsRef<[u8]>) -> Self {
        self.steps.push(Step::Endless(piece.as_ref().to_vec()));
        self.has_length = true;
        self
    }

    /// So many times `x`, one now and then.
    #[allow(dead_code, reason = "the measurements, which share this file, do not use it")]
    pub fn dripping(mut self, count: usize) -> Self {
        self.steps.push(Step::Drip(count));
        self.has_length = true;
        self
    }

    /// Goes on only when the other end of `signal` says so or is dropped.
    pub fn wait(mut self, signal: Receiver<()>) -> Self {
        self.steps.push(Step::Wait(signal));
        self
    }

    /// A body of `bytes` bytes that leaves at `rate` bytes a second. For measuring, not for tests.
    #[allow(dead_code, reason = "used by the measurements, which share this file")]
    pub fn paced(mut self, bytes: usize, rate: usize) -> Self {
        self.steps.push(Step::Paced(bytes, rate));
        self.header("Content-Length", &bytes.to_string())
    }

    fn write(self, stream: &mut impl Write) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        let body: usize =
            self.steps.iter().map(|s| if let Step::Send(bytes) = s { bytes.len() } else { 0 }).sum();
        if !self.has_length {
            head += &format!("Content-Length: {body}\r\n");
        }
        if self.status != 0 {
            stream.write_all((head + "\r\n").as_bytes())?;
        }
        stream.flush()?;
        for step in self.steps {
            match step {
                Step::Send(bytes) => stream.write_all(&bytes)?,
                Step::Endless(bytes) => loop {
                    stream.write_all(&bytes)?;
                },
                Step::Paced(bytes, rate) => write_paced(stream, bytes, rate)?,
                Step::Drip(count) => {
                    for _ in 0..count {
                        stream.write_all(b"x")?;
                        stream.flush()?;
                        pause();
                    }
                }
                Step::Wait(signal) => _ = signal.recv(),
            }
            stream.flush()?;
        }
        Ok(())
    }
}

/// The time between two bytes that drip.
pub fn pause() {
    let (_open, silence) = channel::<()>();
    _ = silence.recv_timeout(std::time::Duration::from_millis(20));
}

/// Writes in slices of 10 ms.
fn write_paced(stream: &mut impl Write, bytes: usize, rate: usize) -> std::io::Result<()> {
    let (started, slice) = (std::time::Instant::now(), vec![7; rate / 100]);
    let mut sent = 0;
    while sent < bytes {
        let count = slice.len().min(bytes - sent);
        stream.write_all(&slice[..count])?;
        stream.flush()?;
        sent += count;
        let due = std::time::Duration::from_secs_f64(sent as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
    Ok(())
}

impl Peer {
    pub fn plain(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, script)
    }

    /// With a certificate for 127.0.0.1 that sidecars under test trust.
    pub fn tls(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Some(Arc::clone(&Authority::get().server)), script)
    }

    /// At another loopback address.
    pub fn plain_at(host: &str, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(host, None, script)
    }

    /// With a certificate for other names.
    pub fn tls_named(names: &[&str], script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Some(Authority::get().server_config(names)), script)
    }

    fn start(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_at("127.0.0.1", tls, script)
    }

    fn start_at(
        host: &str,
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (seen, stop, script) = (Arc::clone(&requests), Arc::clone(&stopped), Arc::new(script));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let (tls, seen, script) = (tls.clone(), Arc::clone(&seen), Arc::clone(&script));
                std::thread::spawn(move || match tls {
                    None => drop(serve(stream, &seen, &*script)),
                    Some(config) => {
                        let connection = ServerConnection::new(config).unwrap();
                        drop(serve(StreamOwned::new(connection, stream), &seen, &*script));
                    }
                });
            }
        });
        Self { address, requests, accepted, stopped, scheme }
    }

    /// `127.0.0.1:port`, as a server name.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Connections so far, whether they spoke or not.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Paths asked so far, without queries.
    pub fn paths(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.path().to_owned()).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept.
        drop(TcpStream::connect(self.address));
    }
}

/// An address that swallows what is sent to it: nobody is let in, nobody is refused.
pub struct Silent {
    pub address: SocketAddr,
    _listener: rustix::fd::OwnedFd,
    _queued: TcpStream,
}

impl Silent {
    /// At a loopback address. The queue of its listener is full, and the kernel drops who comes further.
    #[allow(dead_code, reason = "the measurements, which share this file, do not use it")]
    pub fn at(host: &str) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::new(host.parse().unwrap(), 0)).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let queued = TcpStream::connect(address).unwrap();
        Self { address, _listener: listener, _queued: queued }
    }
}

/// Reads one request and answers it.
fn serve<S: Read + Write>(
    stream: S,
    seen: &Mutex<Vec<Request>>,
    script: &dyn Fn(&Request) -> Reply,
) -> std::io::Result<()> {
    let mut reader = BufReader::with_capacity(1, stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(_method), Some(target)) = (words.next(), words.next()) else { return Ok(()) };
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let request = Request { target, headers };
    seen.lock().unwrap().push(request.clone());
    let mut stream = reader.into_inner();
    script(&request).write(&mut stream)
}

/// The certificate authority of all tests.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    ca_pem: String,
    server: Arc<ServerConfig>,
}

impl Authority {
    pub fn get() -> &'static Self {
        static AUTHORITY: OnceLock<Authority> = OnceLock::new();
        AUTHORITY.get_or_init(|| {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let server = server_config(&issuer, &["127.0.0.1", "localhost"]);
            Self { ca_pem: issuer.pem(), server, issuer }
        })
    }

    /// TLS with a certificate for 127.0.0.1 that sidecars under test trust.
    #[allow(dead_code, reason = "the measurements, which share this file, do not use it")]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// TLS with a certificate for `names`.
    fn server_config(&self, names: &[&str]) -> Arc<ServerConfig> {
        server_config(&self.issuer, names)
    }

    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }
}

/// TLS with a certificate for `names`.
fn server_config(issuer: &CertifiedIssuer<'static, KeyPair>, names: &[&str]) -> Arc<ServerConfig> {
    let key = KeyPair::generate().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    Arc::new(config)
}
