#!/usr/bin/env python3
"""Backup and restore as README describes them, on the real program: restored whole, onto stale files of SQLite's, the catalog
alone, interrupted, and from blobs without a catalog.

Usage: tests/restore.py PROGRAM        (for example target/debug/media-sidecar)
"""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import shutil
import signal
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading

NOBODY = 65534
KEY = "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"


class Homeserver(http.server.BaseHTTPRequestHandler):
    """Knows every token as alice's."""

    def do_GET(self):
        body = json.dumps({"user_id": "@alice:restore.test", "versions": ["v1.11"]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Sidecar:
    """The program over one data directory."""

    def __init__(self, program, folder, homeserver, user):
        self.program, self.folder, self.user = program, folder, user
        self.data_dir = folder / "data"
        key = folder / "signing.key"
        key.write_text(KEY)
        key.chmod(0o600)
        (folder / "sidecar.yaml").write_text(
            f"server_name: restore.test\nlisten: 127.0.0.1:0\nhomeserver: {{url: 'http://127.0.0.1:{homeserver}'}}\n"
        )
        self.give()

    def give(self):
        """`chown -R`: what root restored belongs to the service's user."""
        if self.user is not None:
            for path in [self.folder, *self.folder.rglob("*")]:
                os.chown(path, self.user, self.user)

    def spawn(self):
        self.give()
        rights = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        arguments = [self.program, "serve"]
        return subprocess.Popen(arguments, cwd=self.folder, stderr=subprocess.PIPE, text=True, **rights)

    @contextlib.contextmanager
    def running(self, end=signal.SIGTERM):
        """Runs the service; gives a function that sends requests, and the lines logged before it listened."""
        child, lines = self.spawn(), []
        for line in child.stderr:
            lines.append(line)
            if "listening on 127.0.0.1:" in line:
                port = int(line.split("listening on 127.0.0.1:")[1].split()[0])
                break
        else:
            raise AssertionError(f"it does not start: {''.join(lines)}")
        threading.Thread(target=lambda: lines.extend(child.stderr), daemon=True).start()

        def ask(method, path, body=None):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, path, body, {"Authorization": "Bearer t", "Content-Type": "text/plain"})
            answer = connection.getresponse()
            return answer.status, answer.read()

        try:
            yield ask, lines
        finally:
            child.send_signal(end)
            child.wait()

    def refuses(self, why):
        """The service does not start, for the reason given."""
        child = self.spawn()
        error = child.communicate()[1]
        assert child.returncode == 1 and why in error, error
        print(f"  refused as it should be: {error.strip().splitlines()[-1]}")


def upload(ask, text):
    status, body = ask("POST", "/_matrix/media/v3/upload", text)
    assert status == 200, (status, body)
    return json.loads(body)["content_uri"].removeprefix("mxc://")


def is_there(ask, mxc, text):
    status, body = ask("GET", f"/_matrix/client/v1/media/download/{mxc}")
    return (status, body) == (200, text)


def back_up(data_dir, backup):
    """README's commands, with Python's sqlite3 and shutil in place of the tools of the same purpose."""
    backup.mkdir()
    source, target = sqlite3.connect(data_dir / "catalog.db"), sqlite3.connect(backup / "catalog.db")
    with contextlib.closing(source), contextlib.closing(target):
        source.backup(target)
    shutil.copy2(data_dir / "store-id", backup)
    shutil.copytree(data_dir / "blobs", backup / "blobs")


def copy_blobs(backup, data_dir, limit=None):
    """`rsync -a`; with a limit, interrupted after so many files."""
    for number, path in enumerate(sorted(path for path in (backup / "blobs").rglob("*") if path.is_file())):
        if limit is not None and number >= limit:
            return
        target = data_dir / "blobs" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy2(path, target)


def copy_over(source, folder):
    """`cp -f`"""
    (folder / source.name).unlink(missing_ok=True)
    shutil.copy2(source, folder)


def restore_catalog(backup, data_dir):
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"]:
        (data_dir / name).unlink(missing_ok=True)
    shutil.copy2(backup / "catalog.db", data_dir)


def blobs(data_dir):
    return {path.name for path in (data_dir / "blobs").rglob("*") if path.is_file()}


def service_user(program):
    """A user who may not do everything, for the service, if that one can run the program: root overlooks modes that matter."""
    if os.geteuid() != 0:
        return None
    child = os.fork()
    if child == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(0 if os.access(program, os.X_OK) else 1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        return NOBODY
    print("as root: no other user can run the program")
    return None


def main(program):
    user = service_user(program)
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Homeserver)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        folder.chmod(0o755)
        (folder / "service").mkdir()
        sidecar = Sidecar(program, folder / "service", server.server_address[1], user)
        data_dir, backup = sidecar.data_dir, folder / "backup"

        print("back up while the service runs, go on, and be killed")
        with sidecar.running(signal.SIGKILL) as (ask, _):
            old = {upload(ask, text): text for text in (f"old {number}".encode() for number in range(20))}
            back_up(data_dir, backup)
            new = {upload(ask, text): text for text in (f"new {number}".encode() for number in range(5))}
        assert (data_dir / "catalog.db-wal").stat().st_size > 0, "a stale log is what this is about"

        print("the catalog alone is lost")
        saved = {name: (data_dir / name).read_bytes() for name in ["catalog.db", "catalog.db-wal"]}
        everything = blobs(data_dir)
        for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"]:
            (data_dir / name).unlink(missing_ok=True)
        sidecar.refuses("catalog.db is missing or empty")
        restore_catalog(backup, data_dir)
        with sidecar.running() as (ask, lines):
            assert all(is_there(ask, mxc, text) for mxc, text in old.items())
            assert not any(is_there(ask, mxc, text) for mxc, text in new.items())
            assert any("a backup was restored" in line for line in lines), lines
        assert blobs(data_dir) == everything, "what came after the backup is kept"

        print("the right catalog turns up again")
        restore_catalog(backup, data_dir)
        for name, content in saved.items():
            (data_dir / name).write_bytes(content)
        with sidecar.running() as (ask, _):
            assert all(is_there(ask, mxc, text) for mxc, text in (old | new).items())

        print("restored over what is there, twice")
        for _ in range(2):
            with sidecar.running(signal.SIGKILL) as (ask, _):
                upload(ask, b"after the backup")
            copy_blobs(backup, data_dir)
            copy_over(backup / "store-id", data_dir)
            restore_catalog(backup, data_dir)
            with sidecar.running() as (ask, _):
                assert all(is_there(ask, mxc, text) for mxc, text in old.items())

        print("everything is lost and restored, interrupted at first")
        shutil.rmtree(data_dir)
        data_dir.mkdir()
        copy_blobs(backup, data_dir, limit=7)
        sidecar.refuses("catalog.db is missing or empty")
        assert len(blobs(data_dir)) == 7 and not (data_dir / "catalog.db").exists()
        copy_blobs(backup, data_dir)
        copy_over(backup / "store-id", data_dir)
        restore_catalog(backup, data_dir)
        with sidecar.running() as (ask, _):
            assert all(is_there(ask, mxc, text) for mxc, text in old.items())
            assert ask("GET", "/_sidecar/health")[0] == 200

        print("a catalog that is copied in part")
        whole = (data_dir / "catalog.db").read_bytes()
        (data_dir / "catalog.db").write_bytes(whole[: len(whole) // 2])
        sidecar.refuses("catalog.db is damaged")
        assert len(blobs(data_dir)) == 20
        (data_dir / "catalog.db").write_bytes(whole)

        print("the directory is not mounted")
        (data_dir / "blobs").rename(folder / "elsewhere")
        (data_dir / "blobs").mkdir()
        sidecar.refuses("Mount the disk of data_dir")
        (data_dir / "blobs").rmdir()
        (folder / "elsewhere").rename(data_dir / "blobs")

        print("another store's catalog")
        (folder / "other").mkdir()
        other = Sidecar(program, folder / "other", server.server_address[1], user)
        with other.running() as (ask, _):
            upload(ask, b"of the other")
        mine = (data_dir / "catalog.db").read_bytes()
        shutil.copy2(other.data_dir / "catalog.db", data_dir)
        sidecar.refuses("belong to different stores")
        (data_dir / "catalog.db").write_bytes(mine)
        with sidecar.running() as (ask, _):
            assert all(is_there(ask, mxc, text) for mxc, text in old.items())
        assert len(blobs(data_dir)) == 20
    print("backup and restore: all as README says")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]))
