"""What is measured. Each function is a part that `run` can be asked for."""

import os
import re
import statistics
import subprocess
import tempfile

from measure import bench_program, load_program, printed_by, wrk
from servers import ROOT, TOKEN, Homeserver, Nginx, Sidecar, Synapse, upload

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MILLION = 1_000_000


class Bench:
    """What the parts share: a folder on the disk under measurement, how long to take, the table."""

    def __init__(self, folder, filled, quick, table, cgroup):
        self.folder, self.filled, self.table, self.cgroup = folder, filled, table, cgroup
        self.quick = quick
        self.rounds = 3 if quick else 7
        self.seconds = 1 if quick else 5
        self.homeserver = Homeserver()
        self._load = None

    def sidecar(self, name, **options):
        return Sidecar(self.folder / name, self.homeserver, **options)

    def full(self, rows=MILLION, **options):
        """A sidecar whose catalog has so many rows, and targets of some of them."""
        folder = self.filled / str(rows)
        targets = Sidecar.fill(folder, self.homeserver, rows)
        return Sidecar(folder, self.homeserver, **options), targets

    def load(self, *words):
        self._load = self._load or load_program(self.folder)
        return printed_by(self._load, *words)


def downloads(bench):
    """Downloads beside nginx serving the same bytes."""
    with bench.sidecar("downloads") as ours, Nginx(bench.folder / "nginx") as nginx:
        sizes = [("32 KiB", 32 * KIB, 32, 0.80), ("1 MiB", MIB, 8, 0.95), ("300 MB", 300_000_000, 4, 1.2)]
        for name, size, connections, at_least in sizes:
            data = os.urandom(size)
            target = ours.upload(data)
            (nginx.files / str(size)).write_bytes(data)
            del data
            bench.table.compare(
                f"download {name}, {connections} connections, nginx",
                "MB/s" if size > MIB else "/s",
                bench.rounds,
                lambda: figure(wrk(ours.address, target, connections, bench.seconds, TOKEN), size),
                lambda: figure(wrk(nginx.address, f"/{size}", connections, bench.seconds), size),
                at_least,
            )


def figure(rates, size):
    """Requests a second, of large files megabytes a second: few of them end within a round."""
    requests, transferred = rates
    return transferred / 1e6 if size > MIB else requests


def synapse(bench):
    """A download beside Synapse's media repository."""
    data = os.urandom(32 * KIB)
    with bench.sidecar("beside-synapse") as ours, Synapse(bench.folder / "synapse") as synapse:
        target, theirs = ours.upload(data), upload(synapse.address, data, synapse.token)
        bench.table.compare(
            "download 32 KiB, 32 connections, Synapse",
            "/s",
            bench.rounds,
            lambda: wrk(ours.address, target, 32, bench.seconds, TOKEN)[0],
            lambda: wrk(synapse.address, theirs, 32, bench.seconds, synapse.token)[0],
            50,
        )


def uploads(bench):
    """Durable uploads, many small ones and large ones, beside what durability costs anyhow."""
    count = 1000 if bench.quick else 10_000
    files = bench.folder / "files"
    files.mkdir()
    with bench.sidecar("uploads") as ours:
        bench.load("uploads", ours.address, 8, 8, 4096)
        bench.table.compare(
            f"upload 4 KiB × {count:,}, 8 connections, bare create+fsync",
            "/s",
            bench.rounds,
            lambda: count / float(bench.load("uploads", ours.address, count, 8, 4096)),
            lambda: count / float(bench.load("creates", files, count, 8, 4096)),
            1.0,
        )
        for name, size in [("100 MB", 100_000_000), ("1 GiB", GIB)][: 1 if bench.quick else 2]:
            bench.table.compare(
                f"upload {name}, dd conv=fsync",
                "MB/s",
                bench.rounds,
                lambda: size / 1e6 / float(bench.load("uploads", ours.address, 1, 1, size)),
                lambda: size / 1e6 / dd(files, size),
                0.8,
            )


