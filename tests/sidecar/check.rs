//! `media-sidecar check` before proxies of all manners.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::{ServerConnection, StreamOwned};
use serde_json::json;

use crate::binary::{Folder, Service, command, text};
use crate::harness::{Authority, OUR_KEY, Reply};

/// What a proxy does to requests and answers.
#[derive(Clone)]
struct Manners {
    /// The target that goes on; `None`: the proxy answers 404 itself.
    target: fn(&str) -> Option<String>,
    /// Larger bodies are answered 413 by the proxy.
    limit: u64,
    /// What it speaks to the sidecar.
    version: &'static str,
    /// Headers of requests that get lost.
    lost: &'static [&'static str],
    /// Headers of answers that get lost.
    lost_answers: &'static [&'static str],
    /// What it adds to answers.
    added: &'static str,
    /// Whether it answers OPTIONS itself.
    answers_options: bool,
    /// Documents of its own.
    documents: Arc<OnceLock<Vec<(&'static str, String)>>>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            target: |target| (!target.starts_with("/_sidecar/")).then(|| target.to_owned()),
            limit: u64::MAX,
            version: "1.1",
            lost: &[],
            lost_answers: &[],
            added: "",
            answers_options: false,
            documents: Arc::default(),
        }
    }
}

/// A reverse proxy with TLS in front of a sidecar that is started later.
struct Front {
    address: SocketAddr,
    sidecar: Arc<OnceLock<SocketAddr>>,
    stopped: Arc<AtomicBool>,
}

impl Front {
    fn start(manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sidecar, stopped) = (Arc::<OnceLock<SocketAddr>>::default(), Arc::<AtomicBool>::default());
        let (target, stop) = (Arc::clone(&sidecar), Arc::clone(&stopped));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (target, manners) = (Arc::clone(&target), manners.clone());
                std::thread::spawn(move || drop(pass(stream, target.get().copied(), &manners)));
            }
        });
        Self { address, sidecar, stopped }
    }

    fn name(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
    }
}

/// Passes one request on, and its answer back.
fn pass(stream: TcpStream, sidecar: Option<SocketAddr>, manners: &Manners) -> std::io::Result<()> {
    let connection = ServerConnection::new(Authority::get().server()).unwrap();
    let mut front = BufReader::new(StreamOwned::new(connection, stream));
    let (mut line, mut headers, mut length) = (String::new(), Vec::new(), 0_u64);
    front.read_line(&mut line)?;
    let words: Vec<_> = line.split(' ').collect();
    let (method, target) = (words[0].to_owned(), words[1].to_owned());
    loop {
        let mut line = String::new();
        front.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        let (name, value) = (name.to_lowercase(), value.to_owned());
        if name == "content-length" {
            length = value.parse().unwrap();
        }
        headers.push((name, value));
    }
    let waits = headers.iter().any(|(name, value)| name == "expect" && value == "100-continue");
    if waits && length <= manners.limit {
        front.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let (mut body, taken) = (Vec::new(), if waits && length > manners.limit { 0 } else { length });
    front.by_ref().take(taken).read_to_end(&mut body)?;
    let own = |status: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
    };
    let document = manners.documents.get().into_iter().flatten().find(|(path, _)| *path == target);
    let answer = match ((manners.target)(&target), sidecar) {
        _ if document.is_some() => {
            let (_, body) = document.unwrap();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
                .into_bytes()
        }
        _ if length > manners.limit => own("413 Request Entity Too Large"),
        _ if method == "OPTIONS" && manners.answers_options => own("405 Method Not Allowed"),
        (None, _) => own("404 Not Found"),
        (_, None) => own("502 Bad Gateway"),
        (Some(target), Some(sidecar)) => match TcpStream::connect(sidecar) {
            Err(_) => own("502 Bad Gateway"),
            Ok(mut to) => {
                let mut head = format!("{method} {target} HTTP/{}\r\nConnection: close\r\n", manners.version);
                for (name, value) in headers.iter().filter(|(name, _)| !manners.lost.contains(&name.as_str()))
                {
                    head += &format!("{name}: {value}\r\n");
                }
                to.write_all(format!("{head}\r\n").as_bytes())?;
                to.write_all(&body)?;
                let mut answer = Vec::new();
                to.read_to_end(&mut answer)?;
                changed(&answer, manners)
            }
        },
    };
    let mut stream = front.into_inner();
    stream.write_all(&answer)?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// An answer as the proxy gives it back.
fn changed(answer: &[u8], manners: &Manners) -> Vec<u8> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = text(&answer[..end]);
    let is_kept = |line: &&str| !manners.lost_answers.contains(&line.split(':').next().unwrap());
    let kept: Vec<_> = head.split("\r\n").filter(is_kept).collect();
    [format!("{}\r\n{}\r\n", kept.join("\r\n"), manners.added).as_bytes(), &answer[end + 4..]].concat()
}

