//! Attacks in full size against the program itself, each for half a minute and all at once: who has rights is served as if nothing was.
//!
//! `cargo build --release --locked && MEDIA_SIDECAR=$PWD/target/release/media-sidecar \
//! cargo test --test sidecar --locked -- --ignored --nocapture attacks_in_full_size`.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use media_sidecar::matrix::Timestamp;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::attacks::{FEDERATION, animation, download, file, open_download};
use crate::binary::{Folder, Service};
use crate::harness::{Authority, Client, OURS, Peer, RemoteKey, Reply, Response, Silent, picture, unique};

/// How long each attack lasts.
const LENGTH: Duration = Duration::from_secs(30);

/// How much longer than undisturbed a request of a caller with rights may take. An unoptimised build takes so much of the processors,
/// which it shares with the attackers here, that it may take longer.
const LATER: Duration = Duration::from_secs(2);

/// What the service may take above what it took idle, KiB: decoding (128 MiB), connections, and the threads that wait for others.
const MOST_KIB: u64 = 320 * 1024;

/// Open files, connections included.
const MOST_FILES: usize = 5500;

/// The program, those who behave, and the neighbours of both sides.
struct World {
    service: Service,
    folder: Folder,
    remote: Peer,
    site: Peer,
    /// A server whose key is known.
    known: Peer,
    still: String,
    animated: String,
    blocks: String,
    pending: String,
    silent: Vec<Silent>,
    listening: Vec<TcpListener>,
    idle_kib: u64,
    /// So that nothing is asked for twice.
    number: AtomicUsize,
}

impl World {
    fn new() -> Self {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let ca_file = std::env::temp_dir().join(format!("media-sidecar-ca-{}.pem", std::process::id()));
        std::fs::write(&ca_file, Authority::get().ca_pem()).unwrap();
        let folder = Folder::new(&format!(
            "federation: {{ip_allow: [127.0.0.0/8], ca_file: {}}}\npreviews: {{ip_allow: [127.0.0.0/8], timeout: 5s}}\n\
             thumbnails: {{sizes: []}}\nuploads: {{pending_per_user: 1000}}\nlog: info,media_sidecar::access=off\n",
            ca_file.display()
        ));
        let service = folder.serve();
        let remote = Peer::tls(|request| {
            let media_id = request.path().rsplit('/').next().unwrap().to_owned();
            let number =
                media_id.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
            match () {
                () if media_id.starts_with("trickle") => {
                    Reply::new(200).header("Content-Disposition", "inline").paced(5_000_000, 9000)
                }
                () if media_id.starts_with("pending") => {
                    let (_never, silence) = channel::<()>();
                    _ = silence.recv_timeout(Duration::from_mins(1));
                    Reply::error(504, "M_NOT_YET_UPLOADED")
                }
                () if media_id.starts_with("large") => file(unique(number, 8_000_000)),
                () => file(picture(number)),
            }
        });
        let site = Peer::plain(|request| {
            if request.path().starts_with("/slow") {
                let (_never, silence) = channel::<()>();
                _ = silence.recv_timeout(Duration::from_secs(30));
            }
            Reply::new(200).header("Content-Type", "text/html").body("<title>A page</title>")
        });
        let upload = |content_type: &str, bytes: &[u8]| {
            let alice = service.alice().with_header("Content-Type", content_type);
            let uploaded = alice.post("/_matrix/media/v3/upload", bytes);
            uploaded.json()["content_uri"].as_str().unwrap().replace("mxc://", "")
        };
        let still = upload("image/png", &picture(1));
        let animated = upload("image/gif", &animation(1000));
        let mut blocks = animation(1);
        blocks.pop();
        blocks.extend(b"\x21\xfe\0".repeat(16_000_000));
        let blocks = upload("image/gif", &blocks);
        let created = service.alice().post("/_matrix/media/v1/create", b"{}").json();
        let pending = created["content_uri"].as_str().unwrap().replace("mxc://", "");
        let idle_kib = service.memory_kib();
        Self {
            service,
            folder,
            remote,
            site,
            known: server(),
            still,
            animated,
            blocks,
            pending,
            silent: (1..=80).map(|block| Silent::at(&format!("127.6.{block}.1"))).collect(),
            listening: (1..=40).map(|host| TcpListener::bind(format!("127.0.1.{host}:0")).unwrap()).collect(),
            idle_kib,
            number: AtomicUsize::new(1000),
        }
    }

    fn next(&self) -> usize {
        self.number.fetch_add(1, Ordering::SeqCst)
    }

    fn anonymous(&self) -> Client {
        Client::new(self.service.address)
    }

    fn signed(&self, server: &Peer) -> Response {
        let header = RemoteKey::new(1).authorization(&server.name(), OURS, FEDERATION);
        self.anonymous().with_header("Authorization", &header).get(FEDERATION)
    }

    fn preview(&self, path: &str) -> String {
        let site = self.site.url().replace("://", "%3A%2F%2F");
        format!("/_matrix/client/v1/media/preview_url?url={site}/{path}")
    }

