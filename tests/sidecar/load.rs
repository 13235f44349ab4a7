//! Load that ought to hurt, against the program itself: memory stays bounded, and who behaves is served meanwhile.
//!
//! In full size and with every time-out waited for: `cargo test --test sidecar --locked -- --ignored --nocapture load`.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::binary::{Folder, Service};
use crate::harness::client::{read_response, try_read_response};
use crate::harness::{eventually, unique};

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// How many do each harm.
#[derive(Clone, Copy)]
struct Size {
    idle: usize,
    floods: usize,
    uploads: usize,
    readers: usize,
    waiters: usize,
}

const SHORT: Size = Size { idle: 2000, floods: 200, uploads: 200, readers: 50, waiters: 2000 };
const FULL: Size = Size { idle: 2000, floods: 2000, uploads: 2000, readers: 1000, waiters: 10_000 };

/// Requests of one user that may wait for pending uploads, as the README has it: half of the places for users.
const MAX_WAITING: usize = 768 / 2;

/// Uploads of one user under way at once, as the README has it.
const MAX_UPLOADS_PER_USER: usize = 32;

/// A service under load, and the one who behaves.
struct World {
    folder: Folder,
    service: Service,
    /// Media that can be downloaded.
    mxc: String,
    idle_kib: u64,
}

impl World {
    fn new() -> Self {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let folder = Folder::new("uploads: {pending_per_user: 100000}\n");
        let service = folder.serve();
        let uploaded = service.alice().post(UPLOAD, &unique(0, 100_000));
        let mxc = uploaded.json()["content_uri"].as_str().unwrap().replace("mxc://", "");
        let idle_kib = service.memory_kib();
        Self { folder, service, mxc, idle_kib }
    }

    fn download(&self) -> String {
        format!("/_matrix/client/v1/media/download/{}", self.mxc)
    }

    /// Connections on which `bytes` were sent.
    fn connect(&self, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
        let connect = |_| {
            let mut stream = self.service.alice().connect();
            stream.write_all(bytes).unwrap();
            stream
        };
        (0..count).map(connect).collect()
    }

    /// Uploads and downloads like anybody, and says how much memory there is above the idle service's.
    fn behave(&self, what: &str, most_kib: usize) {
        let started = Instant::now();
        let alice = self.service.alice();
        let uploaded = alice.post(UPLOAD, &unique(1, 1_000_000));
        assert_eq!(uploaded.status, 200, "{what}: {}", uploaded.text());
        let downloaded = alice.get(&self.download());
        assert!(downloaded.status == 200 && downloaded.body == unique(0, 100_000), "{what}");
        let used = self.service.memory_kib().saturating_sub(self.idle_kib);
        println!(
            "{what}: {used} KiB above idle, upload of 1 MB and download of 100 kB took {:?}",
            started.elapsed()
        );
        assert!(used <= u64::try_from(most_kib).unwrap(), "{what}: {used} KiB, more than {most_kib}");
    }
}

/// Memory that good clients and the allocator may take besides, KiB.
const SLACK: usize = 16 * 1024;

fn idle_connections_and_slow_heads(size: Size) -> (World, Vec<TcpStream>) {
    let world = World::new();
    let mut connections = world.connect(size.idle, b"");
    world.behave("idle connections", SLACK + size.idle * 10);
    for piece in [&b"GET /_matrix/client/v1/media/config HTTP/1.1\r\n"[..], b"X", b"-a", b":"] {
        connections.iter_mut().for_each(|stream| stream.write_all(piece).unwrap());
    }
    world.behave("slow heads", SLACK + size.idle * 24);
    (world, connections)
}

#[test]
fn idle_connections_and_slow_heads_cost_little_and_others_are_served() {
    idle_connections_and_slow_heads(SHORT);
}

