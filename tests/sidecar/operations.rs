//! What the operator has: the second listener, and IDs that tie log lines to requests.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;

use crate::binary::{Folder, Service, command, text};
use crate::harness::client::{Response, read_response};
use crate::harness::{Client, Sidecar, eventually};

const HEALTH: &str = "/_sidecar/health";

/// Asks through a Unix socket.
fn get(socket: &Path, target: &str) -> Response {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    read_response(&mut stream, "GET")
}

/// The service with `ops.listen` at `address`.
fn with_ops_at(folder: &Folder, address: &str) -> std::process::Command {
    let mut command = command(folder.folder.path());
    command.arg("serve").env("SIDECAR_OPS__LISTEN", address);
    command
}

/// The first line of the log that has `part` in it, once it is there.
fn line_with(service: &Service, part: &str) -> String {
    eventually(part, || service.log().contains(part));
    service.log().lines().find(|line| line.contains(part)).unwrap().to_owned()
}

#[test]
fn the_ops_socket_serves_health_and_no_media_to_its_owner_alone() {
    let folder = Folder::new("log: debug");
    let service = folder.serve();
    let socket = folder.path("data/ops.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let health = get(&socket, HEALTH);
    assert_eq!((health.status, &health.json()["status"]), (200, &"ok".into()));
    let line = line_with(&service, "route=\"/_sidecar/health\"");
    assert!(line.contains("caller=\"admin\""), "{line}");
    for target in ["/_matrix/client/v1/media/config", "/_matrix/media/v3/download/sidecar.test/x", "/"] {
        assert_eq!(get(&socket, target).failure(), (404, "M_UNRECOGNIZED".to_owned()), "{target}");
    }
    assert_eq!(Client::new(service.address).get(HEALTH).status, 200, "health stays on the main listener");
}

#[test]
fn the_limits_are_shown_with_what_is_admitted_and_was_refused() {
    let folder =
        Folder::new("limits: {uploads: {users: 7}, homeserver_requests: {users: 3, servers: 0, unknown: 5}}");
    let service = folder.serve();
    let limits = || get(&folder.path("data/ops.sock"), "/_sidecar/limits").json();
    let before = limits();
    let of = |limits: &serde_json::Value, kind: &str, class: &str, what: &str| {
        limits[kind][class][what].as_u64().unwrap_or_else(|| panic!("{kind} {class} {what}: {limits}"))
    };
    assert_eq!(of(&before, "homeserver_requests", "users", "places"), 3);
    assert_eq!(of(&before, "homeserver_requests", "unknown", "places"), 5);
    let granted = of(&before, "homeserver_requests", "unknown", "granted");
    assert_eq!(of(&before, "uploads", "users", "places"), 7);
    let alice = Client::new(service.address).with_header("Authorization", "Bearer alice");
    assert_eq!(alice.post("/_matrix/media/v3/upload", b"x").status, 200);
    let after = limits();
    assert_eq!(of(&after, "homeserver_requests", "unknown", "granted"), granted + 1, "{after}");
    assert_eq!(of(&after, "uploads", "users", "granted"), 1, "{after}");
    assert_eq!(of(&after, "uploads", "users", "refused_queue_full"), 0, "{after}");
    // The answer is sent before the place is given back.
    eventually("the upload has ended", || of(&limits(), "uploads", "users", "running") == 0);
}

#[test]
fn what_a_process_that_is_gone_left_is_replaced_and_what_is_in_use_stops_the_start() {
    let folder = Folder::new("");
    let socket = folder.path("data/ops.sock");
    // Killed, so the socket stays.
    drop(folder.serve());
    assert!(UnixStream::connect(&socket).is_err() && socket.exists());
    let service = folder.serve();
    assert_eq!(get(&socket, HEALTH).status, 200);
    drop(service);

    let elsewhere = folder.path("elsewhere.sock");
    let address = format!("unix:{}", elsewhere.display());
    let other = UnixListener::bind(&elsewhere).unwrap();
    let refused = with_ops_at(&folder, &address).output().unwrap();
    let told = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains(&address) && told.contains("stop the program that listens there, or set `ops.listen`"),
        "{told}"
    );
    drop(other);
    std::fs::remove_file(&elsewhere).unwrap();
    std::fs::write(&elsewhere, "mine").unwrap();
    let refused = with_ops_at(&folder, &address).output().unwrap();
    assert!(
        text(&refused.stderr).contains("a file that is not a socket exists there"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
}

#[test]
fn the_ops_listener_is_where_the_operator_says_or_off() {
    let folder = Folder::new("");
    let service = Service::start(&mut with_ops_at(&folder, "127.0.0.1:0"));
    let line = line_with(&service, "operator's routes at ");
    let address = line.split("operator's routes at ").nth(1).unwrap().trim().parse().unwrap();
    assert_eq!(Client::new(address).get(HEALTH).status, 200);
    assert_eq!(Client::new(address).get("/_matrix/media/v3/config").status, 404);
    drop(service);
    let service = Service::start(&mut with_ops_at(&folder, "off"));
    assert_eq!(Client::new(service.address).get(HEALTH).status, 200);
    assert!(!service.log().contains("operator's routes"));
    assert!(!folder.path("data/ops.sock").exists());
}

/// A socket's path has 107 bytes at most. Folders are longer, and services in them started before there was this socket.
#[test]
fn a_data_directory_that_no_socket_fits_in_is_served_all_the_same() {
    let folder = Folder::new(&format!("data_dir: {}\n", "d".repeat(120)));
    let service = folder.serve();
    assert_eq!(Client::new(service.address).get(HEALTH).status, 200);
    line_with(&service, "the service runs without it");
}

#[test]
fn a_request_to_the_ops_socket_that_was_sent_before_the_stop_is_answered() {
    let folder = Folder::new("");
    let mut service = folder.serve();
    let mut streams: Vec<_> =
        (0..20).map(|_| UnixStream::connect(folder.path("data/ops.sock")).unwrap()).collect();
    for stream in &mut streams {
        write!(stream, "GET {HEALTH} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    }
    service.signal(Signal::TERM);
    for stream in &mut streams {
        assert_eq!(read_response(stream, "GET").status, 200);
    }
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn another_ops_address_needs_a_restart() {
    let folder = Folder::new("ops: {listen: null}\n");
    let service = folder.serve();
    let yaml = std::fs::read_to_string(folder.path("sidecar.yaml")).unwrap();
    std::fs::write(folder.path("sidecar.yaml"), yaml.replace("listen: null", "listen: off")).unwrap();
    service.signal(Signal::HUP);
    assert!(line_with(&service, "only after a restart").contains("ops.listen"));
    assert_eq!(get(&folder.path("data/ops.sock"), HEALTH).status, 200);
}

#[test]
fn every_answer_has_a_request_id_and_that_of_a_trusted_proxy_is_kept() {
    let sidecar = Sidecar::start();
    let is_made = |id: &str| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut made = std::collections::HashSet::new();
    for (method, target, status) in [
        ("GET", "/_matrix/client/v1/media/config", 401),
        ("OPTIONS", "/_matrix/client/v1/media/config", 204),
        ("GET", "/nowhere", 404),
        ("PATCH", "/_matrix/media/v3/upload", 405),
        ("HEAD", HEALTH, 200),
    ] {
        let response = sidecar.anonymous().send(method, target, b"");
        let id = response.header("x-request-id").unwrap_or_default().to_owned();
        assert!(response.status == status && is_made(&id), "{method} {target}: {id}");
        assert!(made.insert(id), "{method} {target}");
        let asked = sidecar.anonymous().with_header("X-Request-ID", "6f1c-4b.7~_X");
        assert_eq!(asked.send(method, target, b"").header("x-request-id"), Some("6f1c-4b.7~_X"));
    }
    for bad in ["", "a b", "a\"b", "a=b", "\u{e9}", &"x".repeat(129)] {
        let response = sidecar.anonymous().with_header("X-Request-ID", bad).get("/nowhere");
        assert!(is_made(response.header("x-request-id").unwrap()), "{bad:?}");
    }
}

#[test]
fn access_lines_and_warnings_of_remote_servers_carry_the_id_of_the_request() {
    let folder = Folder::new("");
    let service = folder.serve();
    let asked = |id: &str| Client::new(service.address).with_header("X-Request-ID", id);
    // A server that is not there.
    let response = asked("of-remote").get("/_matrix/media/v3/download/127.0.0.1:1/x");
    assert_eq!(response.status, 502);
    let line = line_with(&service, "the remote server fails");
    assert!(line.contains("WARN request{request_id=of-remote}: media_sidecar::federation"), "{line}");
    let line = line_with(&service, " failed ");
    assert!(line.contains("WARN request{request_id=of-remote}: "), "{line}");
    let line = line_with(&service, "media_sidecar::access");
    assert!(line.contains("mxc=mxc://127.0.0.1:1/x") && line.contains("request_id=of-remote"), "{line}");
    drop(service);

    let service = Service::start(command(folder.folder.path()).args(["serve", "--log-format", "json"]));
    let asked = Client::new(service.address).with_header("X-Request-ID", "of-remote");
    assert_eq!(asked.get("/_matrix/media/v3/download/127.0.0.1:1/x").status, 502);
    let line = line_with(&service, "the remote server fails");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["span"]["request_id"], "of-remote");
    let line = line_with(&service, "media_sidecar::access");
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["request_id"], "of-remote");
}

#[test]
fn only_peers_that_are_trusted_name_clients_and_requests() {
    let folder = Folder::new("");
    for (number, (trusted, client, id)) in [
        ("[127.0.0.0/8]", "203.0.113.7", Some("given")),
        ("[127.0.0.0/8, 203.0.113.0/24]", "198.51.100.9", Some("given")),
        ("[unix, 10.0.0.0/8]", "127.0.0.1", None),
        ("[]", "127.0.0.1", None),
    ]
    .into_iter()
    .enumerate()
    {
        let service = Service::start(
            command(folder.folder.path()).arg("serve").env("SIDECAR_LISTEN__TRUST_FORWARDED", trusted),
        );
        let proxy = Client::new(service.address)
            .with_header("X-Forwarded-For", "198.51.100.9, 203.0.113.7")
            .with_header("X-Request-ID", "given");
        let answered = proxy.get("/nowhere").header("x-request-id").unwrap().to_owned();
        assert_eq!(Some(answered.as_str()).filter(|id| *id == "given"), id, "{number}");
        let line = line_with(&service, "media_sidecar::access");
        for part in [format!("client={client} "), format!("request_id={answered}")] {
            assert!(line.contains(&part), "{trusted}: {part} is not in {line}");
        }
    }
}
