"""What figures hold for: machine, versions, commit."""

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from fleet import ROOT

RESULTS = ROOT / "benchmarks" / "results"


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


def proc(name: str) -> list[str]:
    """Lines of a file in /proc."""
    return Path("/proc", name).read_text().splitlines()


def output(*command: str) -> str:
    """What a command prints, or `unknown`."""
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return finished.stdout.strip() or "unknown unknown"
