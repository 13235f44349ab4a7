//! A homeserver that listens on a Unix socket only.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde_json::json;

use crate::binary::{Folder, Service, command, text};
use crate::harness::{Homeserver, OUR_PUBLIC_KEY, Reply};

/// A name that needs no DNS and where nobody answers.
const NAME: &str = "127.0.0.1:1";

/// Listens at `socket` and passes every connection on to `address`.
fn relay(socket: &Path, address: SocketAddr) {
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let to = TcpStream::connect(address).unwrap();
            let (mut request, mut target) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut request, &mut target));
            std::thread::spawn(move || pour(to, from));
        }
    });
}

/// Passes an answer on to its end.
fn pour(mut to: TcpStream, mut from: UnixStream) {
    drop(std::io::copy(&mut to, &mut from));
    drop(from.flush());
    drop(from.shutdown(std::net::Shutdown::Both));
}

/// A homeserver that publishes our key, behind `socket`.
fn homeserver(socket: &Path) -> Homeserver {
    let homeserver = Homeserver::with(|request| {
        (request.path() == "/_matrix/key/v2/server").then(|| {
            let keys = json!({"ed25519:1": {"key": OUR_PUBLIC_KEY}});
            Reply::json(200, &json!({"server_name": NAME, "verify_keys": keys}))
        })
    });
    relay(socket, homeserver.peer.address);
    homeserver
}

#[test]
fn tokens_versions_and_key_are_asked_through_the_socket() {
    let folder = Folder::new("");
    let socket = folder.path("homeserver.sock");
    let homeserver = homeserver(&socket);
    let url = format!("unix:{}", socket.display());
    let with_socket = |argument: &str| {
        let mut command = command(folder.folder.path());
        command.arg(argument).env("SIDECAR_HOMESERVER__URL", &url).env("SIDECAR_SERVER_NAME", NAME);
        command
    };
    let service = Service::start(&mut with_socket("serve"));
    assert_eq!(service.alice().post("/_matrix/media/v3/upload", b"hello").status, 200);
    assert_eq!(service.user("nobody").post("/_matrix/media/v3/upload", b"hello").status, 401);
    let versions = service.alice().get("/_matrix/client/versions");
    assert_eq!((versions.status, versions.json()["other"].clone()), (200, json!(1)));
    let health = service.alice().get("/_sidecar/health").json();
    assert_eq!(health["homeserver"], "ok", "{health}");
    assert!(homeserver.whoami_count() >= 2);

    let report = text(&with_socket("check").output().unwrap().stdout);
    for line in [&format!("ok    homeserver: {url} answers"), "ok    published key: matches our signing key"]
    {
        assert!(report.contains(line), "{line} is not in\n{report}");
    }
}

#[test]
fn a_socket_that_is_not_there_is_told_by_its_path() {
    let folder = Folder::new("");
    let url = format!("unix:{}", folder.path("gone.sock").display());
    let mut check = command(folder.folder.path());
    check.arg("check").env("SIDECAR_HOMESERVER__URL", &url).env("SIDECAR_SERVER_NAME", NAME);
    let report = text(&check.output().unwrap().stdout);
    let line = report.lines().find(|line| line.starts_with("FAIL  homeserver")).unwrap_or_default();
    assert!(line.contains(&url) && line.contains("No such file"), "{report}");
    assert_eq!(line.matches("gone.sock").count(), 1, "{line}");
}
