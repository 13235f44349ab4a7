//! Where a server is reached: well-known, SRV, 8448; host, SNI and certificate in every case.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{OURS, Peer, RemoteKey, Reply, Request, Setup, Sidecar, Silent, is_signed_by_us};

const PICTURE: &[u8] = b"found";

fn media(request: &Request) -> Reply {
    if request.path().contains("/remote_media/") {
        Reply::new(200).header("Content-Disposition", "inline").body(PICTURE)
    } else {
        Reply::error(404, "M_UNRECOGNIZED")
    }
}

fn download(server_name: &str, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{server_name}/{media_id}")
}

/// A server that has media under a certificate for `name`, and what leads to `name:8448`.
fn media_server(name: &str) -> Peer {
    Peer::tls_named(&[name], media)
}

/// A server that delegates to `to`.
fn well_known(name: &str, to: &str) -> Peer {
    let body = json!({"m.server": to});
    Peer::tls_named(&[name], move |request| {
        assert_eq!(request.path(), "/.well-known/matrix/server");
        // Not JSON by its type: it is read as JSON all the same.
        Reply::new(200).header("Content-Type", "text/plain").body(body.to_string())
    })
}

/// Asserts that the media of `server_name` is fetched, and that the remote at the end was asked as `host`.
fn reaches(sidecar: &Sidecar, server_name: &str, remote: &Peer, host: &str) {
    let response = sidecar.alice().get(&download(server_name, "x"));
    assert_eq!((response.status, response.body.as_slice()), (200, PICTURE), "{}", response.text());
    let request = &remote.requests()[0];
    assert_eq!(request.header("host"), Some(host));
    // Signed for the name, wherever it leads.
    assert!(is_signed_by_us(request, server_name), "{request:?}");
}

#[test]
fn a_bare_name_is_reached_at_8448_under_its_own_name() {
    let (sidecar, remote) = (Sidecar::start(), media_server("bare.test"));
    sidecar.zone.host("bare.test", 8448, &[remote.address]);
    reaches(&sidecar, "bare.test", &remote, "bare.test");
    let asked = sidecar.zone.asked.lock().unwrap().clone();
    assert_eq!(asked[..2], ["_matrix-fed._tcp.bare.test", "_matrix._tcp.bare.test"]);
}

#[test]
fn a_name_with_a_port_is_reached_there_without_asking_anybody() {
    let (sidecar, remote) = (Sidecar::start(), media_server("port.test"));
    sidecar.zone.host("port.test", 1234, &[remote.address]);
    reaches(&sidecar, "port.test:1234", &remote, "port.test:1234");
    assert!(sidecar.zone.asked.lock().unwrap().is_empty());
}

#[test]
fn ipv6_literals_are_reached() {
    let (sidecar, remote) = (Sidecar::start(), Peer::tls_named(&["fd00::1"], media));
    sidecar.zone.host("[fd00::1]", 8448, &[remote.address]);
    reaches(&sidecar, "[fd00::1]", &remote, "[fd00::1]");
}

#[test]
fn delegation_to_a_name_with_a_port() {
    let sidecar = Sidecar::start();
    let (front, remote) = (well_known("a.test", "matrix.a.test:99"), media_server("matrix.a.test"));
    sidecar.zone.host("a.test", 443, &[front.address]);
    sidecar.zone.host("matrix.a.test", 99, &[remote.address]);
    reaches(&sidecar, "a.test", &remote, "matrix.a.test:99");
}

#[test]
fn delegation_to_an_ip_literal() {
    let sidecar = Sidecar::start();
    let remote = Peer::tls(media);
    let front = well_known("a.test", &remote.name());
    sidecar.zone.host("a.test", 443, &[front.address]);
    reaches(&sidecar, "a.test", &remote, &remote.name());
}

#[test]
fn delegation_to_a_bare_name_goes_through_its_srv_record_and_keeps_its_certificate() {
    let sidecar = Sidecar::start();
    let (front, remote) = (well_known("a.test", "matrix.a.test"), media_server("matrix.a.test"));
    sidecar.zone.host("a.test", 443, &[front.address]);
    sidecar.zone.service("_matrix-fed._tcp.matrix.a.test", 10, "machine7.test", 4443);
    sidecar.zone.host("machine7.test", 4443, &[remote.address]);
    reaches(&sidecar, "a.test", &remote, "matrix.a.test");
}