    /// What people do all day, each with how long it took, and what went wrong.
    fn behave(&self) -> (Vec<(&'static str, Duration)>, Vec<String>) {
        let (alice, number) = (self.service.alice(), self.next());
        let remote = self.remote.name();
        let (mut took, mut wrong) = (Vec::new(), Vec::new());
        let mut run = |what: &'static str, status: u16, act: &dyn Fn() -> Response| {
            let started = Instant::now();
            let response = act();
            if response.status != status {
                wrong.push(format!("{what}: {} {}", response.status, response.text()));
            }
            took.push((what, started.elapsed()));
        };
        run("download", 200, &|| alice.get(&format!("/_matrix/client/v1/media/download/{}", self.still)));
        let size = format!("width={}&height={}&method=crop", 16 + number % 48, 16 + number / 48 % 48);
        run("thumbnail", 200, &|| {
            alice.get(&format!("/_matrix/client/v1/media/thumbnail/{}?{size}", self.still))
        });
        run("remote file", 200, &|| alice.get(&download(&remote, &format!("f{number}"))));
        run("remote thumbnail", 200, &|| {
            alice.get(&format!("/_matrix/client/v1/media/thumbnail/{remote}/t{number}?{size}"))
        });
        run("preview", 200, &|| alice.get(&self.preview(&format!("page{number}"))));
        run("fresh token", 200, &|| {
            self.service.user(&format!("user{number}")).get("/_matrix/client/v1/media/config")
        });
        let bytes = unique(u64::try_from(number).unwrap(), 100_000);
        run("upload", 200, &|| alice.post("/_matrix/media/v3/upload", &bytes));
        let created = alice.post("/_matrix/media/v1/create", b"{}");
        assert_eq!(created.status, 200, "{}", created.text());
        let mxc = created.json()["content_uri"].as_str().unwrap().replace("mxc://", "");
        run("upload to an ID", 200, &|| alice.put(&format!("/_matrix/media/v3/upload/{mxc}"), b"x"));
        run("known server", 404, &|| self.signed(&self.known));
        let new = server();
        run("new server", 404, &|| self.signed(&new));
        (took, wrong)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.service.child.id())).unwrap().count()
    }
}

/// A server that publishes its key.
fn server() -> Peer {
    let name = Arc::new(std::sync::OnceLock::<String>::new());
    let told = Arc::clone(&name);
    let peer = Peer::tls(move |_| {
        let until = Timestamp::now().0 + 86_400_000;
        Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), until))
    });
    name.set(peer.name()).unwrap();
    peer
}

/// Requests that are sent and not read; those that the service does not take are not missed.
fn send(requests: Vec<(Client, String)>) -> Vec<TcpStream> {
    let begin = |(client, target): (Client, String)| {
        let mut stream = client.connect();
        stream.write_all(&client.request("GET", &target, b"")).ok()?;
        Some(stream)
    };
    requests.into_iter().filter_map(begin).collect()
}

/// An attack: the requests of one round. Those of a round stay open for two seconds.
type Round = fn(&World) -> Vec<(Client, String)>;

const ATTACKS: [(&str, Round); 10] = [
    ("trickling files without a token, and any IDs of the server", |world| {
        let remote = world.remote.name();
        let trickling = (0..8).map(|_| open_download(&remote, &format!("trickle{}", world.next())));
        let pending = (0..32).map(|_| open_download(&remote, &format!("pending{}", world.next())));
        trickling.chain(pending).map(|target| (world.anonymous(), target)).collect()
    }),
    ("the same as thumbnails, behind many addresses", |world| {
        let request = |number: usize| {
            let client = world.anonymous().with_header("X-Forwarded-For", &format!("203.0.{number}.1"));
            let target = format!(
                "/_matrix/media/v3/thumbnail/{}/trickle{}?width=32&height=32",
                world.remote.name(),
                world.next()
            );
            (client, target)
        };
        (0..100).map(request).collect()
    }),
    ("claims to be silent servers", |world| {
        let silent = world.silent.iter().map(|silent| silent.address);
        let listening = world.listening.iter().map(|listener| listener.local_addr().unwrap());
        let claim = |address: std::net::SocketAddr| {
            // Another port of the same host each time.
            let origin =
                format!("{}:{}", address.ip(), 1024 + (usize::from(address.port()) + world.next()) % 60_000);
            let origin = if world.next().is_multiple_of(2) { address.to_string() } else { origin };
            let header = RemoteKey::new(9).authorization(&origin, OURS, FEDERATION);
            (world.anonymous().with_header("Authorization", &header), FEDERATION.to_owned())
        };
        silent.chain(listening).map(claim).collect()
    }),
    ("pending IDs of the server", |world| {
        let target = || {
            let media_id = format!("pending{}", world.next());
            format!("{}?timeout_ms=60000", open_download(&world.remote.name(), &media_id))
        };
        (0..64).map(|_| (world.anonymous(), target())).collect()
    }),
    ("one user: slow fetches, slow links, dead servers", |world| {
        let mallory = world.service.user("user666");
        let slow = (0..16).map(|_| download(&world.remote.name(), &format!("trickle{}", world.next())));
        let links = (0..64).map(|_| world.preview(&format!("slow{}", world.next())));
        let dead = world
            .silent
            .iter()
            .map(|silent| download(&silent.address.to_string(), &format!("x{}", world.next())));
        slow.chain(links).chain(dead).map(|target| (mallory.clone(), target)).collect()
    }),
    ("a header of 16 million blocks", |world| {
        let target = |width| {
            format!("/_matrix/media/v3/thumbnail/{}?width={width}&height=99&animated=true", world.blocks)
        };
        (0..80).map(|_| (world.anonymous(), target(10 + world.next() % 280))).collect()
    }),
    ("animations of 1000 frames", |world| {
        let target = |width| {
            format!(
                "/_matrix/media/v3/thumbnail/{}?width={width}&height=99&method=crop&animated=true",
                world.animated
            )
        };
        (0..80).map(|_| (world.anonymous(), target(10 + world.next() % 280))).collect()
    }),
    ("made-up tokens", |world| {
        let request = |_| {
            let token = format!("Bearer made-up{}", world.next());
            let client = world.anonymous().with_header("Authorization", &token);
            (client, "/_matrix/client/v1/media/config".to_owned())
        };
        (0..1500).map(request).collect()
    }),
    ("waiters for a pending upload", |world| {
        let target = format!("/_matrix/media/v3/download/{}?timeout_ms=60000", world.pending);
        vec![(world.anonymous(), target); 1024]
    }),
    ("large files that nobody waits for", |world| {
        let target = || open_download(&world.remote.name(), &format!("large{}", world.next()));
        (0..60).map(|_| (world.anonymous(), target())).collect()
    }),
];

