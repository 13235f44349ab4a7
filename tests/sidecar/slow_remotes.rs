//! Remote servers that send a byte now and then, so that silence never lasts: what they hold ends all the same.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use media_sidecar::config::Family;
use rustls::{ServerConnection, StreamOwned};

use crate::harness::peer::pause;
use crate::harness::{Authority, Homeserver, OURS, Peer, RemoteKey, Reply, Setup, Sidecar, eventually};

/// A sidecar that bears silence, and small parts of answers, for a second.
fn impatient() -> Sidecar {
    Setup::new().with(|config| config.federation.timeout.0 = Duration::from_secs(1)).start()
}

/// As impatient, and speaks only multipart.
fn only_msc3916() -> Sidecar {
    let setup = Setup::new().with(|config| config.federation.timeout.0 = Duration::from_secs(1));
    setup.with(|config| config.federation.families = vec![Family::Msc3916]).start()
}

fn download(server_name: &str, media_id: &str) -> String {
    format!("/_matrix/client/v1/media/download/{server_name}/{media_id}")
}

#[test]
fn an_error_body_that_drips_is_given_up_and_its_server_left_alone() {
    let remote = Peer::tls(|_| Reply::new(404).dripping(usize::MAX));
    let sidecar = impatient();
    let response = sidecar.alice().get(&download(&remote.name(), "x"));
    assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()), "{}", response.text());
    assert_eq!(remote.requests().len(), 1, "no fallback");
    assert!(sidecar.alice().get(&download(&remote.name(), "y")).text().contains("tried again"));
}

#[test]
fn what_drips_before_a_multipart_file_is_given_up() {
    for beginning in ["", "--B\r\nX: ", "--B\r\n\r\n{}", "--B\r\n\r\n{}\r\n--B\r\nX: "] {
        let remote = Peer::tls(move |_| {
            Reply::new(200)
                .header("Content-Type", "multipart/mixed; boundary=B")
                .body(beginning)
                .dripping(usize::MAX)
        });
        let response = only_msc3916().alice().get(&download(&remote.name(), "x"));
        assert_eq!(response.failure(), (502, "M_UNKNOWN".to_owned()), "{beginning}: {}", response.text());
    }
}

#[test]
fn a_file_that_begins_in_time_may_take_longer() {
    let remote = Peer::tls(|_| {
        Reply::new(200)
            .header("Content-Type", "multipart/mixed; boundary=B")
            .body("--B\r\n\r\n{}\r\n--B\r\nContent-Type: image/png\r\n\r\n")
            .dripping(100)
            .body("\r\n--B--\r\n")
    });
    let response = only_msc3916().alice().get(&download(&remote.name(), "x"));
    assert!(response.complete, "{}", response.status);
    assert_eq!(response.body, [b'x'; 100]);
}

/// A request that claims to come from a slow server must not hold a thread for the slow server, the homeserver and each
/// notary in turn.
#[test]
fn keys_are_waited_for_half_as_long_again_as_one_answer() {
    let slow = || Peer::tls(|_| Reply::new(200).dripping(usize::MAX));
    let (origin, notaries) = (slow(), [slow(), slow(), slow()]);
    let homeserver = Homeserver::with(|request| {
        request.path().starts_with("/_matrix/key/v2/query/").then(|| Reply::new(200).dripping(usize::MAX))
    });
    let names: Vec<_> = notaries.iter().map(|notary| notary.name().parse().unwrap()).collect();
    let setup = Setup::new().beside(homeserver).with(|config| config.federation.notaries = names);
    let sidecar = setup.with(|config| config.federation.timeout.0 = Duration::from_secs(2)).start();
    let target = "/_matrix/federation/v1/media/download/x";
    let header = RemoteKey::new(1).authorization(&origin.name(), OURS, target);
    assert_eq!(sidecar.anonymous().with_header("Authorization", &header).get(target).status, 401);
    let later: usize = notaries[1..].iter().map(Peer::connections).sum();
    assert_eq!(later, 0, "the first notary takes what the homeserver leaves");
}

/// A connection that from some point on takes a byte now and then.
struct Slow {
    stream: TcpStream,
    is_slow: bool,
}

impl Read for Slow {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.stream.read(into)
    }
}

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.is_slow {
            pause();
            return self.stream.write(&bytes[..bytes.len().min(1)]);
        }
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// No byte of a TLS record is of use before its last, so a caller that looks at the rate between reads never looks.
#[test]
fn a_tls_record_that_drips_is_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = listener.local_addr().unwrap().to_string();
    let serving = std::thread::spawn(move || {
        let stream = Slow { stream: listener.accept().unwrap().0, is_slow: false };
        let connection = ServerConnection::new(Authority::get().server()).unwrap();
        let mut reader = BufReader::with_capacity(1, StreamOwned::new(connection, stream));
        let mut line = String::new();
        while reader.read_line(&mut line).unwrap() > 2 {
            line.clear();
        }
        let mut tls = reader.into_inner();
        let head = "HTTP/1.1 200 OK\r\nContent-Disposition: inline\r\nContent-Length: 16000\r\n\r\n";
        tls.write_all(head.as_bytes()).unwrap();
        tls.flush().unwrap();
        tls.sock.is_slow = true;
        // Takes more than five minutes, unless the other end hangs up.
        tls.write_all(&[7; 16_000]).and_then(|()| tls.flush()).unwrap_err();
    });
    let sidecar = impatient();
    let response = sidecar.alice().get(&download(&name, "x"));
    assert!(response.status == 502 || !response.complete, "{}", response.status);
    serving.join().unwrap();
    eventually("nothing is left", || sidecar.leftovers() == 0);
    assert!(sidecar.alice().get(&download(&name, "y")).text().contains("tried again"));
}
