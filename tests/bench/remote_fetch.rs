//! Fetching a remote file through the sidecar: when its first byte arrives, how long the whole takes, what memory it costs.
//!
//! `cargo bench --bench remote_fetch`. The peer is the pace itself: a remote that sends at a fixed rate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::arithmetic_side_effects,
    clippy::missing_docs_in_private_items,
    clippy::print_stdout,
    clippy::format_push_string,
    clippy::let_underscore_must_use,
    clippy::must_use_candidate,
    let_underscore_drop,
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "a measurement, sharing the tests' scripted servers"
)]

#[path = "../sidecar/harness/peer.rs"]
mod peer;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use peer::{Authority, Peer, Reply};
use serde_json::json;

const MB: usize = 1_000_000;

fn main() {
    let sidecar = Sidecar::start();
    println!("{:<24} {:>13} {:>12} {:>8} {:>12}", "file at rate", "first byte", "total", "× ideal", "memory");
    for (bytes, rate) in [(20 * MB, 2 * MB), (25 * MB, 5 * MB), (300 * MB, 100 * MB)] {
        measure(&sidecar, bytes, rate);
    }
}

/// The program beside a homeserver that takes every token.
struct Sidecar {
    child: Child,
    address: String,
    _homeserver: Peer,
    _folder: tempfile::TempDir,
}

impl Sidecar {
    fn start() -> Self {
        let homeserver = Peer::plain(|_| Reply::json(200, &json!({"user_id": "@a:bench.test"})));
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o600))
                .unwrap();
        };
        file("ca.pem", Authority::get().ca_pem());
        file("signing.key", "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1");
        let url = homeserver.url();
        file(
            "sidecar.yaml",
            &format!(
                "server_name: bench.test\nlisten: 127.0.0.1:0\nhomeserver: {{url: '{url}'}}\n\
                 federation: {{ip_allow: [127.0.0.0/8], ca_file: ca.pem, max_size: 1GiB}}\n"
            ),
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_media-sidecar"));
        let mut child =
            command.arg("serve").current_dir(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = |line: std::io::Result<String>| {
            let (_, rest) =
                line.unwrap().split_once("listening on ").map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            rest.split(' ').next().map(str::to_owned)
        };
        let address = lines.find_map(listening).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _homeserver: homeserver, _folder: folder }
    }

    /// A field of `/proc/PID/status`, KiB.
    fn kib(&self, field: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Fetches `bytes` bytes from a remote that sends `rate` bytes a second, and prints a row.
fn measure(sidecar: &Sidecar, bytes: usize, rate: usize) {
    let remote = Peer::tls(move |request| {
        if request.path().contains("/remote_media/") {
            Reply::new(200).header("Content-Disposition", "inline").paced(bytes, rate)
        } else {
            Reply::error(404, "M_UNRECOGNIZED")
        }
    });
    std::fs::write(format!("/proc/{}/clear_refs", sidecar.child.id()), "5").unwrap();
    let idle = sidecar.kib("VmRSS");
    let started = Instant::now();
    let mut stream = TcpStream::connect(&sidecar.address).unwrap();
    let target = format!("/_matrix/client/v1/media/download/{}/x", remote.name());
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut got = reader.read(&mut buffer).unwrap();
    let first = started.elapsed().as_secs_f64() * 1000.0;
    loop {
        match reader.read(&mut buffer).unwrap() {
            0 => break,
            count => got += count,
        }
    }
    let total = started.elapsed().as_secs_f64();
    assert_eq!(got, bytes, "the whole file");
    let memory = sidecar.kib("VmHWM").saturating_sub(idle);
    let ratio = total / (bytes as f64 / rate as f64);
    let what = format!("{} MB at {} MB/s", bytes / MB, rate / MB);
    println!("{what:<24} {first:>10.1} ms {total:>10.2} s {ratio:>8.3} {memory:>8} KiB");
}