/// Attacks until `stop` is set.
fn attack(world: &World, round: Round, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let open = send(round(world));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(open);
    }
}

/// Ends the attacks, also when an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Lets those who behave go on while `attacks` last. Returns the longest that each of their requests took.
fn under(world: &World, name: &str, attacks: &[Round], base: &[(&'static str, Duration)]) -> Vec<String> {
    let stop = AtomicBool::new(false);
    let mut late = Vec::new();
    let mut longest: Vec<(&'static str, Duration)> = Vec::new();
    let (mut most_kib, mut most_files, mut rounds) = (0, 0, 0);
    std::thread::scope(|scope| {
        for round in attacks {
            let stop = &stop;
            scope.spawn(move || attack(world, *round, stop));
        }
        let _stop = StopOnDrop(&stop);
        let began = Instant::now();
        while began.elapsed() < LENGTH {
            // As a person does, not as a benchmark.
            std::thread::sleep(Duration::from_millis(200));
            let (took, wrong) = world.behave();
            late.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
            for (what, took) in took {
                match longest.iter_mut().find(|(of, _)| *of == what) {
                    Some((_, most)) => *most = took.max(*most),
                    None => longest.push((what, took)),
                }
            }
            rounds += 1;
            most_kib = most_kib.max(world.service.memory_kib());
            most_files = most_files.max(world.files());
        }
    });
    let above = most_kib.saturating_sub(world.idle_kib);
    println!("{name}: {rounds} rounds, {above} KiB above idle, {most_files} files, wrong: {late:#?}");
    for ((what, took), (_, undisturbed)) in longest.iter().zip(base) {
        println!("    {what}: {took:?} at most, undisturbed {undisturbed:?}");
        if *took > *undisturbed + LATER {
            late.push(format!("{name}: {what} took {took:?}"));
        }
    }
    if above > MOST_KIB || most_files > MOST_FILES {
        late.push(format!("{name}: {above} KiB, {most_files} files"));
    }
    late
}

#[test]
#[ignore = "takes minutes"]
fn in_full_size_who_has_rights_is_served_as_if_nothing_was() {
    let world = World::new();
    assert_eq!(world.signed(&world.known).status, 404);
    let undisturbed = || {
        let (took, wrong) = world.behave();
        assert!(wrong.is_empty(), "undisturbed: {wrong:#?}");
        took
    };
    let mut base = undisturbed();
    for _ in 0..5 {
        for (base, again) in base.iter_mut().zip(undisturbed()) {
            base.1 = base.1.max(again.1);
        }
    }
    let mut late = Vec::new();
    for (name, round) in ATTACKS {
        late.extend(under(&world, name, &[round], &base));
    }
    let all: Vec<Round> = ATTACKS.iter().map(|(_, round)| *round).collect();
    late.extend(under(&world, "all at once", &all, &base));
    assert!(late.is_empty(), "{late:#?}\n{}", world.service.log());
    let stored = crate::harness::files_below(&world.folder.path("data/blobs"));
    let bytes: u64 = stored.iter().map(|path| path.metadata().unwrap().len()).sum();
    println!("stored after all: {} MiB", bytes >> 20);
}
