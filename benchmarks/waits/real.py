"""The simulator beside real processes: `make bench-waits REAL=1`.

Two traces of `make bench-waits`, with times some times shorter than there, are served by three instances with their runtimes and etcd, and by
the simulator. Both must agree. It needs a machine that is not busy with other things: the load average is part of the result.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import grpc.aio
from benchmarks.environment import environment
from benchmarks.waits.run import RESULTS, Cell, fixed, workload

from modelmesh._proto import example_predictor_pb2, model_mesh_pb2
from modelmesh.instance.local_cluster import LocalCluster
from modelmesh.instance.local_etcd import LocalEtcd
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.sizing import CALL_TIMEOUT_MS, UNLOAD_MS, Fleet, serve
from modelmesh.testing.workload import Workload

FASTER = {"zipf": 4, "mixed_zipf": 10}
"""Traces, and how many times faster than in `make bench-waits` each is played."""

INSTANCES = 3
SLOTS = 2
SEED = 1
"""Decides at which instance each request enters, as in the simulator."""

HIT_MS = 50
"""Whoever has its answer by then waited for no load; the simulator counts such a call as no wait, too."""

AGREE = 0.2
"""By so much of the simulator's the mean wait of the processes may differ."""

PREDICT = "/mmesh.ExamplePredictor/predict"
REGISTER = "/mmesh.ModelMesh/registerModel"


@dataclass(frozen=True)
class Waits:
    """Over all calls, in milliseconds."""

    mean: int
    p95: int
    failed: int


def compressed(trace: str) -> tuple[Workload, Fleet]:
    """A row of the bench, with all times shorter."""
    cell = next(Cell(one, INSTANCES, SLOTS) for one in fixed() if one.name == trace)
    asked, fleet = workload(cell)
    faster = FASTER[trace]
    requests = tuple((due_ms // faster, model) for due_ms, model in asked.requests)
    load_ms = {model: max(1, load_ms // faster) for model, load_ms in asked.load_ms.items()}
    return Workload(asked.name, requests, asked.sizes, load_ms), fleet


def simulated(asked: Workload, fleet: Fleet) -> Waits:
    """By the simulator."""
    served = serve(asked, fleet, seed=SEED)
    return Waits(round(served.mean_wait_ms), served.wait_ms(0.95), served.failed)


async def measured(asked: Workload, fleet: Fleet) -> Waits:
    """By processes."""
    default_size = round(statistics.median(asked.sizes.values()))

    def runtime(_: int, listen: str) -> list[str]:
        sizes = ("--capacity-bytes", str(fleet.capacity_bytes), "--default-size-bytes", str(default_size))
        command = [sys.executable, "-m", "benchmarks.waits.runtime", "--listen", listen]
        return [*command, *sizes, "--loading-slots", str(fleet.loading_slots)]

    with tempfile.TemporaryDirectory(prefix="modelmesh-waits-") as folder:
        etcd = LocalEtcd(Path(folder) / "etcd", durable=False)
        cluster = LocalCluster(fleet.instances, runtime, folder=Path(folder), etcd=etcd)
        try:
            await cluster.start()
            channels = [grpc.aio.insecure_channel(instance.endpoint) for instance in cluster.instances]
            for model, size in asked.sizes.items():
                info = model_mesh_pb2.ModelInfo(type="fake", path=size_path(size, asked.load_ms[model], UNLOAD_MS))
                request = model_mesh_pb2.RegisterModelRequest(modelId=model, modelInfo=info)
                await channels[0].unary_unary(REGISTER)(request.SerializeToString(), timeout=30)
            waits = await _call(asked, channels)
            for channel in channels:
                await channel.close()
        finally:
            await cluster.stop()
    answered = sorted(wait for wait in waits if wait is not None)
    failed = len(waits) - len(answered)
    return Waits(round(sum(answered) / len(waits)), round(answered[int(len(answered) * 0.95)]), failed)


async def _call(asked: Workload, channels: list[grpc.aio.Channel]) -> list[float | None]:
    """Each request when it is due, whether or not others are answered; None: it failed."""
    rng = Random(SEED)
    message = example_predictor_pb2.PredictRequest(text="x").SerializeToString()

    async def one(model: str, channel: grpc.aio.Channel) -> float | None:
        began = time.monotonic()
        try:
            call = channel.unary_unary(PREDICT)(
                message, metadata=(("mm-model-id", model),), timeout=CALL_TIMEOUT_MS / 1000
            )
            await call
        except grpc.aio.AioRpcError:
            return None
        took_ms = (time.monotonic() - began) * 1000
        return took_ms if took_ms > HIT_MS else 0.0

    began = time.monotonic()
    calls = []
    for due_ms, model in asked.requests:
        await asyncio.sleep(began + due_ms / 1000 - time.monotonic())
        calls.append(asyncio.create_task(one(model, rng.choice(channels))))
    return list(await asyncio.gather(*calls))


def main() -> int:
    """Play both, write the result; 1 if they do not agree."""
    rows: list[dict[str, Any]] = []
    for trace in FASTER:
        asked, fleet = compressed(trace)
        expected = simulated(asked, fleet)
        before = os.getloadavg()[0]
        found = asyncio.run(measured(asked, fleet))
        rows.append(
            {
                "trace": trace,
                "seconds": asked.requests[-1][0] // 1000,
                "processes": {"mean": found.mean, "p95": found.p95, "failed": found.failed},
                "simulator": {"mean": expected.mean, "p95": expected.p95, "failed": expected.failed},
                "agrees": not found.failed and abs(found.mean - expected.mean) <= AGREE * expected.mean,
                "load_average": {"before": before, "after": os.getloadavg()[0]},
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    result = {"environment": environment(), "rows": rows}
    (RESULTS / "waits-real.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0 if all(row["agrees"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
