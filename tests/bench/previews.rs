//! A preview of a local page: how long the first takes and the next, and what memory a large page costs.
//!
//! `cargo bench --bench previews`. Medians over pages that differ in their URL alone; the network is loopback, so what is left
//! is the sidecar's own: guard, reading, storing the picture, two rows committed to disk.

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

use peer::{Peer, Reply, Request};
use serde_json::json;

/// Previews of each kind.
const ROUNDS: usize = 51;

const PICTURE: &[u8] = include_bytes!("../../assets/demo.png");

fn main() {
    let (small, large) = (page(200 * 1000, Words::InMeta), page(2 << 20, Words::InMeta));
    let (bare, bare_large) = (page(200 * 1000, Words::InText), page(2 << 20, Words::InText));
    let site = Peer::plain(move |request: &Request| {
        let page = match request.path() {
            "/i.png" => return Reply::new(200).header("Content-Type", "image/png").body(PICTURE),
            "/small" => &small,
            "/large" => &large,
            "/bare" => &bare,
            _ => &bare_large,
        };
        Reply::new(200).header("Content-Type", "text/html; charset=utf-8").body(page)
    });
    println!("{:<40} {:>10} {:>10} {:>12}", "page", "cold", "cached", "memory");
    for (what, path) in [
        ("200 KB with Open Graph and a picture", "small"),
        ("2 MiB with Open Graph and a picture", "large"),
        ("200 KB of text without metadata", "bare"),
        ("2 MiB of text without metadata", "bare-large"),
    ] {
        let sidecar = Sidecar::start(&site);
        let memory = sidecar.memory_of(|| sidecar.preview(&format!("{}/{path}?warm", site.url())));
        let urls: Vec<String> = (0..ROUNDS).map(|round| format!("{}/{path}?{round}", site.url())).collect();
        let cold = median(&urls, |url| sidecar.preview(url));
        let cached = median(&urls, |url| sidecar.preview(url));
        println!("{what:<40} {cold:>7.2} ms {cached:>7.2} ms {memory:>8} KiB");
    }
}

/// Where a page says what it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    InMeta,
    InText,
}

/// A page of about `size` bytes.
fn page(size: usize, words: Words) -> Vec<u8> {
    let mut page = "<!doctype html><html><head><title>A page</title>".to_owned();
    if words == Words::InMeta {
        page += "<meta property='og:title' content='A page'><meta property='og:image' content='/i.png'>\
                 <meta property='og:description' content='What it is about'>";
    }
    page += "</head><body><nav><ul>";
    for index in 0.. {
        if page.len() >= size {
            break;
        }
        page += &format!(
            "<li class='item item-{index}'><a href='/section/{index}?from=menu'>Section {index}</a></li>\n"
        );
    }
    (page + "</ul></nav></body></html>").into_bytes()
}

/// The middle of how long `work` takes with each of `urls`, ms.
fn median(urls: &[String], mut work: impl FnMut(&str)) -> f64 {
    let mut times: Vec<f64> = urls
        .iter()
        .map(|url| {
            let started = Instant::now();
            work(url);
            started.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The program beside a homeserver that takes every token.
struct Sidecar {
    child: Child,
    address: String,
    _homeserver: Peer,
    _folder: tempfile::TempDir,
}

impl Sidecar {
    fn start(site: &Peer) -> Self {
        let homeserver = Peer::plain(|_| Reply::json(200, &json!({"user_id": "@a:bench.test"})));
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o600))
                .unwrap();
        };
        file("signing.key", "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1");
        file(
            "sidecar.yaml",
            &format!(
                "server_name: bench.test\nlisten: 127.0.0.1:0\nhomeserver: {{url: '{}'}}\nlog: warn,media_sidecar=info\n\
                 previews: {{ip_allow: [127.0.0.0/8], ports: [{}]}}\n",
                homeserver.url(),
                site.address.port(),
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
        let sidecar = Self { child, address, _homeserver: homeserver, _folder: folder };
        // So that threads and connections are there.
        sidecar.ask("/_matrix/client/v1/media/config");
        sidecar
    }

    /// How far memory rises above where it is while `work` is done, KiB.
    fn memory_of(&self, work: impl FnOnce()) -> usize {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
        let idle = self.kib("VmRSS");
        work();
        self.kib("VmHWM").saturating_sub(idle)
    }

    /// A field of `/proc/PID/status`, KiB.
    fn kib(&self, field: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Asks for a preview and takes it.
    fn preview(&self, url: &str) {
        let url: String = url::form_urlencoded::byte_serialize(url.as_bytes()).collect();
        let answer = self.ask(&format!("/_matrix/client/v1/media/preview_url?url={url}"));
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("A page"), "{answer}");
    }

    /// Sends a request and reads the answer.
    fn ask(&self, target: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