def dd(folder, size):
    """Seconds that `dd` takes to write a file of `size` bytes to the disk. The file stays, as an upload does: over and over the
    same one would get the memory of the one before, which is several times faster on a virtual machine."""
    descriptor, path = tempfile.mkstemp(dir=folder)
    os.close(descriptor)
    command = ["dd", "if=/dev/zero", f"of={path}", "bs=1M", "iflag=count_bytes", f"count={size}", "conv=fsync"]
    report = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    return float(re.search(r"copied, ([\d.e-]+) s", report.stderr)[1])


def memory(bench):
    """Resident memory: idle, with a million rows, and what transfers and pictures add."""
    with bench.sidecar("idle") as ours:
        bench.table.limit("resident, idle, fresh", "MiB", [ours.idle_mib()], 12)
    ours, _ = bench.full()
    with ours:
        bench.table.limit("resident, idle, a million rows", "MiB", [ours.idle_mib()], 16)
    size = (256 * MIB) if bench.quick else GIB
    with bench.sidecar("large") as ours:
        with Peak(ours) as peak:
            bench.load("uploads", ours.address, 1, 1, size)
        bench.table.limit(f"memory above idle, upload of {size // MIB} MiB", "MiB", [peak.added], 8)
        path = bench.folder / "large-file"
        with path.open("wb") as file:
            file.write(os.urandom(MIB))
            file.truncate(size)
        with path.open("rb") as file:
            target = upload(ours.address, file, {**TOKEN, "Content-Length": str(size)})
        with Peak(ours) as peak:
            bench.load("get", ours.address, target)
        bench.table.limit(f"memory above idle, download of {size // MIB} MiB", "MiB", [peak.added], 8)
    for name, picture in pictures(bench).items():
        with bench.sidecar(f"picture-{name}") as ours:
            target = ours.upload(picture.read_bytes())
            with Peak(ours) as peak:
                bench.load("get", ours.address, thumbnail_of(target, "width=800&height=600&method=scale"))
            most = 128 if "progressive" in name else 16
            bench.table.limit(f"memory above idle, thumbnail, {name}", "MiB", [peak.added], most)


class Peak:
    """Most resident memory within `with`, above that before it, MiB."""

    def __init__(self, process):
        self.process = process

    def __enter__(self):
        self.process.reset_peak()
        self.before = self.process.kib("VmRSS")
        return self

    def __exit__(self, *_):
        self.added = (self.process.kib("VmHWM") - self.before) / 1024


def pictures(bench):
    """Pictures like a camera's, made once: JPEG of 24 megapixels baseline and of 16 progressive, PNG of 14."""
    wanted = [
        ("24 MP baseline", 6000, 4000, ".jpg", "[Q=90]"),
        ("16 MP progressive", 4896, 3264, ".jpg", "[Q=90,interlace]"),
        ("14 MP PNG", 4600, 3050, ".png", ""),
    ]
    made = {}
    for name, width, height, extension, options in wanted:
        made[name] = bench.filled / (name.replace(" ", "-") + extension)
        if not made[name].exists():
            draw(bench.folder / "picture", width, height, f"{made[name]}{options}")
    return made


def draw(steps, width, height, out):
    """Clouds of three sizes as the three colours, and the noise of a sensor."""
    steps.mkdir(exist_ok=True)

    def vips(*words):
        subprocess.run(["vips", *map(str, words)], check=True, cwd=steps)

    for name, cell in [("red.v", 512), ("green.v", 256), ("blue.v", 64)]:
        vips("perlin", name, width, height, "--cell-size", cell, "--uchar")
    vips("bandjoin", "red.v green.v blue.v", "clouds.v")
    vips("gaussnoise", "noise.v", width, height, "--sigma", 4, "--mean", 0)
    vips("add", "clouds.v", "noise.v", "sum.v")
    vips("cast", "sum.v", "bytes.v", "uchar")
    vips("copy", "bytes.v", "picture.v", "--interpretation", "srgb")
    vips("copy", "picture.v", out)


