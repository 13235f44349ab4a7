//! Remote servers as they are: every dialect, every refusal, slow, broken, hostile.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use media_sidecar::config::Family;
use media_sidecar::matrix::Timestamp;
use serde_json::json;

use crate::harness::client::read_response;
use crate::harness::{
    Homeserver, OUR_PUBLIC_KEY, OURS, Peer, RemoteKey, Reply, Request, Setup, Sidecar, eventually,
};

const PICTURE: &[u8] = b"\x89PNG from afar";
const DAY: i64 = 86_400_000;

fn download(remote: &Peer, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{}/{media_id}", remote.name())
}

fn is_msc3916(request: &Request) -> bool {
    request.path().contains("/federation/v1/media/")
}

fn is_legacy(request: &Request) -> bool {
    request.path().starts_with("/_matrix/media/")
}

fn raw() -> Reply {
    Reply::new(200).header("Content-Type", "image/png").header("Content-Disposition", "inline").body(PICTURE)
}

fn multipart(body: &[&[u8]]) -> Reply {
    Reply::new(200).header("Content-Type", "multipart/mixed; boundary=B").body(body.concat())
}

#[test]
fn multipart_in_every_dialect() {
    let json: &[u8] = b"Content-Type: application/json\r\n\r\n{}";
    let dialects: [(&str, Vec<&[u8]>); 5] = [
        ("synapse", vec![b"\r\n--B\r\n", json, b"\r\n--B\r\nContent-Type: image/png\r\nContent-Disposition: inline; filename=a.png\r\n\r\n", PICTURE, b"\r\n--B--\r\n"]),
        ("ruma", vec![b"\r\n--B\r\n", json, b"\r\n--B\r\ncontent-type: image/png\r\ncontent-disposition: inline; filename=\"a.png\"\r\n\r\n", PICTURE, b"\r\n--B"]),
        ("dendrite", vec![b"--B\r\n", json, b"\r\n--B\r\nContent-Type: image/png\r\n\r\n", PICTURE, b"\r\n--B--\r\n"]),
        ("lf only", vec![b"--B\ncontent-type: application/json\n\n{}\n--B\nCONTENT-TYPE: image/png\nContent-Disposition: inline; filename=a.png\n\n", PICTURE, b"\n--B--"]),
        ("typeless json", vec![b"--B\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\r\n", PICTURE, b"\r\n--B--"]),
    ];
    for (dialect, body) in dialects {
        let body = body.concat();
        let remote = Peer::tls(move |request| match is_msc3916(request) {
            true => multipart(&[&body]).header("Content-Disposition", "inline; filename=a.png"),
            false => Reply::error(404, "M_UNRECOGNIZED"),
        });
        let response = Sidecar::start().alice().get(&download(&remote, "x"));
        assert_eq!(
            (response.status, response.body.as_slice()),
            (200, PICTURE),
            "{dialect}: {}",
            response.text()
        );
        assert_eq!(response.header("content-type"), Some("image/png"), "{dialect}");
        assert_eq!(response.header("content-disposition"), Some("inline; filename=a.png"), "{dialect}");
    }
}

#[test]
fn broken_multipart_is_502_or_breaks_off_and_is_never_stored() {
    let head: &[u8] =
        b"--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\r\n";
    let long_header = [b"--B\r\nX: ".as_slice(), &vec![b'a'; 1 << 20], b"\r\n\r\n{}"].concat();
    let long_json = [b"--B\r\n\r\n".as_slice(), &vec![b' '; 10 << 20], b"\r\n--B\r\n\r\nx\r\n--B--"].concat();
    for body in [
        &b""[..],
        b"--B\r\n",
        b"nothing",
        head,
        &[head, PICTURE].concat(),
        &long_header,
        &long_json,
        b"--B--",
    ] {
        let body = body.to_vec();
        let remote = Peer::tls(move |request| match is_msc3916(request) {
            true => multipart(&[&body]),
            false => Reply::error(404, "M_UNRECOGNIZED"),
        });
        let sidecar = Sidecar::start();
        let response = sidecar.alice().get(&download(&remote, "x"));
        assert!(response.status == 502 || !response.complete, "{} {}", response.status, response.text());
        eventually("nothing is left", || sidecar.leftovers() == 0);
        assert!(sidecar.blobs().is_empty());
    }
}

