"""The demo: real models on three instances that hold about a third of them each.

Trains the model zoo, starts a cluster, registers every model, and calls them through randomly chosen
instances, Zipf over the models, eight calls at a time. Every answer is compared with the model's own local
answer. Ends with one line of figures; exit status 0 only if nothing was wrong and something was evicted.
"""

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import grpc.aio
import models
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from modelmesh._proto import admin_pb2
from modelmesh._proto import model_mesh_pb2 as mesh_pb2
from modelmesh.instance.local_cluster import LocalCluster
from modelmesh.values.sizes import format_size

INSTANCES = 3
MODELS_PER_INSTANCE = 6
REQUESTS = 3_000
AT_A_TIME = 8
SEED = 1
ZIPF = 1.1
"""How much more often the popular models are called: rank r gets 1 / r^1.1 of the calls."""
INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(slots=True)
class Figures:
    """What is counted while it runs."""

    done: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cold_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    loaded: set[str] = field(default_factory=set)
    recent: list[str] = field(default_factory=list)

    @property
    def hit_ratio(self) -> float:
        """Calls that found their model loaded somewhere."""
        return len(self.warm_ms) / max(1, len(self.warm_ms) + len(self.cold_ms))


class Caller:
    """Calls models through every instance, and follows the events of each."""

    def __init__(self, cluster: LocalCluster, zoo: models.Manifest) -> None:
        self.zoo = zoo
        self.figures = Figures()
        self.channels = [grpc.aio.insecure_channel(instance.endpoint) for instance in cluster.instances]
        self._infer = [channel.unary_unary(INFER) for channel in self.channels]
        self._loading: Counter[str] = Counter()

    async def register(self) -> None:
        """Register the whole zoo through the first instance."""
        call = self.channels[0].unary_unary(
            "/mmesh.ModelMesh/registerModel",
            request_serializer=mesh_pb2.RegisterModelRequest.SerializeToString,
            response_deserializer=mesh_pb2.ModelStatusInfo.FromString,
        )
        for model in self.zoo.models:
            info = mesh_pb2.ModelInfo(type=model.type, path=model.path)
            await call(mesh_pb2.RegisterModelRequest(modelId=model.id, modelInfo=info))

    async def follow(self, number: int) -> None:
        """Count what happens at one instance."""
        call = self.channels[number].unary_stream(
            "/modelmesh.v1.Admin/WatchEvents",
            request_serializer=admin_pb2.WatchEventsRequest.SerializeToString,
            response_deserializer=admin_pb2.Event.FromString,
        )
        async for event in call(admin_pb2.WatchEventsRequest()):
            figures = self.figures
            figures.events[event.kind] += 1
            if event.kind == "load_started":
                self._loading[event.model_id] += 1
            if event.kind in {"load_started", "evicted", "load_failed"}:
                figures.recent.append(f"{event.instance_id}: {event.kind} {event.model_id} {event.reason}")
                del figures.recent[:-6]

    async def instances(self) -> admin_pb2.ListInstancesResponse:
        """Memory and load of every instance."""
        call = self.channels[0].unary_unary(
            "/modelmesh.v1.Admin/ListInstances",
            request_serializer=admin_pb2.ListInstancesRequest.SerializeToString,
            response_deserializer=admin_pb2.ListInstancesResponse.FromString,
        )
        answer: admin_pb2.ListInstancesResponse = await call(admin_pb2.ListInstancesRequest())
        return answer

    async def run(self, count: int) -> None:
        """Make `count` calls, `AT_A_TIME` at a time; more popular models more often."""
        rng = Random(SEED)
        weights = [1 / (rank + 1) ** ZIPF for rank in range(len(self.zoo.models))]
        popular = list(self.zoo.models)
        rng.shuffle(popular)
        plan = iter([(rng.choices(popular, weights)[0], rng.randrange(INSTANCES)) for _ in range(count)])

        async def worker() -> None:
            for model, via in plan:
                await self._call(model, via, row=rng.randrange(len(model.rows)))

        await asyncio.gather(*(worker() for _ in range(AT_A_TIME)))

    async def _call(self, model: models.ZooModel, via: int, row: int) -> None:
        figures = self.figures
        loads = self._loading[model.id]
        began = time.perf_counter()
        try:
            answer = await self._infer[via](
                models.request_for(model, row), metadata=(("mm-model-id", model.id),), timeout=30
            )
        except grpc.aio.AioRpcError as error:
            figures.errors[f"{error.code().name}: {error.details()}"] += 1
            return
        finally:
            figures.done += 1
        elapsed_ms = (time.perf_counter() - began) * 1000
        # A load of this model that began meanwhile was begun for this call, or it joined it.
        (figures.cold_ms if self._loading[model.id] > loads else figures.warm_ms).append(elapsed_ms)
        problem = models.compare(model, row, answer)
        if problem is not None:
            figures.wrong += 1
            figures.recent.append(f"WRONG {model.id} row {row}: {problem}")


