//! `kill -9` at random moments under load of every kind: what was answered is there, nothing half-written is, and nothing that was deleted
//! comes back.
//!
//! The long run, 200 rounds: `cargo test --test sidecar --locked -- --ignored --nocapture crash`. A run prints its seed;
//! `CRASH_SEED` repeats it as far as the machine's timing allows, `CRASH_ROUNDS` sets the rounds.

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use crate::binary::{Folder, Service};
use crate::harness::client::read_response;
use crate::harness::{Authority, Client, Peer, Reply, Response, eventually, files_below, picture, unique};

/// Older answers that are looked at again after each restart; the end looks at all.
const SAMPLE: u64 = 100;

/// A file that must be there: it was answered.
#[derive(Clone, Debug)]
struct Answered {
    mxc: String,
    content: Content,
}

/// Bytes that are made anew when they are compared.
#[derive(Clone, Copy, Debug)]
enum Content {
    Unique(u64),
    Picture(u64),
}

impl Content {
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Unique(number) => {
                unique(number, usize::try_from(number % 11 * number % 7 * 9_000).unwrap())
            }
            Self::Picture(number) => picture(number),
        }
    }
}

/// What the load has come to.
#[derive(Default)]
struct Ledger {
    answered: Mutex<Vec<Answered>>,
    /// Addresses whose deletion was answered.
    deleted: Mutex<Vec<String>>,
    /// Answers that told of something stored.
    answers: AtomicU64,
    /// For contents that are not there yet.
    numbers: AtomicU64,
    stop: AtomicBool,
}

/// Random numbers that a seed decides (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// One of those who make the load.
struct Worker {
    alice: Client,
    ledger: Arc<Ledger>,
    remote: String,
    /// The operator's socket.
    socket: PathBuf,
    dice: Dice,
}

