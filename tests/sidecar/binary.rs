//! The program itself: command line, configuration, signals, sockets, a file system that refuses.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use crate::harness::client::read_response;
use crate::harness::{Client, Homeserver, OUR_KEY, OUR_PUBLIC_KEY, eventually};
use crate::keys::conduit_record;

const UPLOAD: &str = "/_matrix/media/v3/upload";

/// A folder with `sidecar.yaml` and the key.
pub struct Folder {
    pub folder: tempfile::TempDir,
    _homeserver: Homeserver,
}

impl Folder {
    pub fn new(more: &str) -> Self {
        let (folder, homeserver) = (tempfile::tempdir().unwrap(), Homeserver::start());
        let key = folder.path().join("signing.key");
        std::fs::write(&key, OUR_KEY).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let yaml = format!(
            "server_name: sidecar.test\nlisten: 127.0.0.1:0\nhomeserver:\n  url: {}\n{more}",
            homeserver.peer.url()
        );
        std::fs::write(folder.path().join("sidecar.yaml"), yaml).unwrap();
        Self { folder, _homeserver: homeserver }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        command(self.folder.path()).args(arguments).output().unwrap()
    }

    /// Starts the service and does not wait for it.
    pub fn spawn(&self) -> Child {
        command(self.folder.path()).arg("serve").stderr(Stdio::null()).spawn().unwrap()
    }

    pub fn serve(&self) -> Service {
        Service::start(command(self.folder.path()).arg("serve"))
    }
}

/// The program: what cargo built for the tests, or another build of it that `MEDIA_SIDECAR` names. Times and memory are only
/// meaningful of a release build.
pub fn program() -> OsString {
    std::env::var_os("MEDIA_SIDECAR").unwrap_or_else(|| env!("CARGO_BIN_EXE_media-sidecar").into())
}

pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(program());
    command.current_dir(folder).env_remove("RUST_LOG");
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The running program. Killed when dropped.
pub struct Service {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<std::sync::Mutex<String>>,
}

impl Service {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(std::sync::Mutex::new(String::new()));
        let address = loop {
            let mut line = String::new();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended: {}", log.lock().unwrap());
            log.lock().unwrap().push_str(&line);
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find([' ', '"', '\n']).unwrap_or(rest.len());
                break rest[..end].parse().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
            }
        };
        let copy = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                copy.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { child, address, log }
    }

    pub fn alice(&self) -> Client {
        self.user("alice")
    }

    /// A client of the homeserver's user `token`.
    pub fn user(&self, token: &str) -> Client {
        Client::new(self.address).with_header("Authorization", &format!("Bearer {token}"))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Resident memory.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn wrong_usage_is_2_and_help_has_examples() {
    let folder = Folder::new("");
    assert_eq!(folder.run(&["sing"]).status.code(), Some(2));
    assert_eq!(folder.run(&[]).status.code(), Some(2));
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["demo", "--help"],
        &["config", "--help"],
        &["check", "--help"],
        &["key", "show", "--help"],
        &["proxy-config", "--help"],
    ] {
        let output = folder.run(arguments);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Example: "), "{arguments:?}");
    }
}

