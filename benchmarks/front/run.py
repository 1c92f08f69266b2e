"""What the front door costs: REST, access rules, tenants, the client and the console. `make bench-front`.

CPU is that of the whole instance, its Python included, per call. Contenders take turns; of the repeats the median of the ratios
counts. Other gateways and servers are not run here: those rows are not measured. Writes benchmarks/results/front.json.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from benchmarks.environment import environment
from benchmarks.front.console import console_row
from benchmarks.path.fleet import (
    TARGET,
    BenchmarkError,
    Process,
    free_ports,
    load,
    register,
    say,
    start_instance,
    start_runtime,
)

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.client import Client
from modelmesh.policy.access import KEY_HASH, hash_of_key

RESULTS = Path(__file__).parents[1] / "results"
NUMBERS = 784
KEYS, GRANTS = 10_000, 1_000
PLAIN = {"MM_METRICS": "disabled", "MM_ACCESS_LOG": "off"}
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """How long things are measured."""

    repeats: int
    seconds: float
    folder: Path


@contextlib.contextmanager
def instance(bench: Bench, name: str, **settings: str) -> Iterator[tuple[Process, Process, int]]:
    """An instance with the model `m` loaded, its runtime, and its REST port."""
    runtime = start_runtime(f"runtime-{name}")
    try:
        (rest,) = free_ports(1)
        more = {**PLAIN, "MM_REST_PORT": str(rest), **settings}
        access = more.pop("MM_ACCESS_PATH", None)
        store = f"sqlite:{bench.folder}/{name}.db"
        if access is not None:  # registered first, by whom nobody asks
            first = start_instance(f"{name}-first", runtime, store, bench.folder, more)
            register(first, load_now=False)
            first.stop()
            more["MM_ACCESS_PATH"] = access
        process = start_instance(name, runtime, store, bench.folder, more)
        try:
            if access is None:
                register(process)
            yield process, runtime, rest
        finally:
            process.stop()
    finally:
        runtime.stop()


def http_load(rest: int, process: Process, body: bytes, bench: Bench, *headers: str) -> dict[str, Any]:
    """Infer by REST, 64 at a time."""
    file = bench.folder / "body"
    file.write_bytes(body)
    command = [str(TARGET / "http-load"), "--target", f"127.0.0.1:{rest}", "--path", "/v2/models/m/infer"]
    command += [
        "--body-file",
        str(file),
        "--pid",
        process.pid_argument,
        "--warmup",
        "0.5",
        "--seconds",
        str(bench.seconds),
    ]
    for header in headers:
        command += ["--header", header]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if finished.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)}: {finished.stderr}")
    found: dict[str, Any] = json.loads(finished.stdout)
    if found["wrong"] or not found["calls"]:
        raise BenchmarkError(f"not all requests were answered well: {found}")
    return found


def cpu_us(run: dict[str, Any], process: Process) -> float:
    """CPU per call."""
    return float(run["cpu"][process.name]["us_per_request"])


def row(value: float | None, must: float, *, more: bool = False, **rest: Any) -> Row:
    """A figure and what it must be at most (or at least)."""
    ok = None if value is None else (value >= must if more else value <= must)
    return {"value": None if value is None else round(value, 3), "must": must, "ok": ok, **rest}


def rest_rows(bench: Bench) -> dict[str, Row]:
    """A tensor of 784 numbers as JSON and binary, and by gRPC."""
    values = np.linspace(0, 1, NUMBERS, dtype=np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, NUMBERS]}
    as_json = json.dumps({"inputs": [{**tensor, "data": [float(str(value)) for value in values]}]}).encode()
    head = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": values.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    json_part = json.dumps(head).encode()
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[values.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[1, NUMBERS])
    with instance(bench, "rest") as (process, runtime, rest):
        ratios: dict[str, list[float]] = {"json": [], "binary": []}
        costs: dict[str, list[float]] = {"json": [], "binary": [], "grpc": []}
        for repeat in range(bench.repeats):
            say(f"REST, repeat {repeat + 1} of {bench.repeats}")
            arguments = ("--model", "m", "--message", message.SerializeToString().hex(), "--connections", "4")
            by_grpc = load(
                process.address,
                [process, runtime],
                *arguments,
                "--streams",
                "16",
                "--seconds",
                str(bench.seconds),
                "--warmup",
                "0.5",
            )
            costs["grpc"].append(cpu_us(by_grpc, process))
            plain = http_load(rest, process, as_json, bench, "content-type=application/json")
            binary = http_load(
                rest,
                process,
                json_part + values.tobytes(),
                bench,
                f"inference-header-content-length={len(json_part)}",
                "content-type=application/octet-stream",
            )
            for name, run in (("json", plain), ("binary", binary)):
                costs[name].append(cpu_us(run, process))
                ratios[name].append(cpu_us(run, process) / costs["grpc"][-1])
    us = {name: round(median(found), 1) for name, found in costs.items()}
    return {
        "REST JSON over gRPC, CPU": row(median(ratios["json"]), 4.0, us=us["json"], grpc_us=us["grpc"]),
        "REST binary over gRPC, CPU": row(median(ratios["binary"]), 1.8, us=us["binary"], grpc_us=us["grpc"]),
    }


def access_document(folder: Path) -> Path:
    """10,000 keys, 1,000 grants, an issuer; the caller's key is one in the middle, and its grant the last."""
    principals = [{"name": f"p{number}", "keys": [KEY_HASH + hash_of_key(f"key-{number}")]} for number in range(KEYS)]
    grants = [{"to": [f"p{number}"], "verbs": ["infer"], "models": [f"of-{number}-*"]} for number in range(GRANTS - 1)]
    grants.append({"to": ["p5000"], "verbs": ["infer", "load"], "models": ["m*"]})
    issuer = {"name": "corp", "url": "https://login.example.org", "audience": "mesh", "key_set": "/nowhere"}
    path = folder / "access.json"
    path.write_text(json.dumps({"principals": principals, "grants": grants, "issuers": [issuer]}))
    return path


