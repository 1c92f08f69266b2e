"""The processes that a path benchmark needs: etcd, runtimes and instances on loopback, started and cleaned up."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from modelmesh._proto import admin_pb2, model_mesh_pb2

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
START_TIMEOUT_S = 30


class BenchmarkError(Exception):
    """Something did not work as the figures would claim."""


@dataclass
class Process:
    """One process of the fleet."""

    name: str
    popen: "subprocess.Popen[str]"
    address: str = ""
    log: Path | None = None
    state: Path | None = None
    metrics_port: int = 0
    authority: Path | None = None
    """Whom to trust, where calls go over TLS."""

    @property
    def pid_argument(self) -> str:
        """For the load generator."""
        return f"{self.name}={self.popen.pid}"

    def stop(self) -> None:
        """End it."""
        self.popen.terminate()
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def start_runtime(name: str, *arguments: str) -> Process:
    """Start an echo runtime on a port of its choice."""
    popen = subprocess.Popen(
        [str(TARGET / "echo-runtime"), "--listen", "127.0.0.1:0", "--capacity-bytes", str(1 << 30), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert popen.stdout is not None
    line = popen.stdout.readline()
    if not line.startswith("listening on "):
        raise BenchmarkError(f"the echo runtime does not start: {line}")
    return Process(name, popen, line.removeprefix("listening on ").strip())


def start_instance(
    name: str, runtime: Process, kv_store: str, folder: Path, more: Mapping[str, str] | None = None
) -> Process:
    """Start an instance beside a runtime and wait until it is ready; `more`: settings of its own."""
    serving, peer, probe, prestop, metrics = free_ports(5)
    log, state = folder / f"{name}.log", folder / f"{name}.state"
    environment = {
        **{
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("MM_", "KV_", "WATSON_", "INTERNAL_"))
        },
        "KV_STORE": kv_store,
        "MM_SERVICE_NAME": "bench",
        "MM_INSTANCE_ID": name,
        "MM_LISTEN_HOST": "127.0.0.1",
        "MM_SVC_GRPC_PORT": str(serving),
        "MM_REST_PORT": "NONE",
        "WATSON_SERVICE_PORT": str(peer),
        "MM_PROBE_PORT": str(probe),
        "MM_PRESTOP_WAIT_PORT": str(prestop),
        "INTERNAL_GRPC_PORT": runtime.address.rpartition(":")[2],
        "MM_METRICS": f"prometheus:port={metrics};scheme=http",
        # A hot model must not get a second copy: then the hop would be none.
        "MM_SCALEUP_RPM_THRESHOLD": str(2_000_000_000),
        "BENCH_STATE_FILE": str(state),
        "PYTHONPATH": str(ROOT / "src"),
        **(more or {}),
    }
    with log.open("w") as output:
        popen = subprocess.Popen(
            [sys.executable, str(HERE / "disturbed_instance.py")],
            env=environment,
            stdout=output,
            stderr=output,
            text=True,
        )
    process = Process(name, popen, f"127.0.0.1:{serving}", log, state, metrics)
    until = time.monotonic() + START_TIMEOUT_S
    while not is_ready(probe):
        if popen.poll() is not None or time.monotonic() > until:
            process.stop()
            raise BenchmarkError(f"instance {name} does not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
    return process


def is_ready(probe: int) -> bool:
    """Ask `/ready`."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{probe}/ready", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses now, all different."""
    with contextlib.ExitStack() as kept_open:
        sockets = [kept_open.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


@contextlib.contextmanager
def channel(instance: Process) -> Iterator[grpc.Channel]:
    """A channel to an instance."""
    if instance.authority is None:
        opened = grpc.insecure_channel(instance.address)
    else:
        credentials = grpc.ssl_channel_credentials(instance.authority.read_bytes())
        opened = grpc.secure_channel(instance.address, credentials)
    with opened:
        yield opened


def copies(instance: Process, method: str, request: object) -> list[str]:
    """Ask about a model, and return where its copies are."""
    with channel(instance) as opened:
        call = opened.unary_unary(
            f"/mmesh.ModelMesh/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=model_mesh_pb2.ModelStatusInfo.FromString,
        )
        status = call(request, timeout=30)
    return sorted(copy.location for copy in status.modelCopyInfos)


def register(instance: Process, model: str = "m", *, load_now: bool = True) -> None:
    """Register a model of an instance, and wait until it is loaded."""
    request = model_mesh_pb2.RegisterModelRequest(modelId=model, loadNow=load_now, sync=load_now)
    request.modelInfo.type = "bench"
    copies(instance, "registerModel", request)


def keep_alone(instance: Process, model: str) -> None:
    """Let a model have one copy: what is used for more than seven minutes would get a spare."""
    with channel(instance) as opened:
        call = opened.unary_unary(
            "/modelmesh.v1.Admin/SetCopies",
            request_serializer=admin_pb2.SetCopiesRequest.SerializeToString,
            response_deserializer=admin_pb2.Model.FromString,
        )
        call(admin_pb2.SetCopiesRequest(model_id=model, maximum=1), timeout=30)


def holders(instance: Process, model: str) -> list[str]:
    """The instances at which a model is."""
    return copies(instance, "getModelStatus", model_mesh_pb2.GetStatusRequest(modelId=model))


def load(
    target: str, processes: list[Process], *arguments: str, expect: frozenset[str] = frozenset({"OK"})
) -> dict[str, Any]:
    """Run the load generator once; raises BenchmarkError if a call ended otherwise or came back changed.

    Args:
        target: Addresses, separated by commas.
        processes: Whose CPU and memory are measured.
        arguments: Of the load generator.
        expect: Statuses with which calls may end.
    """
    command = load_command(target, processes, *arguments)
    before = machine_ticks()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    busy, total = (after - start for after, start in zip(machine_ticks(), before, strict=True))
    if finished.returncode != 0:
        raise BenchmarkError(f"{' '.join(command)}: {finished.stderr}")
    result: dict[str, Any] = json.loads(finished.stdout)
    if not set(result["statuses"]) <= expect or not result["statuses"] or result["mismatched"] or result["unanswered"]:
        raise BenchmarkError(f"{' '.join(command)}: not all calls came back well: {finished.stdout}")
    result["foreign_percent"] = foreign_percent(result, busy, total)
    return result


def load_command(target: str, processes: list[Process], *arguments: str) -> list[str]:
    """How the load generator is started."""
    command = [str(TARGET / "load"), *arguments]
    for address in target.split(","):
        command += ["--target", address]
    for process in processes:
        command += ["--pid", process.pid_argument]
    return command


def machine_ticks() -> tuple[int, int]:
    """Clock ticks that all CPUs were busy, and that there were."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def foreign_percent(result: dict[str, Any], busy: int, total: int) -> float:
    """Share of the machine used by what is not accounted for: other programs, etcd, and what disturbs on purpose.

    Measured over the whole run, warm-up included, and set against our share in the measured time.
    """
    ours_s = sum(cpu["user_s"] + cpu["system_s"] for cpu in result["cpu"].values())
    capacity_s = result["seconds"] * (os.cpu_count() or 1)
    return round(max(0.0, 100 * (busy / max(1, total) - ours_s / capacity_s)), 1)


def say(what: str) -> None:
    """Show progress where it does not disturb the result."""
    print(what, file=sys.stderr, flush=True)
