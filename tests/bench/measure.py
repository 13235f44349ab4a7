"""Rounds that alternate between two sides, medians with their spread, and the table."""

import json
import pathlib
import statistics
import subprocess

from servers import ROOT

# Past this spread of the peer's own figures (most less least, over the median) the machine is too noisy to judge by.
NOISY = 0.20

WRK_SCRIPT = pathlib.Path(__file__).with_name("wrk.lua")


class Table:
    """Rows of the result; printed as they come."""

    HEAD = ("work", "ours", "peer", "ratio", "to reach", "")
    FORM = "{:<52} {:>14} {:>14} {:>22} {:>9}  {}"

    def __init__(self):
        self.noisy = []
        self.missed = []
        print(self.FORM.format(*self.HEAD), flush=True)

    def row(self, work, ours, peer, ratio, reach, verdict):
        print(self.FORM.format(work, ours, peer, ratio, reach, verdict), flush=True)

    def compare(self, work, unit, rounds, ours, peer, at_least):
        """Measures both sides in turn, `rounds` times; more is better. The ratio is that of neighbours in time."""
        pairs = [(ours(), peer()) for _ in range(rounds)]
        ratios = [a / b for a, b in pairs]
        our, their = (statistics.median(side) for side in zip(*pairs))
        spread = (max(b for _, b in pairs) - min(b for _, b in pairs)) / their
        ratio = statistics.median(ratios)
        verdict = self.verdict(work, ratio >= at_least)
        if spread > NOISY:
            self.noisy.append(work)
            verdict += f", noisy: peer ± {spread / 2:.0%}"
        shown = f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        self.row(work, f"{our:,.0f} {unit}", f"{their:,.0f} {unit}", shown, f"≥ {at_least:.2f}", verdict)

    def limit(self, work, unit, values, at_most, digits=1):
        """Figures of ours alone against a limit; less is better."""
        value = statistics.median(values)
        shown = f"({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else ""
        verdict = self.verdict(work, value <= at_most)
        self.row(work, f"{value:.{digits}f} {unit}", "", shown, f"≤ {at_most:g}", verdict)

    def verdict(self, work, is_met):
        if not is_met:
            self.missed.append(work)
        return "ok" if is_met else "MISSED"

    def end(self):
        if self.noisy:
            print(f"\nToo noisy to judge by (the peer's own figures spread by more than {NOISY:.0%}):")
            print("".join(f"  {work}\n" for work in self.noisy), end="")
        print(f"\n{len(self.missed)} figures missed." if self.missed else "\nEvery figure is reached.")


def wrk(address, target, connections, seconds, headers=None, targets=None):
    """Requests and bytes per second of `wrk`. `targets` is a file with a target a line, used in place of `target`."""
    command = ["wrk", "-t", str(min(2, connections)), "-c", str(connections), "-d", f"{seconds}s", "-s", WRK_SCRIPT]
    for name, value in (headers or {}).items():
        command += ["-H", f"{name}: {value}"]
    command += ["--timeout", "60s", f"http://{address}{target}", *([str(targets)] if targets else [])]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen = json.loads(printed.splitlines()[-1])
    assert seen["failed"] == 0, printed
    return seen["requests"] / seen["seconds"], seen["bytes"] / seen["seconds"]


def load_program(folder):
    """Builds `load.rs`. It needs the standard library alone, so that Cargo, which would build everything, is not asked."""
    source, program = pathlib.Path(__file__).with_name("load.rs"), folder / "load"
    subprocess.run(["rustc", "--edition=2024", "-O", "-o", program, source], check=True)
    return program


def bench_program(name):
    """Builds a bench of Cargo's; gives its program."""
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", name, "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines if line.startswith("{")]
    return next(b["executable"] for b in built if b.get("target", {}).get("name") == name and b.get("executable"))


def printed_by(*command, **options):
    """What a program prints."""
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True, **options).stdout
