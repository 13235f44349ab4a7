"""The service on a machine that is too small for its clients: one core, 128 MiB, a slow disk, 200 clients."""

import os
import pathlib
import shutil
import subprocess

from parts import KIB, MIB, pictures
from servers import answers, wait

MEMORY = 128 * MIB
# What a good SD card writes, bytes a second.
DISK = 10_000_000
CLIENTS = 200
# What such a machine is given beside the defaults; the rest of its memory is the service's own and the kernel's.
CONFIG = "thumbnails: {memory: 48MiB}\n"


def small(bench):
    """200 clients that download, upload and want thumbnails, at a service that has too little of everything."""
    seconds = 10 if bench.quick else 60
    limits = Limits(bench)
    try:
        with bench.sidecar("small", prefix=limits.prefix, more=CONFIG) as ours:
            print(f"\nsmall machine: core 0 alone, {limits.note}; {CLIENTS} clients, {seconds} s")
            targets = [ours.upload(os.urandom(size)) for size in [4 * KIB, 32 * KIB, 256 * KIB, 4 * MIB]]
            picture = bench.folder / "small.jpg"
            subprocess.run(["vips", "thumbnail", pictures(bench)["24 MP baseline"], picture, "1600"], check=True)
            idle = ours.kib("VmRSS") / 1024
            printed = bench.load("mixed", ours.address, CLIENTS, seconds, picture, *targets)
            print(f"  {'kind':<12} {'answer':<18} {'count':>8} {'median ms':>10} {'99 % ms':>10} {'worst ms':>10}")
            for kind, answer, count, median, late, worst in map(str.split, printed.splitlines()):
                print(f"  {kind:<12} {answer:<18} {count:>8} {median:>10} {late:>10} {worst:>10}")
            is_alive = ours.child.poll() is None
            if is_alive:
                print(f"  {ours.kib('VmHWM') / 1024:.1f} MiB resident at most, {idle:.1f} before{limits.events()}")
            is_well = is_alive and answers(ours.address, "/_sidecar/health") and is_served(printed)
            verdict = bench.table.verdict("small machine", is_well)
            bench.table.row("200 clients on a small machine", "up" if is_alive else "down", "", "", "up", verdict)
    finally:
        limits.remove()


def is_served(printed):
    """Whether every answer was one that a loaded server may give, and some of each kind were good."""
    seen = [line.split()[:2] for line in printed.splitlines()]
    good = {kind for kind, answer in seen if answer == "200"}
    return good == {"download", "upload", "thumbnail"} and all(answer in ("200", "429", "503") for _, answer in seen)


class Limits:
    """The narrowest that this system lets us make it: a control group, a scope of systemd's, or resource limits."""

    def __init__(self, bench):
        self.group = None
        self.prefix = ["taskset", "-c", "0"]
        if self.try_group(bench):
            return
        if pathlib.Path("/run/systemd/system").exists() and shutil.which("systemd-run") and os.geteuid() == 0:
            device = bench.folder
            properties = [f"MemoryMax={MEMORY}", "MemorySwapMax=0", f"IOWriteBandwidthMax={device} {DISK}"]
            options = [word for each in properties for word in ("-p", each)]
            self.prefix = ["systemd-run", "--scope", "--quiet", *options, *self.prefix]
            self.note = f"{MEMORY // MIB} MiB and {DISK // 10**6} MB/s to disk by systemd-run"
            return
        self.prefix = ["prlimit", f"--data={MEMORY}", *self.prefix]
        self.note = f"RLIMIT_DATA of {MEMORY // MIB} MiB (no control group: page cache not counted, disk not throttled)"

    def try_group(self, bench):
        """A control group of version 2 below `--cgroup`, or below our own."""
        parent = bench.cgroup
        if parent is None:
            lines = pathlib.Path("/proc/self/cgroup").read_text().splitlines()
            own = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
            parent = pathlib.Path("/sys/fs/cgroup" + (own or ["/"])[0])
        group = parent / f"media-sidecar-bench-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            return False
        self.group = group
        # Where no control groups of version 2 with memory are, the new folder lacks the file.
        limit = group / "memory.max"
        try:
            limit.open("r+").close()
            limit.write_text(str(MEMORY))
        except OSError:
            self.remove()
            return False
        self.note = f"{MEMORY // MIB} MiB with page cache by a control group, {self.throttle(bench)}"
        self.prefix = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *self.prefix]
        return True

    def throttle(self, bench):
        """Slows the disk down, if the group can."""
        device = os.stat(bench.folder).st_dev
        try:
            (self.group / "io.max").write_text(f"{os.major(device)}:{os.minor(device)} wbps={DISK}")
        except OSError:
            return "disk not throttled"
        return f"{DISK // 10**6} MB/s to disk"

    def events(self):
        """What the group says it had to do."""
        if self.group is None:
            return ""
        return "; " + " ".join((self.group / "memory.events").read_text().split())

    def remove(self):
        if self.group is not None:
            procs = self.group / "cgroup.procs"
            wait("the group is empty", lambda: not procs.exists() or not procs.read_text())
            self.group.rmdir()
            self.group = None