/// A port that nobody listens on.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A sidecar in its folder, behind `front`.
struct Deployment {
    folder: Folder,
    listen: String,
    name: String,
}

impl Deployment {
    fn behind(front: &Front) -> Self {
        let folder = Folder::new("federation: {ca_file: ca.pem}\n");
        std::fs::write(folder.path("ca.pem"), Authority::get().ca_pem()).unwrap();
        let yaml = std::fs::read_to_string(folder.path("sidecar.yaml")).unwrap();
        std::fs::write(folder.path("sidecar.yaml"), yaml.replace("http://", "http://user:secret@")).unwrap();
        Self { folder, listen: free_address().to_string(), name: front.name() }
    }

    fn command(&self, argument: &str) -> std::process::Command {
        let mut command = command(self.folder.folder.path());
        command.arg(argument).env("SIDECAR_SERVER_NAME", &self.name).env("SIDECAR_LISTEN", &self.listen);
        command
    }

    fn serve(&self, front: &Front) -> Service {
        let service = Service::start(&mut self.command("serve"));
        front.sidecar.set(service.address).unwrap();
        service
    }

    /// Exit status and report.
    fn check(&self) -> (Option<i32>, String) {
        let output = self.command("check").output().unwrap();
        let report = text(&output.stdout);
        assert!(!report.contains("secret") && output.stderr.is_empty(), "{report}{}", text(&output.stderr));
        (output.status.code(), report)
    }
}

/// The report of a service that runs behind a proxy of these manners.
fn checked(manners: Manners) -> (Option<i32>, String) {
    let front = Front::start(manners);
    let deployment = Deployment::behind(&front);
    let _service = deployment.serve(&front);
    deployment.check()
}

/// Fails unless the report has exactly these lines of failure, each by its beginning and words in it.
fn fails_with(report: &(Option<i32>, String), expected: &[(&str, &str)]) {
    let (status, report) = report;
    let failures: Vec<_> = report.lines().filter(|line| line.starts_with("FAIL")).collect();
    assert_eq!((*status, failures.len()), (Some(1), expected.len()), "{report}");
    for (line, (subject, words)) in failures.iter().zip(expected) {
        assert!(line.contains(subject) && line.contains(words), "{subject} … {words} is not in {line}");
    }
}

#[test]
fn a_good_deployment_is_all_ok() {
    let (status, report) = checked(Manners::default());
    assert_eq!(status, Some(0), "{report}");
    for line in [
        "ok    homeserver: http://[redacted]@",
        "ok    clock",
        "ok    data directory",
        "ok    service: running at 127.0.0.1:",
        "ok    versions: clients use authenticated media",
        "ok    /_sidecar/: not routed",
    ] {
        assert!(report.contains(line), "{line} is not in\n{report}");
    }
    assert_eq!(report.matches("reaches media-sidecar unchanged").count(), 11, "{report}");
    // The stand-in homeserver publishes no key.
    assert!(report.contains("warn  published key"), "{report}");
}

