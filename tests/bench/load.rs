//! What puts load on a sidecar where `wrk` cannot: uploads of bytes never seen before, whole large files, a mix of everything
//! by many clients. `tests/bench/run` calls it; each command prints what it saw in words and numbers.
//!
//! - `uploads ADDRESS COUNT CONNECTIONS BYTES`: seconds for so many uploads.
//! - `creates FOLDER COUNT THREADS BYTES`: seconds for as many files, each written, synced, renamed and its folder synced.
//! - `get ADDRESS TARGET`: bytes and seconds of one download.
//! - `mixed ADDRESS CLIENTS SECONDS PICTURE TARGET…`: downloads of the targets, uploads, thumbnails of pictures never seen
//!   before; for each kind and status how many there were and how long they took.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::arithmetic_side_effects,
    clippy::missing_docs_in_private_items,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "a measurement"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Scope, scope};
use std::time::{Duration, Instant};

/// Where uploads go.
const UPLOAD: &str = "/_matrix/media/v3/upload";

/// A piece of a large body.
const PIECE: usize = 256 * 1024;

/// How long a client waits for a single read or write.
const IO_TIMEOUT: Duration = Duration::from_mins(1);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["uploads", address, count, connections, bytes] => {
            let bytes = bytes.parse().unwrap();
            race(count, connections, || {
                let mut client = Client::new(address);
                move || assert_eq!(client.upload(&[], bytes).unwrap().status, 200)
            });
        }
        ["creates", folder, count, threads, bytes] => {
            let bytes = bytes.parse().unwrap();
            race(count, threads, || move || create(Path::new(folder), bytes).unwrap());
        }
        ["get", address, target] => {
            let started = Instant::now();
            let answer = Client::new(address).get(target).unwrap();
            assert_eq!(answer.status, 200, "{target}");
            println!("{} {:.6}", answer.bytes, started.elapsed().as_secs_f64());
        }
        ["mixed", address, clients, seconds, picture, targets @ ..] => {
            let until = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
            mixed(address, clients.parse().unwrap(), until, &std::fs::read(picture).unwrap(), targets);
        }
        // `cargo test` and `cargo bench` run every bench without arguments.
        [] => {}
        _ => {
            eprintln!("see the head of tests/bench/load.rs");
            std::process::exit(2);
        }
    }
}

/// Does something `count` times on `threads` threads and prints the seconds it took.
fn race<T: FnMut() + Send>(count: &str, threads: &str, worker: impl Fn() -> T) {
    let (count, left) = (count.parse::<u64>().unwrap(), AtomicU64::new(0));
    let started = Instant::now();
    scope(|scope| {
        for _ in 0..threads.parse::<u32>().unwrap() {
            let (mut work, left) = (worker(), &left);
            scope.spawn(move || {
                while left.fetch_add(1, Ordering::Relaxed) < count {
                    work();
                }
            });
        }
    });
    println!("{:.6}", started.elapsed().as_secs_f64());
}

/// What a durable upload cannot do without.
fn create(folder: &Path, bytes: usize) -> io::Result<()> {
    let name = unique().to_string();
    let (temporary, path): (PathBuf, PathBuf) = (folder.join(format!("{name}.tmp")), folder.join(name));
    let mut file = File::create_new(&temporary)?;
    write_unique(&mut file, bytes)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    File::open(folder)?.sync_all()
}

