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
use std::process::{Command, Stdio};
use std::time::Instant;

use peer::{Authority, Peer, Reply};
use serde_json::json;

const MB: usize = 1_000_000;

fn main() {
    let homeserver =
        Peer::plain(|_| Reply::json(200, &json!({"user_id": "@a:bench.test", "server_name": "bench.test"})));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    file("ca.pem", Authority::get().ca_pem());
    file("signing.key", "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1");
    file(
        "sidecar.yaml",
        &format!(
            "server_name: bench.test\nlisten: 127.0.0.1:0\nhomeserver: {{url: '{}'}}\n\
             federation: {{ip_allow: [127.0.0.0/8], ca_file: ca.pem, max_size: 1GiB}}\n",
            homeserver.url()
        ),
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_media-sidecar"))
        .arg("serve")
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines
        .find_map(|line| {
            line.unwrap()
                .split_once("listening on ")
                .map(|(_, rest)| rest.split(' ').next().unwrap().to_owned())
        })
        .unwrap();
    std::thread::spawn(move || lines.for_each(drop));

    println!(
        "{:<28} {:>12} {:>12} {:>12} {:>12}",
        "file at rate", "first byte", "total", "× ideal", "memory"
    );
    for (bytes, rate) in [(20 * MB, 2 * MB), (25 * MB, 5 * MB), (300 * MB, 100 * MB)] {
        let remote = Peer::tls(move |request| {
            if request.path().contains("/remote_media/") {
                Reply::new(200).header("Content-Disposition", "inline").paced(bytes, rate)
            } else {
                Reply::error(404, "M_UNRECOGNIZED")
            }
        });
        let status = format!("/proc/{}/status", child.id());
        let kib = |field: &str| -> usize {
            let text = std::fs::read_to_string(&status).unwrap();
            let line = text.lines().find(|line| line.starts_with(field)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        std::fs::write(format!("/proc/{}/clear_refs", child.id()), "5").unwrap();
        let idle = kib("VmRSS");
        let started = Instant::now();
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(
            stream,
            "GET /_matrix/client/v1/media/download/{}/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nConnection: close\r\n\r\n",
            remote.name()
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
        let first = started.elapsed();
        loop {
            match reader.read(&mut buffer).unwrap() {
                0 => break,
                count => got += count,
            }
        }
        let total = started.elapsed();
        assert_eq!(got, bytes, "the whole file");
        let ideal = bytes as f64 / rate as f64;
        println!(
            "{:<28} {:>9.1} ms {:>10.2} s {:>12.3} {:>8} KiB",
            format!("{} MB at {} MB/s", bytes / MB, rate / MB),
            first.as_secs_f64() * 1000.0,
            total.as_secs_f64(),
            total.as_secs_f64() / ideal,
            kib("VmHWM").saturating_sub(idle),
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