async def show(caller: Caller, requests: int, live: Live) -> None:
    """Keep the table on the screen true."""
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            live.update(picture(caller.figures, requests, await caller.instances()), refresh=True)
        await asyncio.sleep(0.5)


def picture(figures: Figures, requests: int, answer: admin_pb2.ListInstancesResponse) -> Group:
    """What the screen shows."""
    table = Table("INSTANCE", "MODELS", "MEMORY", "LOADING", "WAITING", box=None, pad_edge=False)
    for instance in answer.instances:
        memory = f"{format_size(instance.used_bytes)} of {format_size(instance.capacity_bytes)}"
        at_work = instance.loads_in_progress - instance.loads_waiting
        table.add_row(instance.id, str(instance.copies), memory, str(at_work), str(instance.loads_waiting))
    line = (
        f"{figures.done} of {requests} calls · hits {figures.hit_ratio:.0%} · loads {figures.events['loaded']} · "
        f"evictions {figures.events['evicted']} · wrong {figures.wrong} · errors {sum(figures.errors.values())}"
    )
    return Group(table, ProgressBar(total=requests, completed=figures.done, width=60), line, *figures.recent[-6:])


async def play(zoo: models.Manifest, requests: int, console: Console) -> dict[str, object]:
    """Start, call, stop; the figures."""
    sizes = sorted(model.size_bytes for model in zoo.models)
    capacity = max(MODELS_PER_INSTANCE * sum(sizes) // len(sizes), 3 * sizes[-1] // 2)

    def runtime(_: int, listen: str) -> list[str]:
        command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--listen", listen]
        command += ["--models", str(zoo.folder), "--capacity", str(capacity), "--default-size", str(capacity // 10)]
        return command

    cluster = LocalCluster(INSTANCES, runtime, progress=console.print)
    began = time.monotonic()
    try:
        await cluster.start()
        caller = Caller(cluster, zoo)
        await caller.register()
        watching = [asyncio.create_task(caller.follow(number)) for number in range(INSTANCES)]
        console.print(f"{len(zoo.models)} models, {INSTANCES} instances of {format_size(capacity)} each\n")
        with Live(console=console, auto_refresh=False, transient=True) as live:
            showing = asyncio.create_task(show(caller, requests, live))
            await caller.run(requests)
            showing.cancel()
        console.print(picture(caller.figures, requests, await caller.instances()))
        await asyncio.sleep(0.2)  # let the last events arrive
        for task in watching:
            task.cancel()
        for channel in caller.channels:
            await channel.close(None)
    finally:
        await cluster.stop()
    figures = caller.figures
    for error, times in figures.errors.most_common(5):
        console.print(f"error x{times}: {error}")
    return {
        "models": len(zoo.models),
        "instances": INSTANCES,
        "requests": figures.done,
        "wrong": figures.wrong,
        "errors": sum(figures.errors.values()),
        "hit_ratio": round(figures.hit_ratio, 3),
        "loads": figures.events["loaded"],
        "evictions": figures.events["evicted"],
        "warm_p50_ms": round(statistics.median(figures.warm_ms or [0.0]), 2),
        "cold_p50_ms": round(statistics.median(figures.cold_ms or [0.0]), 2),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=REQUESTS, help="how many calls")
    given = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="modelmesh-zoo-") as folder:
        console.print("training the models …")
        zoo = models.build(Path(folder), progress=console.print)
        result = asyncio.run(play(zoo, given.requests, console))
    print(f"demo: {json.dumps(result)}")
    good = result["wrong"] == 0 and result["errors"] == 0 and result["evictions"] != 0
    return 0 if good and result["requests"] == given.requests else 1


if __name__ == "__main__":
    sys.exit(main())
