//! Fetching other servers' media.

use std::io::Write as _;
use std::sync::mpsc::channel;

use media_sidecar::config::Config;

use crate::harness::client::read_response;
use crate::harness::{Peer, Reply, Request, Setup, Sidecar, eventually, is_signed_by_us};

const PICTURE: &[u8] = b"\x89PNG from afar";

fn download(remote: &Peer, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{}/{media_id}", remote.name())
}

fn raw() -> Reply {
    Reply::new(200)
        .header("Content-Type", "image/png")
        .header("Content-Disposition", "inline; filename=far.png")
        .body(PICTURE)
}

fn multipart() -> Reply {
    let body = [
        b"\r\n--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\
          Content-Disposition: inline; filename=far.png\r\n\r\n",
        PICTURE,
        b"\r\n--B--\r\n",
    ]
    .concat();
    Reply::new(200).header("Content-Type", "multipart/mixed; boundary=B").body(body)
}

/// A remote that serves `reply` under paths with `family` in them and knows no others.
fn remote(family: &'static str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Peer {
    Peer::tls(
        move |request: &Request| {
            if request.path().contains(family) { reply() } else { Reply::error(404, "M_UNRECOGNIZED") }
        },
    )
}

#[test]
fn every_family_is_spoken_in_the_configured_order() {
    for (family, reply, tried) in [
        ("/federation/v1/remote_media/", raw as fn() -> Reply, 1),
        ("/federation/unstable/org.matrix.msc1902/remote_media/", raw, 2),
        ("/federation/v1/media/", multipart, 3),
        ("/_matrix/media/v3/", raw, 4),
    ] {
        let (sidecar, remote) = (Sidecar::start(), remote(family, reply));
        let response = sidecar.alice().get(&download(&remote, "x"));
        assert_eq!((response.status, response.body.as_slice()), (200, PICTURE), "{family}");
        assert_eq!(response.header("content-type"), Some("image/png"));
        assert_eq!(response.header("content-disposition"), Some("inline; filename=far.png"));
        let paths = remote.paths();
        assert_eq!(paths.len(), tried, "{paths:?}");
        assert!(paths[tried - 1].contains(family), "{paths:?}");
    }
}

#[test]
fn the_wait_that_a_client_asks_for_is_passed_on_up_to_a_minute() {
    for (asked, passed_on) in [
        ("", "20000"),
        ("?timeout_ms=60000", "60000"),
        ("?timeout_ms=60001", "60000"),
        ("?timeout_ms=18446744073709551615", "60000"),
    ] {
        // Otherwise that bounds the wait too.
        let patient = |config: &mut Config| config.federation.timeout.0 = std::time::Duration::from_mins(5);
        let sidecar = Setup::new().with(patient).start();
        let remote = remote("/federation/v1/remote_media/", raw);
        sidecar.alice().get(&format!("{}{asked}", download(&remote, "x")));
        assert_eq!(remote.requests()[0].query("timeout_ms").as_deref(), Some(passed_on), "{asked}");
    }
}

#[test]
fn federation_requests_are_signed_and_legacy_ones_are_not() {
    let (sidecar, remote) = (Sidecar::start(), remote("/_matrix/media/v3/", raw));
    assert_eq!(sidecar.alice().get(&format!("{}?timeout_ms=7000", download(&remote, "x"))).status, 200);
    for request in remote.requests() {
        let is_legacy = request.path().starts_with("/_matrix/media/");
        assert_eq!(is_signed_by_us(&request, &remote.name()), !is_legacy, "{request:?}");
        assert_eq!(request.header("host"), Some(remote.name().as_str()));
        assert_eq!(request.query("timeout_ms").as_deref(), Some("7000"));
        let may_carry = !request.path().contains("/federation/v1/media/");
        assert_eq!(
            request.query("allow_remote").as_deref(),
            may_carry.then_some("false"),
            "{}",
            request.target
        );
    }
}

