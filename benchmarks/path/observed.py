"""What it costs a call to be observed: metrics, payloads of one in a hundred, access control, traces. `make bench-observed`.

One instance for each way, all there all the time, that take turns: warm local calls in a closed loop. CPU is that of
the whole instance, its Python included, per call. Of the repeats the median of the ratio to the plain instance of the
same turn counts. Writes benchmarks/results/observed.json.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from figures import instances_us, runtime_us
from fleet import BenchmarkError, Process, free_ports, load, register, say, start_instance, start_runtime
from machine import RESULTS, environment

from modelmesh.testing.sinks import Sink

METHOD = "bench.Echo/Call"
ALLOWED = json.dumps({"rpcConfigs": {METHOD: {}}, "allowOtherRpcs": False})

MUST = 1.15
JUDGED = "metrics, tap 1 %, access control"


def ways(sink: str, metrics_port: int, per_model_port: int) -> dict[str, dict[str, str]]:
    """Settings by what they turn on; the first has all off."""
    plain = {"MM_METRICS": "disabled", "MM_ACCESS_LOG": "off"}
    metrics = {"MM_METRICS": f"prometheus:port={metrics_port};scheme=http"}
    access = {"MM_DATAPLANE_CONFIG": ALLOWED}
    tap = {"MM_PAYLOAD_PROCESSORS": f"{sink}/?sample=0.01&batch=20"}
    return {
        "all off": plain,
        "metrics": plain | metrics,
        "metrics by model": plain
        | {"MM_METRICS": f"prometheus:port={per_model_port};scheme=http;per_model_metrics=true"},
        "statsd": plain | {"MM_METRICS": "statsd"},
        "access control": plain | access,
        "tap 1 %": plain | tap,
        JUDGED: {**plain, **metrics, **access, **tap, "MM_ACCESS_LOG": "failed"},
        "traces 1 %": plain | {"MM_TRACES_ENDPOINT": f"{sink}/v1/traces", "MM_TRACES_FRACTION": "0.01"},
    }


@contextlib.contextmanager
def sink_beside() -> Iterator[Sink]:
    """A sink in a thread of this process."""
    loop = asyncio.new_event_loop()
    sink = Sink(keeps=0)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(sink.__aenter__(), loop).result()
    try:
        yield sink
    finally:
        asyncio.run_coroutine_threadsafe(sink.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measure(repeats: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Runs by way, interleaved."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="modelmesh-bench-")))
        sink = stack.enter_context(sink_beside())
        instances: dict[str, tuple[Process, Process]] = {}
        first, second, third = free_ports(3)
        for number, (way, settings) in enumerate(ways(sink.url, first, second).items()):
            runtime = start_runtime(f"runtime-{number}")
            stack.callback(runtime.stop)
            if way == JUDGED:
                settings["MM_METRICS"] = f"prometheus:port={third};scheme=http"
            store = f"sqlite:{folder}/{number}.db"
            instance = start_instance(f"instance-{number}", runtime, store, folder, settings)
            stack.callback(instance.stop)
            register(instance)
            instances[way] = (instance, runtime)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in instances}
        for repeat in range(1, repeats + 1):
            for way, (instance, runtime) in instances.items():
                say(f"repeat {repeat} of {repeats}: {way}")
                arguments = ("--model", "m", "--seconds", str(seconds), "--warmup", "0.3")
                runs[way].append(load(instance.address, [instance, runtime], *arguments))
        return runs


def figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """CPU per call of each way, in µs, and against the plain one; each in units of its own run's runtime."""
    plain = runs["all off"]
    found = {}
    for way, own in runs.items():
        ratios = [
            (instances_us(run) / runtime_us(run)) / (instances_us(base) / runtime_us(base))
            for run, base in zip(own, plain, strict=True)
        ]
        found[way] = {
            "us_per_call": round(median(map(instances_us, own)), 2),
            "ratio": round(median(ratios), 3),
            "calls_per_second": round(median(run["per_second"] for run in own)),
        }
    return found


def main() -> int:
    """Measure, write, print; 1 if being observed costs too much."""
    parser = argparse.ArgumentParser(description="Measure what it costs a call to be observed.")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for observed.json")
    arguments = parser.parse_args()
    found = figures(measure(arguments.repeats, arguments.seconds))
    ok = found[JUDGED]["ratio"] <= MUST
    result = {
        "environment": environment(),
        "repeats": arguments.repeats,
        "must": {JUDGED: MUST},
        "ok": ok,
        "ways": found,
    }
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "observed.json").write_text(json.dumps(result, indent=1) + "\n")
    for way, figure in found.items():
        print(f"{way:36} {figure['us_per_call']:6} µs a call  x {figure['ratio']}")
    print(f"observed: {json.dumps({'ratio': found[JUDGED]['ratio'], 'must': MUST, 'ok': ok})}")
    return 0 if ok else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"bench-observed: {error}")
