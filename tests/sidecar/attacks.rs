//! Callers without rights do not get in the way of those who have them, and nobody in the way of others. In small: what the attackers
//! wait for never comes while those who behave are served. In full size: `attacks_in_full_size.rs`.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::codecs::gif::GifEncoder;
use image::{Delay, Frame, RgbaImage};
use media_sidecar::config::{Places, Rate, Size};
use media_sidecar::matrix::Timestamp;

use crate::harness::client::read_response;
use crate::harness::{
    Client, Homeserver, OURS, Peer, RemoteKey, Reply, Setup, Sidecar, Silent, eventually, picture, unique,
};

pub fn download(server_name: &str, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{server_name}/{media_id}")
}

/// The same on a route that needs no token.
pub fn open_download(server_name: &str, media_id: &str) -> String {
    format!("/_matrix/media/v3/download/{server_name}/{media_id}")
}

pub fn file(bytes: impl AsRef<[u8]>) -> Reply {
    Reply::new(200).header("Content-Type", "image/png").header("Content-Disposition", "inline").body(bytes)
}

/// Holds answers back until it is dropped.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Vec<Sender<()>>>>);

impl Gate {
    fn wait(&self) -> Receiver<()> {
        let (sender, receiver) = channel();
        self.0.lock().unwrap().push(sender);
        receiver
    }