#[test]
fn the_old_srv_record_counts_only_without_the_new_one() {
    let (sidecar, remote) = (Sidecar::start(), media_server("old.test"));
    sidecar.zone.service("_matrix._tcp.old.test", 10, "machine.test", 1);
    sidecar.zone.host("machine.test", 1, &[remote.address]);
    reaches(&sidecar, "old.test", &remote, "old.test");

    let (sidecar, remote) = (Sidecar::start(), media_server("new.test"));
    sidecar.zone.service("_matrix._tcp.new.test", 10, "machine.test", 1);
    sidecar.zone.host("machine.test", 1, &[remote.address]);
    sidecar.zone.service("_matrix-fed._tcp.new.test", 10, "down.test", 2);
    sidecar.zone.host("down.test", 2, &[closed_port()]);
    assert_eq!(sidecar.alice().get(&download("new.test", "x")).status, 502);
    assert!(remote.requests().is_empty());
}

#[test]
fn the_next_srv_target_is_tried_when_one_is_down() {
    let (sidecar, remote) = (Sidecar::start(), media_server("srv.test"));
    sidecar.zone.service("_matrix-fed._tcp.srv.test", 20, "second.test", 2);
    sidecar.zone.service("_matrix-fed._tcp.srv.test", 10, "first.test", 1);
    sidecar.zone.host("first.test", 1, &[closed_port()]);
    sidecar.zone.host("second.test", 2, &[remote.address]);
    reaches(&sidecar, "srv.test", &remote, "srv.test");
}