#[test]
fn a_file_that_breaks_off_is_never_a_whole_answer_of_http_1_0() {
    let part = b"--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\r\n";
    for (end, status) in [(&b""[..], 502), (b"\r\n--B--\r\n", 200)] {
        let body = [part.as_slice(), PICTURE, end].concat();
        let remote = Peer::tls(move |request| match is_msc3916(request) {
            true => multipart(&[&body]),
            false => Reply::error(404, "M_UNRECOGNIZED"),
        });
        let sidecar = Sidecar::start();
        let alice = sidecar.alice();
        let head = alice.head_of("GET", &download(&remote, "x")).replace("HTTP/1.1", "HTTP/1.0");
        let mut connection = alice.connect();
        write!(connection, "{head}\r\n").unwrap();
        let response = read_response(&mut connection, "GET");
        assert_eq!((response.status, response.complete), (status, true), "{}", response.text());
        assert!(status != 200 || response.body == PICTURE);
    }
}

#[test]
fn every_way_to_say_unknown_endpoint_leads_on_to_the_next() {
    type Answer = fn() -> Reply;
    let answers: [(&str, Answer); 13] = [
        ("synapse", || Reply::error(404, "M_UNRECOGNIZED")),
        ("synapse, wrong method", || Reply::error(405, "M_UNRECOGNIZED")),
        ("old synapse", || Reply::error(400, "M_UNRECOGNIZED")),
        ("old dendrite", || Reply::new(404).body("404 page not found")),
        ("old conduit", || Reply::new(404)),
        ("conduit 0.4, MMR", || Reply::error(404, "M_NOT_FOUND")),
        ("MMR, wrong method", || Reply::error(405, "M_UNKNOWN")),
        ("complement", || Reply::new(400).body("complement: no such thing")),
        ("a proxy's page", || Reply::new(404).header("Content-Type", "text/html").body("<html>")),
        ("a forbidding proxy", || Reply::new(403).header("Content-Type", "text/html").body("<html>")),
        ("a proxy that wants a password", || Reply::new(401).header("WWW-Authenticate", "Basic")),
        ("a catch-all page", || Reply::new(200).header("Content-Type", "text/html").body("<html>")),
        ("a redirecting proxy", || Reply::new(302).header("Location", "https://elsewhere.test/")),
    ];
    for (who, answer) in answers {
        let remote = Peer::tls(move |request| if is_legacy(request) { raw() } else { answer() });
        let response = Sidecar::start().alice().get(&download(&remote, "x"));
        assert_eq!((response.status, response.body.as_slice()), (200, PICTURE), "{who}: {}", response.text());
    }
}

#[test]
fn servers_from_before_v3_are_asked_through_r0() {
    let remote = Peer::tls(|request| match request.path().starts_with("/_matrix/media/r0/") {
        true => raw(),
        false => Reply::error(404, "M_UNRECOGNIZED"),
    });
    assert_eq!(Sidecar::start().alice().get(&download(&remote, "x")).body, PICTURE);
    let last = remote.requests().pop().unwrap();
    assert_eq!(last.query("allow_redirect"), None);
    assert_eq!(last.query("allow_remote").as_deref(), Some("false"));
}