#[test]
fn config_prints_what_is_in_force() {
    let folder = Folder::new("uploads: {max_size: 7MiB}\n");
    let output = folder.run(&["config"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("max_size: 7MiB"), "{}", text(&output.stdout));
    let output = command(folder.folder.path())
        .args(["config"])
        .env("SIDECAR_UPLOADS__MAX_SIZE", "9MiB")
        .env("SIDECAR_NONSENSE", "1")
        .output()
        .unwrap();
    assert!(text(&output.stdout).contains("max_size: 9MiB"));
    assert!(text(&output.stderr).contains("SIDECAR_NONSENSE"));
}

#[test]
fn every_configuration_error_is_told_with_key_file_and_line() {
    let folder = Folder::new("uploads:\n  max_size: lots\ncolour: red\n");
    let output = folder.run(&["serve"]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains("sidecar.yaml:6: `uploads.max_size`") && told.contains("sidecar.yaml:7: `colour`"),
        "{told}"
    );
    let missing = folder.run(&["serve", "--config", "nowhere.yaml"]);
    assert!(text(&missing.stderr).contains("nowhere.yaml"), "{}", text(&missing.stderr));
}

#[test]
fn keys_are_shown_imported_and_generated() {
    let folder = Folder::new("");
    let shown = text(&folder.run(&["key", "show"]).stdout);
    assert!(
        shown.contains("ed25519:1") && shown.contains(OUR_PUBLIC_KEY) && !shown.contains("YJDBA"),
        "{shown}"
    );

    let pem = "-----BEGIN MATRIX PRIVATE KEY-----\nKey-ID: ed25519:dend\n\n\
               YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0=\n-----END MATRIX PRIVATE KEY-----\n";
    std::fs::write(folder.path("matrix_key.pem"), pem).unwrap();
    let refused = folder.run(&["key", "import", "matrix_key.pem"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert!(folder.run(&["key", "import", "matrix_key.pem", "--force"]).status.success());
    assert!(text(&folder.run(&["key", "show"]).stdout).contains("ed25519:dend"));
    let written = std::fs::metadata(folder.path("signing.key")).unwrap();
    assert_eq!(written.permissions().mode() & 0o777, 0o600);

    std::fs::remove_file(folder.path("signing.key")).unwrap();
    assert!(text(&folder.run(&["key", "show"]).stderr).contains("key import"));
    assert!(folder.run(&["key", "generate"]).status.success());
    assert!(!text(&folder.run(&["key", "show"]).stdout).contains(OUR_PUBLIC_KEY));
}

#[test]
fn conduits_key_is_imported_from_its_live_database_and_from_what_sqlite3_prints() {
    let folder = Folder::new("");
    std::fs::remove_file(folder.path("signing.key")).unwrap();
    let seed = [7; 32];
    let public = ed25519_dalek::SigningKey::from_bytes(&seed).verifying_key();
    let record = conduit_record(seed);
    std::fs::create_dir(folder.path("conduit")).unwrap();
    let conduit = rusqlite::Connection::open(folder.path("conduit/conduit.db")).unwrap();
    conduit.pragma_update(None, "journal_mode", "WAL").unwrap();
    conduit.execute_batch("CREATE TABLE global (key BLOB PRIMARY KEY, value BLOB NOT NULL)").unwrap();
    let refused = folder.run(&["key", "import", "--conduit-db", "conduit"]);
    assert!(text(&refused.stderr).contains("keypair"), "{}", text(&refused.stderr));
    conduit.execute("INSERT INTO global VALUES (CAST('keypair' AS BLOB), ?1)", [&record]).unwrap();
    conduit.execute_batch("BEGIN IMMEDIATE").unwrap();
    let imported = folder.run(&["key", "import", "--conduit-db", "conduit"]);
    assert!(imported.status.success(), "{}", text(&imported.stderr));
    let shown = text(&folder.run(&["key", "show"]).stdout);
    let public = data_encoding::BASE64_NOPAD.encode(public.as_bytes());
    assert!(shown.contains("ed25519:k1234567") && shown.contains(&public), "{shown}");

    // The file may also hold the record itself, as the tools print it.
    std::fs::write(folder.path("signing.key"), data_encoding::HEXUPPER.encode(&record)).unwrap();
    assert_eq!(text(&folder.run(&["key", "show"]).stdout), shown);
    assert_eq!(folder.run(&["key", "import"]).status.code(), Some(2));
    assert_eq!(folder.run(&["key", "import", "x", "--conduit-db", "y"]).status.code(), Some(2));
}

#[test]
fn the_credential_of_systemd_wins() {
    let folder = Folder::new("");
    std::fs::create_dir(folder.path("credentials")).unwrap();
    std::fs::rename(folder.path("signing.key"), folder.path("credentials/signing.key")).unwrap();
    let output = command(folder.folder.path())
        .args(["key", "show"])
        .env("CREDENTIALS_DIRECTORY", folder.path("credentials"))
        .output();
    assert!(text(&output.unwrap().stdout).contains(OUR_PUBLIC_KEY));
}

#[test]
fn sigterm_lets_running_requests_end_and_refuses_new_ones() {
    let folder = Folder::new("");
    let mut service = folder.serve();
    let alice = service.alice();
    let mut running = alice.connect();
    write!(running, "{}Content-Length: 300005\r\n\r\n", alice.head_of("POST", UPLOAD)).unwrap();
    running.write_all(&vec![7; 300_000]).unwrap();
    eventually("the upload has begun", || std::fs::read_dir(folder.path("data/tmp")).unwrap().count() == 1);
    service.signal(rustix::process::Signal::TERM);
    eventually("nobody is accepted", || std::net::TcpStream::connect(service.address).is_err());
    running.write_all(b"world").unwrap();
    assert_eq!(read_response(&mut running, "POST").status, 200);
    assert!(service.child.wait().unwrap().success());
    assert!(!folder.path("data/catalog.db-wal").exists(), "the catalog was closed cleanly");
}

#[test]
fn access_lines_say_who_did_what_in_text_and_json() {
    let folder = Folder::new("");
    let service = folder.serve();
    service.alice().post(UPLOAD, b"hello");
    eventually("a line", || service.log().contains("@alice:sidecar.test"));
    let line = service.log().lines().find(|line| line.contains("@alice")).unwrap().to_owned();
    for part in ["POST", "/_matrix/media/{v}/upload", "status=200", "bytes=", "ms="] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    drop(service);

    let service = Service::start(command(folder.folder.path()).args(["serve", "--log-format", "json"]));
    service.alice().get("/_matrix/client/v1/media/config");
    eventually("a line", || service.log().contains("@alice:sidecar.test"));
    let log = service.log();
    let line: serde_json::Value =
        serde_json::from_str(log.lines().find(|line| line.contains("@alice")).unwrap()).unwrap();
    assert_eq!((&line["status"], &line["route"]), (&200.into(), &"/_matrix/client/v1/media/config".into()));
    assert_eq!(line["level"], "INFO");
    assert!(line["timestamp"].is_string());
}

/// The lines of the log that have `part` in them.
fn lines_with(service: &Service, part: &str) -> Vec<String> {
    service.log().lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

#[test]
fn access_lines_name_the_media_and_the_client_that_the_proxy_speaks_for() {
    let folder = Folder::new("");
    let service = folder.serve();
    let uploaded = service.alice().post(UPLOAD, b"hello").json();
    let uri = uploaded["content_uri"].as_str().unwrap().to_owned();
    let mxc = uri.strip_prefix("mxc://").unwrap();
    let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{mxc}?width=1&height=1");
    for (number, (forwarded, client)) in
        [("", "127.0.0.1"), ("203.0.113.7", "203.0.113.7"), ("10.0.0.1, 2001:db8::1", "2001:db8::1")]
            .into_iter()
            .enumerate()
    {
        service.alice().with_header("X-Forwarded-For", forwarded).get(&thumbnail);
        let part = "/thumbnail/";
        eventually("a line", || lines_with(&service, part).len() > number);
        let line = lines_with(&service, part).remove(number);
        for part in [format!("mxc={uri}"), format!("client={client}"), "status=400".to_owned()] {
            assert!(line.contains(&part), "{part} is not in {line}");
        }
    }
    let line = lines_with(&service, "POST").remove(0);
    assert!(line.contains(&format!("mxc={uri}")), "of an upload too: {line}");
    // What is no media ID stands in no line.
    service.alice().get("/_matrix/client/v1/media/download/sidecar.test/no%20media");
    eventually("a line", || service.log().contains("/media/download/"));
    let line = lines_with(&service, "/media/download/").remove(0);
    assert!(line.contains("status=404") && !line.contains("mxc="), "{line}");
}

#[test]
fn health_probes_leave_no_line_until_something_changes() {
    let folder = Folder::new("");
    let service = folder.serve();
    let probe = || Client::new(service.address).get("/_sidecar/health").status;
    let last = || {
        let asked = lines_with(&service, "/media/config").len();
        service.alice().get("/_matrix/client/v1/media/config");
        eventually("a line", || lines_with(&service, "/media/config").len() > asked);
        lines_with(&service, "health").len()
    };
    for _ in 0..50 {
        assert_eq!(probe(), 200);
    }
    assert_eq!(last(), 0);
    let (tmp, aside) = (folder.path("data/tmp"), folder.path("data/aside"));
    std::fs::rename(&tmp, &aside).unwrap();
    for _ in 0..50 {
        assert_eq!(probe(), 503);
    }
    assert_eq!(last(), 1, "{}", service.log());
    assert!(lines_with(&service, "health: failing")[0].contains("No such file"));
    std::fs::rename(&aside, &tmp).unwrap();
    for _ in 0..50 {
        assert_eq!(probe(), 200);
    }
    assert_eq!(last(), 2);
    assert_eq!(lines_with(&service, "health: all is well again").len(), 1);
}

#[test]
fn what_strangers_cause_fills_no_log() {
    let folder = Folder::new("");
    let service = folder.serve();
    let target = "/_matrix/federation/v1/media/download/x";
    let unsigned = Client::new(service.address);
    let forged = unsigned.clone().with_header(
        "Authorization",
        r#"X-Matrix origin="127.0.0.1:1",destination="sidecar.test",key="ed25519:a",sig="AAAA""#,
    );
    for _ in 0..100 {
        assert_eq!(unsigned.get(target).status, 401);
        forged.get(target);
        // A server that is not there.
        unsigned.get("/_matrix/media/v3/download/127.0.0.1:1/x");
    }
    eventually("the last line", || lines_with(&service, "media_sidecar::access").len() == 300);
    // On a slow machine it takes more than a minute, after which lines are written again.
    let minutes = 1 + lines_with(&service, "left_out").len();
    for (part, most) in [(" WARN ", 40), ("ERROR ", 0), ("refused", 20)] {
        let lines = lines_with(&service, part);
        assert!(lines.len() <= most * minutes, "{part} {}: {lines:#?}", lines.len());
    }
    assert!(!lines_with(&service, "refused").is_empty());
    assert!(lines_with(&service, " WARN ").iter().all(|line| !line.contains("X-Matrix")));
}

#[test]
fn a_unix_socket_is_served_and_a_stale_one_replaced() {
    let folder = Folder::new("");
    let socket = folder.path("http.sock");
    for _ in 0..2 {
        let service = Service::start(
            command(folder.folder.path())
                .arg("serve")
                .env("SIDECAR_LISTEN", format!("unix:{}", socket.display())),
        );
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(b"GET /_sidecar/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(service);
    }
}

#[test]
fn a_file_system_that_refuses_fails_the_request_and_not_the_service() {
    let folder = Folder::new("");
    // Files may have 512 KiB at most; the write past it fails as on a full disk.
    let shell = "trap '' XFSZ; ulimit -f 1024; exec \"$0\" serve";
    let mut bash = Command::new("bash");
    let service = Service::start(bash.current_dir(folder.folder.path()).args(["-c", shell]).arg(program()));
    let failed = service.alice().post(UPLOAD, &vec![1; 3_000_000]);
    assert_eq!(failed.failure(), (500, "M_UNKNOWN".to_owned()));
    assert!(!failed.text().contains("File too large"), "{}", failed.text());
    eventually("the log says why", || service.log().contains("File too large"));
    eventually("nothing is left", || std::fs::read_dir(folder.path("data/tmp")).unwrap().count() == 0);
    let uploaded = service.alice().post(UPLOAD, b"small");
    assert_eq!(uploaded.status, 200);
}

#[test]
fn the_demo_goes_as_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path()).args(["demo", "--once"]).output().unwrap();
    let story = text(&output.stdout);
    assert!(output.status.success(), "{story}{}", text(&output.stderr));
    for part in [
        "/_matrix/federation/v1/remote_media/download/",
        "M_UNAUTHORIZED",
        "X-Matrix origin=",
        "Every step succeeded.",
    ] {
        assert!(story.contains(part), "{part} is not in\n{story}");
    }
    assert!(!story.contains("FAIL"), "{story}");
}
