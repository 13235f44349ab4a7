"""The sidecar and its peers as processes on loopback, each in a folder of its own."""

import hashlib
import http.client
import http.server
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SERVER_NAME = "bench.test"
TOKEN = {"Authorization": "Bearer bench"}


def free_port():
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait(what, is_so, seconds=60):
    """Waits until `is_so()`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def ask(address, method, target, body=None, headers=TOKEN):
    """One request; gives status and body."""
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, target, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


class Process:
    """A program, ended at the end of `with`."""

    def __init__(self, command, **options):
        self.child = subprocess.Popen(command, close_fds=False, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.child.terminate()
        try:
            self.child.wait(45)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.child.stderr:
            self.child.stderr.close()

    def kib(self, field):
        """A field of `/proc/PID/status`."""
        status = pathlib.Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+)", status, re.MULTILINE)[1])

    def idle_mib(self):
        """Resident memory once it has stopped changing."""
        seen = []

        def is_steady():
            seen.append(self.kib("VmRSS"))
            return len(seen) >= 20 and len(set(seen[-20:])) == 1

        wait("resident memory is steady", is_steady)
        return seen[-1] / 1024

    def reset_peak(self):
        """Makes `VmHWM` start anew."""
        pathlib.Path(f"/proc/{self.child.pid}/clear_refs").write_text("5")


class Homeserver:
    """Takes every token for a user of that name. In this process: it is asked once in two minutes for each."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            known = self.path.startswith("/_matrix/client/v3/account/whoami")
            user = self.headers.get("Authorization", "").removeprefix("Bearer ")
            body = json.dumps({"user_id": f"@{user}:{SERVER_NAME}"} if known else {"errcode": "M_UNRECOGNIZED"}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def __init__(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


class Sidecar(Process):
    """The program itself. Its access lines are off, as nginx's are. `prefix` is a command that runs it."""

    program = ROOT / "target/release/media-sidecar"

    def __init__(self, folder, homeserver, prefix=(), more="", environment=None):
        self.configure(folder, homeserver, more)
        started = time.monotonic()
        super().__init__(
            [*prefix, self.program, "serve"],
            cwd=folder,
            env={**os.environ, **(environment or {}), "RUST_LOG": "warn,media_sidecar::cli=info"},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        for line in self.child.stderr:
            self.log.append(line)
            if found := re.search(r"listening on (\S+)", line):
                self.startup_ms = (time.monotonic() - started) * 1000
                self.address = found[1]
                break
        else:
            raise RuntimeError("the sidecar ended: " + "".join(self.log))
        threading.Thread(target=lambda: self.log.extend(self.child.stderr), daemon=True).start()

    @staticmethod
    def configure(folder, homeserver, more=""):
        folder.mkdir(parents=True, exist_ok=True)
        key = folder / "signing.key"
        key.write_text("ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
        key.chmod(0o600)
        (folder / "sidecar.yaml").write_text(
            f"server_name: {SERVER_NAME}\nlisten: 127.0.0.1:0\nhomeserver: {{url: '{homeserver.url}'}}\n"
            f"uploads: {{max_size: 2GiB}}\n{more}"
        )

    @classmethod
    def fill(cls, folder, homeserver, rows):
        """A folder whose catalog has so many rows: kept in `target/` while rows and blobs are made in the same way. Gives
        targets of some of them."""
        catalog, filled = folder / "data/catalog.db", folder / "filled"
        if not filled.exists() or filled.read_text() != cls.way_of_filling():
            shutil.rmtree(folder, ignore_errors=True)
            cls.configure(folder, homeserver)
            command = ["cargo", "test", "--locked", "--quiet", "--lib", "--", "--ignored", "bench_fill::on_request"]
            wanted = {"BENCH_FILL_CONFIG": str(folder / "sidecar.yaml"), "BENCH_FILL_ROWS": str(rows)}
            subprocess.run(command, cwd=ROOT, env=os.environ | wanted, check=True, stdout=subprocess.DEVNULL)
            filled.write_text(cls.way_of_filling())
        cls.configure(folder, homeserver)
        with sqlite3.connect(catalog) as connection:
            sample = connection.execute(
                "SELECT server_name, media_id FROM media WHERE random() % ? = 0", [max(rows // 50_000, 1)]
            ).fetchall()
        return [f"/_matrix/client/v1/media/download/{server_name}/{media_id}" for server_name, media_id in sample]

    @staticmethod
    def way_of_filling():
        """Changes with the code that decides where rows and blobs lie."""
        sources = [ROOT / "tests/bench/fill.rs", *sorted((ROOT / "src/store").rglob("*.rs")), *sorted((ROOT / "src/store").rglob("*.sql"))]
        return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()

    def upload(self, data):
        """Uploads bytes; gives the target to download them at."""
        return upload(self.address, data)


def upload(address, data, headers=TOKEN):
    """Uploads bytes, or a file, to whatever serves Matrix media; gives the target to download them at."""
    status, body = ask(address, "POST", "/_matrix/media/v3/upload", data, headers)
    assert status == 200, body
    mxc = json.loads(body)["content_uri"].removeprefix("mxc://")
    return f"/_matrix/client/v1/media/download/{mxc}"


class Nginx(Process):
    """nginx-light as Debian ships it, access log off, serving one folder."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.files = folder / "files"
        self.files.mkdir(exist_ok=True)
        (self.files / "up").touch()
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        user = "user root;" if os.geteuid() == 0 else ""
        paths = "".join(
            f"{name}_temp_path {folder}/{name};" for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        )
        (folder / "nginx.conf").write_text(
            f"{user} worker_processes auto; daemon off; pid {folder}/pid; error_log stderr;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{ {paths} sendfile on; tcp_nopush on; access_log off; keepalive_requests 1000000000;\n"
            f"  server {{ listen {self.address}; root {self.files}; }} }}\n"
        )
        path = os.environ["PATH"] + ":/usr/sbin"
        super().__init__(["nginx", "-p", folder, "-c", folder / "nginx.conf"], env={**os.environ, "PATH": path})
        wait("nginx answers", lambda: answers(self.address, "/up"))


class Synapse(Process):
    """Synapse with its media repository, from `tests/interop/install.sh`. `more` is further configuration."""

    programs = ROOT / "target/interop-venv/bin"

    def __init__(self, folder, more=()):
        folder.mkdir(parents=True)
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        subprocess.run([self.programs / "generate_signing_key", "-o", folder / "key"], check=True)
        log = {"version": 1, "root": {"level": "ERROR"}}
        (folder / "log.yaml").write_text(json.dumps(log))
        config = {
            "server_name": SERVER_NAME,
            "report_stats": False,
            "pid_file": f"{folder}/pid",
            "log_config": f"{folder}/log.yaml",
            "signing_key_path": f"{folder}/key",
            "database": {"name": "sqlite3", "args": {"database": f"{folder}/homeserver.db"}},
            "media_store_path": f"{folder}/media",
            "listeners": [
                {
                    "port": port,
                    "type": "http",
                    "tls": False,
                    "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["client", "media"]}],
                }
            ],
            "registration_shared_secret": "bench",
            "macaroon_secret_key": "bench",
            "bcrypt_rounds": 4,
            "trusted_key_servers": [],
            **dict(more),
        }
        # JSON is YAML.
        (folder / "homeserver.yaml").write_text(json.dumps(config))
        command = [self.programs / "python", "-m", "synapse.app.homeserver", "-c", "homeserver.yaml"]
        super().__init__(command, cwd=folder, stdout=subprocess.DEVNULL)
        wait("Synapse answers", lambda: answers(self.address, "/health"))
        user = ["-u", "bench", "-p", "bench", "--no-admin", "-k", "bench"]
        subprocess.run(
            [self.programs / "register_new_matrix_user", *user, f"http://{self.address}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bench"}, "password": "bench"}
        _, body = ask(self.address, "POST", "/_matrix/client/v3/login", json.dumps(login))
        self.token = {"Authorization": "Bearer " + json.loads(body)["access_token"]}


def answers(address, target):
    """Whether somebody answers there at all."""
    try:
        return ask(address, "GET", target)[0] > 0
    except OSError:
        return False


def raise_file_limit():
    """As many open files as the system lets us: hundreds of clients."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
