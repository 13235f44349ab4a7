//! Homeservers, sidecars and proxies, all real, in one temporary folder and on loopback.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;

use crate::client::{Client, ServerKey};
use crate::process::{Process, free_port, run};

/// Largest upload at a sidecar, bytes.
pub const MAX_UPLOAD: usize = 9 << 20;

/// What all servers share: a folder, an authority and its one certificate.
pub struct World {
    pub client: Client,
    folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("media-sidecar-interop-").tempdir().unwrap();
        // nginx's workers give up root's rights and must get to sockets in here.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut authority = CertificateParams::new([]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "media-sidecar interop");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let world = Self { client: Client::new(&authority.pem()), folder };
        std::fs::write(world.path("ca.pem"), authority.pem()).unwrap();
        std::fs::write(world.path("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(world.path("key.pem"), key.serialize_pem()).unwrap();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new folder.
    fn subfolder(&self, name: &str) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    /// The configuration that `proxy-config` prints for `sidecar.yaml` in `folder`.
    pub fn proxy_config(&self, folder: &Path, proxy: &str) -> String {
        self.proxy_config_with(folder, proxy, &[])
    }

    /// The same, with `options`.
    pub fn proxy_config_with(&self, folder: &Path, proxy: &str, options: &[&str]) -> String {
        let output = run(sidecar_command(folder)
            .args(["proxy-config", proxy, "--tls-cert"])
            .arg(self.path("cert.pem"))
            .arg("--tls-key")
            .arg(self.path("key.pem"))
            .args(options));
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Checks a configuration with the proxy itself.
    pub fn check(&self, proxy: &str, configuration: &str) {
        run(&mut self.proxy_command(proxy, "check", configuration));
    }

    /// Runs a proxy with a configuration until `server_name` answers.
    pub fn start_proxy(&self, name: &str, proxy: &str, configuration: &str, server_name: &str) -> Process {
        let mut process =
            Process::start(name, self.folder.path(), &mut self.proxy_command(proxy, name, configuration));
        process.wait_until(&format!("{name} answers"), || {
            let versions = self.client.get(server_name, "/_matrix/client/versions");
            versions.try_send().is_ok_and(|answer| answer.status == 200)
        });
        process
    }

    /// A proxy with a configuration: to check it if `name` is `check`, else to run it.
    fn proxy_command(&self, proxy: &str, name: &str, configuration: &str) -> Command {
        let file = self.path(&format!("{name}.conf"));
        std::fs::write(&file, configuration).unwrap();
        let mut command = proxy_program(proxy);
        if proxy == "nginx" {
            let pid = self.path(&format!("{name}.pid"));
            let globals = format!("daemon off; pid {}; error_log stderr;", pid.display());
            command.arg("-p").arg(self.folder.path()).arg("-c").arg(file).args(["-g", &globals]);
            command.args((name == "check").then_some("-t"));
        } else {
            command.arg(if name == "check" { "validate" } else { "run" });
            command.arg("--config").arg(file).args(["--adapter", "caddyfile"]);
            for home in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
                command.env(home, self.path("caddy"));
            }
        }
        command
    }
}

/// A proxy's program. Debian's nginx is in a folder that is not on the path of every user.
pub fn proxy_program(proxy: &str) -> Command {
    let mut command = Command::new(proxy);
    command.env("PATH", format!("{}:/usr/sbin", std::env::var("PATH").unwrap()));
    command
}

/// Who has the media of a homeserver.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// Synapse itself.
    Synapse,
    /// A sidecar.
    Sidecar,
}

/// A running Synapse, plain HTTP.
pub struct Synapse {
    /// `host:port`, where its proxy listens.
    pub name: String,
    pub key: ServerKey,
    pub process: Process,
    port: u16,
    folder: PathBuf,
}

impl Synapse {
    /// A program of Synapse's.
    pub fn command(program: &str) -> Command {
        Command::new(format!("{}/target/interop-venv/bin/{program}", env!("CARGO_MANIFEST_DIR")))
    }

