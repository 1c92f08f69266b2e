"""What a cluster costs to run, to grow and to start: `make bench-cluster`.

Real processes: instances, echo runtimes, etcd with its data in memory. Management calls come from the load
generator of the kit, so that the clients cost little of the two cores that all share. Writes
benchmarks/results/cluster.json, and cluster.md rendered from it; with `--render` only the latter.
"""

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from benchmarks.faults.fleet import ECHO, ROOT, generator

from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.adapters.store import open_store
from modelmesh.control.view.keys import Keys
from modelmesh.instance.local_cluster import SERVICE, LocalCluster
from modelmesh.instance.local_etcd import LocalEtcd
from modelmesh.ports import Put, Transaction
from modelmesh.values.ids import ModelId
from modelmesh.values.records import ModelRecord

RESULTS = ROOT / "benchmarks" / "results"
KEYS = Keys(root="", prefix="tas-runtime", service=SERVICE)
MANY = 100_000
CALLERS = ("--connections", "4", "--streams", "4")
"""16 callers at a time."""

MARK = "#########"
MIB = 1024 * 1024


@dataclass(frozen=True)
class Row:
    """One figure: what it is, its unit, and its bound."""

    what: str
    must: float
    at_least: bool = False
    unit: str = ""


ROWS = {
    "register_etcd": Row("registerModel by 16 callers, etcd", 3_000, at_least=True, unit="/s"),
    "register_sqlite": Row("registerModel by 16 callers, SQLite", 5_000, at_least=True, unit="/s"),
    "status": Row("getModelStatus by 16 callers", 10_000, at_least=True, unit="/s"),
    "idle_memory": Row("memory of an idle instance", 90, unit=" MB"),
    "growth_registered": Row("growth of an instance by 100,000 registered models, the largest of 3", 10, unit=" MB"),
    "route": Row("memory of a route to a copy elsewhere, in the core", 250, unit=" B"),
    "ready_registered": Row("from start to ready with 100,000 registered", 1.5, unit=" s"),
    "cold_over_warm": Row("cold call with a load time of 0, p50 over a warm call's", 5, unit=" ms"),
    "cold_registered": Row("the same with 100,000 registered, at any of 3 instances", 10, unit=" ms"),
    "one_load": Row("loads by 50 callers of one cold model at 3 instances", 1, unit=""),
    "over_commit_hits": Row("over-commit: hit ratio, 1,000 models, room for 100, Zipf 0.9", 0.56, at_least=True),
    "over_commit_loads": Row("over-commit: loads of 20 ms, 8 at a time (400 possible)", 300, at_least=True, unit="/s"),
    "over_commit_errors": Row("over-commit: failed calls", 0),
    "help": Row("`modelmesh --help`", 300, unit=" ms"),
}


@dataclass
class Figures:
    """What was measured."""

    values: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def take(self, name: str, value: float, **notes: object) -> None:
        """One figure, shown as soon as it is known."""
        assert name in ROWS, name
        self.values[name] = round(value, 3)
        if notes:
            self.notes[name] = notes
        print(f"  {ROWS[name].what}: {value:,.3f}{ROWS[name].unit} {notes or ''}", file=sys.stderr, flush=True)


