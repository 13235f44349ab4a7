//! The program's manners towards systemd: readiness, watchdog, stopping, inherited sockets.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::binary::{Folder, Service, command, program};
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
            .args(["-c", shell])
            .arg(program())
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

#[test]
fn every_request_on_a_socket_from_systemd_is_answered_across_a_restart() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const CLIENTS: usize = 8;
    const REQUESTS: usize = 400;
    let folder = Folder::new("");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let start = || {
        let unix = UnixListener::bind(folder.path(&format!("{}.sock", unique_number()))).unwrap();
        activated(&folder, [tcp.try_clone().unwrap().into(), unix.into()])
    };
    let mut first = start();
    let answered = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    let response = Client::new(address).try_send("GET", "/_matrix/media/unknown", b"");
                    assert_eq!(response.expect("an answer").status, 404);
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        crate::harness::eventually("clients are busy", || {
            answered.load(Ordering::SeqCst) > CLIENTS * REQUESTS / 4
        });
        first.signal(Signal::TERM);
        assert!(first.child.wait().unwrap().success());
        // What came meanwhile waits in the socket.
        let second = start();
        crate::harness::eventually("all are answered", || {
            answered.load(Ordering::SeqCst) == CLIENTS * REQUESTS
        });
        drop(second);
    });
}

/// Another one at each call.
fn unique_number() -> usize {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::SeqCst)
}

#[test]
fn a_request_that_was_sent_before_the_stop_is_answered_and_idle_connections_are_closed() {
    use std::io::{Read as _, Write as _};
    let folder = Folder::new("");
    let mut service = folder.serve();
    let request = b"GET /_matrix/media/unknown HTTP/1.1\r\nHost: x\r\n\r\n";
    let connect = || std::net::TcpStream::connect(service.address).unwrap();
    let mut idle = connect();
    idle.write_all(request).unwrap();
    let mut answer = [0; 4096];
    assert!(idle.read(&mut answer).unwrap() > 0);
    let late: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(request).unwrap();
            stream
        })
        .collect();
    service.signal(Signal::TERM);
    for mut stream in late {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn who_waits_for_a_pending_upload_is_told_so_when_the_service_stops() {
    use std::io::Write as _;
    let folder = Folder::new("");
    let mut service = folder.serve();
    let created = service.alice().post("/_matrix/media/v1/create", b"{}").json();
    let mxc = created["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned();
    let target = format!("/_matrix/client/v1/media/download/{mxc}?timeout_ms=60000");
    let mut connection = service.alice().connect();
    connection.write_all(&service.alice().request("GET", &target, b"")).unwrap();
    service.signal(Signal::TERM);
    // A minute would be longer than the service takes to end.
    let response = crate::harness::client::read_response(&mut connection, "GET");
    assert_eq!((response.status, response.errcode().as_str()), (504, "M_NOT_YET_UPLOADED"));
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn an_answer_that_its_client_reads_slowly_is_sent_to_its_end_when_the_service_stops() {
    use std::io::Write as _;
    let folder = Folder::new("");
    let mut service = folder.serve();
    let bytes = crate::harness::unique(1, 12_000_000);
    let uploaded = service.alice().post("/_matrix/media/v3/upload", &bytes).json();
    let mxc = uploaded["content_uri"].as_str().unwrap().trim_start_matches("mxc://").to_owned();
    let mut connections: Vec<_> = (0..8)
        .map(|_| {
            let mut connection = service.alice().connect();
            let target = format!("/_matrix/client/v1/media/download/{mxc}");
            connection.write_all(&service.alice().request("GET", &target, b"")).unwrap();
            connection
        })
        .collect();
    // An answer has begun when there is something to be read of it.
    connections.iter().for_each(|connection| assert_eq!(connection.peek(&mut [0]).unwrap(), 1));
    service.signal(Signal::TERM);
    crate::harness::eventually("it stops", || service.log().contains("stopping"));
    for connection in &mut connections {
        let response = crate::harness::client::read_response(connection, "GET");
        assert!(response.complete && response.body == bytes);
    }
    assert!(service.child.wait().unwrap().success());
}
