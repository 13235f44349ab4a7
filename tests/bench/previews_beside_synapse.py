#!/usr/bin/env python3
"""Previews of the pages in tests/fixtures/pages, by media-sidecar and by Synapse, side by side.

    tests/bench/previews_beside_synapse.py [--program FILE] [PAGE…]

Installs Synapse from PyPI with its `url-preview` extra (tests/interop/install.sh) and builds the release program. Every
host of the pages has a loopback address of its own, and their absolute URLs are rewritten to it, so that both sides fetch
the very same bytes; every other address below a host is a PNG of its own. Prints one line a page, the medians of the time
to answer, and then each difference in full: what the page is judged to say (`expected` in its JSON), what the sidecar
answers, what Synapse answers. Everything is on loopback and below target/bench.
"""

import argparse
import http.server
import json
import pathlib
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import zlib

sys.dont_write_bytecode = True

import servers

PAGES = servers.ROOT / "tests/fixtures/pages"

# What is compared.
FIELDS = ("title", "description", "image")

# An absolute URL of one of the made-up hosts, also as JSON writes it in a script.
ABSOLUTE = re.compile(rb"(?:https?:)?(\\?/\\?/)((?:[a-z0-9-]+\.)+example(?:\.[a-z]{2})?)(?![a-z0-9.-])")

# A picture without a size of its own in a fixture.
USUAL_SIZE = (640, 480)

# Previews of one page that are timed after the first.
REPEATS = 5


class Page:
    """A fixture: where it is, how it is served, what is to be seen of it."""

    def __init__(self, path):
        beside = json.loads(path.with_suffix(".json").read_text())
        self.name = path.stem
        self.url = urllib.parse.urlsplit(beside["url"])
        self.content_type = beside.get("content_type")
        self.expected = beside["expected"]
        self.bytes = path.read_bytes()

    def target(self):
        """Path and query."""
        return (self.url.path or "/") + (f"?{self.url.query}" if self.url.query else "")


class Web:
    """The hosts of the pages, each on a loopback address of its own and all on one port."""

    def __init__(self, pages):
        hosts = {page.url.hostname for page in pages}
        hosts |= {found[2].decode() for page in pages for found in ABSOLUTE.finditer(page.bytes)}
        self.port = servers.free_port()
        self.hosts = {host: f"127.0.1.{1 + rank}:{self.port}" for rank, host in enumerate(sorted(hosts))}
        self.pages = {(self.hosts[page.url.hostname], page.target()): page for page in pages}
        self.images = {}
        for page in pages:
            for image in page.expected.get("images", []):
                url = self.translate_url(image["url"])
                size = image.get("width", USUAL_SIZE[0]), image.get("height", USUAL_SIZE[1])
                self.images[url] = png(url, size)
        handler = type("Handler", (Handler,), {"web": self})
        for address in self.hosts.values():
            server = http.server.ThreadingHTTPServer((address.split(":")[0], self.port), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def translate(self, data):
        """Absolute URLs lead to this server. Without a scheme they stay so."""

        def here(found):
            scheme = b"http:" if found[0].startswith(b"http") else b""
            return scheme + found[1] + self.hosts[found[2].decode()].encode()

        return ABSOLUTE.sub(here, data)

    def translate_url(self, url):
        """The same for one URL."""
        return self.translate(url.encode()).decode()

    def original(self, url):
        """The host's name again, for showing."""
        for host, address in self.hosts.items():
            url = url.replace(address + "/", host + "/")
        return url


def png(url, size=USUAL_SIZE):
    """A picture that names its URL."""
    width, height = size
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"tEXt", b"Source\0" + url.encode()),
        (b"IDAT", zlib.compress((b"\0" + bytes(width)) * height, 1)),
        (b"IEND", b""),
    ]
    framed = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        framed += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return framed


class Handler(http.server.BaseHTTPRequestHandler):
    """A page, else no oEmbed, else a picture."""

    protocol_version = "HTTP/1.1"
    # Head and body in one piece: in two, the second would wait for the first to be acknowledged.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        host = self.headers["Host"]
        page = self.web.pages.get((host, self.path))
        if page:
            self.answer(200, page.content_type, self.web.translate(page.bytes))
        elif "oembed" in self.path:
            self.answer(404, "text/plain", b"")
        else:
            url = f"http://{host}{self.path}"
            self.answer(200, "image/png", self.web.images.get(url) or png(url))

    def answer(self, status, content_type, body):
        self.send_response(status)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Side:
    """One server that is asked for previews."""

    def __init__(self, server, token):
        self.address = server.address
        self.token = token
        self.cold = []
        self.cached = []

    def preview(self, web, page):
        """What it says of a page, by field; timed, the first answer and further ones."""
        url = f"http://{web.hosts[page.url.hostname]}{page.target()}"
        target = "/_matrix/client/v1/media/preview_url?" + urllib.parse.urlencode({"url": url})
        (status, body), took = timed(lambda: servers.ask(self.address, "GET", target, headers=self.token))
        self.cold.append(took)
        for _ in range(REPEATS):
            self.cached.append(timed(lambda: servers.ask(self.address, "GET", target, headers=self.token))[1])
        answer = json.loads(body)
        if status != 200:
            return {"error": f"{status} {answer}"}
        shown = {"title": answer.get("og:title"), "description": answer.get("og:description")}
        if image := answer.get("og:image"):
            shown["image"] = web.original(self.source(image))
        return {field: shown[field] for field in FIELDS if shown.get(field)}

    def source(self, mxc):
        """The URL that an image's stored copy names."""
        target = "/_matrix/client/v1/media/download/" + mxc.removeprefix("mxc://")
        _, body = servers.ask(self.address, "GET", target, headers=self.token)
        # Behind the signature and the first chunk: length, kind, and the text behind its keyword.
        length, kind = struct.unpack_from(">I4s", body, 33)
        if kind != b"tEXt":
            return f"{mxc}: none of the pages' pictures"
        return body[41 : 41 + length].removeprefix(b"Source\0").decode()