    fn held(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn open(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// A server that has everything but the IDs that begin with `slow`, whose bytes stop after the first ones, and with `pending`, which
/// nobody has uploaded yet.
fn remote(gate: &Gate) -> Peer {
    let gate = gate.clone();
    Peer::tls(move |request| {
        let media_id = request.path().rsplit('/').next().unwrap().to_owned();
        if media_id.starts_with("slow") {
            return Reply::new(200)
                .header("Content-Type", "image/png")
                .header("Content-Disposition", "inline")
                .header("Content-Length", "1000000")
                .body(b"begun")
                .wait(gate.wait());
        }
        if media_id.starts_with("pending") {
            _ = gate.wait().recv();
        }
        file(unique(7, 1000))
    })
}

/// Requests that are sent and not read.
fn send(client: &Client, targets: impl IntoIterator<Item = String>) -> Vec<TcpStream> {
    let begin = |target: String| {
        let mut stream = client.connect();
        stream.write_all(&client.request("GET", &target, b"")).unwrap();
        stream
    };
    targets.into_iter().map(begin).collect()
}

/// A caller without a token from a block of addresses of its own.
fn stranger(sidecar: &Sidecar, block: usize) -> Client {
    sidecar.anonymous().with_header("X-Forwarded-For", &format!("203.{}.{}.1", block / 256, block % 256))
}

#[test]
fn a_user_who_joins_a_strangers_fetch_gives_it_a_place() {
    let gate = Gate::default();
    let (remote, other) = (remote(&gate), remote(&gate));
    let few = |config: &mut media_sidecar::config::Config| {
        config.limits.fetches.unknown = 2;
        config.limits.transfers.unknown = 1;
    };
    let sidecar = Setup::new().with(few).start();
    let slow = |block: usize, name: &str| {
        send(&stranger(&sidecar, block), [open_download(name, &format!("slow{block}"))])
    };
    let _held = [slow(1, &remote.name()), slow(2, &other.name())];
    eventually("strangers hold what they can", || gate.held() == 2);
    // Waits in the queue: a thumbnail is a fetch as well.
    let waiting = send(
        &stranger(&sidecar, 3),
        [
            open_download(&remote.name(), "wanted"),
            format!("/_matrix/media/v3/thumbnail/{}/wanted?width=32&height=32", remote.name()),
        ],
    );
    assert_eq!(sidecar.alice().get(&download(&remote.name(), "wanted")).status, 200);
    for (mut stream, status) in waiting.into_iter().zip([200, 400]) {
        assert_eq!(read_response(&mut stream, "GET").status, status, "what she got, they got too");
    }
    assert_eq!(sidecar.alice().get(&download(&remote.name(), "another")).status, 200);
    gate.open();
}

#[test]
fn what_strangers_wait_for_at_a_server_closes_it_for_nobody_else() {
    let gate = Gate::default();
    let remote = remote(&gate);
    let sidecar = Sidecar::start();
    let pending = (0..40).map(|number| {
        format!("{}?timeout_ms=60000", open_download(&remote.name(), &format!("pending{number}")))
    });
    let connections = send(&sidecar.anonymous(), pending);
    eventually("the first are asked for", || gate.held() >= 4);
    for media_id in ["one", "other", "third"] {
        assert_eq!(sidecar.alice().get(&download(&remote.name(), media_id)).status, 200);
    }
    // Nobody waits any more: the fetches end, although the server still holds its answers.
    drop(connections);
    assert_eq!(stranger(&sidecar, 9).get(&open_download(&remote.name(), "fourth")).status, 200);
    gate.open();
}

#[test]
fn one_users_slow_fetches_leave_room_for_others_and_end_when_the_user_has_gone() {
    let gate = Gate::default();
    let remotes: Vec<_> = (0..4).map(|_| remote(&gate)).collect();
    let few = |config: &mut media_sidecar::config::Config| config.limits.transfers.users = 8;
    let sidecar = Setup::new().with(few).start();
    let slow = (0..40).map(|number| download(&remotes[number % 4].name(), &format!("slow{number}")));
    let connections = send(&sidecar.alice(), slow);
    eventually("alice has half of the places", || gate.held() >= 4);
    for remote in &remotes {
        assert_eq!(sidecar.user("bob").get(&download(&remote.name(), "x")).status, 200);
    }
    drop(connections);
    eventually("nothing arrives any more", || sidecar.leftovers() == 0);
    assert_eq!(sidecar.alice().get(&download(&remotes[0].name(), "y")).status, 200);
    gate.open();
}

#[test]
fn a_room_of_dead_servers_does_not_delay_a_live_one() {
    let silent: Vec<_> = (1..=60).map(|block| Silent::at(&format!("127.7.{block}.1"))).collect();
    let setup = Setup::new();
    let names = (0..40).map(|number| format!("dropped{number}.example"));
    let dead: Vec<_> = silent.iter().map(|silent| silent.address.to_string()).chain(names).collect();
    dead.iter().for_each(|name| setup.zone.drops(name));
    let sidecar = setup.start();
    let live = Peer::tls(|_| file(unique(7, 1000)));
    let _waiting = send(&sidecar.alice(), dead.iter().map(|name| download(name, "x")));
    for media_id in ["a", "b", "c"] {
        assert_eq!(sidecar.alice().get(&download(&live.name(), media_id)).status, 200);
    }
    // Another fifty from strangers, at ports of one host and at names that DNS knows nothing of.
    let ports = (0..50).map(|port| open_download(&format!("127.9.9.9:{}", 1000 + port), "x"));
    let _strangers =
        send(&sidecar.anonymous(), ports.chain(dead.iter().map(|name| open_download(name, "y"))));
    assert_eq!(sidecar.alice().get(&download(&live.name(), "d")).status, 200);
    assert_eq!(stranger(&sidecar, 1).get(&open_download(&live.name(), "e")).status, 200);
}

pub const FEDERATION: &str = "/_matrix/federation/v1/media/download/x";

/// A claim to be `origin`, with a signature by some key.
fn claim(sidecar: &Sidecar, origin: &str) -> Client {
    let header = RemoteKey::new(9).authorization(origin, OURS, FEDERATION);
    sidecar.anonymous().with_header("Authorization", &header)
}

/// A server that publishes its key.
fn honest_server() -> Peer {
    let name = Arc::new(Mutex::new(String::new()));
    let told = Arc::clone(&name);
    let peer = Peer::tls(move |_| {
        Reply::json(200, &RemoteKey::new(1).document(&told.lock().unwrap(), Timestamp::now().0 + 86_400_000))
    });
    *name.lock().unwrap() = peer.name();
    peer
}

#[test]
fn claims_to_be_silent_servers_do_not_keep_a_server_waiting() {
    let setup = Setup::new();
    let swallowing: Vec<_> = (1..=40).map(|block| Silent::at(&format!("127.8.{block}.1"))).collect();
    // Listeners that accept and say nothing, many ports of one host.
    let listening: Vec<_> = (0..40).map(|_| std::net::TcpListener::bind("127.0.1.1:0").unwrap()).collect();
    let names: Vec<_> = (0..40).map(|number| format!("claimed{number}.example")).collect();
    names.iter().for_each(|name| setup.zone.drops(name));
    let sidecar = setup.start();
    let origins = swallowing.iter().map(|silent| silent.address.to_string());
    let origins = origins.chain(listening.iter().map(|l| l.local_addr().unwrap().to_string())).chain(names);
    let claims: Vec<_> =
        origins.flat_map(|origin| send(&claim(&sidecar, &origin), [FEDERATION.to_owned()])).collect();
    let verified = |peer: &Peer| {
        let header = RemoteKey::new(1).authorization(&peer.name(), OURS, FEDERATION);
        sidecar.anonymous().with_header("Authorization", &header).get(FEDERATION).status
    };
    let peers = [honest_server(), honest_server()];
    for peer in &peers {
        assert_eq!(verified(peer), 404, "a server that nobody knew");
    }
    drop(claims);
    assert_eq!(verified(&peers[0]), 404, "and one that is known");
}

const CONFIG: &str = "/_matrix/client/v1/media/config";

#[test]
fn made_up_tokens_do_not_delay_a_users_first_request() {
    let gate = Gate::default();
    let held = gate.clone();
    let homeserver = Homeserver::with(move |request| {
        let token = request.header("authorization").unwrap_or_default();
        if token.contains("made-up") {
            _ = held.wait().recv();
        }
        None
    });
    let sidecar = Setup::new().beside(homeserver).start();
    let flood: Vec<_> = (0..600)
        .flat_map(|number| {
            let client = stranger(&sidecar, number / 200)
                .with_header("Authorization", &format!("Bearer made-up{number}"));
            send(&client, [CONFIG.to_owned()])
        })
        .collect();
    eventually("the homeserver is busy with them", || gate.held() >= 8);
    assert_eq!(sidecar.user("user1").get(CONFIG).status, 200, "from other addresses");
    assert_eq!(sidecar.user("user2").get(CONFIG).status, 200);
    drop(flood);
    gate.open();
    // Behind the same address as the flood, whose tokens are refused one after the other.
    let flood: Vec<_> = (1000..1400)
        .flat_map(|number| {
            let client = stranger(&sidecar, 1).with_header("Authorization", &format!("Bearer wrong{number}"));
            send(&client, [CONFIG.to_owned()])
        })
        .collect();
    let behind = stranger(&sidecar, 1).with_header("Authorization", "Bearer user3");
    assert_eq!(behind.get(CONFIG).status, 200);
    drop(flood);
}

#[test]
fn strangers_who_wait_for_a_pending_upload_leave_places_for_users() {
    let sidecar = Sidecar::start();
    let created = sidecar.alice().post("/_matrix/media/v1/create", b"{}").json();
    let mxc = created["content_uri"].as_str().unwrap().replace("mxc://", "");
    let target = format!("/_matrix/media/v3/download/{mxc}?timeout_ms=60000");
    let mut waiting = Vec::new();
    for block in 0..8 {
        waiting.extend(send(&stranger(&sidecar, block), vec![target.clone(); 64]));
    }
    // Some are told at once that it is not there; the others wait.
    let user = send(&sidecar.user("bob"), [target.replace("media/v3", "client/v1/media")]);
    let federation = Client::clone(&sidecar.anonymous());
    drop(federation);
    let uploaded = sidecar.alice().put(&format!("/_matrix/media/v3/upload/{mxc}"), b"here");
    assert_eq!(uploaded.status, 200, "{}", uploaded.text());
    for mut stream in user {
        assert_eq!(read_response(&mut stream, "GET").text(), "here");
    }
}

#[test]
fn an_answer_about_one_file_closes_no_server() {
    let remote = Peer::tls(|request| match request.path().rsplit('/').next() {
        Some("broken") => Reply::new(500),
        Some("limited") => Reply::error(429, "M_LIMIT_EXCEEDED").header("Retry-After", "3600"),
        _ => file(unique(7, 100)),
    });
    let sidecar = Sidecar::start();
    let get = |media_id: &str| sidecar.alice().get(&download(&remote.name(), media_id)).status;
    for (media_id, status) in [("broken", 502), ("limited", 429)] {
        for _ in 0..5 {
            assert_eq!(get(media_id), status);
        }
        let asked = remote.requests().len();
        assert_eq!(get(media_id), status);
        assert_eq!(remote.requests().len(), asked, "that file is left alone");
    }
    assert_eq!(get("good"), 200);
}

#[test]
fn what_strangers_cause_counts_against_strangers_alone() {
    let remote = Peer::tls(|request| match request.path().rsplit('/').next() {
        Some(media_id) if media_id.starts_with('x') => Reply::new(500),
        _ => file(unique(7, 100)),
    });
    let sidecar = Sidecar::start();
    for number in 0..5 {
        sidecar.anonymous().get(&open_download(&remote.name(), &format!("x{number}")));
    }
    assert_eq!(sidecar.anonymous().get(&open_download(&remote.name(), "good")).status, 502);
    assert_eq!(sidecar.alice().get(&download(&remote.name(), "good")).status, 200);
    assert_eq!(
        sidecar.anonymous().get(&open_download(&remote.name(), "fine")).status,
        200,
        "it proved itself"
    );
}

#[test]
fn a_file_from_a_server_ends_the_wait_for_its_keys_and_nothing_makes_it_longer_than_two_minutes() {
    let state = Arc::new(Mutex::new((String::new(), false)));
    let told = Arc::clone(&state);
    let remote = Peer::tls(move |request| {
        let (name, has_keys) = told.lock().unwrap().clone();
        match request.path() {
            "/_matrix/key/v2/server" if has_keys => {
                Reply::json(200, &RemoteKey::new(1).document(&name, Timestamp::now().0 + 86_400_000))
            }
            "/_matrix/key/v2/server" => Reply::new(500),
            _ => file(unique(7, 100)),
        }
    });
    state.lock().unwrap().0 = remote.name();
    let sidecar = Sidecar::start();
    let verified = || {
        let header = RemoteKey::new(1).authorization(&remote.name(), OURS, FEDERATION);
        sidecar.anonymous().with_header("Authorization", &header).get(FEDERATION).status
    };
    for _ in 0..6 {
        assert_eq!(verified(), 401);
        sidecar.advance(Duration::from_secs(121));
    }
    assert_eq!(verified(), 401);
    state.lock().unwrap().1 = true;
    assert_eq!(verified(), 401, "it is left alone for a while");
    assert_eq!(sidecar.alice().get(&download(&remote.name(), "x")).status, 200);
    assert_eq!(verified(), 404);
}

#[test]
fn the_owner_of_an_id_is_never_told_that_somebody_else_was_first() {
    let setup = Setup::new().with(|config| config.uploads.pending_per_user = 100);
    let sidecar = setup.start();
    for _ in 0..20 {
        let created = sidecar.alice().post("/_matrix/media/v1/create", b"{}").json();
        let mxc = created["content_uri"].as_str().unwrap().replace("mxc://", "");
        let target = format!("/_matrix/media/v3/upload/{mxc}");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(sidecar.user("bob").put(&target, b"theirs").status, 403));
            }
            assert_eq!(sidecar.alice().put(&target, b"mine").status, 200);
        });
    }
}