def thumbnail_of(target, query):
    return target.replace("/download/", "/thumbnail/") + "?" + query


def start(bench):
    """From the start of the process to listening, a million rows in the catalog."""
    times = []
    for _ in range(bench.rounds):
        ours, _ = bench.full()
        ours.stop()
        times.append(ours.startup_ms)
    bench.table.limit("start to listening, a million rows", "ms", times, 50)


def lookups(bench):
    """Downloads of random rows: what a large catalog adds, in time per request."""
    counts = [10**3, 10**4, 10**5, MILLION]
    running = []
    try:
        for rows in counts:
            ours, targets = bench.full(rows)
            running.append(ours)
            file = bench.folder / f"targets-{rows}"
            file.write_text("\n".join(targets) + "\n")
            ours.targets = file
            lookup_us(bench, ours)
        first = running[0]
        for rows, ours in list(zip(counts, running))[1:]:
            pairs = [(lookup_us(bench, ours), lookup_us(bench, first)) for _ in range(bench.rounds)]
            us = statistics.median(us for us, _ in pairs)
            work = f"download, one of {rows:,} rows ({us:.0f} µs), of 1,000"
            bench.table.limit(work, "×", [a / b for a, b in pairs], 1.2, digits=2)
    finally:
        for ours in running:
            ours.stop()


def lookup_us(bench, ours):
    requests, _ = wrk(ours.address, "/", 8, bench.seconds, TOKEN, ours.targets)
    return 1e6 / requests


def thumbnails(bench):
    """Thumbnails that are there beside downloads of the same size; making them beside vipsthumbnail."""
    files = pictures(bench)
    with bench.sidecar("thumbnails") as ours:
        picture = ours.upload(files["24 MP baseline"].read_bytes())
        cached = thumbnail_of(picture, "width=320&height=240&method=scale")
        size = int(bench.load("get", ours.address, cached).split()[0])
        same = ours.upload(os.urandom(size))
        bench.table.compare(
            f"cached thumbnail of {size // KIB} KiB, download of that size",
            "/s",
            bench.rounds,
            lambda: wrk(ours.address, cached, 32, bench.seconds, TOKEN)[0],
            lambda: wrk(ours.address, same, 32, bench.seconds, TOKEN)[0],
            0.9,
        )
    printed = printed_by(ROOT / "tests/bench/pictures.py", "compare", *files.values())
    row = r" {} +(\d+) +([\d.]+) +\d+ +([\d.]+) "
    of_ours, of_vips = (re.findall(row.format(side), printed) for side in ("ours", "vips"))
    limits = [(0.7, 16), (1.0, 128), (1.0, 16)]
    for name, ours, vips, (at_most, most_mib) in zip(files, of_ours, of_vips, limits, strict=True):
        (our_ms, ratio, mib), (vips_ms, *_) = ours, vips
        verdict = bench.table.verdict(name, float(ratio) <= at_most and float(mib) <= most_mib)
        work = f"CPU, {name} → 800×600 (+{mib} MiB), vips"
        bench.table.row(work, f"{our_ms} ms", f"{vips_ms} ms", ratio, f"≤ {at_most}", verdict)


def federation(bench):
    """Remote files that arrive at a fixed pace: first byte and total."""
    form = r"^(\d+ MB at \d+ MB/s) +([\d.]+) ms +([\d.]+) s +([\d.]+) +(\d+) KiB"
    printed = printed_by(bench_program("remote_fetch"))
    for what, first, _, ratio, kib in re.findall(form, printed, re.MULTILINE):
        bench.table.limit(f"remote fetch, {what}: first byte", "ms", [float(first)], 50)
        work = f"remote fetch, {what}: total (+{int(kib) / 1024:.1f} MiB)"
        bench.table.limit(work, "× ideal", [float(ratio)], 1.03, digits=3)