def timed(work):
    """What came of it, and milliseconds."""
    started = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - started) * 1000


def expected(web, page):
    """The fixture's judgement in the compared fields."""
    judged = {field: page.expected[field] for field in ("title", "description") if field in page.expected}
    if images := page.expected.get("images"):
        judged["image"] = web.original(web.translate_url(images[0]["url"]))
    return judged


def compare(web, pages, ours, theirs):
    """Asks both for every page, prints a line each, and gives each page with what is judged and what both answer."""
    form = "{:<32} {:<10} {:<12} {:<10}"
    print(form.format("page", *FIELDS))
    results = []
    for rank, page in enumerate(pages):
        # Who asks first finds the page's own server colder.
        if rank % 2:
            sides = ours.preview(web, page), theirs.preview(web, page)
        else:
            sides = (theirs.preview(web, page), ours.preview(web, page))[::-1]
        verdicts = ["same" if sides[0].get(field) == sides[1].get(field) else "different" for field in FIELDS]
        if "error" in sides[0] or "error" in sides[1]:
            verdicts = ["error"] * len(FIELDS)
        print(form.format(page.name, *verdicts), flush=True)
        results.append((page, expected(web, page), *sides))
    return results


def summarise(results):
    """How many pages differ, and in each field which side answers as judged."""
    print(f"\n{len(results)} pages, {sum(ours != theirs for _, _, ours, theirs in results)} differ")
    for field in FIELDS:
        values = [[side.get(field) for side in sides] for _, *sides in results]
        differing = sum(our != their for _, our, their in values)
        ours = sum(judged == our for judged, our, _ in values)
        theirs = sum(judged == their for judged, _, their in values)
        print(f"{field}: {differing} differ; as judged: sidecar {ours}, Synapse {theirs}")


def show(results):
    """The differences in full."""
    for page, *sides in results:
        if sides[1] == sides[2]:
            continue
        print(f"\n{page.name}")
        for field in (*FIELDS, "error"):
            judged, ours, theirs = (side.get(field) for side in sides)
            if ours != theirs:
                for who, what in {"judged": judged, "sidecar": ours, "Synapse": theirs}.items():
                    print(f"  {field:<12} {who:<8} {what!r}")


def main():
    form = argparse.RawDescriptionHelpFormatter
    options = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    options.add_argument("--program", type=pathlib.Path, help="a sidecar built already")
    options.add_argument("page", nargs="*", metavar="PAGE", help="names of fixtures; else all")
    chosen = options.parse_args()
    pages = [Page(path) for path in sorted(PAGES.glob("*.html")) if not chosen.page or path.stem in chosen.page]

    subprocess.run([servers.ROOT / "tests/interop/install.sh"], check=True)
    if chosen.program:
        servers.Sidecar.program = chosen.program.resolve()
    else:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=servers.ROOT, check=True)
    kept = servers.ROOT / "target/bench"
    kept.mkdir(parents=True, exist_ok=True)
    web = Web(pages)
    synapse_previews = {
        "url_preview_enabled": True,
        "url_preview_ip_range_blacklist": ["10.0.0.0/8"],
        "url_preview_ip_range_whitelist": ["127.0.0.0/8"],
    }
    sidecar_previews = f"previews: {{ip_allow: [127.0.0.0/8], ports: [{web.port}]}}\n"
    with (
        tempfile.TemporaryDirectory(dir=kept) as folder,
        servers.Synapse(pathlib.Path(folder) / "synapse", synapse_previews) as synapse,
        servers.Sidecar(pathlib.Path(folder) / "sidecar", servers.Homeserver(), more=sidecar_previews) as sidecar,
    ):
        ours, theirs = Side(sidecar, servers.TOKEN), Side(synapse, synapse.token)
        results = compare(web, pages, ours, theirs)
    summarise(results)
    for name, side in {"media-sidecar": ours, "Synapse": theirs}.items():
        cold, cached = statistics.median(side.cold), statistics.median(side.cached)
        print(f"{name:<14} median time to answer: {cold:.1f} ms, cached {cached:.2f} ms")
    show(results)


if __name__ == "__main__":
    main()
