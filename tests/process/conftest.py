"""Real instances as child processes, with scripted runtimes in this process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from modelmesh._proto import example_predictor_pb2 as predictor_pb
from modelmesh._proto import model_mesh_pb2 as pb
from modelmesh.instance.local_cluster import LocalCluster
from modelmesh.testing.scripted_runtime import ScriptedRuntime

PREDICT = "mmesh.ExamplePredictor/predict"
Info = pb.ModelStatusInfo


class Mesh:
    """A running cluster and how tests talk to it."""

    def __init__(self, cluster: LocalCluster, runtimes: list[ScriptedRuntime]) -> None:
        self.cluster = cluster
        self.runtimes = runtimes
        self.channels = [grpc.aio.insecure_channel(instance.endpoint) for instance in cluster.instances]

    async def call(
        self,
        method: str,
        request: Message,
        answer: type[Message],
        *,
        via: int = 0,
        metadata: list[tuple[str, Any]] | None = None,
        timeout: float = 20,
    ) -> Any:
        call = self.channels[via].unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await call(request, metadata=metadata, timeout=timeout)

    async def register(self, model: str, path: str = "", *, load=False, sync=False, via=0, kind="example") -> Any:
        request = pb.RegisterModelRequest(
            modelId=model, modelInfo=pb.ModelInfo(type=kind, path=path), loadNow=load, sync=sync
        )
        return await self.call("mmesh.ModelMesh/registerModel", request, Info, via=via)

    async def unregister(self, model: str, *, via=0) -> None:
        request = pb.UnregisterModelRequest(modelId=model)
        await self.call("mmesh.ModelMesh/unregisterModel", request, pb.UnregisterModelResponse, via=via)

    async def ensure_loaded(self, model: str, *, sync=False, via=0) -> Any:
        request = pb.EnsureLoadedRequest(modelId=model, sync=sync)
        return await self.call("mmesh.ModelMesh/ensureLoaded", request, Info, via=via)

    async def status(self, model: str, *, via=0) -> Any:
        return await self.call("mmesh.ModelMesh/getModelStatus", pb.GetStatusRequest(modelId=model), Info, via=via)

    async def state(self, model: str, *, via=0) -> str:
        return str(Info.ModelStatus.Name((await self.status(model, via=via)).status))

    async def predict(
        self, model: str, text: str = "hello", *, via=0, method=PREDICT, timeout=20.0, name="", metadata=()
    ) -> Any:
        request = predictor_pb.PredictRequest(text=text, modelName=name)
        headers = [("mm-model-id", model), *metadata] if model else list(metadata)
        return await self.call(
            method, request, predictor_pb.PredictResponse, via=via, metadata=headers, timeout=timeout
        )

    def loads(self, model: str) -> int:
        return sum(runtime.load_counts[model] for runtime in self.runtimes)

    def log(self, number: int = 0) -> str:
        mesh = self.cluster.instances[number].mesh
        assert mesh is not None
        return mesh.log.read_text()

    async def close(self) -> None:
        for channel in self.channels:
            await channel.close()


async def eventually(condition: Callable[[], Awaitable[bool]], *, within: float = 10.0) -> None:
    """Wait until a condition over the outside of another process holds; it cannot tell us by itself."""
    async with asyncio.timeout(within):
        while not await condition():
            await asyncio.sleep(0.02)


StartMesh = Callable[..., Awaitable[Mesh]]


@pytest.fixture
async def start_mesh(tmp_path: Path) -> AsyncIterator[StartMesh]:
    """Starts clusters: `await start_mesh(3, capacity_bytes=…)`; everything ends with the test."""
    async with contextlib.AsyncExitStack() as stack:
        numbers = iter(range(100))

        async def start(
            count: int = 1,
            *,
            environment: Mapping[str, str] | None = None,
            own_environment: Mapping[int, Mapping[str, str]] | None = None,
            runtimes: list[dict[str, Any]] | None = None,
            **runtime: Any,
        ) -> Mesh:
            folder = tmp_path / f"mesh-{next(numbers)}"
            folder.mkdir()
            cluster = LocalCluster(
                count,
                None,
                folder=folder,
                environment=environment or {},
                own_environment=lambda number: (own_environment or {}).get(number, {}),
            )
            started = []
            for number in range(1, count + 1):
                arguments = {**runtime, **(runtimes[number - 1] if runtimes else {})}
                scripted = ScriptedRuntime(listen=f"unix://{folder}/runtime-{number}.sock", **arguments)
                await stack.enter_async_context(scripted)
                started.append(scripted)
            stack.push_async_callback(cluster.stop)
            await cluster.start()
            mesh = Mesh(cluster, started)
            stack.push_async_callback(mesh.close)
            return mesh

        yield start
