"""What a call of a real server costs the instance in front of it, beside the same call of a runtime that does nothing.

In turn, load generators call the server through an instance, and then the server itself beside an echo runtime through another
instance: so the CPUs are as busy while the second instance is measured as while the first one is. All at one rate, a third of
what the server takes. At one rate, because an instance spends more on a call the fewer of them come together, and a server in
Python takes a hundredth of the calls that the byte path carries.
"""

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from benchmarks.servers.subject import Call, Subject
from real_kit import Beings, adapter_command, adapter_environment

from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh.instance.local_cluster import Beside, LocalCluster, LocalInstance, free_port
from modelmesh.servers.memory import descendants

PROGRAMS = Path(__file__).parents[2] / "target" / "release"
MIB = 1024 * 1024
MODEL = "called"
SHARE = 0.33
"""Of the calls that the server takes from sixteen callers."""

REPEATS, SECONDS = 5, 4.0


@dataclass(frozen=True)
class _Way:
    """Where calls go, and whose CPU is counted by name."""

    target: str
    pids: Mapping[str, int]
    headers: tuple[str, ...] = ()


async def inference(subject: Subject, call: Call, folder: Path) -> list[dict[str, float]]:
    """Figures of each repeat: CPU in µs a call, p50 in µs."""
    ports = Beings(free_port(), free_port(), free_port(), folder / "models")
    ports.folder.mkdir(parents=True)
    environment = subject.environment(ports)

    def echo(_: int, listen: str) -> list[str]:
        return [str(PROGRAMS / "echo-runtime"), "--listen", listen]

    # Calls go to a port, as those to the server do; the socket that `echo` listens on is for loads.
    echo_port = free_port()

    def adapter(_: int, listen: str) -> list[str]:
        return adapter_command(subject.name, listen, call.path.parent)

    served = LocalCluster(
        1,
        adapter,
        folder=folder / "served",
        runtime_environment=lambda _: {
            **adapter_environment(ports, 4096 * MIB, 256 * MIB),
            **environment,
        },
        beside=lambda _: [Beside("server", subject.command(ports), environment)],
        own_environment=lambda _: {"INTERNAL_SERVING_GRPC_PORT": str(call.data_port(ports))},
    )
    echoed = LocalCluster(
        1,
        echo,
        folder=folder / "echoed",
        beside=lambda _: [Beside("echo", echo(1, f"127.0.0.1:{echo_port}"))],
        own_environment=lambda _: {"INTERNAL_SERVING_GRPC_PORT": str(echo_port)},
    )
    async with _running(served) as instance, _running(echoed) as echoing:
        await _register(instance, f"mt:{call.model_format}", str(call.path))
        await _register(echoing, "mt:echo", "")
        assert instance.mesh is not None
        assert echoing.mesh is not None
        server = instance.beside[0].pid
        servers = {f"server{number}": pid for number, pid in enumerate([server, *descendants(server)])}
        header = (f"mm-model-id={MODEL}",)
        direct = _Way(f"127.0.0.1:{call.data_port(ports)}", servers)
        through = _Way(instance.endpoint, {**servers, "instance": instance.mesh.pid}, header)
        nothing = _Way(echoing.endpoint, {"instance": echoing.mesh.pid}, header)
        takes = await asyncio.to_thread(_load, direct, call, None)
        rate = max(1, round(takes["completed"] / takes["seconds"] * SHARE))
        found = []
        for _ in range(REPEATS):
            passed_on = await asyncio.to_thread(_load, through, call, rate)
            called, echoed_back = await asyncio.gather(
                *(asyncio.to_thread(_load, way, call, rate) for way in (direct, nothing))
            )
            found.append({"rate": float(rate), **_figures(called, passed_on, echoed_back)})
    return found


def _figures(direct: Mapping[str, Any], through: Mapping[str, Any], nothing: Mapping[str, Any]) -> dict[str, float]:
    return {
        "direct_server_us": _us(direct, "server"),
        "server_us": _us(through, "server"),
        "instance_us": _us(through, "instance"),
        "echo_instance_us": _us(nothing, "instance"),
        "direct_p50_us": direct["latency_us"]["p50"],
        "p50_us": through["latency_us"]["p50"],
    }


def _us(run: Mapping[str, Any], prefix: str) -> float:
    """CPU per call of the processes whose names begin so."""
    return float(sum(cpu["us_per_request"] for name, cpu in run["cpu"].items() if name.startswith(prefix)))


def _load(way: _Way, call: Call, rate: int | None) -> dict[str, Any]:
    """One run of the load generator; sixteen callers, or so many calls a second."""
    command = [str(PROGRAMS / "load"), "--target", way.target, "--method", f"/{call.method}"]
    command += ["--message", call.message(MODEL).hex(), "--connections", "4", "--seconds", str(SECONDS)]
    command += ["--streams", "4"] if rate is None else ["--rate", str(rate)]
    for header in way.headers:
        command += ["--header", header]
    for name, pid in way.pids.items():
        command += ["--pid", f"{name}={pid}"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60 + SECONDS, check=True)
    found: dict[str, Any] = json.loads(finished.stdout)
    if set(found["statuses"]) != {"OK"}:
        raise SystemExit(f"{way.target}: not all calls came back well: {finished.stdout[:500]}")
    return found


@contextlib.asynccontextmanager
async def _running(cluster: LocalCluster) -> AsyncIterator[LocalInstance]:
    assert cluster.folder is not None
    cluster.folder.mkdir()
    try:
        await cluster.start()
        (instance,) = cluster.instances
        yield instance
    finally:
        await cluster.stop()


async def _register(instance: LocalInstance, kind: str, path: str) -> None:
    """Register the model, and wait until it is loaded."""
    info = mesh_pb.ModelInfo(type=kind, path=path)
    request = mesh_pb.RegisterModelRequest(modelId=MODEL, modelInfo=info, loadNow=True, sync=True)
    async with grpc.aio.insecure_channel(instance.endpoint) as channel:
        call: Callable[..., Any] = channel.unary_unary(
            "/mmesh.ModelMesh/registerModel",
            request_serializer=mesh_pb.RegisterModelRequest.SerializeToString,
            response_deserializer=mesh_pb.ModelStatusInfo.FromString,
        )
        answer = await call(request, timeout=120)
    if answer.status != mesh_pb.ModelStatusInfo.LOADED:
        raise SystemExit(f"{MODEL} of type {kind} is not loaded: {answer}")
