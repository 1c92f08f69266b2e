"""What a call costs on its way: direct, through one instance, and over a hop. `make bench-path`.

Contenders take turns, so that whatever the machine does meanwhile hits all of them; of the repeats the median
counts, and all are kept. CPU is that of each process in the measured time, per call that was answered; its ratio to
what the echo runtime spent in the same run is what can be compared between machines and days.

Writes benchmarks/results/path.json, and path.md rendered from it. With `--render` only the latter.
"""

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from fleet import ROOT, BenchmarkError, Fleet, burning_beside, disturbed, load, running_fleet

RESULTS = ROOT / "benchmarks" / "results"

SHAPES = {
    # name: payload bytes, connections, streams
    "76 B, 4 x 16": (76, 4, 16),
    "76 B, 1 x 1": (76, 1, 1),
    "10 KB, 4 x 16": (10 * 1024, 4, 16),
    "1 MB, 2 x 2": (1024 * 1024, 2, 2),
}
PATHS = ("direct", "local", "hop")
RATES = (500, 3000)
CONDITIONS = ("direct", "idle", "gil held", "busy python", "busy other")
BUSIEST = "76 B, 4 x 16"
TURNS = 2
"""Open loops of each contender in one repeat: tails need more of them than costs do."""

QUIET_PERCENT = 10

ROWS: dict[str, tuple[str, float | None]] = {
    # name: what it is, the most that it may be; None: reported only
    "echo_us": ("CPU of the echo runtime per direct call, 76 B, 4 x 16, µs", 6.0),
    "warm_local": ("CPU of the instance over CPU of the runtime, warm local call, 76 B, 4 x 16 (aim 2.5)", 4.0),
    "hop": ("CPU of both instances over a hop, in local calls (each over the runtime's own), 76 B, 4 x 16", 2.3),
    "gil_held": ("p99 of warm calls with the GIL held, over p99 with an idle control plane", 1.5),
    "busy_python": ("p99 of warm calls with busy Python inside, over p99 with another process as busy", None),
}


def closed(fleet: Fleet, path: str, shape: str, seconds: float) -> dict[str, Any]:
    """One closed loop."""
    payload, connections, streams = SHAPES[shape]
    front, behind = fleet.instances
    near, far = fleet.runtimes
    target, model, processes = {
        "direct": (near.address, "none", [near]),
        "local": (front.address, fleet.models[0], [front, near]),
        "hop": (front.address, fleet.models[1], [front, behind, far]),
    }[path]
    arguments = {
        "--payload-bytes": payload,
        "--connections": connections,
        "--streams": streams,
        "--model": model,
        "--seconds": seconds,
        "--warmup": 0.5,
    }
    return load(target, processes, *(str(word) for pair in arguments.items() for word in pair))


def opened(fleet: Fleet, condition: str, rate: int, seconds: float) -> dict[str, Any]:
    """One open loop of warm local calls under a condition."""
    front, near = fleet.instances[0], fleet.runtimes[0]
    target, processes = (near.address, [near]) if condition == "direct" else (front.address, [front, near])
    arguments = ("--rate", str(rate), "--model", fleet.models[0], "--seconds", str(seconds), "--warmup", "0.5")
    with disturbance(fleet, condition):
        return load(target, processes, *arguments)


def disturbance(fleet: Fleet, condition: str) -> "contextlib.AbstractContextManager[None]":
    """What goes on beside the calls."""
    match condition:
        case "gil held":
            return disturbed(fleet.instances[0], signal.SIGUSR1, "gil")
        case "busy python":
            return disturbed(fleet.instances[0], signal.SIGUSR2, "burn")
        case "busy other":
            return burning_beside()
        case _:
            return contextlib.nullcontext()


def measure(fleet: Fleet, repeats: int, seconds: float) -> list[dict[str, Any]]:
    """All runs, interleaved: each repeat has every contender once."""
    runs: list[dict[str, Any]] = []
    for repeat in range(1, repeats + 1):
        for shape in SHAPES:
            for path in PATHS:
                say(f"repeat {repeat} of {repeats}: {path}, {shape}")
                runs.append({"kind": "closed", "path": path, "shape": shape, **closed(fleet, path, shape, seconds)})
        for rate in RATES * TURNS:
            for condition in CONDITIONS:
                say(f"repeat {repeat} of {repeats}: {condition}, {rate}/s")
                runs.append(
                    {"kind": "open", "condition": condition, "rate": rate, **opened(fleet, condition, rate, seconds)}
                )
        fleet.check_copies()
    return runs


def say(what: str) -> None:
    """Show progress where it does not disturb the result."""
    print(what, file=sys.stderr, flush=True)


# --- figures from runs ---


def values(runs: list[dict[str, Any]], *keys: str, **which: Any) -> list[float]:
    """One figure of every repeat of a contender."""
    found = []
    for run in runs:
        if all(run.get(name) == value for name, value in which.items()):
            figure: Any = run
            for key in keys:
                figure = figure[key]
            found.append(float(figure))
    return found


def instances_us(run: dict[str, Any]) -> float:
    """CPU of all instances on the way, per call."""
    return sum(cpu["us_per_request"] for name, cpu in run["cpu"].items() if name.startswith("instance"))


def runtime_us(run: dict[str, Any]) -> float:
    """CPU of the runtime, per call."""
    return sum(cpu["us_per_request"] for name, cpu in run["cpu"].items() if name.startswith("runtime"))


def cost(run: dict[str, Any]) -> float:
    """CPU of the instances in units of the runtime's own."""
    return instances_us(run) / runtime_us(run)


