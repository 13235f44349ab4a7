"""What different memory allocators, or settings of one, keep resident; and what they cost in speed."""

import os

from measure import printed_by, wrk
from parts import pictures, thumbnail_of
from servers import TOKEN

# Debian's, in place of glibc's where they are installed: libmimalloc2.0, libjemalloc2.
OTHERS = ["libmimalloc.so.2", "libjemalloc.so.2"]

SETTINGS = {
    "as it is": {},
    "MALLOC_ARENA_MAX=1": {"MALLOC_ARENA_MAX": "1"},
    "MALLOC_ARENA_MAX=2": {"MALLOC_ARENA_MAX": "2"},
    "ARENA_MAX=1, TRIM and MMAP thresholds 128 KiB": {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "MALLOC_MMAP_THRESHOLD_": "131072",
    },
}


def allocator(bench):
    """Resident memory and speed with settings of glibc's malloc and with others in its place."""
    form = "  {:<48} {:>12} {:>12} {:>12} {:>12} {:>12} {:>10}"
    columns = ["MiB resident (anonymous)", "fresh", "10^6 rows", "requests", "uploads", "pictures", "32 KiB /s"]
    print("\n" + form.format(*columns))
    others = {name: {"LD_PRELOAD": name} for name in OTHERS if find_library(name)}
    for name, environment in (SETTINGS | others).items():
        ours, _ = bench.full(environment=environment)
        with ours:
            full = resident(ours)
        with bench.sidecar(f"malloc-{name.replace('/', '')}", environment=environment) as ours:
            fresh = resident(ours)
            target = ours.upload(os.urandom(32 * 1024))
            rate, _ = wrk(ours.address, target, 32, max(bench.seconds, 2), TOKEN)
            requests = resident(ours)
            bench.load("uploads", ours.address, 2000, 8, 4096)
            uploads = resident(ours)
            picture = next(iter(pictures(bench).values())).read_bytes()
            for _ in range(3):
                # What follows the end of a JPEG is nobody's: another picture to the sidecar.
                made = ours.upload(picture + os.urandom(16))
                bench.load("get", ours.address, thumbnail_of(made, "width=800&height=600&method=scale"))
            print(form.format(name, fresh, full, requests, uploads, resident(ours), f"{rate:,.0f}"), flush=True)
    with bench.sidecar("maps") as ours:
        print(maps(ours))


def find_library(name):
    """Whether the loader knows it."""
    return name in printed_by("/sbin/ldconfig", "-p")


def resident(process):
    """All of it, and in brackets what was allocated; the rest is the program itself, shared with the page cache."""
    return f"{process.idle_mib():.1f} ({process.kib('RssAnon') / 1024:.1f})"


def maps(process):
    """Where the resident memory of an idle process lies."""
    total = {}
    with open(f"/proc/{process.child.pid}/smaps") as lines:
        for line in lines:
            words = line.split()
            if "-" in words[0]:
                name = os.path.basename(words[5]) if len(words) > 5 else "anonymous: stacks, arenas, large allocations"
                one = total.setdefault(f"{name} {words[1]}", {"Rss:": 0, "Private_Dirty:": 0})
            elif words[0] in one:
                one[words[0]] += int(words[1])
    most = sorted(total.items(), key=lambda each: -each[1]["Rss:"])[:16]
    form = "  {:>8} KiB resident, {:>6} KiB private and dirty: {}"
    return "\n".join(form.format(one["Rss:"], one["Private_Dirty:"], name) for name, one in most)
