"""What a call costs on its way, beside its floor and its peers. `make bench-path`.

Contenders take turns, so that whatever the machine does meanwhile hits all of them; of the repeats the median
counts, and all are kept. CPU is that of each process in the measured time, per call that was answered; its ratio to
what the echo runtime spent in the same run is what can be compared between machines and days.

Writes benchmarks/results/path.json, and path.md and path-*.svg rendered from it. With `--render` only the latter.
"""

import argparse
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import base as base_build
from contenders import SETTINGS
from disturbances import CONDITIONS, beside, beside_calls
from figures import BUSY, ONE, ONE_MB, TEN_KB, Runs, judge
from fleet import BenchmarkError, Process, load, say
from machine import RESULTS, environment, settle
from page import plots, render
from stage import MODELS, Stage, running_stage

SHAPES = {
    # payload bytes, connections, streams
    BUSY: (76, 4, 16),
    ONE: (76, 1, 1),
    TEN_KB: (10 * 1024, 4, 16),
    ONE_MB: (1024 * 1024, 2, 2),
}
EVERYWHERE = ("direct", "local", "hop", "envoy")
"""In every shape; the others only in the busiest one."""
AGAIN = {BUSY: ("local", "envoy", "envoy 2"), ONE: ("direct", "local", "hop")}
"""What is measured twice in a repeat: rates and medians that are compared, which one slow second must not decide."""
PAIRS = 4
"""Turns of this commit and of the base in each repeat and shape, side by side, so that what the machine does meanwhile hits both."""
RATE = 1000
OPEN_S, OPEN_TURNS = 2.5, 3
"""Of each open loop, and how often in one repeat: tails need more of them than costs do. All of it must end before a model
that is used for seven minutes gets a second copy."""
IDLE_STREAMS = HELD = 1000
MISSES = frozenset({"INTERNAL", "UNAVAILABLE", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"})
"""How calls of a model that cannot be loaded may end."""

Way = tuple[str, list[Process], tuple[str, ...]]
"""Target, processes to account for, arguments of the load generator."""


def ways(stage: Stage) -> dict[str, Way]:
    """Every path that is measured in a closed loop, by its name."""
    front, behind = stage.instances[:2]
    near, far = stage.runtimes[:2]
    tls_front, tls_behind = stage.secured
    everybody = [*stage.instances, *stage.runtimes]
    anywhere = ",".join(instance.address for instance in stage.instances)
    trusting = ("--tls", str(tls_front.authority))
    six = ("--connections", "6", "--streams", "11")
    found: dict[str, Way] = {
        "direct": (near.address, [near], ("--model", "none")),
        "local": (front.address, [front, near], ("--model", stage.models[0])),
        "hop": (front.address, [front, behind, far], ("--model", stage.models[1])),
        "one model": (anywhere, everybody, ("--model", stage.models[0], *six)),
        "100 models": (anywhere, everybody, ("--models", str(MODELS), "--zipf", "0.9", *six)),
        "TLS": (
            tls_front.address,
            [tls_front, stage.secured_runtimes[0]],
            ("--model", stage.secured_models[0], *trusting),
        ),
        "TLS hop": (
            tls_front.address,
            [tls_front, tls_behind, stage.secured_runtimes[1]],
            ("--model", stage.secured_models[1], *trusting),
        ),
        "alone": (stage.single.address, [stage.single, stage.single_runtime], ("--model", "m")),
        "streams": (stage.single.address, [stage.single, stage.single_runtime], ("--model", "m", "--held", str(HELD))),
    }
    for name, contender in stage.contenders.items():
        behind_it = [near] if contender.behind else []
        found[name] = (contender.process.address, [contender.process, *behind_it], contender.arguments)
    return found


def closed(way: Way, shape: str, seconds: float) -> dict[str, Any]:
    """One closed loop."""
    target, processes, own = way
    payload, connections, streams = SHAPES[shape]
    arguments = {
        "--payload-bytes": payload,
        "--connections": connections,
        "--streams": streams,
        "--seconds": seconds,
        "--warmup": 0.3,
    }
    return load(target, processes, *(str(word) for pair in arguments.items() for word in pair), *own)


def pairs(stage: Stage, shape: str, seconds: float) -> Iterator[dict[str, Any]]:
    """Closed loops at an instance of this commit and at one of the base, in turns; which one is first changes."""
    for turn in range(PAIRS):
        for commit in ("now", "base") if turn % 2 == 0 else ("base", "now"):
            instance, runtime = stage.pair[commit]
            way = (instance.address, [instance, runtime], ("--model", "m"))
            yield {"kind": "pair", "commit": commit, "shape": shape, **closed(way, shape, seconds)}


def opened(stage: Stage, condition: str, burnt: dict[str, float]) -> dict[str, Any]:
    """One open loop of warm local calls under a condition."""
    cold = condition.startswith("cold")
    instance, runtime, model = (
        (stage.single, stage.single_runtime, "m") if cold else (stage.front, stage.runtimes[0], stage.models[0])
    )
    arguments = ("--rate", str(RATE), "--model", model, "--seconds", str(OPEN_S), "--warmup", "0.3")
    settle()
    with beside(stage, condition, burnt) as also:
        pids = [word for name in also for word in ("--pid", name)]
        run = load(instance.address, [instance, runtime], *arguments, *pids)
    burnt[condition] = beside_calls(run)
    return {"kind": "open", "condition": condition, "beside_cpus": burnt[condition], **run}


def idle_streams(stage: Stage) -> dict[str, Any]:
    """Open calls on which nothing happens, at an instance that has not had many before: what they take."""
    arguments = ("--model", "m", "--held", str(IDLE_STREAMS), "--idle", "--seconds", "2", "--warmup", "0.5")
    run = load(stage.single.address, [stage.single], *arguments)
    return {"kind": "idle streams", "held": IDLE_STREAMS, **run}


def miss(stage: Stage, seconds: float) -> dict[str, Any]:
    """Calls of a model that cannot be loaded: each is held, and decided by Python without a load."""
    before = waits(stage.single)
    arguments = ("--rate", str(RATE), "--model", "bad", "--seconds", str(seconds), "--warmup", "0.3")
    run = load(stage.single.address, [stage.single], *arguments, expect=MISSES)
    after = waits(stage.single)
    return {"kind": "miss", "waits": {bound: count - before.get(bound, 0) for bound, count in after.items()}, **run}


def waits(instance: Process) -> dict[str, float]:
    """The histogram of waits for a decision: calls up to each bound, bounds in µs."""
    found: dict[str, float] = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{instance.metrics_port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("modelmesh_hold_milliseconds_bucket"):
                bound = line.split('le="')[1].split('"')[0]
                name = "1e12" if bound == "+Inf" else str(round(float(bound) * 1000))
                found[name] = found.get(name, 0) + float(line.rsplit(" ", 1)[1])
    return found


def measure(stage: Stage, repeats: int, seconds: float) -> Runs:
    """All runs, interleaved: each repeat has every contender once."""
    say("memory of idle streams")
    runs: Runs = [idle_streams(stage)]
    burnt: dict[str, float] = {}
    for repeat in range(1, repeats + 1):
        for shape in SHAPES:
            found = ways(stage)
            measured = [path for path in found if shape == BUSY or path in EVERYWHERE]
            again = [path for path in AGAIN.get(shape, ()) if path in found]
            for path in (*measured, *again):
                if path in stage.missing:
                    continue
                say(f"repeat {repeat} of {repeats}: {path}, {shape}")
                try:
                    run = closed(found[path], shape, seconds)
                except BenchmarkError as error:
                    stage.leave_out(path, error)
                    continue
                runs.append({"kind": "closed", "path": path, "shape": shape, **run})
            if stage.pair:
                say(f"repeat {repeat} of {repeats}: in turns with the base, {shape}")
                runs.extend(pairs(stage, shape, seconds))
        for _turn in range(OPEN_TURNS):
            for condition in ("idle", *(name for pair in CONDITIONS.items() for name in pair if name != "idle")):
                say(f"repeat {repeat} of {repeats}: {condition}, {RATE}/s")
                runs.append(opened(stage, condition, burnt))
        say(f"repeat {repeat} of {repeats}: misses, {RATE}/s")
        runs.append(miss(stage, seconds))
        stage.check_copies()
    return runs


def main() -> int:
    """Measure, write, print; 1 if a row is not what it must be."""
    parser = argparse.ArgumentParser(description="Measure the path of a call.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each closed loop")
    parser.add_argument("--base", help="a commit that is built too and takes turns with this one")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for path.json, path.md and path-*.svg")
    parser.add_argument("--render", action="store_true", help="only judge and render the runs in path.json")
    arguments = parser.parse_args()
    file = arguments.results / "path.json"
    if arguments.render:
        result = json.loads(file.read_text())
        result["rows"] = judge(result["runs"])
    else:
        with running_stage(base_build.build(arguments.base) if arguments.base else None) as stage:
            runs = measure(stage, arguments.repeats, arguments.seconds)
            missing = stage.missing
        result = {
            "environment": environment(),
            "base": arguments.base,
            "repeats": arguments.repeats,
            "contenders": SETTINGS,
            "missing": missing,
            "rows": judge(runs),
            "runs": runs,
        }
    arguments.results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=1) + "\n")
    page = "\n".join(render(result)) + "\n"
    file.with_suffix(".md").write_text(page)
    for name, picture in plots(result["runs"]).items():
        (arguments.results / name).write_text(picture)
    print(page)
    print(f"path: {json.dumps(result['rows'])}")
    return 0 if all(row["ok"] for row in result["rows"].values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"bench-path: {error}")