/// The catalog's answer to a query for one number.
fn number(sidecar: &Sidecar, query: &str) -> i64 {
    let catalog = rusqlite::Connection::open(sidecar.data_dir().join("catalog.db")).unwrap();
    catalog.query_row(query, [], |row| row.get(0)).unwrap()
}

#[test]
fn bytes_for_strangers_are_counted_marked_and_end_with_those_who_wait() {
    let remote = Peer::tls(|_| file(unique(7, 4000)));
    let sidecar = Setup::new()
        .with(|config| {
            config.limits.anonymous_fetch.burst = Size(10_000);
            config.limits.anonymous_fetch.rate = Rate(1);
        })
        .start();
    let stranger_gets = |block: usize, media_id: &str| {
        stranger(&sidecar, block).get(&open_download(&remote.name(), media_id))
    };
    assert_eq!(stranger_gets(1, "a").status, 200);
    assert_eq!(stranger_gets(1, "b").status, 200);
    let refused = stranger_gets(1, "c");
    assert_eq!(refused.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(stranger_gets(1, "a").status, 200, "what is here costs nothing");
    assert_eq!(stranger_gets(2, "d").status, 200, "others have buckets of their own");
    assert_eq!(sidecar.alice().get(&download(&remote.name(), "e")).status, 200);
    assert_eq!(number(&sidecar, "SELECT count(*) FROM media WHERE anonymous"), 3);
    assert_eq!(sidecar.alice().get(&download(&remote.name(), "a")).status, 200);
    let folder = sidecar.stop();
    let catalog = rusqlite::Connection::open(folder.path().join("data/catalog.db")).unwrap();
    let marked: String = catalog
        .query_row("SELECT group_concat(media_id) FROM media WHERE anonymous", [], |row| row.get(0))
        .unwrap();
    assert_eq!(marked, "b,d", "somebody with a token wanted the other");
}

#[test]
fn a_fetch_for_a_stranger_who_has_gone_stores_nothing() {
    let gate = Gate::default();
    let remote = remote(&gate);
    let sidecar = Sidecar::start();
    // Closed before an answer, closed for writing alone, and closed with another request behind the first.
    let client = sidecar.anonymous();
    let begin = |number: usize| {
        send(&stranger(&sidecar, number), [open_download(&remote.name(), &format!("slow{number}"))])
    };
    let connections: Vec<_> = (0..3).flat_map(begin).collect();
    eventually("they arrive", || sidecar.leftovers() == 3);
    let [closed, half_closed, mut pipelined] = connections.try_into().unwrap();
    drop(closed);
    eventually("one has gone", || sidecar.leftovers() == 2);
    half_closed.shutdown(Shutdown::Write).unwrap();
    eventually("two have gone", || sidecar.leftovers() == 1);
    pipelined.write_all(&client.request("GET", "/_sidecar/health", b"")).unwrap();
    drop(pipelined);
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert_eq!(number(&sidecar, "SELECT count(*) FROM media"), 0);
    gate.open();
}

#[test]
fn the_thumbnails_of_a_picture_are_bounded_in_bytes() {
    let sidecar = Setup::new().with(|config| config.thumbnails.sizes.clear()).start();
    let mut noise = std::io::Cursor::new(Vec::new());
    let mut seed = 1_u32;
    let pixels: Vec<u8> = (0..400 * 300 * 4)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed.to_le_bytes()[3]
        })
        .collect();
    let pixels = RgbaImage::from_raw(400, 300, pixels).unwrap();
    pixels.write_to(&mut noise, image::ImageFormat::Png).unwrap();
    let mxc = sidecar.upload("image/png", noise.get_ref());
    for width in 330..360 {
        let target = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width={width}&height=250&method=crop");
        assert_eq!(sidecar.alice().get(&target).status, 200);
    }
    let most = (1 << 20).max(4 * noise.get_ref().len());
    let bytes = number(&sidecar, "SELECT sum(size) FROM thumbnail");
    assert!(
        bytes > i64::try_from(most / 2).unwrap() && bytes <= i64::try_from(most).unwrap(),
        "{bytes} of {most}"
    );
}