#[test]
fn a_proxy_that_takes_small_bodies_only_fails() {
    let report = checked(Manners { limit: 1 << 20, ..Manners::default() });
    let words = "an upload of 1.1 MB is too large for the proxy (status 413); set no limit there";
    fails_with(&report, &[("/_matrix/media/", words)]);
    assert_eq!(report.1.matches("client_max_body_size 0").count(), 1, "{}", report.1);
    for prefix in ["/_matrix/client/r0/media/", "/_matrix/client/unstable/org.matrix.msc1902/media/"] {
        assert!(
            report.1.contains(&format!("{prefix}, ")) || report.1.contains(&format!("{prefix})")),
            "{}",
            report.1
        );
    }
    assert_eq!(report.1.matches("reaches media-sidecar unchanged").count(), 8, "{}", report.1);
}

#[test]
fn a_proxy_with_a_smaller_limit_than_ours_fails() {
    let report = checked(Manners { limit: 10 << 20, ..Manners::default() });
    let words =
        "an upload of uploads.max_size, 50MiB, is too large for the proxy (status 413); set no limit there";
    fails_with(&report, &[("/_matrix/media/", words)]);
}

#[test]
fn a_proxy_that_speaks_http_1_0_to_us_fails_once() {
    let report = checked(Manners { version: "1.0", ..Manners::default() });
    fails_with(&report, &[("/_matrix/media/", "reaches media-sidecar as HTTP/1.0")]);
    assert!(report.1.contains("proxy_http_version 1.1"), "{}", report.1);
}

#[test]
fn every_header_that_media_needs_must_arrive() {
    for (lost, words) in [
        (&["authorization"][..], "arrives with changed or missing headers: Authorization"),
        (&["range", "if-range"], "arrives with changed or missing headers: Range, If-Range"),
        (&["if-none-match"], "arrives with changed or missing headers: If-None-Match"),
        (&["if-modified-since"], "arrives with changed or missing headers: If-Modified-Since"),
        (&["content-type"], "an upload arrives with a changed or missing Content-Type"),
    ] {
        fails_with(&checked(Manners { lost, ..Manners::default() }), &[("/_matrix/media/", words)]);
    }
}

#[test]
fn browsers_must_be_let_in() {
    let words = "answers arrive without Access-Control-Allow-Origin or Access-Control-Expose-Headers (Content-Disposition)";
    for lost_answers in [&["access-control-allow-origin"][..], &["access-control-expose-headers"]] {
        let mut report = checked(Manners { lost_answers, ..Manners::default() });
        let preflight = report.1.contains("browsers cannot upload");
        assert_eq!(preflight, lost_answers[0].ends_with("origin"), "{}", report.1);
        report.1 = report
            .1
            .lines()
            .filter(|line| !line.contains("browsers cannot upload"))
            .collect::<Vec<_>>()
            .join("\n");
        fails_with(&report, &[("/_matrix/media/", words)]);
    }
    let report = checked(Manners { added: "Access-Control-Allow-Origin: *\r\n", ..Manners::default() });
    assert!(report.1.contains("answers arrive with Access-Control-Allow-Origin twice"), "{}", report.1);
    let report = checked(Manners { answers_options: true, ..Manners::default() });
    fails_with(&report, &[("/_matrix/media/", "the proxy answers OPTIONS itself (status 405)")]);
}

#[test]
fn each_fault_is_named_with_its_fix() {
    let target = |target: &str| match target {
        _ if target.starts_with("/_matrix/federation/v1/remote_media/") => None,
        _ => Some(target.replace("%2F", "/")),
    };
    let report = checked(Manners { target, ..Manners::default() });
    fails_with(
        &report,
        &[
            ("/_matrix/media/: reaches media-sidecar changed", "let the proxy pass the path unchanged"),
            ("remote_media/: does not reach media-sidecar (status 404)", "see `media-sidecar proxy-config`"),
            ("/_sidecar/", "reachable by everyone"),
        ],
    );
}

