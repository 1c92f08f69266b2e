"""The drivers of MLServer and Triton against a double of the protocol that both speak: what it lacks, refuses and does wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.runtime.grpc_server import GrpcServer
from modelmesh.runtime.service import service_methods
from modelmesh.servers.driver import ServerAwayError, ServerError
from modelmesh.servers.mlserver import ASIDE, SETTINGS, MLServer
from modelmesh.servers.triton import Triton
from modelmesh.values.status import Status


@dataclass
class Double:
    """A repository. `refuses`: the code and the words with which it answers loads."""

    loaded: set[str] = field(default_factory=set)
    refuses: tuple[Status, str] | None = None
    metadata: bool = True

    async def live(self, _request: pb.ServerLiveRequest, _: Any) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def server_metadata(self, _request: pb.ServerMetadataRequest, _: Any) -> pb.ServerMetadataResponse:
        if not self.metadata:
            raise RuntimeFault("no metadata today", status=Status.INTERNAL)
        return pb.ServerMetadataResponse(version="2.51")

    async def index(self, _request: pb.RepositoryIndexRequest, _: Any) -> pb.RepositoryIndexResponse:
        models = [{"name": name, "state": "READY"} for name in sorted(self.loaded)]
        return pb.RepositoryIndexResponse(models=models)

    async def load(self, request: pb.RepositoryModelLoadRequest, _: Any) -> pb.RepositoryModelLoadResponse:
        if self.refuses is not None:
            status, text = self.refuses
            raise RuntimeFault(text, status=status)
        self.loaded.add(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def unload(self, request: pb.RepositoryModelUnloadRequest, _: Any) -> pb.RepositoryModelUnloadResponse:
        if request.model_name not in self.loaded:
            raise RuntimeFault("unknown", status=Status.NOT_FOUND)
        self.loaded.discard(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def model_ready(self, request: pb.ModelReadyRequest, _: Any) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=request.name in self.loaded)


@pytest.fixture
async def double() -> AsyncIterator[tuple[Double, int]]:
    made = Double()
    methods: dict[str, Any] = {
        "ServerLive": made.live,
        "ServerMetadata": made.server_metadata,
        "RepositoryIndex": made.index,
        "RepositoryModelLoad": made.load,
        "RepositoryModelUnload": made.unload,
        "ModelReady": made.model_ready,
    }
    descriptor = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    server = GrpcServer(service_methods(descriptor, methods), max_message_bytes=1 << 20)
    try:
        yield made, int((await server.listen("127.0.0.1:0")).rpartition(":")[2])
    finally:
        await server.stop(0)


Driver = MLServer | Triton
drivers = pytest.mark.parametrize("make", [MLServer, Triton])


@pytest.fixture
async def driver(make: Callable[[int], Driver], double: tuple[Double, int]) -> AsyncIterator[Driver]:
    made = make(double[1])
    yield made
    await made.close()


def laid_out(tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / SETTINGS).write_text('{"name": "m"}')
    return folder


@drivers
async def test_a_server_that_does_not_say_its_version_is_ready(driver: Driver, double: tuple[Double, int]) -> None:
    """The old adapter for Triton ended, the one for MLServer waited without end."""
    assert await driver.ready() == "2.51"
    double[0].metadata = False
    assert await driver.ready() == ""


@drivers
async def test_a_model_is_loaded_and_unloaded_and_one_that_is_not_there_is_a_success(
    driver: Driver, double: tuple[Double, int], tmp_path: Path
) -> None:
    folder = laid_out(tmp_path)
    await driver.load("m", folder)
    assert double[0].loaded == {"m"}
    assert await driver.holds("m")
    assert "m" in await driver.leftovers(tmp_path)
    await driver.unload("m", folder)
    await driver.unload("m", folder)
    assert not await driver.holds("m")


REFUSALS = [
    (Status.INTERNAL, "No module named 'mine'", Status.INVALID_ARGUMENT),
    (Status.UNKNOWN, "invalid load key", Status.INVALID_ARGUMENT),
    (Status.INVALID_ARGUMENT, "unable to find backend library for 'nothing'", Status.INVALID_ARGUMENT),
    (Status.INTERNAL, "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 9 GiB", Status.RESOURCE_EXHAUSTED),
    (Status.UNKNOWN, "MemoryError", Status.RESOURCE_EXHAUSTED),
    (Status.INTERNAL, "CUDA out of memory. Tried to allocate 2 GiB", Status.RESOURCE_EXHAUSTED),
    (Status.INVALID_ARGUMENT, "std::bad_alloc", Status.RESOURCE_EXHAUSTED),
    (Status.RESOURCE_EXHAUSTED, "too many", Status.RESOURCE_EXHAUSTED),
]


@drivers
@pytest.mark.parametrize(("status", "text", "means"), REFUSALS, ids=[text[:20] for _, text, _ in REFUSALS])
async def test_a_load_that_is_refused_is_the_models_fault_or_a_lack_of_memory(
    driver: Driver, double: tuple[Double, int], tmp_path: Path, status: Status, text: str, means: Status
) -> None:
    double[0].refuses = (status, text)
    with pytest.raises(ServerError, match="model 'm'") as caught:
        await driver.load("m", laid_out(tmp_path))
    assert caught.value.status is means
    assert text in str(caught.value)
    if means is Status.RESOURCE_EXHAUSTED and text != "too many":
        assert "give the server more" in str(caught.value)
    assert not (tmp_path / "m" / ASIDE).exists()


@drivers
async def test_a_server_that_ends_during_a_load_is_away(
    driver: Driver, double: tuple[Double, int], tmp_path: Path
) -> None:
    """The kernel ends the server that takes the most memory."""
    double[0].refuses = (Status.UNAVAILABLE, "Socket closed")
    with pytest.raises(ServerError, match="does not answer") as caught:
        await driver.load("m", laid_out(tmp_path))
    assert caught.value.status is Status.UNAVAILABLE


class Raw(asyncio.Protocol):
    """One connection to what is no server of the protocol: it answers, and ends the connection or waits for its end."""

    def __init__(self, answer: bytes, *, silent: bool) -> None:
        self._answer = answer
        self._silent = silent
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._answer)
        if not self._silent:
            transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self.ended.set_result(None)


@contextlib.asynccontextmanager
async def raw_server(answer: bytes, *, silent: bool) -> AsyncIterator[int]:
    """The port of such a server. Those who called it have left when the context ends."""
    made: list[Raw] = []

    def connected() -> Raw:
        made.append(Raw(answer, silent=silent))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*(one.ended for one in made))


@drivers
@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"\0" * 100, b""])
async def test_what_is_no_server_of_the_protocol_is_away(make: Callable[[int], Driver], answer: bytes) -> None:
    """Another program has the port, or garbage comes from it."""
    async with raw_server(answer, silent=False) as port:
        driver = make(port)
        with pytest.raises(ServerAwayError, match="does not answer"):
            await driver.ready()
        await driver.close()


@drivers
async def test_a_server_that_is_silent_is_not_waited_for_without_end(
    make: Callable[[int], Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelmesh.servers.repository.READY_BOUND_S", 0.05)
    async with raw_server(b"", silent=True) as port:
        driver = make(port)
        with pytest.raises(ServerError) as caught:
            await driver.ready()
        assert caught.value.status in {Status.DEADLINE_EXCEEDED, Status.UNAVAILABLE}
        await driver.close()