#[test]
fn what_worked_is_remembered_across_restarts_and_tried_anew_after_a_day() {
    let remote =
        Peer::tls(|request| if is_legacy(request) { raw() } else { Reply::error(404, "M_UNRECOGNIZED") });
    let sidecar = Sidecar::start();
    let fetch = |sidecar: &Sidecar, media_id: &str| {
        let before = remote.requests().len();
        assert_eq!(sidecar.alice().get(&download(&remote, media_id)).status, 200);
        remote.requests().len() - before
    };
    assert_eq!((fetch(&sidecar, "a"), fetch(&sidecar, "b")), (4, 1));
    let sidecar = Setup::in_folder(sidecar.stop()).start();
    assert_eq!(fetch(&sidecar, "c"), 1);
    sidecar.advance(Duration::from_hours(25));
    assert_eq!((fetch(&sidecar, "d"), fetch(&sidecar, "e")), (4, 1));
}

#[test]
fn the_order_of_families_is_the_operators() {
    let remote = Peer::tls(|_| Reply::error(404, "M_NOT_FOUND"));
    let sidecar = Setup::new()
        .with(|config| config.federation.families = vec![Family::Legacy, Family::Msc3916])
        .start();
    assert_eq!(sidecar.alice().get(&download(&remote, "x")).status, 404);
    let paths = remote.paths();
    assert_eq!(paths.len(), 2);
    assert!(
        paths[0].starts_with("/_matrix/media/v3/") && paths[1].contains("/federation/v1/media/"),
        "{paths:?}"
    );
}

#[test]
fn media_that_does_not_exist_is_not_asked_for_again_for_a_while() {
    let remote = Peer::tls(|_| Reply::error(404, "M_NOT_FOUND"));
    let sidecar = Sidecar::start();
    let path = download(&remote, "x");
    assert_eq!(sidecar.alice().get(&path).status, 404);
    assert_eq!(remote.requests().len(), 4);
    assert_eq!(sidecar.alice().get(&path).status, 404);
    assert_eq!(remote.requests().len(), 4);
    sidecar.advance(Duration::from_mins(11));
    assert_eq!(sidecar.alice().get(&path).status, 404);
    assert_eq!(remote.requests().len(), 7, "all but MSC1902's unstable endpoint");
}

#[test]
fn a_proven_family_that_says_no_is_believed_after_one_legacy_try() {
    let remote = Peer::tls(|request| match request.path().ends_with("/good") && is_msc3916(request) {
        true => {
            multipart(&[b"--B\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\r\n", PICTURE, b"\r\n--B--"])
        }
        false => Reply::error(404, "M_NOT_FOUND"),
    });
    let sidecar = Sidecar::start();
    assert_eq!(sidecar.alice().get(&download(&remote, "good")).status, 200);
    let before = remote.requests().len();
    assert_eq!(sidecar.alice().get(&download(&remote, "bad")).status, 404);
    let asked = remote.requests().split_off(before);
    assert!(asked.len() == 2 && is_msc3916(&asked[0]) && is_legacy(&asked[1]), "{asked:?}");
}