/// A GIF of so many frames. They are equal but for the first, because encoding takes long.
pub fn animation(frames: usize) -> Vec<u8> {
    let encode = |shades: &[u8]| {
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 30);
        for shade in shades {
            let pixels = RgbaImage::from_fn(300, 200, |x, y| {
                let x = u8::try_from(x % 256).unwrap();
                image::Rgba([*shade, x, u8::try_from(y).unwrap(), 255])
            });
            let delay = Delay::from_numer_denom_ms(20, 1);
            encoder.encode_frame(Frame::from_parts(pixels, 0, 0, delay)).unwrap();
        }
        drop(encoder);
        bytes
    };
    let (one, two) = (encode(&[10]), encode(&[10, 200]));
    let start = one.len() - 1;
    let further = two[start..two.len() - 1].repeat(frames - 1);
    [&two[..start], &further, &[0x3b]].concat()
}

#[test]
fn a_users_pictures_do_not_wait_behind_strangers_animations() {
    let sidecar = Setup::new().with(|config| config.thumbnails.sizes.clear()).start();
    let animated = sidecar.upload("image/gif", &animation(300));
    let still = sidecar.upload("image/png", &picture(1));
    let targets = (0..60).map(|number| {
        format!(
            "/_matrix/media/v3/thumbnail/{animated}?width={}&height=150&method=crop&animated=true",
            200 + number
        )
    });
    let connections = send(&sidecar.anonymous(), targets);
    for width in [20, 30, 40] {
        let target =
            format!("/_matrix/client/v1/media/thumbnail/{still}?width={width}&height=20&method=crop");
        assert_eq!(sidecar.alice().get(&target).status, 200);
    }
    let target = format!("/_matrix/client/v1/media/thumbnail/{animated}?width=64&height=64&animated=true");
    assert_eq!(sidecar.alice().get(&target).status, 200);
    let unanswered = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut [0]).is_err()
    };
    assert!(connections.iter().any(unanswered), "they still wait for each other");
}

