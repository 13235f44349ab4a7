#!/usr/bin/env python3
"""What retention costs on a store of a million rows: reports, and an eviction of 10 000 files under downloads.

usage: retention.py PROGRAM [ROWS]

Fills a catalog below a temporary folder (as many rows as ROWS, every hundredth with a file of 16 KiB), then measures `usage` and
`retention --dry-run`, and evicts the 10 000 longest unused while a file is downloaded over and over.
"""

import hashlib
import http.client
import http.server
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

DAY = 24 * 60 * 60 * 1000
FILES = 10_000
SIZE = 16 * 1024


class Homeserver(http.server.BaseHTTPRequestHandler):
    """Knows every token."""

    def do_GET(self):
        body = json.dumps({"user_id": "@alice:bench.test"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def fill(data, rows):
    """Writes rows, and files for the longest unused remote ones."""
    catalog = sqlite3.connect(f"{data}/catalog.db")
    catalog.execute("PRAGMA synchronous=OFF")
    catalog.execute("PRAGMA cache_size=-400000")
    catalog.execute("PRAGMA recursive_triggers=ON")
    now = int(time.time() * 1000)
    random.seed(1)
    types = ["image/jpeg"] * 5 + ["image/png", "image/webp", "video/mp4", "audio/ogg", "application/pdf"]

    def row(number):
        is_local = number % 20 == 19
        if number < FILES * 2 and not is_local:
            content = number.to_bytes(8, "big") * (SIZE // 8)
            sha256, size, used = hashlib.sha256(content).digest(), SIZE, now - 29 * DAY
            name = sha256.hex()
            path = f"{data}/blobs/{name[:2]}/{name}"
            with open(path, "wb") as file:
                file.write(content)
            os.chmod(path, 0o400)
        else:
            sha256, size = hashlib.sha256(str(number).encode()).digest(), random.randrange(2_000, 900_000)
            used = now - random.randrange(28 * DAY)
        server = "bench.test" if is_local else f"server{random.randrange(2000)}.example"
        user = f"@user{random.randrange(200)}:bench.test" if is_local else None
        created = used - random.randrange(300 * DAY)
        return (server, f"id{number}x{random.randrange(10**12)}", sha256, size, random.choice(types), user, created, used)

    insert = """INSERT INTO media (server_name, media_id, sha256, size, content_type, user_id, created_ms, last_access_ms, open)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1)"""
    for start in range(0, rows, 50_000):
        batch = sorted(row(number) for number in range(start, min(rows, start + 50_000)))
        catalog.executemany(insert, batch)
        catalog.commit()
    catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    catalog.close()


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["RssAnon"].split()[0]), int(lines["VmHWM"].split()[0])


def written(pid):
    with open(f"/proc/{pid}/io") as io:
        return int(dict(line.split(": ") for line in io)["write_bytes"])


def percentile(times, share):
    return sorted(times)[int(len(times) * share)] * 1000


def main():
    program, rows = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000
    homeserver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Homeserver)
    threading.Thread(target=homeserver.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        with open(f"{folder}/sidecar.yaml", "w") as config:
            config.write(
                f"server_name: bench.test\nlisten: unix:{folder}/http.sock\nlog: error\n"
                f"homeserver: {{url: \"http://127.0.0.1:{homeserver.server_port}\"}}\n"
                "retention: {keep_free: 0B, every: 24h, thumbnails: {max_size: null, unused: null}}\n"
            )

        def run(*arguments):
            started = time.monotonic()
            output = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=True)
            return time.monotonic() - started, output.stdout

        run("key", "generate")

        def serve():
            service = subprocess.Popen([program, "serve"], cwd=folder)
            while True:
                try:
                    for name in ("data/ops.sock", "http.sock"):
                        with socket.socket(socket.AF_UNIX) as probe:
                            probe.connect(f"{folder}/{name}")
                    return service
                except OSError:
                    time.sleep(0.05)

        service = serve()
        service.terminate()
        service.wait()
        started = time.monotonic()
        fill(f"{folder}/data", rows)
        size = os.path.getsize(f"{folder}/data/catalog.db") >> 20
        print(f"filled {rows} rows in {time.monotonic() - started:.0f} s; catalog.db {size} MiB", flush=True)
        # The catalog was changed by another program; the service must not take it for a restored backup.
        service = serve()
        class Connection(http.client.HTTPConnection):
            def connect(self):
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.connect(f"{folder}/http.sock")

        connection = Connection("localhost")
        headers = {"Authorization": "Bearer alice", "Content-Type": "text/plain"}

        def ask(method, path, body=None):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

        status, body = ask("POST", "/_matrix/media/v3/upload", os.urandom(100_000))
        assert status == 200, body
        target = "/_matrix/client/v1/media/download/" + json.loads(body)["content_uri"][6:]
        calm = []
        for _ in range(3000):
            started = time.monotonic()
            assert ask("GET", target)[0] == 200
            calm.append(time.monotonic() - started)
        idle, _ = memory(service.pid)
        before, done = written(service.pid), []
        peak = [0]

        worker = threading.Thread(target=lambda: done.append(evict(run, folder)))
        worker.start()
        busy = []
        while worker.is_alive():
            started = time.monotonic()
            assert ask("GET", target)[0] == 200
            busy.append(time.monotonic() - started)
            peak[0] = max(peak[0], memory(service.pid)[0])
        seconds, files, freed = done[0]
        wrote = written(service.pid) - before
        print(
            f"evicted {files} files, {freed >> 20} MiB, in {seconds:.1f} s; wrote {wrote >> 20} MiB "
            f"({wrote / max(freed, 1):.2f} bytes a byte freed, {wrote // max(files, 1)} a file)"
        )
        print(f"anonymous memory: idle {idle} KiB, at most {peak[0]} KiB during the eviction")
        for name, times in (("calm", calm), ("during the eviction", busy)):
            print(
                f"downloads of 100 kB, {name}: {len(times)}, median {percentile(times, 0.5):.2f} ms, "
                f"99th percentile {percentile(times, 0.99):.2f} ms, longest {max(times) * 1000:.1f} ms"
            )
        for by in ("kind", "server", "user", "type", "age"):
            print(f"usage --by {by}: {run('usage', '--by', by)[0]:.2f} s", flush=True)
        stored = json.loads(run("usage", "--json")[1])["stored"]
        for share in (99, 90, 50):
            # A sweep ends at 95 % of the bound.
            seconds, text = run("retention", "--dry-run", "--max-store", f"{min(stored - 1, stored * share // 95)}B")
            print(f"retention --dry-run, down to {share} %: {seconds:.2f} s, {text.splitlines()[1]}", flush=True)
        reports, _ = memory(service.pid)
        print(f"anonymous memory: idle {idle} KiB, after the reports {reports} KiB", flush=True)

        service.terminate()
        service.wait()


def evict(run, folder):
    """Evicts what is unused for more than 28 days and 12 hours: exactly the files that were written."""
    seconds, text = run("retention", "--json", "--unused", "28days 12h")
    report = json.loads(text)
    return seconds, report["total"]["files"], report["total"]["bytes"]


if __name__ == "__main__":
    main()