impl Worker {
    /// Does one thing after the other until told to stop.
    fn run(mut self, job: fn(&mut Self) -> Option<()>) {
        while !self.ledger.stop.load(Ordering::SeqCst) {
            if job(&mut self).is_some() {
                self.ledger.answers.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// An answer that came whole; a connection that broke is none.
    fn ask(&self, method: &str, target: &str, body: &[u8]) -> Option<Response> {
        let response = self.alice.try_send(method, target, body)?;
        (response.status == 200 && response.complete).then_some(response)
    }

    fn number(&self) -> u64 {
        self.ledger.numbers.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, mxc: String, content: Content) {
        self.ledger.answered.lock().unwrap().push(Answered { mxc, content });
    }

    fn upload(&mut self) -> Option<()> {
        // Now and then bytes that are there already.
        let number = if self.dice.below(5) == 0 { self.dice.below(20) } else { self.number() };
        let content = Content::Unique(number);
        let response = self.ask("POST", "/_matrix/media/v3/upload", &content.bytes())?;
        self.note(mxc_of(&response), content);
        Some(())
    }

    fn create_and_fill(&mut self) -> Option<()> {
        let Some(created) = self.ask("POST", "/_matrix/media/v1/create", b"{}") else {
            // The rate of `create` is bounded: the rest of the round uploads.
            return self.upload();
        };
        let (mxc, content) = (mxc_of(&created), Content::Unique(self.number()));
        self.ask("PUT", &format!("/_matrix/media/v3/upload/{mxc}"), &content.bytes())?;
        self.note(mxc, content);
        Some(())
    }

    fn fetch(&mut self) -> Option<()> {
        let mxc = format!("{}/{}", self.remote, self.number());
        let response = self.ask("GET", &download(&mxc), b"")?;
        assert!(response.body == remote_bytes(&mxc), "{mxc} is damaged");
        Some(())
    }

    fn download(&mut self) -> Option<()> {
        let answered = self.ledger.answered.lock().unwrap();
        let any = self.dice.below(u64::try_from(answered.len()).unwrap().max(1));
        let wanted = answered.get(usize::try_from(any).unwrap())?.clone();
        drop(answered);
        let response = self.ask("GET", &download(&wanted.mxc), b"")?;
        assert!(response.body == wanted.content.bytes(), "{} is damaged", wanted.mxc);
        // Nothing was stored: it does not count.
        None
    }

    /// Deletes what it has just uploaded, half of the time bytes that others have too.
    fn delete(&mut self) -> Option<()> {
        let number = if self.dice.below(2) == 0 { self.dice.below(20) } else { self.number() };
        let mxc = mxc_of(&self.ask("POST", "/_matrix/media/v3/upload", &Content::Unique(number).bytes())?);
        self.ask("DELETE", &format!("/_matrix/client/v1/media/{mxc}"), b"")?;
        self.ledger.deleted.lock().unwrap().push(mxc);
        Some(())
    }

    /// Evicts copies, sometimes all of them.
    fn sweep(&mut self) -> Option<()> {
        let max_store = self.dice.below(40) * 1_000_000;
        let body = format!(
            r#"{{"command": "retention", "dry_run": false, "keep_free": null, "max_store": {max_store}, "unused_ms": null}}"#
        );
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        let length = body.len();
        let head = "POST /_sidecar/operator HTTP/1.1\r\nHost: localhost\r\nConnection: close";
        write!(stream, "{head}\r\nContent-Length: {length}\r\n\r\n{body}").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        // Nothing was stored: it does not count.
        None
    }

    fn thumbnail(&mut self) -> Option<()> {
        let content = Content::Picture(self.number());
        let uploaded = self.ask("POST", "/_matrix/media/v3/upload", &content.bytes())?;
        let mxc = mxc_of(&uploaded);
        self.note(mxc.clone(), content);
        let target = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=32&height=32&method=crop");
        image::load_from_memory(&self.ask("GET", &target, b"")?.body).unwrap();
        Some(())
    }
}

fn mxc_of(response: &Response) -> String {
    response.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
}

fn download(mxc: &str) -> String {
    format!("/_matrix/client/v1/media/download/{mxc}")
}

/// What the remote has under a path that ends in a number.
fn remote_bytes(path: &str) -> Vec<u8> {
    Content::Unique(path.rsplit('/').next().unwrap().parse().unwrap()).bytes()
}

/// The load of one round, until the service is killed.
fn disturb(folder: &Folder, ledger: &Arc<Ledger>, remote: &Peer, dice: &mut Dice) {
    let mut service = folder.serve();
    let before = ledger.answers.load(Ordering::SeqCst);
    ledger.stop.store(false, Ordering::SeqCst);
    let jobs = [
        Worker::upload,
        Worker::upload,
        Worker::create_and_fill,
        Worker::fetch,
        Worker::download,
        Worker::thumbnail,
        Worker::delete,
        Worker::sweep,
    ];
    let workers: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let (alice, ledger, remote) = (service.alice(), Arc::clone(ledger), remote.name());
            let socket = folder.path("data/ops.sock");
            let worker = Worker { alice, ledger, remote, socket, dice: Dice(dice.below(u64::MAX)) };
            std::thread::spawn(move || worker.run(job))
        })
        .collect();
    // A number of answers and a little more is the random moment: no clock decides.
    let wanted = before + 1 + dice.below(60);
    eventually("requests are answered", || ledger.answers.load(Ordering::SeqCst) >= wanted);
    (0..dice.below(3000)).for_each(|_| std::thread::yield_now());
    service.signal(Signal::KILL);
    service.child.wait().unwrap();
    ledger.stop.store(true, Ordering::SeqCst);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

/// Kills the service while it starts.
fn disturb_start(folder: &Folder, dice: &mut Dice) {
    let mut child = folder.spawn();
    (0..dice.below(20_000)).for_each(|_| std::thread::yield_now());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What must hold after every restart.
struct Checker {
    catalog: Option<rusqlite::Connection>,
    /// Answers that were looked at.
    seen: usize,
    /// Remote rows that were looked at.
    seen_remote: HashSet<String>,
}

impl Checker {
    fn check(&mut self, folder: &Folder, ledger: &Ledger, dice: &mut Dice) {
        let service = folder.serve();
        assert_eq!(std::fs::read_dir(folder.path("data/tmp")).unwrap().count(), 0, "temp files are left");
        let catalog = rusqlite::Connection::open(folder.path("data/catalog.db")).unwrap();
        let verdict: String = catalog.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(verdict, "ok");
        self.catalog = Some(catalog);
        self.check_rows(folder);

        let answered = ledger.answered.lock().unwrap();
        let mut connection = KeepAlive::new(&service);
        answered[self.seen..].iter().for_each(|answer| connection.check(answer));
        for _ in 0..SAMPLE.min(u64::try_from(answered.len()).unwrap()) {
            let any = usize::try_from(dice.below(u64::try_from(answered.len()).unwrap())).unwrap();
            connection.check(&answered[any]);
        }
        self.seen = answered.len();
        for mxc in ledger.deleted.lock().unwrap().iter().rev().take(20) {
            assert_eq!(connection.get(&download(mxc)).status, 404, "{mxc} came back");
        }
        let fetched = self.remote_rows();
        for mxc in fetched.difference(&self.seen_remote) {
            let response = connection.get(&download(mxc));
            assert!(response.header("etag").is_some(), "{mxc} is not in the store");
            assert!(response.body == remote_bytes(mxc), "{mxc} is not what the remote has");
        }
        self.seen_remote = fetched;
    }

    fn ask<T>(&self, question: &str, row: fn(&rusqlite::Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let mut statement = self.catalog.as_ref().unwrap().prepare(question).unwrap();
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    fn remote_rows(&self) -> HashSet<String> {
        let question = "SELECT server_name || '/' || media_id FROM media WHERE server_name <> 'sidecar.test'";
        self.ask(question, |row| row.get(0)).into_iter().collect()
    }

    /// Every row has a blob of its size, and in time every blob a row or a note that it has none.
    fn check_rows(&self, folder: &Folder) {
        let sizes = || -> HashMap<String, u64> {
            let question = "SELECT lower(hex(sha256)), size FROM media WHERE sha256 IS NOT NULL
                            UNION SELECT lower(hex(sha256)), size FROM thumbnail";
            self.ask(question, |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))
                .into_iter()
                .collect()
        };
        let blobs = || -> HashMap<String, u64> {
            let blobs = files_below(&folder.path("data/blobs")).into_iter();
            let size =
                |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), path.metadata().ok()?.len()));
            blobs.filter_map(size).collect()
        };
        let (rows, files) = (sizes(), blobs());
        for (sha256, size) in &rows {
            assert_eq!(files.get(sha256), Some(size), "a row without its blob");
        }
        let orphans = || -> HashSet<String> {
            self.ask("SELECT lower(hex(sha256)) FROM orphan", |row| row.get(0)).into_iter().collect()
        };
        eventually("blobs without rows are noted", || {
            let (rows, orphans) = (sizes(), orphans());
            blobs().keys().all(|blob| rows.contains_key(blob) || orphans.contains(blob))
        });
    }
}

/// A connection that is used again and again.
struct KeepAlive {
    alice: Client,
    stream: BufReader<std::net::TcpStream>,
}

impl KeepAlive {
    fn new(service: &Service) -> Self {
        let alice = service.alice();
        Self { stream: BufReader::new(alice.connect()), alice }
    }

