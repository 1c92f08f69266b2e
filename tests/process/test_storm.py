"""Callers that give up by the hundred leave nothing behind; older names are served."""

import asyncio
import signal
from pathlib import Path
from random import Random

import grpc
import pytest
from conftest import PREDICT, Info, Mesh, StartMesh, eventually

from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh._proto import model_mesh_pb2 as pb

pytestmark = pytest.mark.process
MIB = 1 << 20


def process(mesh: Mesh) -> Path:
    child = mesh.cluster.instances[0].mesh
    assert child is not None
    return Path(f"/proc/{child.pid}")


def resident_bytes(of: Path) -> int:
    return int((of / "statm").read_text().split()[1]) * 4096


def handles(of: Path) -> int:
    return len(list((of / "fd").iterdir()))


async def storm(mesh: Mesh, endpoint: str, rng: Random, calls: int) -> None:
    """Calls of which each is cancelled, or its connection closed, at a moment of its own."""

    async def give_up(channel: grpc.aio.Channel, model: str) -> None:
        call = channel.unary_unary(f"/{PREDICT}", request_serializer=predictor_pb.PredictRequest.SerializeToString)(
            predictor_pb.PredictRequest(text="x" * rng.choice([1, 1000, 50_000])), metadata=[("mm-model-id", model)]
        )
        await asyncio.sleep(rng.random() * 0.05)
        call.cancel()

    for _ in range(5):
        async with grpc.aio.insecure_channel(endpoint) as channel:
            models = [f"cold-{rng.randrange(20)}" for _ in range(calls // 5)]
            await asyncio.gather(*(give_up(channel, model) for model in models))


async def test_a_storm_of_cancelled_calls_leaves_nothing_behind(start_mesh: StartMesh) -> None:
    mesh = await start_mesh(capacity_bytes=12 * MIB, default_size_bytes=MIB, loading_concurrency=2, predict_ms=20)
    for number in range(20):
        await mesh.register(f"cold-{number}", f"SIZE_{MIB}_100_0")
    instance = mesh.cluster.instances[0]
    assert instance.mesh is not None
    of = process(mesh)
    rng = Random(7)
    await storm(mesh, instance.endpoint, rng, 300)  # what is allocated once is allocated now

    async def quiet() -> bool:
        states = [await mesh.state(f"cold-{number}") for number in range(20)]
        return "LOADING" not in states

    await eventually(quiet)
    opened, used = handles(of), resident_bytes(of)
    for _ in range(4):
        await storm(mesh, instance.endpoint, rng, 500)
    await eventually(quiet)

    async def closed() -> bool:
        return handles(of) <= opened + 2

    await eventually(closed)
    assert resident_bytes(of) - used < 12 * MIB
    # Nothing is held: a call is answered, and the process ends without waiting for anyone.
    assert (await mesh.predict("cold-0")).results[0].confidence == 1.0
    await mesh.close()
    instance.mesh.signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        await instance.mesh.wait()
    assert "drained" in mesh.log()
    assert "task_crashed" not in mesh.log()


async def test_older_service_and_method_names_are_served(start_mesh: StartMesh) -> None:
    mesh = await start_mesh()
    legacy = "com.ibm.watson.tas.proto.TasRuntime"
    request = pb.RegisterModelRequest(modelId="m", modelInfo=pb.ModelInfo(type="example"), loadNow=True, sync=True)
    assert (await mesh.call(f"{legacy}/addModel", request, Info)).status == Info.LOADED
    asked = pb.GetStatusRequest(modelId="m")
    assert (await mesh.call(f"{legacy}/getModelStatus", asked, Info)).status == Info.LOADED
    # The older header, too.
    answer = await mesh.predict("", metadata=[("tas-model-id", "m")])
    assert answer.results[0].category.endswith("by model m")
    await mesh.call(f"{legacy}/deleteModel", pb.UnregisterModelRequest(modelId="m"), pb.UnregisterModelResponse)
    assert await mesh.state("m") == "NOT_FOUND"
