//! A sidecar in this process, its neighbours, and a client.

pub mod client;
pub mod disk;
pub mod peer;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ed25519_dalek::Signer as _;
use media_sidecar::app::{App, Environment};
use media_sidecar::config::Config;
use media_sidecar::federation::SigningKey;
use media_sidecar::matrix::{Moment, ServerName, Timestamp};
use media_sidecar::outbound::dns::{Dns, Service};
use media_sidecar::server::{self, Listener};
use media_sidecar::store::fs::Fs;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

pub use self::client::{Client, Response};
pub use self::disk::{Fault, Left, ScriptedDisk};
pub use self::peer::{Authority, Peer, Reply, Request, Silent};

/// The sidecar's server name in every test.
pub const OURS: &str = "sidecar.test";

/// The sidecar's signing key: the specification's.
pub const OUR_KEY: &str = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1";

/// Its public half.
pub const OUR_PUBLIC_KEY: &str = "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI";

/// A running sidecar with its homeserver. Stopped, and its files removed, when dropped.
pub struct Sidecar {
    pub address: SocketAddr,
    pub homeserver: Homeserver,
    pub folder: Arc<tempfile::TempDir>,
    pub zone: Arc<Zone>,
    /// The time of day, ms since 1970.
    time: Arc<AtomicI64>,
    /// Time that nobody sets, ms.
    uptime: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a test may change before the start.
pub struct Setup {
    pub config: Config,
    pub folder: Arc<tempfile::TempDir>,
    pub zone: Arc<Zone>,
    pub homeserver: Option<Homeserver>,
    pub disk: Option<Arc<dyn Fs>>,
    /// How far the sidecar's clock is ahead.
    pub ahead: Duration,
    /// While it is set, there is no time to make animations.
    pub hurry: Arc<AtomicBool>,
}

/// DNS as a test wants it. Ports are mapped too, so that a server on port 443 or 8448 can be any peer. A host named several
/// times answers so many questions in turn, the last answer for good.
#[derive(Debug, Default)]
pub struct Zone {
    hosts: Mutex<Vec<(String, u16, Vec<SocketAddr>)>>,
    services: Mutex<Vec<(String, Service)>>,
    silent: Mutex<Vec<String>>,
    /// SRV questions so far.
    pub asked: Mutex<Vec<String>>,
}

impl Zone {
    /// `host:port` leads to `addresses`.
    pub fn host(&self, host: &str, port: u16, addresses: &[SocketAddr]) {
        self.hosts.lock().unwrap().push((host.to_owned(), port, addresses.to_vec()));
    }

    /// `name` has an SRV record.
    pub fn service(&self, name: &str, priority: u16, host: &str, port: u16) {
        let service = Service { priority, weight: 0, host: host.to_owned(), port };
        self.services.lock().unwrap().push((name.to_owned(), service));
    }

    /// Questions about `name` are dropped.
    pub fn drops(&self, name: &str) {
        self.silent.lock().unwrap().push(name.to_owned());
    }