    fn get(&mut self, target: &str) -> Response {
        self.stream.get_mut().write_all(&self.alice.request("GET", target, b"")).unwrap();
        read_response(&mut self.stream, "GET")
    }

    fn check(&mut self, answered: &Answered) {
        let response = self.get(&download(&answered.mxc));
        assert_eq!(response.status, 200, "{answered:?} is lost");
        assert!(response.complete && response.body == answered.content.bytes(), "{answered:?} is damaged");
    }
}

fn run(default_rounds: u64) {
    let from_environment = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seed = from_environment("CRASH_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    let rounds = from_environment("CRASH_ROUNDS").unwrap_or(default_rounds);
    println!("CRASH_SEED={seed} CRASH_ROUNDS={rounds}");
    let (started, mut dice) = (Instant::now(), Dice(seed));
    let folder = Folder::new(
        "uploads: {pending_per_user: 1000000}\nfederation: {ca_file: ca.pem, ip_allow: [127.0.0.0/8]}\n",
    );
    std::fs::write(folder.path("ca.pem"), Authority::get().ca_pem()).unwrap();
    let remote = Peer::tls(|request| {
        Reply::new(200).header("Content-Disposition", "inline").body(remote_bytes(request.path()))
    });
    let ledger = Arc::new(Ledger::default());
    let mut checker = Checker { catalog: None, seen: 0, seen_remote: HashSet::new() };
    for _ in 0..rounds {
        disturb(&folder, &ledger, &remote, &mut dice);
        if dice.below(4) == 0 {
            disturb_start(&folder, &mut dice);
        }
        checker.check(&folder, &ledger, &mut dice);
    }

    let service = folder.serve();
    let mut connection = KeepAlive::new(&service);
    let answered = ledger.answered.lock().unwrap();
    answered.iter().for_each(|answer| connection.check(answer));
    let deleted = ledger.deleted.lock().unwrap();
    for mxc in deleted.iter() {
        assert_eq!(connection.get(&download(mxc)).status, 404, "{mxc} came back");
    }
    for blob in files_below(&folder.path("data/blobs")) {
        let name = data_encoding::HEXLOWER.encode(&Sha256::digest(std::fs::read(&blob).unwrap()));
        assert_eq!(blob.file_name().unwrap().to_str().unwrap(), name, "a blob is not what its name says");
    }
    println!(
        "{rounds} rounds in {:.0} s: {} uploads answered and there, {} deleted and gone, {} remote files kept, {} answers that told of something stored",
        started.elapsed().as_secs_f64(),
        answered.len(),
        deleted.len(),
        checker.seen_remote.len(),
        ledger.answers.load(Ordering::SeqCst)
    );
}

#[test]
fn what_was_answered_survives_kill_9_and_nothing_half_written_does() {
    run(5);
}

#[test]
#[ignore = "takes minutes"]
fn what_was_answered_survives_kill_9_200_times() {
    run(200);
}
