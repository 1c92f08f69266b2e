"""A puller in front of a real runtime, with a store behind, over real gRPC."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from aiohttp import web

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import runtime_events_pb2 as events_pb
from modelmesh.puller.main import Serving
from modelmesh.puller.settings import PullerSettings, read_settings
from modelmesh.runtime import ModelRuntime, ModelSource, RuntimeServer, serve
from modelmesh.values.load_progress import LoadProgress, LoadStage


class Recorder(ModelRuntime[str]):
    """A runtime that reads the file it is told of, and remembers what it was asked."""

    capacity_bytes = 2**30
    default_size_bytes = 2**20

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sources: list[ModelSource] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.entered = asyncio.Event()
        self.fail: Exception | None = None
        self.ready = True

    def is_ready(self) -> bool:
        return self.ready

    async def load(self, source: ModelSource) -> str:
        self.calls.append(f"load {source.id}")
        self.sources.append(source)
        self.entered.set()
        await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        path = Path(source.path)
        return path.read_text() if path.is_file() else ",".join(sorted(os.listdir(path)))

    def size(self, model: str) -> int:
        return 1000 + len(model)

    async def unload(self, model: str) -> None:
        self.calls.append(f"unload {model}")


class Telling(Recorder):
    """A runtime that reports how far its loads are."""

    told: LoadProgress | None = None

    def progress(self, model_id: str) -> LoadProgress | None:
        self.calls.append(f"progress {model_id}")
        return self.told


@dataclass
class Pod:
    """A puller with a runtime behind it, a store, and the mesh's side of the connection."""

    runtime: Recorder
    server: RuntimeServer
    puller: Serving
    settings: PullerSettings
    files: dict[str, bytes]
    requests: list[str] = field(default_factory=list)
    fault: Callable[[web.Request], web.Response | None] = lambda _request: None
    hold: asyncio.Event | None = None

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        async with grpc.aio.insecure_channel(self.puller.address) as channel:
            yield channel

    async def call(self, method: str, request, answer, timeout: float | None = 20):
        async with self.channel() as channel:
            return await self.begin(channel, method, request, answer, timeout)

    def begin(self, channel, method: str, request, answer, timeout: float | None = 20):
        stub = channel.unary_unary(
            f"/mmesh.ModelRuntime/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return stub(request, timeout=timeout)

    async def load(self, model: str, path: str = "m/model", **key: object) -> pb.LoadModelResponse:
        text = json.dumps({"storage_key": "web", **key})
        request = pb.LoadModelRequest(modelId=model, modelType="t", modelPath=path, modelKey=text)
        return await self.call("loadModel", request, pb.LoadModelResponse)

    async def unload(self, model: str) -> None:
        await self.call("unloadModel", pb.UnloadModelRequest(modelId=model), pb.UnloadModelResponse)

    async def status(self) -> pb.RuntimeStatusResponse:
        return await self.call("runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse)

    async def progress(self, channel: grpc.aio.Channel) -> LoadProgress:
        """As the mesh asks for it."""
        stub = channel.unary_unary(
            "/modelmesh.v1.RuntimeEvents/LoadProgress",
            request_serializer=events_pb.LoadProgressRequest.SerializeToString,
            response_deserializer=events_pb.LoadProgressResponse.FromString,
        )
        told = await stub(events_pb.LoadProgressRequest(model_id="mod"), timeout=20)
        return LoadProgress(LoadStage(told.stage), told.bytes_done, told.bytes_total, told.files_done, told.files_total)

    @property
    def root(self) -> Path:
        return self.settings.root

    def folders(self) -> list[str]:
        return sorted(name for name in os.listdir(self.root) if not name.startswith("_")) if self.root.exists() else []


@asynccontextmanager
async def pod(tmp_path: Path, *, runtime: Recorder | None = None, **environ: str) -> AsyncIterator[Pod]:
    files = {"/m/model": b"content", "/m/folder.txt": b"x", "/m/schema.json": b"{}"}

    async def answer(request: web.Request) -> web.StreamResponse:
        made.requests.append(request.path)
        if made.hold is not None:
            await made.hold.wait()
        fault = made.fault(request)
        if fault is not None:
            return fault
        content = files.get(request.path)
        return (
            web.Response(status=404)
            if content is None
            else web.Response(body=content, headers={"ETag": f'"{len(content)}"'})
        )

    store = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await store.setup()
    site = web.TCPSite(store, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr,attr-defined]
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "web").write_text(json.dumps({"type": "http", "url": f"http://127.0.0.1:{port}"}))
    runtime = runtime or Recorder()
    server = await serve(runtime, listen="127.0.0.1:0")
    settings = read_settings(
        {
            "PORT": "0",
            "MODEL_SERVER_ENDPOINT": f"port:{server.address.rpartition(':')[2]}",
            "ROOT_MODEL_DIR": str(tmp_path / "models"),
            "STORAGE_CONFIG_DIR": str(configs),
            "PVC_MOUNTS_DIR": str(tmp_path / "claims"),
            **environ,
        }
    )
    puller = Serving(settings)
    made = Pod(runtime, server, puller, settings, files)
    await puller.start()
    living = asyncio.ensure_future(puller.live())
    try:
        yield made
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        await puller.stop(1.0)
        await made.server.stop(0)
        await store.cleanup()


async def refused(awaitable) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await awaitable
    return error.value