    /// Starts one with a fresh database and key. It is not ready yet.
    pub fn start(world: &World, label: &str, host: &str, media: Media) -> Self {
        let folder = world.subfolder(&format!("synapse-{label}"));
        let (name, port) = (format!("{host}:{}", free_port()), free_port());
        let key_file = folder.join("signing.key");
        run(Self::command("generate_signing_key").arg("-o").arg(&key_file));
        let key = ServerKey::parse(&name, &std::fs::read_to_string(&key_file).unwrap());

        // JSON is YAML.
        let log = json!({
            "version": 1,
            "disable_existing_loggers": false,
            "formatters": {"plain": {"format": "%(levelname)s %(name)s %(message)s"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
            "root": {"level": "WARNING", "handlers": ["console"]},
            "loggers": {"synapse.access": {"level": "INFO"}},
        });
        std::fs::write(folder.join("log.yaml"), log.to_string()).unwrap();
        let config = json!({
            "server_name": name,
            "report_stats": false,
            "pid_file": folder.join("synapse.pid"),
            "log_config": folder.join("log.yaml"),
            "signing_key_path": key_file,
            "database": {"name": "sqlite3", "args": {"database": folder.join("homeserver.db")}},
            "media_store_path": folder.join("media"),
            "enable_media_repo": media == Media::Synapse,
            "listeners": [{
                "port": port, "type": "http", "tls": false, "x_forwarded": true, "bind_addresses": ["127.0.0.1"],
                "resources": [{"names": ["client", "federation"]}],
            }],
            "registration_shared_secret": "interop",
            "macaroon_secret_key": "interop",
            "bcrypt_rounds": 4,
            "presence": {"enabled": false},
            "trusted_key_servers": [],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "federation_custom_ca_list": [world.path("ca.pem")],
        });
        std::fs::write(folder.join("homeserver.yaml"), config.to_string()).unwrap();
        let mut command = Self::command("python");
        command.args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]).current_dir(&folder);
        let process = Process::start(&format!("synapse-{label}"), &folder, &mut command);
        Self { name, key, process, port, folder }
    }

    /// Its own address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn wait(&mut self) {
        let port = self.port;
        self.process.wait_until(&format!("{} is up", self.name), || plain_get(port, "/health") == Some(200));
    }

    /// Makes a user and logs in, through the proxy. Gives the access token.
    pub fn register(&self, world: &World, user: &str) -> String {
        let arguments = ["-u", user, "-p", "interop", "--no-admin", "-k", "interop"];
        run(Self::command("register_new_matrix_user").args(arguments).arg(self.url()));
        let login = json!({
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": "interop",
        });
        let answer =
            world.client.post(&self.name, "/_matrix/client/v3/login").json(&login).send().expect(200);
        answer.json()["access_token"].as_str().unwrap().to_owned()
    }
}

/// A running media-sidecar, the program itself.
pub struct Sidecar {
    pub process: Process,
    pub folder: PathBuf,
}

impl Sidecar {
    /// Starts one beside a Synapse that is up, with that Synapse's key.
    pub fn start(world: &World, label: &str, synapse: &Synapse) -> Self {
        let folder = world.subfolder(&format!("sidecar-{label}"));
        let port = free_port();
        let config = json!({
            "server_name": synapse.name,
            "listen": format!("127.0.0.1:{port}"),
            "homeserver": {"url": synapse.url()},
            "uploads": {"max_size": MAX_UPLOAD},
            "federation": {"ca_file": world.path("ca.pem"), "ip_allow": ["127.0.0.0/8", "::1/128"]},
        });
        std::fs::write(folder.join("sidecar.yaml"), config.to_string()).unwrap();
        run(sidecar_command(&folder).args(["key", "import"]).arg(synapse.folder.join("signing.key")));
        let name = format!("sidecar-{label}");
        let mut process = Process::start(&name, &folder, sidecar_command(&folder).arg("serve"));
        process.wait_until(&format!("{name} is well"), || plain_get(port, "/_sidecar/health") == Some(200));
        Self { process, folder }
    }
}

impl Sidecar {
    /// Whether `media-sidecar check` finds nothing wrong, and what it says.
    pub fn check(&self) -> (bool, String) {
        let output = sidecar_command(&self.folder).arg("check").output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }
}

/// The program under test, with the configuration of `folder`.
pub fn sidecar_command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_media-sidecar"));
    command.current_dir(folder).env_remove("RUST_LOG");
    command
}

/// The status of a GET without TLS, if there is an answer.
fn plain_get(port: u16, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}