/// One address after the other took 12 s for the first file and 7 s for each further one.
#[test]
fn an_address_that_swallows_packets_does_not_keep_the_next_one_waiting() {
    let (sidecar, remote) = (Sidecar::start(), media_server("two.test"));
    let silent = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(Silent::at);
    let addresses = [silent[0].address, silent[1].address, silent[2].address, remote.address];
    sidecar.zone.host("two.test", 8448, &addresses);
    let started = Instant::now();
    reaches(&sidecar, "two.test", &remote, "two.test");
    for media_id in ["y", "z"] {
        assert_eq!(sidecar.alice().get(&download("two.test", media_id)).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(16), "{:?}", started.elapsed());
}

#[test]
fn an_srv_target_that_swallows_packets_or_has_no_address_does_not_keep_the_next_one_waiting() {
    let (sidecar, remote) = (Sidecar::start(), media_server("srv.test"));
    let silent = Silent::at("127.0.0.1");
    for (priority, host) in [(10, "silent.test"), (15, "dropped.test"), (20, "alive.test")] {
        sidecar.zone.service("_matrix-fed._tcp.srv.test", priority, host, 1);
    }
    sidecar.zone.host("silent.test", 1, &[silent.address]);
    sidecar.zone.drops("dropped.test");
    sidecar.zone.host("alive.test", 1, &[remote.address]);
    let started = Instant::now();
    reaches(&sidecar, "srv.test", &remote, "srv.test");
    for media_id in ["y", "z"] {
        assert_eq!(sidecar.alice().get(&download("srv.test", media_id)).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
}

/// Each file waited for the questions again.
#[test]
fn srv_questions_that_are_dropped_are_asked_once_and_the_name_itself_is_reached() {
    let (sidecar, remote) = (Sidecar::start(), media_server("drop.test"));
    for service in ["_matrix-fed._tcp.drop.test", "_matrix._tcp.drop.test"] {
        sidecar.zone.drops(service);
    }
    sidecar.zone.host("drop.test", 8448, &[remote.address]);
    let started = Instant::now();
    reaches(&sidecar, "drop.test", &remote, "drop.test");
    for media_id in ["y", "z"] {
        assert_eq!(sidecar.alice().get(&download("drop.test", media_id)).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert_eq!(*sidecar.zone.asked.lock().unwrap(), ["_matrix-fed._tcp.drop.test"]);
}

/// The bound of 15 s did not cover DNS: one claim kept its thread for 40 s.
#[test]
fn a_name_whose_questions_are_dropped_ends_in_time_for_files_and_for_keys() {
    let sidecar = Setup::new().with(|config| config.federation.timeout.0 = Duration::from_secs(1)).start();
    for name in ["dead.test", "_matrix-fed._tcp.dead.test", "_matrix._tcp.dead.test"] {
        sidecar.zone.drops(name);
    }
    let uri = format!("/_matrix/federation/v1/remote_media/download/{OURS}/x");
    let header = RemoteKey::new(1).authorization("dead.test", OURS, &uri);
    let refused = sidecar.anonymous().with_header("Authorization", &header).get(&uri);
    assert_eq!(refused.failure(), (401, "M_UNAUTHORIZED".to_owned()));
    let response = sidecar.alice().get(&download("dead.test", "x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
}

#[test]
fn a_certificate_for_another_name_is_not_trusted() {
    let (sidecar, remote) = (Sidecar::start(), media_server("other.test"));
    sidecar.zone.host("wrong.test", 8448, &[remote.address]);
    let response = sidecar.alice().get(&download("wrong.test", "x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()));
    assert!(remote.requests().is_empty(), "nothing signed goes to a server that is not who it says");
}

#[test]
fn what_is_no_delegation_leads_to_the_name_itself() {
    let bodies: [fn() -> Reply; 6] = [
        || Reply::new(404).body("no"),
        || Reply::new(200).body("<html>"),
        || Reply::new(200).body("{}"),
        || Reply::new(200).body(r#"{"m.server": "not a name/"}"#),
        || Reply::new(200).body(vec![b' '; 10 << 20]),
        || Reply::new(302).header("Location", "http://a.test/plain"),
    ];
    for body in bodies {
        let (sidecar, remote) = (Sidecar::start(), media_server("a.test"));
        let front = Peer::tls_named(&["a.test"], move |_| body());
        sidecar.zone.host("a.test", 443, &[front.address]);
        sidecar.zone.host("a.test", 8448, &[remote.address]);
        reaches(&sidecar, "a.test", &remote, "a.test");
        assert_eq!(front.requests().len(), 1, "and is remembered");
    }
}

#[test]
fn well_known_redirects_are_followed_and_circles_end() {
    let sidecar = Sidecar::start();
    let remote = media_server("matrix.a.test");
    let front = Peer::tls_named(&["a.test", "www.a.test"], |request| match request.header("host") {
        Some("a.test") => Reply::new(301).header("Location", "https://www.a.test/moved?x=1"),
        _ => Reply::json(200, &json!({"m.server": "matrix.a.test:99"})),
    });
    sidecar.zone.host("a.test", 443, &[front.address]);
    sidecar.zone.host("www.a.test", 443, &[front.address]);
    sidecar.zone.host("matrix.a.test", 99, &[remote.address]);
    reaches(&sidecar, "a.test", &remote, "matrix.a.test:99");

    let (sidecar, remote) = (Sidecar::start(), media_server("b.test"));
    let circle =
        Peer::tls_named(&["b.test"], |_| Reply::new(301).header("Location", "/.well-known/matrix/server"));
    sidecar.zone.host("b.test", 443, &[circle.address]);
    sidecar.zone.host("b.test", 8448, &[remote.address]);
    reaches(&sidecar, "b.test", &remote, "b.test");
    assert_eq!(circle.requests().len(), 6);
}

#[test]
fn a_delegation_is_believed_as_long_as_it_says_and_an_old_one_while_no_new_can_be_had() {
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    let front = Peer::tls_named(&["a.test"], move |_| match now.load(Ordering::SeqCst) {
        200 => {
            Reply::json(200, &json!({"m.server": "matrix.a.test:99"})).header("Cache-Control", "max-age=3600")
        }
        status => Reply::new(status),
    });
    let (sidecar, remote) = (Sidecar::start(), media_server("matrix.a.test"));
    sidecar.zone.host("a.test", 443, &[front.address]);
    sidecar.zone.host("matrix.a.test", 99, &[remote.address]);
    let count = AtomicUsize::new(0);
    let fetch = || {
        let number = count.fetch_add(1, Ordering::SeqCst);
        assert_eq!(sidecar.alice().get(&download("a.test", &format!("m{number}"))).status, 200);
        front.requests().len()
    };
    assert_eq!((fetch(), fetch()), (1, 1));
    sidecar.advance(Duration::from_mins(50));
    assert_eq!(fetch(), 1);
    sidecar.advance(Duration::from_mins(20));
    assert_eq!(fetch(), 2);
    // The server fails: the old answer goes on, and it is not asked each time.
    status.store(503, Ordering::SeqCst);
    sidecar.advance(Duration::from_mins(70));
    assert_eq!((fetch(), fetch()), (3, 3));
    sidecar.advance(Duration::from_mins(3));
    assert_eq!(fetch(), 4);
}

fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