fn header_floods(size: Size) -> World {
    let world = World::new();
    let head =
        [b"GET /_matrix/client/v1/media/config HTTP/1.1\r\nX: ".as_slice(), &vec![b'a'; 30_000]].concat();
    let connections = world.connect(size.floods, &head);
    world.behave("header floods", SLACK + size.floods * 80);
    drop(connections);
    for long in [vec![b'a'; 100_000], b"a: b\r\nX".repeat(200)] {
        let alice = world.service.alice();
        let mut stream = alice.connect();
        // The connection may be closed before all is sent.
        _ = stream.write_all(&[b"GET / HTTP/1.1\r\nX".as_slice(), &long, b": b\r\n\r\n"].concat());
        let refused = try_read_response(&mut stream, "HEAD");
        assert!(refused.is_none_or(|response| response.status == 431));
    }
    world
}

#[test]
fn header_floods_are_bounded_and_others_are_served() {
    header_floods(SHORT);
}

fn stalled_uploads(size: Size) -> (World, Vec<TcpStream>) {
    let world = World::new();
    let mut connections = Vec::new();
    while connections.len() < size.uploads {
        // As many users as it takes: each has a bound of their own.
        let user = world.service.user(&format!("user{}", connections.len()));
        let head = user.head_of("POST", UPLOAD) + "Content-Length: 1000000\r\n\r\n";
        let begun = [head.as_bytes(), &unique(2, 300_000)].concat();
        let count = MAX_UPLOADS_PER_USER.min(size.uploads - connections.len());
        connections.extend(world.connect(count, &begun));
    }
    let temp_files = || std::fs::read_dir(world.folder.path("data/tmp")).unwrap().count();
    eventually("all are under way", || temp_files() == size.uploads);
    // 32 with two batches of 256 KiB, the others with two of 16; each with a read buffer and its task.
    world.behave("stalled uploads", SLACK + 32 * 512 + size.uploads * (32 + 64 + 24));
    (world, connections)
}

#[test]
fn uploads_that_stall_are_bounded_leave_nothing_and_others_are_served() {
    let (world, connections) = stalled_uploads(SHORT);
    drop(connections);
    eventually("nothing is left", || std::fs::read_dir(world.folder.path("data/tmp")).unwrap().count() == 0);
}

#[test]
fn an_upload_byte_by_byte_costs_no_more_than_another() {
    let world = World::new();
    let alice = world.service.alice();
    let mut stream = alice.connect();
    stream.set_nodelay(true).unwrap();
    let bytes = unique(3, 20_000);
    write!(stream, "{}Content-Length: {}\r\n\r\n", alice.head_of("POST", UPLOAD), bytes.len()).unwrap();
    for byte in &bytes[1..] {
        stream.write_all(&[*byte]).unwrap();
    }
    world.behave("an upload byte by byte", SLACK);
    stream.write_all(&bytes[..1]).unwrap();
    assert_eq!(read_response(&mut stream, "POST").status, 200);
}

/// Clients that ask for 1 GiB and read nothing of it.
fn stopped_readers(size: Size) -> (World, Vec<TcpStream>) {
    let mut world = World::new();
    let sha256 = "ab".repeat(32);
    let blob = world.folder.path(&format!("data/blobs/ab/{sha256}"));
    let catalog = rusqlite::Connection::open(world.folder.path("data/catalog.db")).unwrap();
    let row = "INSERT INTO media (server_name, media_id, sha256, size, content_type, user_id, created_ms, last_access_ms, open)
               VALUES ('sidecar.test', 'large', unhex(?1), 1 << 30, 'video/mp4', '@a:sidecar.test', 0, 0, 1)";
    catalog.execute(row, [&sha256]).unwrap();
    // After the row: blobs without one are removed after the start. Sparse: it takes no room.
    File::create(blob).unwrap().set_len(1 << 30).unwrap();
    let small = std::mem::replace(&mut world.mxc, "sidecar.test/large".to_owned());
    let request = world.service.alice().request("GET", &world.download(), b"");
    let mut connections = world.connect(size.readers, &request);
    world.mxc = small;
    let mut first = [0; 1024];
    connections.iter_mut().for_each(|stream| stream.read_exact(&mut first).unwrap());
    world.behave("clients that stop reading 1 GiB", SLACK + size.readers * 256);
    (world, connections)
}