#[test]
fn fetched_media_is_stored_and_served_like_any_other() {
    let (sidecar, remote) = (Sidecar::start(), remote("/federation/v1/media/", multipart));
    let path = download(&remote, "x");
    assert_eq!(sidecar.alice().get(&path).body, PICTURE);
    eventually("it is stored", || sidecar.blobs().len() == 1);
    eventually("it has a row", || sidecar.alice().get(&path).header("etag").is_some());
    let asked = remote.requests().len();
    let part = sidecar.alice().with_header("Range", "bytes=1-3").get(&path);
    assert_eq!((part.status, part.text().as_str()), (206, "PNG"));
    let folder = sidecar.stop();
    let sidecar = Setup::in_folder(folder).start();
    assert_eq!(sidecar.alice().get(&path).body, PICTURE);
    assert_eq!(remote.requests().len(), asked);
    assert_eq!(sidecar.leftovers(), 0);
}

#[test]
fn a_catch_all_page_is_not_media() {
    let page = || Reply::new(200).header("Content-Type", "text/html").body("<h1>Welcome</h1>");
    let sidecar = Sidecar::start();
    let signed_only = Peer::tls(move |request: &Request| {
        if request.path().contains("/federation/") { page() } else { Reply::error(404, "M_NOT_FOUND") }
    });
    let response = sidecar.alice().get(&download(&signed_only, "x"));
    assert_eq!(response.failure(), (404, "M_NOT_FOUND".to_owned()));
    assert_eq!(signed_only.requests().len(), 4);
}