#[test]
fn a_service_that_does_not_run_is_no_fault_of_the_proxy() {
    let front = Front::start(Manners::default());
    let deployment = Deployment::behind(&front);
    let report = deployment.check();
    fails_with(
        &report,
        &[("service: no answer at 127.0.0.1:", "start it (`systemctl start media-sidecar`)")],
    );
    assert!(report.1.contains("warn  proxy: not checked while the service does not run"), "{}", report.1);
    assert!(!report.1.contains("502") && !report.1.contains("not routed"), "{}", report.1);
}

#[test]
fn a_proxy_that_does_not_reach_the_service_is_told_as_that() {
    let front = Front::start(Manners::default());
    let deployment = Deployment::behind(&front);
    let _service = Service::start(&mut deployment.command("serve"));
    front.sidecar.set(free_address()).unwrap();
    let report = deployment.check();
    fails_with(&report, &[("/_matrix/media/", "the proxy does not reach media-sidecar (status 502)")]);
}

#[test]
fn a_door_where_nobody_answers_is_told_once() {
    let front = Front::start(Manners::default());
    let mut deployment = Deployment::behind(&front);
    let _service = deployment.serve(&front);
    deployment.name = free_address().to_string();
    let service = Service::start(
        deployment.command("serve").env("SIDECAR_DATA_DIR", "other").env("SIDECAR_LISTEN", "127.0.0.1:0"),
    );
    deployment.listen = service.address.to_string();
    let report = deployment.check();
    fails_with(
        &report,
        &[(
            &format!("FAIL  https://{}: no answer (Connection refused)", deployment.name),
            "is the proxy running",
        )],
    );
    let words = "warn  /_sidecar/: not checked: no proxy answered";
    assert!(report.1.contains(words), "{}", report.1);
}

#[test]
fn a_stranger_at_our_address_and_a_service_with_another_key_are_told() {
    let front = Front::start(Manners::default());
    let mut deployment = Deployment::behind(&front);
    let stranger = crate::harness::Peer::plain(|_| Reply::json(200, &json!({})));
    deployment.listen = stranger.name();
    fails_with(
        &deployment.check(),
        &[("service: another program answers at", "stop it, or change `listen`")],
    );

    let mut deployment = Deployment::behind(&front);
    let service = deployment.serve(&front);
    deployment.listen = service.address.to_string();
    std::fs::write(deployment.folder.path("signing.key"), OUR_KEY.replace(" 1 ", " 2 ")).unwrap();
    let failures = [
        ("service: the media-sidecar at", "runs with another key or server_name; restart it"),
        ("/_matrix/media/", "reaches another media-sidecar"),
    ];
    fails_with(&deployment.check(), &failures);
}

#[test]
fn a_homeserver_url_that_leads_back_is_noticed_and_nothing_goes_in_circles() {
    let front = Front::start(Manners::default());
    let deployment = Deployment::behind(&front);
    // Not where `listen` says: the configuration alone cannot tell.
    let relayed = relay_to_be();
    let mut serve = deployment.command("serve");
    let service = Service::start(serve.env("SIDECAR_HOMESERVER__URL", format!("http://{}", relayed.0)));
    relayed.1.set(service.address).unwrap();
    let versions = service.alice().get("/_matrix/client/versions");
    assert_eq!(versions.status, 502, "{}", versions.text());
    assert_eq!(service.alice().post("/_matrix/media/v3/upload", b"x").status, 502);
    let health = service.alice().get("/_sidecar/health");
    let told = health.json()["homeserver"].as_str().unwrap().to_owned();
    assert!(health.status == 503 && told.contains("media-sidecar itself answers there"), "{told}");
    let checked =
        deployment.command("check").env("SIDECAR_HOMESERVER__URL", format!("http://{}", relayed.0)).output();
    let report = text(&checked.unwrap().stdout);
    let words = "media-sidecar itself answers there, not the homeserver; set homeserver.url to the homeserver's own address";
    assert!(report.contains(&format!("FAIL  homeserver: http://{}: {words}", relayed.0)), "{report}");
}

