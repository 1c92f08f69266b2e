"""Batches, and models in processes of their own: what they bring, and what one model's fate does to another."""

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc.aio
from benchmarks.runtime.servers import INFER, LOAD, START_S, called, child

from modelmesh._proto import model_runtime_pb2 as runtime_pb
from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.instance.local_cluster import free_port
from modelmesh.instance.processes import Child

CYCLES = 50
BIG_BYTES = 116 * 2**20
KILLS = 2
SLOW = '''
import time


class Model:
    """Takes a millisecond of CPU, however many rows there are."""

    def __init__(self, folder):
        pass

    def infer(self, inputs, parameters):
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        return {"y": inputs["x"]}
'''
BATCHED = SLOW.replace("class Model:", "from modelmesh.runtime import Batching\n\n\nclass Model:").replace(
    "    def __init__", "    batching = Batching(64)\n\n    def __init__"
)
BIG = f"""
import numpy


class Model:
    def __init__(self, folder):
        self.weights = numpy.ones({BIG_BYTES // 8})

    def infer(self, inputs, parameters):
        return {{"y": inputs["x"]}}
"""
QUICK = """
import os


class Model:
    def __init__(self, folder):
        pass

    def infer(self, inputs, parameters):
        return {"y": inputs["x"] if "x" in inputs else inputs["pid"] * 0 + os.getpid()}
"""


def message(model: str, tensor: str = "x") -> pb.ModelInferRequest:
    """One number."""
    asked = pb.ModelInferRequest(model_name=model, raw_input_contents=[bytes(8)])
    asked.inputs.add(name=tensor, datatype="FP64", shape=[1])
    return asked


async def generated(target: str, model: str, seconds: float, *, connections: int = 4) -> dict[str, Any]:
    """Four callers on each connection."""
    command = [str(LOAD), "--target", target, "--method", INFER, "--message", message(model).SerializeToString().hex()]
    command += ["--connections", str(connections), "--streams", "4", "--seconds", str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    found: dict[str, Any] = json.loads(output)
    return found


class Runtime:
    """The built-in runtime, with models made of their text."""

    def __init__(self, target: str, process: Child) -> None:
        self.target = target
        self.process = process

    async def load(self, model: str) -> None:
        """Returns when it can serve."""
        request = runtime_pb.LoadModelRequest(modelId=model, modelType="python", modelPath=model)
        await called(self.target, "/mmesh.ModelRuntime/loadModel", request, runtime_pb.LoadModelResponse)

    async def unload(self, model: str) -> None:
        """Returns when its memory is given back."""
        request = runtime_pb.UnloadModelRequest(modelId=model)
        await called(self.target, "/mmesh.ModelRuntime/unloadModel", request, runtime_pb.UnloadModelResponse)

    def memory_mb(self) -> float:
        """Of the runtime and of the processes of its models."""
        pids = [self.process.pid, *_below(self.process.pid)]
        return sum(_proportional_kb(pid) for pid in pids) / 1024


def _below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(word) for file in children for word in file.read_text().split()]
    return own + [pid for one in own for pid in _below(one)]


def _proportional_kb(pid: int) -> int:
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 0


@contextlib.asynccontextmanager
async def runtime(folder: Path, *options: str) -> AsyncIterator[Runtime]:
    """Serves the models of this page."""
    for name, text in {"slow": SLOW, "batched": BATCHED, "big": BIG, "quick": QUICK, "other": QUICK}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "model.py").write_text(text)
    target = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "modelmesh.cli", "runtime", "--models", str(folder), "--listen", target, *options]
    async with child("plans", command, folder) as running:
        yield Runtime(target, running)


async def plans(folder: Path, seconds: float) -> dict[str, Any]:
    """All figures of this page."""
    found: dict[str, Any] = {}
    async with runtime(folder) as own:
        await own.load("slow")
        await own.load("batched")
        found["alone"] = await generated(own.target, "slow", seconds)
        found["batched"] = await generated(own.target, "batched", seconds)
        await own.unload("slow")
        await own.unload("batched")
        found["beside"] = await beside_loads(own, seconds)
    async with runtime(folder, "--isolate", "python", "--capacity", "4GiB") as own:
        found["beside_isolated"] = await beside_loads(own, seconds)
        found["returned_mb"] = await returned(own)
        found["killed"] = await killed(own, seconds)
    return found


async def beside_loads(own: Runtime, seconds: float) -> dict[str, float]:
    """99th percentile of a small model alone, and while a large one loads and unloads."""
    await own.load("quick")
    await generated(own.target, "quick", seconds)
    alone = await generated(own.target, "quick", seconds, connections=1)

    async def cycles() -> int:
        count = 0
        while not over.is_set():
            await own.load("big")
            await own.unload("big")
            count += 1
        return count

    over = asyncio.Event()
    loading = asyncio.create_task(cycles())
    beside = await generated(own.target, "quick", seconds, connections=1)
    over.set()
    return {
        "alone_p99_us": alone["latency_us"]["p99"],
        "beside_p99_us": beside["latency_us"]["p99"],
        "cycles": await loading,
    }


async def returned(own: Runtime) -> float:
    """MiB that are held after many loads and unloads of a large model, and were not before."""
    await own.load("big")
    await own.unload("big")
    before = own.memory_mb()
    for _ in range(CYCLES):
        await own.load("big")
        await own.unload("big")
    return own.memory_mb() - before


async def killed(own: Runtime, seconds: float) -> dict[str, Any]:
    """Statuses of the calls of two models, each with four callers, while the process of one is killed twice."""
    await own.load("other")

    async def kills() -> None:
        async with grpc.aio.insecure_channel(own.target) as channel:
            ask: Any = channel.unary_unary(
                INFER,
                request_serializer=pb.ModelInferRequest.SerializeToString,
                response_deserializer=pb.ModelInferResponse.FromString,
            )
            for _ in range(KILLS):
                await asyncio.sleep(seconds / (KILLS + 1))
                answer = await ask(message("quick", "pid"), timeout=START_S)
                (pid,) = struct.unpack("<d", answer.raw_output_contents[0])
                os.kill(int(pid), signal.SIGKILL)

    quick, other, _ = await asyncio.gather(
        generated(own.target, "quick", seconds, connections=1),
        generated(own.target, "other", seconds, connections=1),
        kills(),
    )
    return {"own": quick["statuses"], "others": other["statuses"]}


def rows(found: Mapping[str, Any]) -> dict[str, tuple[float, str, float]]:
    """Value, comparison and bound of each figure."""
    killed = found["killed"]
    alone, batched = found["alone"], found["batched"]
    return {
        "batched_rate": (batched["completed"] / alone["completed"], ">=", 6.0),
        "batched_p99": (batched["latency_us"]["p99"] / alone["latency_us"]["p99"], "<=", 1.0),
        "p99_beside_loads": (found["beside"]["beside_p99_us"] / found["beside"]["alone_p99_us"], "<=", 5.0),
        "p99_beside_loads_isolated": (
            found["beside_isolated"]["beside_p99_us"] / found["beside_isolated"]["alone_p99_us"],
            "<=",
            2.0,
        ),
        "kept_mb_isolated": (found["returned_mb"], "<=", 10.0),
        "failed_of_others": (sum(killed["others"].values()) - killed["others"].get("OK", 0), "<=", 0.0),
        "failed_of_own_per_kill": (
            (sum(killed["own"].values()) - killed["own"].get("OK", 0)) / KILLS,
            "<=",
            4.0,
        ),
    }