def pick(runs: list[dict[str, Any]], **which: Any) -> list[dict[str, Any]]:
    """The repeats of a contender."""
    return [run for run in runs if all(run.get(name) == value for name, value in which.items())]


def tail_ratio(runs: list[dict[str, Any]], condition: str, against: str) -> float:
    """How p99 compares, over both rates; of the repeats the medians."""
    ratios = []
    for rate in RATES:
        above = median(values(runs, "latency_us", "p99", condition=condition, rate=rate))
        below = median(values(runs, "latency_us", "p99", condition=against, rate=rate))
        ratios.append(above / below)
    return geometric_mean(ratios)


def judge(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows, each with what it must be."""
    local, hop = (pick(runs, path=path, shape=BUSIEST) for path in ("local", "hop"))
    figures = {
        "echo_us": median(map(runtime_us, pick(runs, path="direct", shape=BUSIEST))),
        "warm_local": median(map(cost, local)),
        # Each in units of its own run's runtime, because the machine drifts from one run to the next.
        "hop": median(map(cost, hop)) / median(map(cost, local)),
        "gil_held": tail_ratio(runs, "gil held", "idle"),
        "busy_python": tail_ratio(runs, "busy python", "busy other"),
    }
    return {
        name: {"value": round(figures[name], 3), "must": must, "ok": must is None or figures[name] <= must}
        for name, (_, must) in ROWS.items()
    }


# --- results ---


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


def spread(figures: list[float], digits: int = 0) -> str:
    """Median and range."""
    return f"{median(figures):,.{digits}f} [{min(figures):,.{digits}f}..{max(figures):,.{digits}f}]"


def render(result: dict[str, Any]) -> Iterator[str]:
    """The page of a result, line by line."""
    runs, machine = result["runs"], result["environment"]["machine"]
    foreign = values(runs, "foreign_percent", kind="closed")
    versions = ", ".join(f"{name} {version}" for name, version in result["environment"]["versions"].items())
    yield "# The path of a call"
    yield ""
    yield "Rendered from `path.json` by `make bench-path`; not edited by hand."
    yield ""
    yield (
        f"{result['environment']['date']}, commit {result['environment']['commit']}, {machine['cpus']} CPUs"
        f" ({machine['cpu']}), {machine['memory_gib']} GiB, Linux {machine['kernel']}, {versions}. Generator, runtimes,"
        f" etcd and instances share the machine. Median [range] of {result['repeats']} interleaved repeats, open loops"
        f" {TURNS} times in each. Other programs used {spread(foreign)} % of the machine during the closed loops."
    )
    if median(foreign) > QUIET_PERCENT:
        yield ""
        yield "**The machine was not quiet: rates and latencies, tails above all, are mostly those of other programs.**"
    yield ""
    yield "| row | what | value | must be at most | ok |"
    yield "|---|---|---|---|---|"
    for name, row in result["rows"].items():
        must = "reported only" if row["must"] is None else row["must"]
        yield f"| {name} | {ROWS[name][0]} | {row['value']} | {must} | {'yes' if row['ok'] else '**no**'} |"
    yield ""
    yield "Closed loop: as many calls at a time as connections x streams."
    yield ""
    yield "| shape | path | calls/s | p50 µs | p99 µs | CPU µs a call: instances | runtime | ratio |"
    yield "|---|---|---|---|---|---|---|---|"
    for shape in SHAPES:
        for path in PATHS:
            which = {"path": path, "shape": shape}
            found = pick(runs, **which)
            ours = "" if path == "direct" else spread([instances_us(run) for run in found], 1)
            ratio = "" if path == "direct" else spread(list(map(cost, found)), 2)
            yield (
                f"| {shape} | {path} | {spread(values(runs, 'per_second', **which))}"
                f" | {spread(values(runs, 'latency_us', 'p50', **which))}"
                f" | {spread(values(runs, 'latency_us', 'p99', **which))} | {ours}"
                f" | {spread([runtime_us(run) for run in found], 1)} | {ratio} |"
            )
    yield ""
    yield "Open loop: warm local calls at random times; latency from the time at which the call was due."
    yield ""
    yield "| rate | meanwhile | p50 µs | p99 µs | p99.9 µs |"
    yield "|---|---|---|---|---|"
    for rate in RATES:
        for condition in CONDITIONS:
            which = {"condition": condition, "rate": rate}
            tails = (spread(values(runs, "latency_us", key, **which)) for key in ("p50", "p99", "p999"))
            yield f"| {rate}/s | {condition} | {' | '.join(tails)} |"


def main() -> int:
    """Measure, write, print; 1 if a row is not what it must be."""
    parser = argparse.ArgumentParser(description="Measure the path of a call.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for path.json and path.md")
    parser.add_argument("--render", action="store_true", help="only render path.md from path.json")
    arguments = parser.parse_args()
    file = arguments.results / "path.json"
    if arguments.render:
        result = json.loads(file.read_text())
    else:
        with running_fleet() as fleet:
            runs = measure(fleet, arguments.repeats, arguments.seconds)
        result = {"environment": environment(), "repeats": arguments.repeats, "rows": judge(runs), "runs": runs}
        arguments.results.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    page = "\n".join(render(result)) + "\n"
    file.with_suffix(".md").write_text(page)
    print(page)
    print(f"path: {json.dumps(result['rows'])}")
    return 0 if all(row["ok"] for row in result["rows"].values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"bench-path: {error}")
