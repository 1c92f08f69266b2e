"""What figures hold for: machine, versions, commit."""

import datetime as dt
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from fleet import ROOT

RESULTS = ROOT / "benchmarks" / "results"

IDLE = 0.94
LOOK_S, LONGEST_S = 0.25, 3.0


def environment() -> dict[str, Any]:
    """What the figures hold for."""
    lock = (ROOT / "Cargo.lock").read_text().split("[[package]]")
    crates = {}
    for package in lock:
        fields = dict(line.split(" = ", 1) for line in package.splitlines() if line.startswith(("name", "version")))
        name = fields.get("name", "").strip('"')
        if name in {"h2", "tokio", "pyo3"}:
            crates[name] = fields["version"].strip('"')
    cpu = next((line.split(":")[1].strip() for line in proc("cpuinfo") if line.startswith("model name")), "unknown")
    memory = next((int(line.split()[1]) for line in proc("meminfo") if line.startswith("MemTotal")), 0)
    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),  # noqa: TID251 - a benchmark's own date
        "commit": output("git", "describe", "--always", "--dirty", "--exclude=*"),
        "machine": {
            "cpu": cpu,
            "cpus": os.cpu_count(),
            "memory_gib": round(memory / 1024 / 1024),
            "kernel": platform.release(),
        },
        "versions": {"python": platform.python_version(), "rustc": output("rustc", "--version").split()[1], **crates},
    }


def settle() -> None:
    """Wait until the machine has done what the run before left behind: it is in nobody's tail then. For seconds at most."""
    until = time.monotonic() + LONGEST_S
    idle = 0.0
    before = _ticks()
    while idle < IDLE and time.monotonic() < until:
        time.sleep(LOOK_S)
        after = _ticks()
        idle = (after[0] - before[0]) / max(1, after[1] - before[1])
        before = after


def _ticks() -> tuple[int, int]:
    """Of all CPUs since the start: idle, and all."""
    ticks = [int(word) for word in proc("stat")[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def proc(name: str) -> list[str]:
    """Lines of a file in /proc."""
    return Path("/proc", name).read_text().splitlines()


def output(*command: str) -> str:
    """What a command prints, or `unknown`."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return finished.stdout.strip() or "unknown unknown"
