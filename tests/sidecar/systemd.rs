//! The program's manners towards systemd: readiness, watchdog, stopping, inherited sockets.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::binary::{Folder, Service, command};
use crate::harness::Client;

/// The next message of the service.
fn next(socket: &UnixDatagram) -> String {
    let mut message = [0; 1024];
    let length = socket.recv(&mut message).expect("a message");
    String::from_utf8(message[..length].to_vec()).unwrap().trim_end().to_owned()
}

#[test]
fn systemd_hears_of_readiness_of_life_and_of_the_end() {
    let folder = Folder::new("");
    let socket = UnixDatagram::bind(folder.path("notify.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut service = Service::start(
        command(folder.folder.path())
            .arg("serve")
            .env("NOTIFY_SOCKET", folder.path("notify.sock"))
            .env("WATCHDOG_USEC", "200000"),
    );
    assert_eq!(next(&socket), "READY=1");
    // Whoever was told that it is ready is answered.
    assert_eq!(service.alice().get("/_sidecar/health").status, 200);
    for _ in 0..3 {
        assert_eq!(next(&socket), "WATCHDOG=1");
    }
    service.signal(Signal::TERM);
    let last = std::iter::repeat_with(|| next(&socket)).find(|message| message != "WATCHDOG=1").unwrap();
    assert_eq!(last, "STOPPING=1");
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn without_a_watchdog_systemd_hears_of_readiness_alone() {
    let folder = Folder::new("");
    let socket = UnixDatagram::bind(folder.path("notify.sock")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let service = Service::start(
        command(folder.folder.path()).arg("serve").env("NOTIFY_SOCKET", folder.path("notify.sock")),
    );
    assert_eq!(next(&socket), "READY=1");
    service.signal(Signal::TERM);
    assert_eq!(next(&socket), "STOPPING=1");
}

/// The service with `sockets` as systemd hands them over, from file descriptor 3 on. The shell knows the process ID.
fn activated(folder: &Folder, sockets: [OwnedFd; 2]) -> Service {
    let [first, second] = sockets;
    let shell = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$0\" serve 3<&0 4>&1 0</dev/null 1>&2";
    Service::start(
        Command::new("bash")
            .current_dir(folder.folder.path())
            .env_remove("RUST_LOG")
            .args(["-c", shell, env!("CARGO_BIN_EXE_media-sidecar")])
            .stdin(Stdio::from(first))
            .stdout(Stdio::from(second)),
    )
}

#[test]
fn sockets_from_systemd_take_the_place_of_listen() {
    use std::io::{Read as _, Write as _};
    let folder = Folder::new("");
    let path = folder.path("activated.sock");
    let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
    let address = tcp.local_addr().unwrap();
    let service = activated(&folder, [tcp.into(), unix.into()]);
    assert_eq!(service.address, address, "the first of the two");
    assert_eq!(Client::new(address).get("/_sidecar/health").status, 200);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /_sidecar/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}