#[test]
fn clients_that_stop_reading_are_bounded_and_others_are_served() {
    stopped_readers(SHORT);
}

fn pending_waiters(size: Size) {
    let world = World::new();
    let alice = world.service.alice();
    let created = alice.post("/_matrix/media/v1/create", b"{}").json();
    let mxc = created["content_uri"].as_str().unwrap().replace("mxc://", "");
    let target = format!("/_matrix/client/v1/media/download/{mxc}?timeout_ms=60000");
    let request = alice.request("GET", &target, b"");
    let mut asking = world.connect(MAX_WAITING + 1, &request);
    let is_answered = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let is_answered = stream.peek(&mut [0]).is_ok();
        stream.set_nonblocking(false).unwrap();
        is_answered
    };
    eventually("one is one too many", || asking.iter().any(is_answered));
    let mut further = asking.remove(asking.iter().position(is_answered).unwrap());
    let mut waiting = asking;
    let not_yet = |stream: &mut TcpStream| {
        assert_eq!(read_response(stream, "GET").failure(), (504, "M_NOT_YET_UPLOADED".to_owned()));
    };
    not_yet(&mut further);
    for _ in MAX_WAITING + 1..size.waiters {
        further.write_all(&request).unwrap();
        not_yet(&mut further);
    }
    assert!(!waiting.iter().any(is_answered));
    world.behave("waiters for a pending upload", SLACK + MAX_WAITING * 32);
    assert_eq!(alice.put(&format!("/_matrix/media/v3/upload/{mxc}"), b"here").status, 200);
    for stream in &mut waiting {
        assert_eq!(read_response(stream, "GET").text(), "here");
    }
}

#[test]
fn waiters_past_the_bound_are_told_not_yet_at_once_and_the_others_get_it() {
    pending_waiters(SHORT);
}

/// Waits until the service has ended every connection. What it said before is thrown away.
fn wait_for_the_end(what: &str, connections: Vec<TcpStream>, timeout: Duration) {
    let started = Instant::now();
    for mut stream in connections {
        stream.set_read_timeout(Some(timeout)).unwrap();
        let mut answer = [0; 16_384];
        loop {
            match stream.read(&mut answer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{what}: {error}"),
            }
        }
    }
    println!("{what}: all ended after {:?}", started.elapsed());
}

#[test]
#[ignore = "takes minutes: waits for every time-out"]
fn in_full_size_all_harm_is_bounded_and_ends_in_time() {
    let (world, heads) = idle_connections_and_slow_heads(FULL);
    header_floods(FULL);
    pending_waiters(FULL);
    let (uploading, uploads) = stalled_uploads(FULL);
    let (reading, readers) = stopped_readers(FULL);
    // Who stops reading is found by what the service holds: its files.
    let open_files =
        || std::fs::read_dir(format!("/proc/{}/fd", reading.service.child.id())).unwrap().count();
    let since = Instant::now();
    while open_files() > 200 {
        assert!(since.elapsed() < Duration::from_secs(150), "clients that stop reading are not given up");
        // A busy wait would take a processor for a minute.
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("clients that stop reading: given up after {:?}", since.elapsed());
    drop(readers);
    wait_for_the_end("slow heads", heads, Duration::from_mins(2));
    wait_for_the_end("stalled uploads", uploads, Duration::from_mins(2));
    world.behave("after it all", SLACK + FULL.idle * 24);
    eventually("nothing is left", || {
        std::fs::read_dir(uploading.folder.path("data/tmp")).unwrap().count() == 0
    });
}