    /// Never returns when questions about `name` are dropped.
    fn answer(&self, name: &str) {
        while self.silent.lock().unwrap().iter().any(|silent| silent == name) {
            std::thread::park();
        }
    }
}

impl Dns for Zone {
    fn addresses(&self, host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
        self.answer(host);
        let mut hosts = self.hosts.lock().unwrap();
        let mut entries = (0..hosts.len()).filter(|index| hosts[*index].0 == host && hosts[*index].1 == port);
        match (entries.next(), entries.next()) {
            (Some(first), Some(_)) => return Ok(hosts.remove(first).2),
            (Some(only), None) => return Ok(hosts[only].2.clone()),
            (None, _) => {}
        }
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) => Ok(vec![SocketAddr::new(address, port)]),
            Err(_) => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    fn services(&self, name: &str) -> std::io::Result<Vec<Service>> {
        self.asked.lock().unwrap().push(name.to_owned());
        self.answer(name);
        let services = self.services.lock().unwrap();
        Ok(services.iter().filter(|(of, _)| of == name).map(|(_, service)| service.clone()).collect())
    }
}

impl Setup {
    pub fn new() -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().unwrap()))
    }

    pub fn in_folder(folder: Arc<tempfile::TempDir>) -> Self {
        let mut config = Config::defaults(ServerName::parse(OURS).unwrap());
        config.data_dir = folder.path().join("data");
        config.federation.ip_allow = vec!["127.0.0.0/8".parse().unwrap()];
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, Authority::get().ca_pem()).unwrap();
        config.federation.ca_file = Some(ca_file);
        Self {
            config,
            folder,
            zone: Arc::default(),
            homeserver: None,
            disk: None,
            ahead: Duration::ZERO,
            hurry: Arc::default(),
        }
    }

    /// With a homeserver of the test's own.
    pub fn beside(mut self, homeserver: Homeserver) -> Self {
        self.homeserver = Some(homeserver);
        self
    }

    /// With a disk of the test's own below the blobs.
    pub fn on(mut self, disk: Arc<dyn Fs>) -> Self {
        self.disk = Some(disk);
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    pub fn start(self) -> Sidecar {
        let homeserver = self.homeserver.unwrap_or_else(Homeserver::start);
        let zone = Arc::clone(&self.zone);
        let dns = Arc::clone(&zone);
        let mut config = self.config;
        config.homeserver.url = homeserver.peer.url();
        let time = Arc::new(AtomicI64::new(Timestamp::now().after(self.ahead).0));
        let uptime = Arc::new(AtomicU64::new(1_000_000));
        let (clock, monotonic) = (Arc::clone(&time), Arc::clone(&uptime));
        let system = Environment::system();
        let (hurry, unhurried) = (self.hurry, Arc::clone(&system.animation_time));
        let environment =
            Environment {
                clock: Arc::new(move || Timestamp(clock.load(Ordering::SeqCst))),
                monotonic: Arc::new(move || {
                    Moment::since_start(Duration::from_millis(monotonic.load(Ordering::SeqCst)))
                }),
                dns,
                // Tests run beside each other: the machine's own load says nothing.
                load: Arc::new(|| 0),
                animation_time: Arc::new(move || {
                    if hurry.load(Ordering::SeqCst) { Duration::ZERO } else { unhurried() }
                }),
                fs: self.disk.unwrap_or_else(|| Arc::clone(&system.fs)),
                ..system
            };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let key = SigningKey::parse(OUR_KEY.as_bytes()).unwrap();
                let app = App::open(&config, key, environment).unwrap();
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap()).unwrap();
                server::run(app, vec![Listener::Tcp(listener)], None, async move { _ = stopped.await }).await;
            });
        });
        let address = address.recv().expect("the sidecar starts");
        Sidecar {
            address,
            homeserver,
            folder: self.folder,
            zone,
            time,
            uptime,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Sidecar {
    pub fn start() -> Self {
        Setup::new().start()
    }

    /// A client without a token.
    pub fn anonymous(&self) -> Client {
        Client::new(self.address)
    }

    /// A client of the homeserver's user `token`.
    pub fn user(&self, token: &str) -> Client {
        Client::new(self.address).with_header("Authorization", &format!("Bearer {token}"))
    }

    /// Alice, who is known.
    pub fn alice(&self) -> Client {
        self.user("alice")
    }

    /// Lets time pass for the sidecar.
    pub fn advance(&self, span: Duration) {
        self.uptime.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
        self.set_ahead(span);
    }

    /// Sets the sidecar's clock ahead, while no time passes.
    pub fn set_ahead(&self, span: Duration) {
        self.time.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Sets the sidecar's clock back, while no time passes.
    pub fn set_back(&self, span: Duration) {
        self.time.fetch_sub(i64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Stops it and gives the folder for another start.
    pub fn stop(mut self) -> Arc<tempfile::TempDir> {
        self.shut_down();
        Arc::clone(&self.folder)
    }

    fn shut_down(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Uploads as alice and gives `server/media_id`.
    pub fn upload(&self, content_type: &str, bytes: &[u8]) -> String {
        let response =
            self.alice().with_header("Content-Type", content_type).post("/_matrix/media/v3/upload", bytes);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Files in the store's temporary folder.
    pub fn leftovers(&self) -> usize {
        std::fs::read_dir(self.data_dir().join("tmp")).unwrap().count()
    }

    /// Blobs in the store.
    pub fn blobs(&self) -> Vec<PathBuf> {
        files_below(&self.data_dir().join("blobs"))
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Bytes that no other `number` gives.
pub fn unique(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = Sha256::digest(number.to_le_bytes()).to_vec();
    bytes.resize(length.max(32), 0);
    let (first, rest) = bytes.split_at_mut(32);
    rest.chunks_mut(32).for_each(|chunk| chunk.copy_from_slice(&first[..chunk.len()]));
    bytes
}

/// A PNG that no other `number` gives.
pub fn picture(number: u64) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixels = image::RgbImage::from_raw(64, 64, unique(number, 64 * 64 * 3)).unwrap();
    pixels.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// All files below a folder, if it is there. A file that goes meanwhile may be among them or not.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Waits until `condition` holds; fails loudly if it never does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        // Dozens of tests wait at the same time: they leave the processors to what they wait for.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A stand-in homeserver. Its users are `alice`, `bob`, `guest` (a guest), `user0`, `user1` and so on, and whoever a test adds;
/// a user's token is the name.
pub struct Homeserver {
    pub peer: Peer,
    down: Arc<AtomicBool>,
    gate: Arc<Mutex<()>>,
}

impl Homeserver {
    pub fn start() -> Self {
        Self::with(|_| None)
    }

    /// One that answers what `script` says, and else as usual.
    pub fn with(script: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let down = Arc::new(AtomicBool::new(false));
        let gate = Arc::new(Mutex::new(()));
        let (is_down, hold) = (Arc::clone(&down), Arc::clone(&gate));
        let peer = Peer::plain(move |request| {
            drop(hold.lock().unwrap());
            if is_down.load(Ordering::SeqCst) {
                return Reply::new(502).header("Content-Type", "text/html").body("<h1>Bad Gateway</h1>");
            }
            script(request).unwrap_or_else(|| Self::answer(request))
        });
        Self { peer, down, gate }
    }

    /// Answers nothing useful from now on, or again.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Answers nobody while the guard lives.
    pub fn hold(&self) -> std::sync::MutexGuard<'_, ()> {
        self.gate.lock().unwrap()
    }

    /// How often it was asked whose token this is.
    pub fn whoami_count(&self) -> usize {
        self.peer.requests().iter().filter(|request| request.target.contains("whoami")).count()
    }

    fn answer(request: &Request) -> Reply {
        let token = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        if request.path() == "/_matrix/client/versions" {
            return Reply::json(
                200,
                &json!({"versions": ["v1.11"], "unstable_features": {"x.y": false}, "other": 1}),
            );
        }
        if request.path() != "/_matrix/client/v3/account/whoami" {
            return Reply::error(404, "M_UNRECOGNIZED");
        }
        let user = |name: &str, is_guest: bool| {
            Reply::json(
                200,
                &json!({"user_id": format!("@{name}:{OURS}"), "is_guest": is_guest, "device_id": "D"}),
            )
        };
        match (token, request.query("user_id").as_deref()) {
            ("bridge", Some(puppet)) if puppet.starts_with("@_bridge_") => {
                Reply::json(200, &json!({"user_id": puppet}))
            }
            ("bridge", Some(_)) => Reply::error(403, "M_FORBIDDEN"),
            ("alice" | "bob" | "bridge", None) => user(token, false),
            (_, None) if token.strip_prefix("user").is_some_and(|number| number.parse::<u32>().is_ok()) => {
                user(token, false)
            }
            ("guest", None) => user("guest", true),
            ("expired", None) => Reply::json(
                401,
                &json!({"errcode": "M_UNKNOWN_TOKEN", "error": "Access token has expired", "soft_logout": true}),
            ),
            _ => Reply::error(401, "M_UNKNOWN_TOKEN"),
        }
    }
}

/// A remote server's key, for signing like one.
pub struct RemoteKey {
    pub key_id: String,
    pub key: ed25519_dalek::SigningKey,
}

impl RemoteKey {
    pub fn new(seed: u8) -> Self {
        Self { key_id: format!("ed25519:r{seed}"), key: ed25519_dalek::SigningKey::from_bytes(&[seed; 32]) }
    }

    fn base64(bytes: &[u8]) -> String {
        data_encoding::BASE64_NOPAD.encode(bytes)
    }

    pub fn sign(&self, message: &str) -> String {
        Self::base64(&self.key.sign(message.as_bytes()).to_bytes())
    }

    /// The key document of `server_name`, valid until `valid_until_ts`.
    pub fn document(&self, server_name: &str, valid_until_ts: i64) -> Value {
        let public = Self::base64(self.key.verifying_key().as_bytes());
        let key_id = &self.key_id;
        let message = format!(
            r#"{{"old_verify_keys":{{}},"server_name":"{server_name}","valid_until_ts":{valid_until_ts},"verify_keys":{{"{key_id}":{{"key":"{public}"}}}}}}"#
        );
        let mut document: Value = serde_json::from_str(&message).unwrap();
        document["signatures"] = json!({server_name: {key_id: self.sign(&message)}});
        document
    }

    /// The header for `GET uri` from `origin` to `destination`.
    pub fn authorization(&self, origin: &str, destination: &str, uri: &str) -> String {
        let message =
            format!(r#"{{"destination":"{destination}","method":"GET","origin":"{origin}","uri":"{uri}"}}"#);
        let (key_id, sig) = (&self.key_id, self.sign(&message));
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{sig}""#)
    }
}

/// Whether a scripted remote received our signature, made with our homeserver's key over exactly this request.
pub fn is_signed_by_us(request: &Request, destination: &str) -> bool {
    let Some(header) = request.header("authorization") else { return false };
    let Some(signature) = header.split("sig=\"").nth(1).and_then(|rest| rest.strip_suffix('"')) else {
        return false;
    };
    let target = &request.target;
    let message =
        format!(r#"{{"destination":"{destination}","method":"GET","origin":"{OURS}","uri":"{target}"}}"#);
    let decode = |text: &str| data_encoding::BASE64_NOPAD.decode(text.as_bytes()).unwrap();
    let key = ed25519_dalek::VerifyingKey::from_bytes(&decode(OUR_PUBLIC_KEY).try_into().unwrap()).unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&decode(signature)).unwrap();
    header.starts_with(&format!(r#"X-Matrix origin="{OURS}",destination="{destination}",key="ed25519:1""#))
        && key.verify_strict(message.as_bytes(), &signature).is_ok()
}