class Cluster:
    """A running cluster and what is asked of it."""

    def __init__(self, local: LocalCluster) -> None:
        self.local = local
        self.channels = [grpc.aio.insecure_channel(instance.endpoint) for instance in local.instances]

    @property
    def targets(self) -> list[str]:
        """For the load generator."""
        return [word for instance in self.local.instances for word in ("--target", instance.endpoint)]

    def rss(self, number: int) -> int:
        """Resident bytes of an instance."""
        mesh = self.local.instances[number].mesh
        assert mesh is not None
        status = Path(f"/proc/{mesh.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    async def call(self, number: int, name: str, request: Any, answer: Any, **options: Any) -> Any:
        """A management call."""
        method = self.channels[number].unary_unary(
            f"/mmesh.ModelMesh/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await method(request, timeout=60, **options)

    async def infer(self, number: int, model: str) -> float:
        """One call of a model; returns milliseconds."""
        method = self.channels[number].unary_unary("/bench.Echo/Call")
        began = time.perf_counter()
        answer = await method(b"x" * 76, metadata=(("mm-model-id", model),), timeout=60)
        assert answer == b"x" * 76
        return (time.perf_counter() - began) * 1000

    async def register(self, count: int, run: int) -> dict[str, Any]:
        """Register models, new ones in each run, as fast as 16 callers can; returns what the generator saw."""
        request = pb.RegisterModelRequest(modelId=f"r{run}-{MARK}", modelInfo=pb.ModelInfo(type="echo", path="x"))
        return await self.managed("registerModel", request, "--count", str(count), "--seconds", "120")

    async def managed(self, name: str, request: Any, *arguments: str) -> dict[str, Any]:
        """Management calls by 16 callers."""
        message = request.SerializeToString().hex()
        method = ("--method", f"/mmesh.ModelMesh/{name}", "--message", message)
        result = await generator(*self.targets, *CALLERS, *method, "--warmup", "0", *arguments)
        assert set(result["statuses"]) == {"OK"}, result["statuses"]
        return result


@asynccontextmanager
async def cluster(count: int, *runtime: str, etcd: LocalEtcd | None = None) -> AsyncIterator[Cluster]:
    """Start instances with echo runtimes; everything they write is in memory."""
    with tempfile.TemporaryDirectory(prefix="modelmesh-bench-", dir="/dev/shm") as folder:
        local = LocalCluster(
            count,
            lambda _, listen: [str(ECHO), "--listen", listen, "--strict", *runtime],
            folder=Path(folder),
            etcd=etcd or (LocalEtcd(Path(folder) / "etcd", durable=False) if count > 1 else None),
        )
        try:
            await local.start()
            running = Cluster(local)
            yield running
            for channel in running.channels:
                await channel.close()
        finally:
            await local.stop()


async def registration(figures: Figures) -> None:
    """How fast models are registered and asked for."""
    for name, count in (("register_sqlite", 1), ("register_etcd", 3)):
        async with cluster(count) as running:
            rates = [(await running.register(10_000, run))["per_second"] for run in range(3)]
            figures.take(name, statistics.median(rates), runs=[round(rate) for rate in rates])
            if count == 1:
                request = pb.GetStatusRequest(modelId=f"r0-{MARK}")
                result = await running.managed("getModelStatus", request, "--below", "1000", "--seconds", "4")
                figures.take("status", result["per_second"])


async def cold(running: Cluster, models: list[str]) -> float:
    """What first calls of registered models, entering anywhere, take more than warm ones at the same places; p50, ms."""
    count = len(running.channels)
    for number, model in enumerate(models[:20]):  # connections between all, and warm code
        await running.infer(number % count, model)
    first = [await running.infer(number % count, model) for number, model in enumerate(models[20:])]
    again = [await running.infer(number % count, model) for number, model in enumerate(models[20:])]
    return statistics.median(first) - statistics.median(again)


async def coldness(figures: Figures) -> None:
    """Cold calls at three instances, and fifty at once; in three clusters one after the other."""
    memory_bytes: list[int] = []
    added_ms: list[float] = []
    loads: list[int] = []
    for _ in range(3):
        async with cluster(3) as running:
            memory_bytes += [running.rss(number) for number in range(3)]
            models = [f"c-{number}" for number in range(220)]
            for model in [*models, "one"]:
                request = pb.RegisterModelRequest(modelId=model, modelInfo=pb.ModelInfo(type="echo"))
                await running.call(0, "registerModel", request, pb.ModelStatusInfo)
            added_ms.append(await cold(running, models))
            await asyncio.gather(*(running.infer(number % 3, "one") for number in range(50)))
            logs = "".join(path.read_text() for path in running.local.logs.glob("instance-*.log"))
            loads.append(sum(" loaded " in line and "model=one " in line + " " for line in logs.splitlines()))
    figures.take("idle_memory", max(memory_bytes) / 1e6)
    figures.take("cold_over_warm", statistics.median(added_ms), runs=[round(added, 2) for added in added_ms])
    figures.take("one_load", max(loads), runs=loads)


async def many(figures: Figures) -> None:
    """100,000 registered models: memory, cold calls, start."""
    async with cluster(3) as running:
        await asyncio.sleep(2)
        before = [running.rss(number) for number in range(3)]
        await _fill(running)
        models = [f"many-{number:06}" for number in range(0, MANY, MANY // 220)]
        figures.take("cold_registered", await cold(running, models))
        growth = [running.rss(number) - before[number] for number in range(3)]
        figures.take("growth_registered", max(growth) / 1e6, all_mb=[round(bytes_ / 1e6, 1) for bytes_ in growth])
        instance = running.local.instances[2]
        assert instance.mesh is not None
        await instance.mesh.stop()
        began = time.perf_counter()
        await running.local.start_mesh(instance)
        await running.local.wait_ready(instance)
        figures.take("ready_registered", time.perf_counter() - began)


async def _fill(running: Cluster) -> None:
    """Write records straight into the store."""
    store = await open_store(running.local.store_setting)
    try:
        record = ModelRecord(type="echo", path="p", last_use_ms=int(time.time() * 1000) - 6 * 3_600_000).encode()
        for start in range(0, MANY, 100):
            puts = tuple(Put(KEYS.model(ModelId(f"many-{number:06}")), record) for number in range(start, start + 100))
            await store.transact(Transaction((), then=puts))
    finally:
        await store.close()


async def routes(figures: Figures) -> None:
    """What knowing of copies elsewhere costs: in the core alone, and in a whole instance beside one that loads."""
    core = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", CORE_ROUTES], check=True, capture_output=True)
    count = 10_000
    big = str(2 * count * MIB)
    async with cluster(2, "--capacity-bytes", big) as running:
        await asyncio.sleep(2)
        before = running.rss(1)
        request = pb.RegisterModelRequest(
            modelId=f"r-{MARK}", modelInfo=pb.ModelInfo(type="echo"), loadNow=True, sync=True
        )
        message = ("--message", request.SerializeToString().hex(), "--header", "mm-balanced=true", "--warmup", "0")
        target = ("--target", running.local.instances[0].endpoint, *CALLERS)
        method = ("--method", "/mmesh.ModelMesh/registerModel")
        result = await generator(*target, *method, *message, "--count", str(count), "--seconds", "120")
        assert set(result["statuses"]) == {"OK"}, result["statuses"]
        await asyncio.sleep(3)
        whole = (running.rss(1) - before) / count
    figures.take("route", float(core.stdout), with_the_control_plane=round(whole))


CORE_ROUTES = """
import pathlib
from modelmesh._core import _native
from modelmesh.values.dataplane import PeerAddress, RemoteCopy, Route
def rss():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024
core = _native.Core(instance="a", runtime="127.0.0.1:1", serving=None, peer="127.0.0.1:0")
core.start()
core.set_peers([("b", PeerAddress("127.0.0.1:2"))])
def fill(start, end):
    for first in range(start, end, 1000):
        core.set_routes([(f"m-{n:021}", Route(None, (RemoteCopy("b", n),))) for n in range(first, first + 1000)])
fill(0, 20_000)
before = rss()
fill(20_000, 220_000)
print((rss() - before) / 200_000)
core.close()
"""
"""200,000 routes to copies elsewhere, ids of 23 characters, set as the control plane sets them."""


async def over_commit(figures: Figures) -> None:
    """1,000 models of a MiB, room for 100."""
    runtime = ("--capacity-bytes", str(104 * MIB), "--loading-concurrency", "8", "--load-ms", "20")
    async with cluster(1, *runtime) as running:
        for number in range(1000):
            request = pb.RegisterModelRequest(modelId=f"m-{number}", modelInfo=pb.ModelInfo(type="echo"))
            await running.call(0, "registerModel", request, pb.ModelStatusInfo)
        zipf = ("--models", "1000", "--zipf", "0.9", "--warmup", "10", "--seconds", "30")
        log = running.local.logs / "instance-1.log"
        began = time.time()
        result = await generator(*running.targets, *CALLERS, *zipf)
        first = began + 10
        loads = sum(" loaded " in line and _time(line) >= first for line in log.read_text().splitlines())
        calls = sum(result["statuses"].values())
        failed = {status: count for status, count in result["statuses"].items() if status != "OK"}
        figures.take("over_commit_errors", sum(failed.values()), **failed)
        figures.take("over_commit_hits", 1 - loads / calls, calls_per_second=round(result["per_second"]))
        figures.take("over_commit_loads", loads / result["seconds"])


def _time(line: str) -> float:
    """When a log line was written, epoch seconds."""
    with contextlib.suppress(ValueError):
        return dt.datetime.fromisoformat(line.split(maxsplit=1)[0]).timestamp()
    return 0.0


async def help_time(figures: Figures) -> None:
    """Start of the command line."""
    command = [sys.executable, "-m", "modelmesh.cli", "--help"]
    times = []
    for _ in range(7):
        began = time.perf_counter()
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        times.append((time.perf_counter() - began) * 1000)
    figures.take("help", statistics.median(times))


PARTS: dict[str, Callable[[Figures], Awaitable[None]]] = {
    part.__name__: part for part in (help_time, registration, coldness, many, routes, over_commit)
}


def holds(name: str, value: float) -> bool:
    """Whether a figure is within its bound."""
    row = ROWS[name]
    return value >= row.must if row.at_least else value <= row.must


def render(result: dict[str, Any]) -> str:
    """The page."""
    environment = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    lines = [
        "# A cluster's life in figures",
        "",
        "Rendered from `cluster.json` by `make bench-cluster`; not edited by hand.",
        "",
        f"{environment}. Generator, runtimes, etcd (data in memory) and instances share the machine.",
        "",
        "| row | what | value | must be | ok |",
        "|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        if name not in result["values"]:
            continue
        value = result["values"][name]
        bound = f"{'at least' if row.at_least else 'at most'} {row.must:,g}{row.unit}"
        lines.append(
            f"| {name} | {row.what} | {value:,g}{row.unit} | {bound} | {'yes' if holds(name, value) else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def environment() -> dict[str, str]:
    """Where this was measured."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    cpus = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpus.splitlines() if line.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit.stdout.strip(),
        "machine": f"{cpus.count('processor' + chr(9))} CPUs ({model})",
        "Linux": platform.release(),
        "python": platform.python_version(),
    }


def main() -> int:
    """Measure, render, print; 1 if a figure is not within its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="only these")
    parser.add_argument("--render", action="store_true", help="render what was measured before")
    arguments = parser.parse_args()
    file = RESULTS / "cluster.json"
    if arguments.render:
        result = json.loads(file.read_text())
    else:
        figures = Figures()
        for name in arguments.parts or PARTS:
            print(name, file=sys.stderr, flush=True)
            asyncio.run(PARTS[name](figures))
        result = {"environment": environment(), **asdict(figures)}
        if not arguments.parts:
            file.write_text(json.dumps(result, indent=1) + "\n")
    page = render(result)
    print(page)
    if not arguments.parts:
        (RESULTS / "cluster.md").write_text(page)
    rows = {
        name: {"value": value, "must": ROWS[name].must, "ok": holds(name, value)}
        for name, value in result["values"].items()
    }
    print(f"cluster: {json.dumps(rows)}")
    return 0 if all(row["ok"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