/// A plain relay to an address that is set later.
fn relay_to_be() -> (SocketAddr, Arc<OnceLock<SocketAddr>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let target = Arc::<OnceLock<SocketAddr>>::default();
    let to = Arc::clone(&target);
    std::thread::spawn(move || {
        for from in listener.incoming().flatten() {
            let Some(to) = to.get().and_then(|to| TcpStream::connect(to).ok()) else { continue };
            let (mut request, mut target) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut request, &mut target));
            let (mut answer, mut client) = (to, from);
            std::thread::spawn(move || std::io::copy(&mut answer, &mut client));
        }
    });
    (address, target)
}

#[test]
fn a_configuration_that_cannot_be_read_is_told() {
    let folder = Folder::new("colour: red\n");
    let output = folder.run(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    let report = text(&output.stdout);
    assert!(report.contains("FAIL  configuration: sidecar.yaml:5: `colour`"), "{report}");
}

#[test]
fn an_authority_that_cannot_be_read_is_told() {
    let folder = Folder::new("federation: {ca_file: nope.pem}\npreviews: {ca_file: neither.pem}\n");
    let output = command(folder.folder.path())
        .arg("check")
        .env("SIDECAR_SERVER_NAME", "127.0.0.1:1")
        .output()
        .unwrap();
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    for key in ["federation.ca_file nope.pem", "previews.ca_file neither.pem"] {
        let line =
            report.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{key}: {report}"));
        assert!(
            line.starts_with("FAIL") && line.contains("No such file") && !line.contains("os error"),
            "{line}"
        );
    }
}

#[test]
fn too_little_room_for_one_upload_is_told() {
    let front = Front::start(Manners::default());
    let deployment = Deployment::behind(&front);
    let _service = deployment.serve(&front);
    let output = deployment.command("check").env("SIDECAR_UPLOADS__MAX_SIZE", "8000000TB").output().unwrap();
    let report = text(&output.stdout);
    assert!(
        output.status.code() == Some(1) && report.contains("less free space than one upload"),
        "{report}"
    );
}

#[test]
fn clients_and_servers_may_have_doors_of_their_own_and_both_are_looked_through() {
    let manners = Manners { target: |target| Some(target.to_owned()), ..Manners::default() };
    let documents = Arc::clone(&manners.documents);
    let (for_servers, for_clients) = (Front::start(manners), Front::start(Manners::default()));
    let base_url = format!("https://{}/", for_clients.name());
    let document = json!({"m.homeserver": {"base_url": base_url}}).to_string();
    documents.set(vec![("/.well-known/matrix/client", document)]).unwrap();
    let deployment = Deployment::behind(&for_servers);
    let service = deployment.serve(&for_servers);
    for_clients.sidecar.set(service.address).unwrap();
    let report = deployment.check();
    let words = format!("reachable by everyone at https://{}", for_servers.name());
    fails_with(&report, &[("/_sidecar/", &words)]);
    for (door, places) in [(&for_clients, 7), (&for_servers, 5)] {
        let start = format!("ok    https://{}/_matrix/", door.name());
        assert_eq!(report.1.matches(&start).count(), places, "{}", report.1);
    }
}

#[test]
fn a_document_for_clients_that_is_none_is_told() {
    let manners = Manners::default();
    manners.documents.set(vec![("/.well-known/matrix/client", "<html>".to_owned())]).unwrap();
    let report = checked(manners);
    fails_with(&report, &[("delegation: ", "/.well-known/matrix/client does not have the form")]);
}