#[test]
fn what_the_remote_says_is_told_honestly() {
    for (reply, status, errcode, word) in [
        (Reply::error as fn(u16, &str) -> Reply, 404, "M_NOT_FOUND", "not found"),
        (Reply::error, 504, "M_NOT_YET_UPLOADED", "not yet"),
        (Reply::error, 429, "M_LIMIT_EXCEEDED", "slow down"),
        (Reply::error, 502, "M_TOO_LARGE", "too large"),
        (Reply::error, 502, "M_UNKNOWN", "error"),
    ] {
        let remote = Peer::tls(move |_| reply(status, errcode));
        let response = Sidecar::start().alice().get(&download(&remote, "x"));
        assert_eq!(response.failure(), (status, errcode.to_owned()), "{}", response.text());
        assert!(response.text().contains(word), "{}", response.text());
    }
    let refusing = Peer::tls(|_| Reply::error(401, "M_UNAUTHORIZED"));
    let response = Sidecar::start().alice().get(&download(&refusing, "x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
    assert!(response.text().contains("refused our signature"), "{}", response.text());
}

#[test]
fn a_server_that_is_not_there_is_502() {
    let sidecar = Sidecar::start();
    let gone = Peer::plain(|_| Reply::new(200)).name();
    let response = sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{gone}/x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
    assert!(response.text().contains("cannot reach"), "{}", response.text());
}

#[test]
fn a_denied_address_is_never_connected_to() {
    let remote = remote("/_matrix", raw);
    let sidecar = Setup::new().with(|config| config.federation.ip_allow.clear()).start();
    assert_eq!(sidecar.alice().get(&download(&remote, "x")).status, 502);
    assert!(remote.requests().is_empty());
}

#[test]
fn excluded_servers_are_403_stored_or_not() {
    let (sidecar, remote) = (Sidecar::start(), remote("/federation/v1/media/", multipart));
    let path = download(&remote, "x");
    assert_eq!(sidecar.alice().get(&path).status, 200);
    eventually("it is stored", || sidecar.alice().get(&path).header("etag").is_some());
    let sidecar = Setup::in_folder(sidecar.stop())
        .with(|config| config.federation.allow = vec!["*.example.org".to_owned()])
        .start();
    assert_eq!(sidecar.alice().get(&path).failure(), (403, "M_FORBIDDEN".to_owned()));
}

#[test]
fn a_caller_without_a_token_causes_no_fetch_unless_media_is_open() {
    let legacy = |remote: &Peer| format!("/_matrix/media/v3/download/{}/x", remote.name());
    let remote_media = remote("/federation/v1/media/", multipart);
    let frozen = Setup::new()
        .with(|config| config.unauthenticated_media = media_sidecar::config::UnauthenticatedMedia::Frozen)
        .start();
    assert_eq!(frozen.anonymous().get(&legacy(&remote_media)).status, 404);
    assert!(remote_media.requests().is_empty());
    let open = Sidecar::start();
    assert_eq!(open.anonymous().get(&format!("{}?allow_remote=false", legacy(&remote_media))).status, 404);
    assert!(remote_media.requests().is_empty());
    assert_eq!(open.anonymous().get(&legacy(&remote_media)).status, 200);
}

#[test]
fn a_file_over_the_limit_is_502_when_announced_and_breaks_off_when_not() {
    let body = vec![7; 5000];
    let announced = body.clone();
    let honest = remote("/_matrix/media/v3/", move || raw_body(&announced));
    let limit = || Setup::new().with(|config| config.federation.max_size.0 = 4000).start();
    let sidecar = limit();
    assert_eq!(sidecar.alice().get(&download(&honest, "x")).failure(), (502, "M_TOO_LARGE".to_owned()));

    let chunked = remote("/_matrix/media/v3/", move || {
        let chunk = format!("{:x}\r\n", body.len());
        Reply::new(200)
            .header("Transfer-Encoding", "chunked")
            .body([chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())
    });
    let sidecar = limit();
    let response = sidecar.alice().get(&download(&chunked, "x"));
    assert!(response.status == 502 || !response.complete, "{}", response.status);
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert!(sidecar.blobs().is_empty());
}

fn raw_body(body: &[u8]) -> Reply {
    Reply::new(200).header("Content-Disposition", "inline").body(body)
}

#[test]
fn the_first_bytes_reach_the_client_before_the_last_leave_the_remote() {
    let (release, held) = channel();
    let held = std::sync::Mutex::new(Some(held));
    let remote = remote("/_matrix/media/v3/", move || {
        Reply::new(200)
            .header("Content-Disposition", "inline")
            .header("Content-Length", "8")
            .body(b"half")
            .wait(held.lock().unwrap().take().unwrap())
            .body(b"rest")
    });
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let mut connection = alice.connect();
    connection.write_all(&alice.request("GET", &download(&remote, "x"), b"")).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"half") {
        let mut byte = [0];
        std::io::Read::read_exact(&mut connection, &mut byte).unwrap();
        seen.extend(byte);
    }
    release.send(()).unwrap();
    let mut rest = [0; 4];
    std::io::Read::read_exact(&mut connection, &mut rest).unwrap();
    assert_eq!(&rest, b"rest");
}

#[test]
fn a_remote_that_breaks_off_breaks_the_clients_connection_and_stores_nothing() {
    let remote = remote("/_matrix/media/v3/", || {
        Reply::new(200)
            .header("Content-Disposition", "inline")
            .header("Content-Length", "100")
            .body(b"not all")
    });
    let sidecar = Sidecar::start();
    let response = sidecar.alice().get(&download(&remote, "x"));
    assert!(response.status == 502 || !response.complete);
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert!(sidecar.blobs().is_empty());
}

#[test]
fn twenty_clients_cause_one_fetch_and_one_that_leaves_disturbs_none() {
    let (release, held) = channel();
    let held = std::sync::Mutex::new(Some(held));
    let remote = remote("/federation/v1/remote_media/", move || {
        let half = PICTURE.len() / 2;
        Reply::new(200)
            .header("Content-Disposition", "inline")
            .header("Content-Length", &PICTURE.len().to_string())
            .body(&PICTURE[..half])
            .wait(held.lock().unwrap().take().expect("one fetch"))
            .body(&PICTURE[half..])
    });
    let sidecar = Sidecar::start();
    let alice = sidecar.alice();
    let path = download(&remote, "x");
    let mut clients: Vec<_> = (0..20)
        .map(|_| {
            let mut connection = alice.connect();
            connection.write_all(&alice.request("GET", &path, b"")).unwrap();
            connection
        })
        .collect();
    eventually("the fetch has begun", || remote.requests().len() == 1);
    drop(clients.remove(0));
    release.send(()).unwrap();
    for mut connection in clients {
        assert_eq!(read_response(&mut connection, "GET").body, PICTURE);
    }
    assert_eq!(remote.requests().len(), 1);
}

#[test]
fn our_own_name_is_never_fetched() {
    let sidecar = Sidecar::start();
    assert_eq!(sidecar.alice().get("/_matrix/client/v1/media/download/sidecar.test/x").status, 404);
}
