//! Ranges of remote files that are not stored yet. Safari plays nothing whose first two bytes do not come as 206.

use std::io::{Read as _, Write as _};
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::harness::client::read_response;
use crate::harness::{Peer, Reply, Request, Response, Sidecar, eventually};

const FILE: &[u8] = b"0123456789abcdef";

/// A remote that sends the first half, with the length of all of it if `has_length`, and the rest when told or never.
fn remote(has_length: bool, rest: &'static [u8]) -> (Peer, Sender<()>) {
    let (release, held) = channel();
    let held = Mutex::new(Some(held));
    let peer = Peer::tls(move |request: &Request| {
        if !request.path().starts_with("/_matrix/media/v3/") {
            return Reply::error(404, "M_UNRECOGNIZED");
        }
        let reply = Reply::new(200).header("Content-Type", "video/mp4");
        let held = held.lock().unwrap().take().unwrap();
        if has_length {
            let reply = reply.header("Content-Length", &FILE.len().to_string());
            return reply.body(&FILE[..8]).wait(held).body(rest);
        }
        let reply =
            reply.header("Transfer-Encoding", "chunked").body([b"8\r\n", &FILE[..8], b"\r\n"].concat());
        reply.wait(held).body([b"8\r\n", rest, b"\r\n0\r\n\r\n"].concat())
    });
    (peer, release)
}

fn download(remote: &Peer) -> String {
    format!("/_matrix/client/v1/media/download/{}/x", remote.name())
}

fn range(sidecar: &Sidecar, remote: &Peer, range: &str) -> Response {
    sidecar.alice().with_header("Range", range).get(&download(remote))
}

/// Lets a client see the first half, so that it has come.
fn half_has_come(sidecar: &Sidecar, remote: &Peer) {
    let mut connection = sidecar.alice().connect();
    connection.write_all(&sidecar.alice().request("GET", &download(remote), b"")).unwrap();
    // The half comes in one piece or in several, each with its length before it.
    let is_of_half = |byte: &&u8| FILE[..8].contains(byte);
    let half_of = |seen: &[u8]| {
        let body =
            seen.windows(4).position(|end| end == b"\r\n\r\n").map_or(&[][..], |head| &seen[head + 4..]);
        body.iter().filter(is_of_half).copied().collect::<Vec<u8>>()
    };
    let mut seen = Vec::new();
    while half_of(&seen).last() != Some(&FILE[7]) {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
}

#[test]
fn a_range_from_the_beginning_comes_before_the_rest_does() {
    let (remote, release) = remote(true, &FILE[8..]);
    let sidecar = Sidecar::start();
    // Safari's first question; nobody else has asked.
    let first = range(&sidecar, &remote, "bytes=0-1");
    assert_eq!(
        (first.status, first.complete, first.body.as_slice()),
        (206, true, &b"01"[..]),
        "{}",
        first.text()
    );
    assert_eq!(first.header("content-range"), Some("bytes 0-1/16"));
    assert_eq!(first.header("content-length"), Some("2"));
    assert_eq!(first.header("accept-ranges"), Some("bytes"));
    assert_eq!(first.header("content-type"), Some("video/mp4"));
    assert_eq!(first.header("etag"), None);

    let alice = sidecar.alice().with_header("Range", "bytes=0-");
    let mut connection = alice.connect();
    connection.write_all(&alice.request("GET", &download(&remote), b"")).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(&FILE[..8]) {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
    let head = String::from_utf8_lossy(&seen).to_lowercase();
    assert!(head.starts_with("http/1.1 206") && head.contains("content-range: bytes 0-15/16\r\n"), "{head}");
    release.send(()).unwrap();
    let mut rest = [0; 8];
    connection.read_exact(&mut rest).unwrap();
    assert_eq!(rest, FILE[8..]);
    eventually("it is stored", || sidecar.alice().get(&download(&remote)).header("etag").is_some());
    assert_eq!(remote.requests().len(), 4, "one fetch, with what it takes to find the way");
}

#[test]
fn a_range_of_what_has_come_is_given_and_a_later_one_once_it_comes() {
    let (remote, release) = remote(true, &FILE[8..]);
    let sidecar = Sidecar::start();
    half_has_come(&sidecar, &remote);
    for (asked, said, body) in [
        ("bytes=2-5", "bytes 2-5/16", &FILE[2..6]),
        ("bytes=7-7", "bytes 7-7/16", &FILE[7..8]),
        ("bytes=0-7", "bytes 0-7/16", &FILE[..8]),
    ] {
        let response = range(&sidecar, &remote, asked);
        assert_eq!((response.status, response.body.as_slice()), (206, body), "{asked}");
        assert_eq!(response.header("content-range"), Some(said));
    }
    let outside = range(&sidecar, &remote, "bytes=16-");
    assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */16")));
    let alice = sidecar.alice();
    let later: Vec<_> =
        [("bytes=10-12", &FILE[10..13]), ("bytes=-3", &FILE[13..]), ("bytes=6-9", &FILE[6..10])]
            .into_iter()
            .map(|(asked, body)| {
                let client = alice.clone().with_header("Range", asked);
                let mut connection = client.connect();
                connection.write_all(&client.request("GET", &download(&remote), b"")).unwrap();
                (asked, body, connection)
            })
            .collect();
    release.send(()).unwrap();
    for (asked, body, mut connection) in later {
        let response = read_response(&mut connection, "GET");
        assert_eq!((response.status, response.body.as_slice()), (206, body), "{asked}");
    }
}

#[test]
fn a_range_that_is_none_or_has_conditions_is_not_guessed() {
    let (remote, release) = remote(true, &FILE[8..]);
    let sidecar = Sidecar::start();
    half_has_come(&sidecar, &remote);
    let head = sidecar.alice().with_header("Range", "bytes=0-1").head(&download(&remote));
    assert_eq!((head.status, head.header("content-length")), (200, Some("16")));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    release.send(()).unwrap();
    for asked in ["bytes=0-1,4-5", "items=0-1", "bytes=5-2"] {
        let response = range(&sidecar, &remote, asked);
        assert_eq!((response.status, response.body.as_slice()), (200, FILE), "{asked}");
    }
}

#[test]
fn without_a_length_a_range_is_answered_with_the_whole() {
    let (remote, release) = remote(false, &FILE[8..]);
    let sidecar = Sidecar::start();
    let client = sidecar.alice().with_header("Range", "bytes=0-1");
    let mut connection = client.connect();
    connection.write_all(&client.request("GET", &download(&remote), b"")).unwrap();
    // Another sees the first half: the one who asked first has been answered.
    half_has_come(&sidecar, &remote);
    release.send(()).unwrap();
    let response = read_response(&mut connection, "GET");
    assert_eq!((response.status, response.complete, response.body.as_slice()), (200, true, FILE));
    assert_eq!(response.header("accept-ranges"), None);
    eventually("it is stored", || range(&sidecar, &remote, "bytes=0-1").status == 206);
}

#[test]
fn a_remote_that_breaks_off_before_the_range_begins_is_502() {
    let (remote, release) = remote(true, b"");
    let sidecar = Sidecar::start();
    half_has_come(&sidecar, &remote);
    let client = sidecar.alice().with_header("Range", "bytes=10-");
    let mut connection = client.connect();
    connection.write_all(&client.request("GET", &download(&remote), b"")).unwrap();
    release.send(()).unwrap();
    let response = read_response(&mut connection, "GET");
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
}