#[test]
fn a_refused_signature_gets_one_legacy_try_and_is_told() {
    let remote = Peer::tls(|request| match is_legacy(request) {
        true => Reply::error(404, "M_NOT_FOUND"),
        false => Reply::error(401, "M_UNAUTHORIZED"),
    });
    let response = Sidecar::start().alice().get(&download(&remote, "x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
    assert!(response.text().contains("refused our signature"), "{}", response.text());
    assert_eq!(remote.requests().len(), 2);
}

#[test]
fn a_server_that_fails_for_several_files_is_left_alone_and_tried_again() {
    let status = Arc::new(AtomicU16::new(503));
    let now = Arc::clone(&status);
    let remote = Peer::tls(move |_| match now.load(Ordering::SeqCst) {
        200 => raw(),
        status => Reply::new(status),
    });
    let sidecar = Sidecar::start();
    let count = AtomicUsize::new(0);
    let fetch = || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        sidecar.alice().get(&download(&remote, &format!("m{number}")))
    };
    for _ in 0..3 {
        assert_eq!(fetch().failure(), (502, "M_UNKNOWN".to_owned()));
    }
    let alone = fetch();
    assert_eq!(alone.status, 502);
    assert!(alone.text().contains("tried again in 30 s"), "{}", alone.text());
    assert_eq!(remote.requests().len(), 3);
    sidecar.advance(Duration::from_secs(31));
    assert_eq!(fetch().status, 502);
    assert!(fetch().text().contains("tried again in 60 s"));
    sidecar.advance(Duration::from_secs(61));
    status.store(200, Ordering::SeqCst);
    assert_eq!((fetch().status, fetch().status), (200, 200));
}

/// Only a whole file ended the memory of failures: one that was up again and had no such media was next left alone as if it had
/// been down all the time.
#[test]
fn any_answer_ends_the_memory_of_failures() {
    let status = Arc::new(AtomicU16::new(503));
    let now = Arc::clone(&status);
    let remote = Peer::tls(move |_| Reply::error(now.load(Ordering::SeqCst), "M_NOT_FOUND"));
    let sidecar = Sidecar::start();
    let fetch = |media_id: &str| sidecar.alice().get(&download(&remote, media_id));
    let fail = |media_ids: [&str; 3]| media_ids.map(|media_id| assert_eq!(fetch(media_id).status, 502));
    fail(["x", "y", "a"]);
    assert!(fetch("b").text().contains("tried again in 30 s"));
    sidecar.advance(Duration::from_secs(31));
    status.store(404, Ordering::SeqCst);
    assert_eq!(fetch("c").status, 404);
    status.store(503, Ordering::SeqCst);
    fail(["d", "f", "g"]);
    let alone = fetch("e");
    assert!(alone.text().contains("tried again in 30 s"), "{}", alone.text());
}

#[test]
fn a_file_that_is_too_large_is_not_fetched_again_for_a_while() {
    let body = vec![7; 5000];
    let unannounced = move || {
        let reply = Reply::new(200).header("Content-Disposition", "inline");
        let chunk = format!("{:x}\r\n", body.len());
        reply
            .header("Transfer-Encoding", "chunked")
            .body([chunk.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())
    };
    let announced = || Reply::new(200).header("Content-Disposition", "inline").body([7; 5000]);
    for reply in [Box::new(unannounced) as Box<dyn Fn() -> Reply + Send + Sync>, Box::new(announced)] {
        let remote = Peer::tls(move |_| reply());
        let first = |config: &mut media_sidecar::config::Config| {
            config.federation.max_size.0 = 4000;
            config.federation.families = vec![Family::Legacy];
        };
        let sidecar = Setup::new().with(first).start();
        let path = download(&remote, "x");
        let response = sidecar.alice().get(&path);
        assert!(response.status == 502 || !response.complete, "{}", response.status);
        eventually("it is remembered", || {
            let response = sidecar.alice().get(&path);
            response.status == 502 && response.failure() == (502, "M_TOO_LARGE".to_owned())
        });
        let asked = remote.requests().len();
        assert_eq!(sidecar.alice().get(&path).failure(), (502, "M_TOO_LARGE".to_owned()));
        assert_eq!(remote.requests().len(), asked);
        sidecar.advance(Duration::from_mins(11));
        sidecar.alice().get(&path);
        eventually("it is asked again", || remote.requests().len() == asked + 1);
    }
}

#[test]
fn a_request_of_its_own_ends_the_waiting() {
    let name = Arc::new(std::sync::OnceLock::<String>::new());
    let told = Arc::clone(&name);
    let broken = Arc::new(AtomicU16::new(1));
    let state = Arc::clone(&broken);
    let remote = Peer::tls(move |request| match request.path() {
        "/_matrix/key/v2/server" => {
            Reply::json(200, &RemoteKey::new(1).document(told.get().unwrap(), Timestamp::now().0 + DAY))
        }
        _ if state.load(Ordering::SeqCst) == 1 => Reply::new(500),
        _ => raw(),
    });
    name.set(remote.name()).unwrap();
    let sidecar = Sidecar::start();
    for media_id in ["x", "y", "a"] {
        assert_eq!(sidecar.alice().get(&download(&remote, media_id)).status, 502);
    }
    broken.store(0, Ordering::SeqCst);
    assert_eq!(sidecar.alice().get(&download(&remote, "b")).status, 502, "left alone");
    let target = "/_matrix/federation/v1/media/download/x";
    let header = RemoteKey::new(1).authorization(&remote.name(), OURS, target);
    assert_eq!(sidecar.anonymous().with_header("Authorization", &header).get(target).status, 404);
    assert_eq!(sidecar.alice().get(&download(&remote, "c")).status, 200);
}

#[test]
fn a_limit_is_passed_on_with_the_time_in_its_body() {
    let body = serde_json::json!({"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 16_500});
    let remote = Peer::tls(move |_| Reply::json(429, &body));
    let response = Sidecar::start().alice().get(&download(&remote, "x"));
    assert_eq!(response.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(response.json()["retry_after_ms"], 16_500);
    assert_eq!(response.header("retry-after"), Some("17"));
}

#[test]
fn a_limit_is_passed_on_with_its_time() {
    let remote = Peer::tls(|_| Reply::error(429, "M_LIMIT_EXCEEDED").header("Retry-After", "17"));
    let sidecar = Sidecar::start();
    let response = sidecar.alice().get(&download(&remote, "x"));
    assert_eq!(response.failure(), (429, "M_LIMIT_EXCEEDED".to_owned()));
    assert_eq!(response.header("retry-after"), Some("17"));
    assert_eq!(remote.requests().len(), 1, "no fallback");
    assert_eq!(sidecar.alice().get(&download(&remote, "x")).status, 429);
    assert_eq!(remote.requests().len(), 1, "and it is heeded");
    // Of the whole server only once several files met with it.
    for media_id in ["y", "z", "w"] {
        assert_eq!(sidecar.alice().get(&download(&remote, media_id)).status, 429);
    }
    assert_eq!(remote.requests().len(), 3);
}

#[test]
fn location_parts_and_legacy_redirects_are_followed_without_our_signature() {
    let store = Arc::new(Peer::tls(|_| {
        Reply::new(200)
            .header("Content-Type", "image/webp")
            .header("Content-Disposition", "inline; filename=cdn.webp")
            .body(PICTURE)
    }));
    let url = format!("{}/bucket/x?sig=1", store.url());
    let part = url.clone();
    let by_part = Peer::tls(move |request| match is_msc3916(request) {
        true => multipart(&[
            b"--B\r\nContent-Type: application/json\r\n\r\n{}\r\n--B\r\nLocation: ",
            part.as_bytes(),
            b"\r\n\r\n\r\n--B--",
        ]),
        false => Reply::error(404, "M_UNRECOGNIZED"),
    });
    let by_redirect = Peer::tls(move |request| match is_legacy(request) {
        true => Reply::new(307).header("Location", &url),
        false => Reply::error(404, "M_UNRECOGNIZED"),
    });
    for remote in [by_part, by_redirect] {
        let response = Sidecar::start().alice().get(&download(&remote, "x"));
        assert_eq!((response.status, response.body.as_slice()), (200, PICTURE), "{}", response.text());
        assert_eq!(response.header("content-type"), Some("image/webp"));
        assert_eq!(response.header("content-disposition"), Some("inline; filename=cdn.webp"));
    }
    let asked = store.requests();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|request| request.header("authorization").is_none()), "{asked:?}");
}

/// A sidecar that may connect to 127.0.0.1 and to no other loopback address.
fn guarded() -> Sidecar {
    Setup::new().with(|config| config.federation.ip_allow = vec!["127.0.0.1/32".parse().unwrap()]).start()
}

#[test]
fn redirects_to_where_nobody_may_go_are_not_followed() {
    let forbidden = Peer::plain_at("127.0.0.2", |_| raw());
    let port = forbidden.address.port();
    let plain = Peer::plain(|_| raw());
    let targets = [
        format!("{}/plain", plain.url()),
        format!("https://127.0.0.2:{port}/"),
        format!("https://[::ffff:127.0.0.2]:{port}/"),
        format!("https://inside.test:{port}/"),
        "ftp://127.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "https://".to_owned(),
    ];
    for target in targets {
        let to = target.clone();
        let remote = Peer::tls(move |request| match is_legacy(request) {
            true => Reply::new(308).header("Location", &to),
            false => Reply::error(404, "M_UNRECOGNIZED"),
        });
        let sidecar = guarded();
        sidecar.zone.host("inside.test", port, &[forbidden.address]);
        let response = sidecar.alice().get(&download(&remote, "x"));
        assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()), "{target}");
    }
    assert_eq!((forbidden.connections(), plain.connections()), (0, 0));
}

#[test]
fn redirects_may_be_relative_and_a_circle_of_them_ends() {
    let remote = Peer::tls(|request| match request.path() {
        path if path.starts_with("/_matrix/media/v3/download/") && path.ends_with("/near") => {
            Reply::new(307).header("Location", "/mirror/near?x=1")
        }
        "/mirror/near" => raw(),
        "/round" => Reply::new(307).header("Location", "round"),
        path if path.starts_with("/_matrix/media/") => Reply::new(307).header("Location", "/round"),
        _ => Reply::error(404, "M_UNRECOGNIZED"),
    });
    assert_eq!(Sidecar::start().alice().get(&download(&remote, "near")).body, PICTURE);
    assert_eq!(Sidecar::start().alice().get(&download(&remote, "far")).status, 502);
    assert_eq!(remote.paths().iter().filter(|path| *path == "/round").count(), 6);
}

#[test]
fn of_one_good_and_one_private_address_only_the_good_one_is_used() {
    let private = Peer::plain_at("127.0.0.9", |_| raw());
    let remote = Peer::tls_named(&["two.test"], |_| raw());
    let sidecar = guarded();
    sidecar.zone.host("two.test", 8448, &[private.address, remote.address]);
    assert_eq!(sidecar.alice().get("/_matrix/client/v1/media/download/two.test/x").status, 200);
    let mapped = format!("[::ffff:127.0.0.9]:{}", private.address.port()).parse().unwrap();
    sidecar.zone.host("mapped.test", 8448, &[mapped]);
    assert_eq!(sidecar.alice().get("/_matrix/client/v1/media/download/mapped.test/x").status, 502);
    let literal = format!("/_matrix/client/v1/media/download/{}/x", private.name());
    assert_eq!(sidecar.alice().get(&literal).status, 502);
    assert_eq!(private.connections(), 0);
}

#[test]
fn a_page_on_every_path_is_no_media_anywhere() {
    let site =
        Peer::tls(|_| Reply::new(200).header("Content-Type", "text/html; charset=utf-8").body("<html>"));
    let sidecar = Sidecar::start();
    let response = sidecar.alice().get(&download(&site, "x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
    assert!(sidecar.blobs().is_empty());
}

#[test]
fn old_media_from_the_unsigned_route_does_not_make_it_the_rule() {
    let state = Arc::new(AtomicU16::new(0));
    let now = Arc::clone(&state);
    let remote = Peer::tls(move |request| match (is_legacy(request), now.load(Ordering::SeqCst)) {
        // It cannot verify us just now, and gives an old file without a signature.
        (false, 0) => Reply::error(401, "M_UNAUTHORIZED"),
        (true, 0) => raw(),
        // Then all is well again; new files are behind the freeze.
        (true, _) => Reply::error(404, "M_NOT_FOUND"),
        (false, _) => raw(),
    });
    let sidecar = Sidecar::start();
    assert_eq!(sidecar.alice().get(&download(&remote, "old")).status, 200);
    state.store(1, Ordering::SeqCst);
    assert_eq!(sidecar.alice().get(&download(&remote, "new")).status, 200);
}

#[test]
fn a_server_that_breaks_off_is_left_alone() {
    let remote = Peer::tls(|request| match is_legacy(request) {
        true => Reply::new(200)
            .header("Content-Disposition", "inline")
            .header("Content-Length", "100")
            .body("cut"),
        false => Reply::error(404, "M_UNRECOGNIZED"),
    });
    let sidecar = Sidecar::start();
    let response = sidecar.alice().get(&download(&remote, "a"));
    assert!(response.status == 502 || !response.complete);
    eventually("it is left alone", || {
        sidecar.alice().get(&download(&remote, "b")).text().contains("tried again")
    });
}

#[test]
fn a_part_that_lies_about_its_length_is_sent_whole() {
    for lie in ["3", "3000"] {
        let remote = Peer::tls(move |request| match is_msc3916(request) {
            true => multipart(&[
                b"--B\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\nContent-Length: ",
                lie.as_bytes(),
                b"\r\n\r\n",
                PICTURE,
                b"\r\n--B--",
            ]),
            false => Reply::error(404, "M_UNRECOGNIZED"),
        });
        let response = Sidecar::start().alice().get(&download(&remote, "x"));
        assert!(response.complete && response.body == PICTURE, "{lie}: {}", response.text());
    }
}

#[test]
fn a_body_without_a_length_that_is_cut_is_not_taken_for_whole() {
    // The harness closes without TLS's own goodbye, as a broken connection does.
    let remote = Peer::tls(|request| match is_legacy(request) {
        true => Reply::new(200).header("Transfer-Encoding", "identity").body(PICTURE),
        false => Reply::error(404, "M_UNRECOGNIZED"),
    });
    let sidecar = Sidecar::start();
    let response = sidecar.alice().get(&download(&remote, "x"));
    assert!(response.status == 502 || !response.complete, "{} {:?}", response.status, response.headers);
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert!(sidecar.blobs().is_empty());
}

#[test]
fn keys_come_from_the_homeserver_when_the_server_is_silent() {
    let silent = Peer::tls(|_| Reply::new(503));
    let name = silent.name();
    let of = name.clone();
    let homeserver = Homeserver::with(move |request| {
        request.path().starts_with("/_matrix/key/v2/query/").then(|| {
            assert!(request.path().ends_with(&of), "{}", request.target);
            let document = RemoteKey::new(1).document(&of, Timestamp::now().0 + DAY);
            Reply::json(200, &json!({"server_keys": [our_signature_on(document)]}))
        })
    });
    let sidecar = Setup::new().beside(homeserver).start();
    let target = "/_matrix/federation/v1/media/download/x";
    let header = RemoteKey::new(1).authorization(&name, OURS, target);
    let response = sidecar.anonymous().with_header("Authorization", &header).get(target);
    assert_eq!(response.status, 404, "accepted: {}", response.text());
    assert!(
        silent.requests().iter().any(|request| request.path() == "/_matrix/key/v2/server"),
        "it was asked first"
    );
}

#[test]
fn keys_come_from_a_configured_notary_whose_signature_is_checked() {
    for (signer, status) in [(2, 404), (3, 401)] {
        let name = Arc::new(std::sync::OnceLock::<String>::new());
        let told = Arc::clone(&name);
        let notary = Peer::tls(move |request| {
            let own = told.get().unwrap();
            if request.path() == "/_matrix/key/v2/server" {
                return Reply::json(200, &RemoteKey::new(2).document(own, Timestamp::now().0 + DAY));
            }
            let mut document = RemoteKey::new(1).document("gone.test:1", Timestamp::now().0 + DAY);
            let signature = RemoteKey::new(signer).sign(&without_signatures(&document));
            document["signatures"][own] = json!({"ed25519:r2": signature});
            Reply::json(200, &json!({"server_keys": [document]}))
        });
        name.set(notary.name()).unwrap();
        let notary_name = notary.name().parse().unwrap();
        let sidecar = Setup::new().with(move |config| config.federation.notaries = vec![notary_name]).start();
        let target = "/_matrix/federation/v1/media/download/x";
        let header = RemoteKey::new(1).authorization("gone.test:1", OURS, target);
        assert_eq!(sidecar.anonymous().with_header("Authorization", &header).get(target).status, status);
    }
}

#[test]
fn a_server_without_keys_is_not_asked_each_time() {
    let silent = Peer::tls(|_| Reply::new(503));
    let sidecar = Sidecar::start();
    let target = "/_matrix/federation/v1/media/download/x";
    let header = RemoteKey::new(1).authorization(&silent.name(), OURS, target);
    for _ in 0..5 {
        assert_eq!(sidecar.anonymous().with_header("Authorization", &header).get(target).status, 401);
    }
    assert_eq!(silent.requests().len(), 1);
    sidecar.advance(Duration::from_secs(31));
    assert_eq!(sidecar.anonymous().with_header("Authorization", &header).get(target).status, 401);
    assert_eq!(silent.requests().len(), 2);
}

#[test]
fn with_another_key_than_the_published_one_nothing_is_fetched_and_the_rest_goes_on() {
    let homeserver = Homeserver::with(|request| {
        (request.path() == "/_matrix/key/v2/server")
            .then(|| Reply::json(200, &RemoteKey::new(2).document(OURS, Timestamp::now().0 + DAY)))
    });
    let remote = Peer::tls(|_| raw());
    let sidecar = Setup::new().beside(homeserver).start();
    eventually("the keys are compared", || {
        sidecar.homeserver.peer.paths().iter().any(|path| path == "/_matrix/key/v2/server")
    });
    let mxc = sidecar.upload("text/plain", b"local");
    assert_eq!(sidecar.alice().get(&format!("/_matrix/client/v1/media/download/{mxc}")).status, 200);
    eventually("fetching is refused", || {
        let response = sidecar.alice().get(&download(&remote, "x"));
        response.status == 502 && response.text().contains("not the one its homeserver publishes")
    });
    assert!(remote.requests().is_empty());
    // Repaired at the homeserver, found at the next start at the latest.
    let homeserver = Homeserver::with(|request| {
        (request.path() == "/_matrix/key/v2/server").then(|| {
            Reply::json(
                200,
                &json!({"server_name": OURS, "verify_keys": {"ed25519:1": {"key": OUR_PUBLIC_KEY}}}),
            )
        })
    });
    let sidecar = Setup::in_folder(sidecar.stop()).beside(homeserver).start();
    assert_eq!(sidecar.alice().get(&download(&remote, "x")).status, 200);
}

/// The canonical JSON of a key document without its signatures.
fn without_signatures(document: &serde_json::Value) -> String {
    let mut bare = document.clone();
    bare.as_object_mut().unwrap().remove("signatures");
    bare.to_string()
}

/// A document with our homeserver's signature, as a notary adds it.
fn our_signature_on(mut document: serde_json::Value) -> serde_json::Value {
    use ed25519_dalek::Signer as _;
    let seed = crate::harness::OUR_KEY.rsplit(' ').next().unwrap();
    let mut lenient = data_encoding::BASE64_NOPAD.specification();
    lenient.check_trailing_bits = false;
    let seed = lenient.encoding().unwrap().decode(seed.as_bytes()).unwrap();
    let key = ed25519_dalek::SigningKey::from_bytes(&seed.try_into().unwrap());
    let signature = key.sign(without_signatures(&document).as_bytes()).to_bytes();
    document["signatures"][OURS] = json!({"ed25519:1": data_encoding::BASE64_NOPAD.encode(&signature)});
    document
}
