"""A server in memory, as scripted as a test needs it, behind the real adapter and its real gRPC service."""

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh.runtime.contract import ModelSource
from modelmesh.runtime.server import RuntimeServer
from modelmesh.servers.adapter import AdapterRuntime
from modelmesh.servers.driver import ServerAwayError, ServerError
from modelmesh.servers.files import Brought
from modelmesh.servers.layout import Given, Layout
from modelmesh.servers.settings import AdapterSettings, read_settings
from modelmesh.values.status import Status

MIB = 1024 * 1024


@dataclass
class MemoryServer:
    """A driver whose server is a set of names. `load_gate` holds loads up, `away` is a server that is not there."""

    loaded: set[str] = field(default_factory=set)
    away: bool = False
    stuck: bool = False
    refuses: str = ""
    load_gate: asyncio.Event | None = None
    loading: asyncio.Event = field(default_factory=asyncio.Event)
    log: list[str] = field(default_factory=list)
    model_bytes: int = 10 * MIB
    import_bytes: int = 50 * MIB
    first_bytes: int = 0
    """What the first load makes the server keep for itself."""
    keeps_memory: bool = False
    told_bytes: int | None = None
    memory_bytes: int | None = 100 * MIB
    free_bytes: int = 0
    name: str = "Memory"
    folder: str = "_memory_models"
    texts: tuple[str, ...] = ()
    loads_one_version: bool = False
    methods: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"a.B/C": (1,)})

    def layout(self, given: Given) -> Layout:
        return Layout({"model": given.tree.path})

    def _there(self) -> None:
        if self.away:
            raise ServerAwayError("Memory does not answer")

    async def ready(self) -> str:
        self._there()
        return "7"

    async def leftovers(self, root: Path) -> list[str]:
        return sorted(self.loaded)

    async def prepare(self, model_format: str, root: Path) -> None:
        self._grow(self.import_bytes)

    async def load(self, model_id: str, folder: Path) -> None:
        self._there()
        assert (folder / "model").exists()
        self.log.append(f"load {model_id}")
        self.loading.set()
        if self.load_gate is not None:
            await self.load_gate.wait()
        if self.refuses:
            raise ServerError(self.refuses, status=Status.INVALID_ARGUMENT)
        self.loaded.add(model_id)
        self._grow(self.model_bytes + self.first_bytes)
        self.first_bytes = 0

    async def unload(self, model_id: str, folder: Path) -> None:
        self._there()
        self.log.append(f"unload {model_id}")
        if self.stuck:
            raise ServerError("still there", status=Status.INTERNAL)
        if model_id in self.loaded:
            self.loaded.discard(model_id)
            if self.keeps_memory:
                self.free_bytes += self.model_bytes
            else:
                self._grow(-self.model_bytes)

    def _grow(self, by: int) -> None:
        if self.memory_bytes is not None:
            reused = min(self.free_bytes, max(0, by))
            self.free_bytes -= reused
            self.memory_bytes += by - reused

    async def holds(self, model_id: str) -> bool:
        self._there()
        return model_id in self.loaded

    async def size(self, model_id: str) -> int | None:
        return self.told_bytes

    async def memory(self) -> int | None:
        return self.memory_bytes

    async def close(self) -> None:
        pass


@dataclass
class MemoryFiles:
    """Files that are there at once; `folder` holds a file for each model that was brought."""

    folder: Path
    disk_bytes: int = 8 * MIB
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    bringing: asyncio.Event = field(default_factory=asyncio.Event)

    async def bring(self, source: ModelSource, report: Any) -> Brought:
        if source.id in self.gates:
            self.bringing.set()
            await self.gates[source.id].wait()
        path = self.folder / source.id
        path.write_bytes(b"x")
        return Brought(path, None, self.disk_bytes, source.path)

    async def drop(self, model_id: str) -> None:
        (self.folder / model_id).unlink(missing_ok=True)

    async def sizes(self, source: ModelSource) -> Mapping[str, int]:
        return {source.id: self.disk_bytes}

    async def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


class Client:
    """Management calls."""

    def __init__(self, channel: "grpc.aio.Channel") -> None:
        self._channel = channel

    async def call(self, method: str, request: Any, answer: Any, timeout: float = 20) -> Any:
        call = self._channel.unary_unary(
            f"/mmesh.ModelRuntime/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return await call(request, timeout=timeout)

    async def status(self) -> pb.RuntimeStatusResponse:
        return await self.call("runtimeStatus", pb.RuntimeStatusRequest(), pb.RuntimeStatusResponse)

    async def load(self, model: str, path: str = "p", kind: str = "example") -> int:
        request = pb.LoadModelRequest(modelId=model, modelPath=path, modelType=kind)
        return (await self.call("loadModel", request, pb.LoadModelResponse)).sizeInBytes

    async def unload(self, model: str) -> None:
        await self.call("unloadModel", pb.UnloadModelRequest(modelId=model), pb.UnloadModelResponse)

    async def size(self, model: str) -> int:
        return (await self.call("modelSize", pb.ModelSizeRequest(modelId=model), pb.ModelSizeResponse)).sizeInBytes


async def code_of(awaitable: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    return caught.value.code().name, caught.value.details() or ""


@dataclass
class Adapter:
    """An adapter over a server in memory."""

    driver: MemoryServer
    files: MemoryFiles
    runtime: AdapterRuntime
    server: RuntimeServer
    client: Client

    def nothing_is_left(self) -> bool:
        root = self.runtime.root
        return not self.driver.loaded and not list(root.iterdir()) and not list(self.files.folder.iterdir())


def settings_in(folder: Path, **variables: str) -> AdapterSettings:
    environment = {"CONTAINER_MEM_REQ_BYTES": str(1024 * MIB), "ROOT_MODEL_DIR": str(folder / "models")}
    return read_settings({**environment, **variables})