def access_row(bench: Bench) -> dict[str, Row]:
    """Warm gRPC calls with and without access rules, in turns."""
    path = str(access_document(bench.folder))
    key = ("--header", "authorization=Bearer key-5000")
    with (
        instance(bench, "open") as (free, free_runtime, _),
        instance(bench, "ruled", MM_ACCESS_PATH=path) as (ruled, ruled_runtime, _),
    ):
        ratios = []
        for repeat in range(2 * bench.repeats):
            say(f"access rules, repeat {repeat + 1} of {2 * bench.repeats}")
            arguments = ("--model", "m", "--seconds", str(bench.seconds), "--warmup", "0.5", *key)
            one = load(free.address, [free, free_runtime], *arguments)
            other = load(ruled.address, [ruled, ruled_runtime], *arguments)
            ratios.append(
                (cpu_us(other, ruled) / cpu_us(other, ruled_runtime)) / (cpu_us(one, free) / cpu_us(one, free_runtime))
            )
    return {f"access rules ({KEYS} keys, {GRANTS} grants), CPU of a warm call": row(median(ratios), 1.03)}


def tenant_row(bench: Bench) -> dict[str, Row]:
    """A tenant at a hundred times its quota beside one within it.

    Compared with the same load at another instance: on two CPUs the load generator itself slows everything down. What it is
    against no load at all stands beside it.
    """
    document = bench.folder / "tenants.json"
    tenants = {"loud": {"calls_per_second": 100}, "calm": {"calls_per_second": 1_000_000}}
    principals = [{"name": name, "tenant": name, "keys": [KEY_HASH + hash_of_key(name)]} for name in tenants]
    grants = [{"to": ["*"], "verbs": ["infer", "load"], "models": ["*"]}]
    document.write_text(json.dumps({"tenants": tenants, "principals": principals, "grants": grants}))
    rules = {"MM_ACCESS_PATH": str(document)}
    with instance(bench, "tenants", **rules) as (process, _, _), instance(bench, "other", **rules) as (other, _, _):
        common = [
            "--model",
            "m",
            "--connections",
            "2",
            "--streams",
            "4",
            "--seconds",
            str(bench.seconds),
            "--warmup",
            "0.5",
        ]
        calm = (*common, "--rate", "1000", "--header", "authorization=Bearer calm")
        p99, p99_alone, rates = [], [], []
        for repeat in range(bench.repeats):
            say(f"tenants, repeat {repeat + 1} of {bench.repeats}")
            alone = load(process.address, [process], *calm)
            runs = {}
            for where in (other, process):
                with _loud(where, bench):
                    runs[where.name] = load(process.address, [process], *calm)
            p99.append(quantile(runs["tenants"], "p99") / quantile(runs["other"], "p99"))
            p99_alone.append(quantile(runs["tenants"], "p99") / quantile(alone, "p99"))
            rates.append(runs["tenants"]["per_second"] / alone["per_second"])
    return {
        "tenant within its quota beside one at 100 times its own, p99": row(
            median(p99), 1.1, over_no_load=round(median(p99_alone), 2)
        ),
        "the same, rate": row(median(rates), 0.9, more=True),
    }


