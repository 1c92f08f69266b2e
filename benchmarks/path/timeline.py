"""Who runs when during warm calls: a timeline of the machine's CPUs. `make timeline-path`.

Needs Linux's `perf` and the right to trace the scheduler. Writes benchmarks/results/warm-timeline.svg.
"""

import argparse
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from contenders import SCRATCH
from flamegraph import pair
from fleet import ROOT, BenchmarkError, load
from machine import RESULTS

SECONDS = 2
RECORDED_S = 0.2
SHOWN_S = 0.0025
KINDS = {"load": "generator", "mm-data-0": "instance", "echo-runtime": "runtime", "swapper": "idle"}
COLOURS = {"generator": "#9bb8d3", "instance": "#c0504d", "runtime": "#4a7dab", "idle": "#eeeeee", "other": "#888888"}
SWITCH = re.compile(r"\[(\d+)\]\s+([\d.]+): .*prev_comm=(\S+) .*==> next_comm=(\S+)")
WAKE = re.compile(r"\s([\d.]+): sched:sched_waking: comm=(\S+)")


@dataclass(frozen=True)
class Slice:
    """A process on a CPU; seconds of the machine's clock."""

    cpu: int
    begin: float
    end: float
    kind: str


def record() -> str:
    """Every switch of every CPU for a moment of warm calls, as text."""
    if shutil.which("perf") is None:
        raise BenchmarkError("perf was not found: apt install linux-perf")
    SCRATCH.mkdir(parents=True, exist_ok=True)
    data = SCRATCH / "warm-timeline.perf"
    # Buffers so large that perf itself has nothing to do meanwhile.
    command = [
        "perf",
        "record",
        "-q",
        "-e",
        "sched:sched_switch,sched:sched_waking",
        "-a",
        "-m",
        "4096",
        "-o",
        str(data),
    ]
    with pair(ROOT / "src") as (instance, runtime):
        later = f"sleep {SECONDS / 2}; exec {' '.join(command)} -- sleep {RECORDED_S}"
        perf = subprocess.Popen(["sh", "-c", later], stderr=subprocess.PIPE, text=True)
        load(instance.address, [instance, runtime], "--model", "m", "--seconds", str(SECONDS))
        _, said = perf.communicate()
    if perf.returncode != 0:
        raise BenchmarkError(f"perf could not record: {said.strip()}; see kernel.perf_event_paranoid")
    done = subprocess.run(["perf", "script", "-i", str(data)], capture_output=True, text=True, check=True)
    return done.stdout


def slices(text: str) -> list[Slice]:
    """From switches to what ran in between.

    Not every kernel tells when a CPU leaves its idle loop. Then that was when somebody woke what ran next.
    """
    found: list[Slice] = []
    since: dict[int, tuple[float, str]] = {}
    woken: dict[str, list[float]] = defaultdict(list)
    for line in text.splitlines():
        if match := WAKE.search(line):
            woken[kind_of(match[2])].append(float(match[1]))
        elif match := SWITCH.search(line):
            cpu, at, ran = int(match[1]), float(match[2]), kind_of(match[3])
            if cpu in since:
                begin, kind = since[cpu]
                if kind == "idle" != ran:
                    left = next((then for then in woken[ran] if then >= begin), at)
                    found.append(Slice(cpu, begin, left, "idle"))
                    begin = left
                found.append(Slice(cpu, begin, at, ran))
            since[cpu] = (at, kind_of(match[4]))
            woken[ran].clear()
    if not found:
        raise BenchmarkError("perf saw no switch")
    return found


def kind_of(name: str) -> str:
    """Whose process it is."""
    return KINDS.get(name.partition("/")[0], "other")


def shares(found: list[Slice]) -> dict[str, float]:
    """The share of all CPUs' time that each kind had."""
    used: Counter[str] = Counter()
    for part in found:
        used[part.kind] += part.end - part.begin
    return {kind: used[kind] / used.total() for kind in COLOURS}


def picture(found: list[Slice], shown_s: float = SHOWN_S) -> Iterator[str]:
    """The elements of the picture: a row a CPU, from the middle of what was recorded."""
    width, left, top, row = 1200, 60, 50, 34
    first = (min(part.begin for part in found) + max(part.end for part in found) - shown_s) / 2
    cpus = sorted({part.cpu for part in found})
    height = top + row * len(cpus) + 60
    scale = (width - left - 20) / shown_s
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">'
    )
    yield f'<rect width="{width}" height="{height}" fill="white"/>'
    title = f"Warm local calls, 76 B, 4 x 16: who runs on which CPU, {shown_s * 1e3:g} ms"
    yield f'<text x="12" y="26" font-size="15" font-weight="bold">{escape(title)}</text>'
    for part in found:
        begin, end = max(part.begin, first), min(part.end, first + shown_s)
        if begin < end:
            x, y = left + (begin - first) * scale, top + cpus.index(part.cpu) * row
            size = f'width="{(end - begin) * scale:.1f}" height="{row - 6}"'
            yield f'<rect x="{x:.1f}" y="{y}" {size} fill="{COLOURS[part.kind]}"/>'
    for number, cpu in enumerate(cpus):
        yield f'<text x="12" y="{top + number * row + 19}">CPU {cpu}</text>'
    bottom = top + row * len(cpus) + 24
    for number, (kind, share) in enumerate(shares(found).items()):
        x = left + number * 170
        yield f'<rect x="{x}" y="{bottom - 11}" width="12" height="12" fill="{COLOURS[kind]}" stroke="#999"/>'
        yield f'<text x="{x + 18}" y="{bottom}">{kind}: {share:.0%} of all</text>'
    yield "</svg>"


def main() -> None:
    """Record and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=RESULTS / "warm-timeline.svg")
    file = parser.parse_args().file
    found = slices(record())
    file.write_text("\n".join(picture(found)) + "\n")
    print(file, {kind: round(share, 2) for kind, share in shares(found).items()})


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as error:
        sys.exit(f"timeline-path: {error}")