/// A number never given before, in this process or another.
fn unique() -> u128 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    (since.as_nanos() << 32) | u128::from(COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Writes `bytes` bytes, at least 16, that no other call writes.
fn write_unique(out: &mut impl Write, bytes: usize) -> io::Result<()> {
    let mut piece = vec![b'x'; bytes.min(PIECE)];
    let mut left = bytes;
    while left > 0 {
        let length = left.min(PIECE);
        if length >= 16 {
            piece[..16].copy_from_slice(&unique().to_le_bytes());
        }
        out.write_all(&piece[..length])?;
        left -= length;
    }
    Ok(())
}

/// A keep-alive connection with a token.
struct Client {
    address: String,
    /// Whose it is.
    token: String,
    connection: Option<BufReader<TcpStream>>,
}

/// An answer, its body read.
struct Answer {
    status: u16,
    /// Length of the body.
    bytes: u64,
    /// Start of the body.
    text: String,
}

impl Client {
    fn new(address: &str) -> Self {
        Self::of("bench", address)
    }

    /// One with a token of its own: what a user may have under way is bounded.
    fn of(token: &str, address: &str) -> Self {
        Self { address: address.to_owned(), token: token.to_owned(), connection: None }
    }

    fn get(&mut self, target: &str) -> io::Result<Answer> {
        self.ask("GET", target, &[], 0)
    }

    /// Uploads `head` and then `bytes` unique bytes.
    fn upload(&mut self, head: &[u8], bytes: usize) -> io::Result<Answer> {
        self.ask("POST", UPLOAD, head, bytes)
    }

    /// Sends a request and reads the answer. After a failure the next request has a new connection.
    fn ask(&mut self, method: &str, target: &str, head: &[u8], bytes: usize) -> io::Result<Answer> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let stream = TcpStream::connect(&self.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(IO_TIMEOUT))?;
            stream.set_write_timeout(Some(IO_TIMEOUT))?;
            BufReader::with_capacity(PIECE, stream)
        };
        let length = head.len() + bytes;
        let lines = format!(
            "{method} {target} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Length: {length}\r\n\r\n",
            self.token
        );
        // One write for what fits, as any client does it.
        let mut out = io::BufWriter::with_capacity(16 * 1024, connection.get_mut());
        out.write_all(lines.as_bytes())?;
        out.write_all(head)?;
        write_unique(&mut out, bytes)?;
        out.flush()?;
        drop(out);
        let answer = read_answer(&mut connection)?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// Reads an answer that has a `Content-Length`.
fn read_answer(connection: &mut BufReader<TcpStream>) -> io::Result<Answer> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut line = String::new();
    connection.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
    let mut length = None;
    while line != "\r\n" {
        line.clear();
        connection.read_line(&mut line)?;
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let mut body = connection.take(length.ok_or_else(invalid)?);
    let mut text = Vec::new();
    (&mut body).take(1024).read_to_end(&mut text)?;
    let bytes = text.len() as u64 + io::copy(&mut body, &mut io::sink())?;
    if Some(bytes) == length {
        Ok(Answer { status, bytes, text: String::from_utf8_lossy(&text).into_owned() })
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// How often something ended in a certain way, and how long each took.
type Outcomes = BTreeMap<(&'static str, String), Vec<Duration>>;

/// Many clients, each doing a bit of everything, until a time; then prints kind, outcome, count, median, 99th percentile and worst ms.
fn mixed(address: &str, clients: usize, until: Instant, picture: &[u8], targets: &[&str]) {
    let outcomes = scope(|scope| {
        let start = |number| start_client(scope, address, (number, until), (picture, targets));
        let threads: Vec<_> = (0..clients).map(start).collect();
        let mut all = Outcomes::new();
        for (key, times) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            all.entry(key).or_default().extend(times);
        }
        all
    });
    for ((kind, outcome), mut times) in outcomes {
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let at = |percent: usize| ms(times[(times.len() * percent / 100).min(times.len() - 1)]);
        println!("{kind} {outcome} {} {:.1} {:.1} {:.1}", times.len(), at(50), at(99), at(100));
    }
}

/// One of them.
fn start_client<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    address: &'env str,
    (number, until): (usize, Instant),
    (picture, targets): (&'env [u8], &'env [&'env str]),
) -> std::thread::ScopedJoinHandle<'scope, Outcomes> {
    scope.spawn(move || {
        let (mut client, mut outcomes, mut turn) =
            (Client::of(&format!("bench{number}"), address), Outcomes::new(), number);
        while Instant::now() < until {
            let started = Instant::now();
            let (kind, answer) = match turn % 10 {
                0 => ("thumbnail", thumbnail(&mut client, picture)),
                1..=3 => ("upload", client.upload(&[], 64 * 1024)),
                _ => ("download", client.get(targets[turn % targets.len()])),
            };
            let outcome = match &answer {
                Ok(answer) => answer.status.to_string(),
                Err(error) => format!("{:?}", error.kind()),
            };
            outcomes.entry((kind, outcome)).or_default().push(started.elapsed());
            turn += 1;
        }
        outcomes
    })
}

/// Uploads a picture that is like `picture` and yet a new one (what follows the end of a JPEG is nobody's), then asks for
/// its thumbnail.
fn thumbnail(client: &mut Client, picture: &[u8]) -> io::Result<Answer> {
    let uploaded = client.upload(picture, 16)?;
    let Some((_, rest)) = uploaded.text.split_once("mxc://") else { return Ok(uploaded) };
    let mxc = rest.split('"').next().unwrap_or_default();
    client.get(&format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=320&height=240&method=scale"))
}