@contextlib.contextmanager
def _loud(where: Process, bench: Bench) -> Iterator[None]:
    """The tenant that is far beyond its quota."""
    command = [str(TARGET / "load"), "--target", where.address, "--model", "m", "--rate", "10000", "--connections", "2"]
    command += ["--streams", "8", "--seconds", str(bench.seconds + 2), "--header", "authorization=Bearer loud"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as beside:
        try:
            time.sleep(0.5)
            yield
        finally:
            beside.terminate()


def quantile(run: dict[str, Any], name: str) -> float:
    """A latency of the load generator."""
    for group in (run, run.get("latency_us", {}), run.get("latency_ms", {})):
        for key, value in group.items():
            if key.startswith(name) and isinstance(value, int | float):
                return float(value)
    raise BenchmarkError(f"the load generator tells no {name}: {sorted(run)}")


def client_row(bench: Bench) -> dict[str, Row]:
    """`modelmesh.client` beside grpcio with the message made by hand, one call at a time, 76 bytes of tensor."""
    values = np.arange(19, dtype=np.float32)
    message = pb.ModelInferRequest(model_name="m", raw_input_contents=[values.tobytes()])
    message.inputs.add(name="x", datatype="FP32", shape=[19])
    raw = message.SerializeToString()
    with (
        instance(bench, "client") as (process, _, _),
        grpc.insecure_channel(process.address) as channel,
        Client(process.address) as client,
    ):
        bare_call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        calls: dict[str, Callable[[], Any]] = {
            "bare": lambda: bare_call(raw, metadata=(("mm-model-id", "m"),)),
            "client": lambda: client.infer("m", {"x": values}),
        }
        added = []
        for repeat in range(bench.repeats):
            say(f"client, repeat {repeat + 1} of {bench.repeats}")
            took = {name: p50_us(call, bench.seconds / 2) for name, call in calls.items()}
            added.append(took["client"] - took["bare"])
    return {"client infer of 76 B, added p50 in µs": row(median(added), 60)}


def p50_us(call: Callable[[], Any], seconds: float) -> float:
    """The median time of a call."""
    for _ in range(200):
        call()
    took = []
    until = time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        call()
        took.append(time.perf_counter() - began)
    return median(took) * 1e6


def main() -> int:
    """Measure, write, print; 1 if a figure is not what it must be."""
    parser = argparse.ArgumentParser(description="Measure the front door.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for front.json")
    parser.add_argument("parts", nargs="*", help="rest, access, tenants, client, console; default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modelmesh-bench-") as folder:
        bench = Bench(arguments.repeats, arguments.seconds, Path(folder))
        parts: dict[str, Callable[[], dict[str, Row]]] = {
            "rest": lambda: rest_rows(bench),
            "access": lambda: access_row(bench),
            "tenants": lambda: tenant_row(bench),
            "client": lambda: client_row(bench),
            "console": lambda: console_row(bench.folder, row),
        }
        rows: dict[str, Row] = {}
        for name in arguments.parts or parts:
            rows |= parts[name]()
    rows["REST calls/s over the best of Envoy, MLServer and Triton"] = row(None, 3.0)
    result = {"environment": environment(), "repeats": bench.repeats, "rows": rows}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "front.json").write_text(json.dumps(result, indent=1) + "\n")
    for name, figure in rows.items():
        print(f"{name:72} {figure['value']}  (must: {figure['must']})")
    print(f"front: {json.dumps(rows)}")
    return 0 if all(figure["ok"] is not False for figure in rows.values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchmarkError as error:
        sys.exit(f"bench-front: {error}")