#[test]
fn a_header_of_millions_of_blocks_is_a_still_and_is_read_once() {
    let mut gif = animation(1);
    assert_eq!(gif.pop(), Some(0x3b), "the trailer");
    gif.extend(b"\x21\xfe\0".repeat(3_000_000));
    gif.push(0x3b);
    let sidecar = Sidecar::start();
    let mxc = sidecar.upload("image/gif", &gif);
    for width in [32, 96, 320] {
        let target =
            format!("/_matrix/client/v1/media/thumbnail/{mxc}?width={width}&height=96&animated=true");
        let response = sidecar.alice().get(&target);
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

#[test]
fn one_users_slow_links_leave_previews_for_others() {
    let gate = Gate::default();
    let held = gate.clone();
    let site = Peer::plain(move |request| {
        if request.path().starts_with("/slow") {
            _ = held.wait().recv();
        }
        Reply::new(200).header("Content-Type", "text/html").body("<title>A page</title>")
    });
    let few = |config: &mut media_sidecar::config::Config| {
        config.previews.ip_allow = vec!["127.0.0.0/8".parse().unwrap()];
        config.limits.previews.users = 8;
        config.limits.page_fetches.users = 8;
    };
    let sidecar = Setup::new().with(few).start();
    let preview = |path: &str| {
        format!("/_matrix/client/v1/media/preview_url?url={}/{path}", site.url().replace("://", "%3A%2F%2F"))
    };
    let _waiting = send(&sidecar.alice(), (0..40).map(|number| preview(&format!("slow{number}"))));
    eventually("alice has what she can get", || gate.held() >= 2);
    let response = sidecar.user("bob").get(&preview("fast"));
    assert_eq!((response.status, response.json()["og:title"].as_str()), (200, Some("A page")));
    gate.open();
}

#[test]
fn places_of_a_class_can_be_taken_away() {
    let remote = Peer::tls(|_| file(unique(7, 100)));
    let none = |config: &mut media_sidecar::config::Config| {
        config.limits.fetches = Places { unknown: 0, ..config.limits.fetches };
    };
    let sidecar = Setup::new().with(none).start();
    let user = sidecar.alice().get(&download(&remote.name(), "x"));
    assert_eq!(user.status, 200);
    let started = std::time::Instant::now();
    let refused = sidecar.anonymous().get(&open_download(&remote.name(), "y"));
    assert_eq!(refused.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert!(started.elapsed() < Duration::from_secs(9), "at once");
}
