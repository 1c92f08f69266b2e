"""An etcd that accepts connections and never answers: real processes, a real etcd behind a wall that can go silent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from conftest import Mesh, eventually

from modelmesh.instance.local_cluster import LocalCluster, free_port
from modelmesh.testing.etcd import running_etcd
from modelmesh.testing.scripted_runtime import ScriptedRuntime

pytestmark = pytest.mark.process
BOUND_S = 30.0
"""Signs of life, calls and connections have bounds of a few seconds each."""


class Wall:
    """Forwards to etcd, or is silent: it accepts, reads, and never answers, on old connections and on new ones."""

    def __init__(self, behind: int) -> None:
        self._behind = behind
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.port = 0

    async def start(self) -> "Wall":
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server
        return self

    def fall_silent(self) -> None:
        self._speaks.clear()

    def speak(self) -> None:
        """New connections are forwarded; what was swallowed on the old ones is lost, so these end."""
        self._speaks.set()
        self.close()

    def close(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def stop(self) -> None:
        self._server.close()
        self.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there, towards = await asyncio.open_connection("127.0.0.1", self._behind)
        self._writers |= {writer, towards}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._pass(reader, towards), self._pass(there, writer))
        for one in (writer, towards):
            one.transport.abort()
            self._writers.discard(one)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self._speaks.is_set():
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError


async def is_ready(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return int((await reader.readline()).split()[1]) == 200
    finally:
        writer.close()


class Walled:
    """An instance whose store stands behind walls, one for each endpoint."""

    def __init__(self, mesh: Mesh, walls: list[Wall], probe: int) -> None:
        self.mesh, self.walls, self._probe = mesh, walls, probe

    async def ready(self) -> bool:
        return await is_ready(self._probe)


Build = Callable[..., contextlib.AbstractAsyncContextManager[Walled]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    @contextlib.asynccontextmanager
    async def build(endpoints: int, *, silent: int = 0) -> AsyncIterator[Walled]:
        async with contextlib.AsyncExitStack() as stack:
            etcd = stack.enter_context(running_etcd())
            walls = [await Wall(etcd.port).start() for _ in range(endpoints)]
            for wall in walls:
                stack.push_async_callback(wall.stop)
            for wall in walls[:silent]:
                wall.fall_silent()
            probe = free_port()
            stores = ",".join(f"http://127.0.0.1:{wall.port}" for wall in walls)
            environment = {"MM_PROBE_PORT": str(probe), "KV_STORE": f"etcd:{stores}"}
            cluster = LocalCluster(1, None, folder=tmp_path, environment=environment)
            await stack.enter_async_context(ScriptedRuntime(listen=f"unix://{tmp_path}/runtime-1.sock"))
            stack.push_async_callback(cluster.stop)
            await cluster.start()
            mesh = Mesh(cluster, [])
            stack.push_async_callback(mesh.close)
            yield Walled(mesh, walls, probe)

    return build


async def test_a_silent_store_is_away_within_seconds_and_comes_back_by_itself(build: Build) -> None:
    async with build(1) as one:
        mesh, [wall] = one.mesh, one.walls
        await mesh.register("m", path="SIZE_1000_1_1", load=True, sync=True)
        await eventually(one.ready)
        wall.fall_silent()

        async def away() -> bool:
            return "store_away" in mesh.log()

        await eventually(away, within=BOUND_S)
        # What is loaded is served, and others have the same store: nobody gains if all say that they are not ready.
        await mesh.predict("m")
        assert await one.ready()
        async with asyncio.timeout(BOUND_S):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await mesh.register("n", path="SIZE_1000_1_1")
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        wall.speak()

        async def registered() -> bool:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await mesh.register("n", path="SIZE_1000_1_1", load=True, sync=True)
                return True
            return False

        await eventually(registered, within=BOUND_S)
        await mesh.predict("n")


async def test_of_several_endpoints_the_one_that_answers_is_used(build: Build) -> None:
    async with build(2) as two:
        await eventually(two.ready)
        for number in range(2):
            silent, other = two.walls[number], two.walls[1 - number]
            silent.fall_silent()
            before = other.accepted

            async def registered(number: int = number) -> bool:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await two.mesh.register(f"m-{number}", path="SIZE_1000_1_1", load=True, sync=True)
                    return True
                return False

            await eventually(registered, within=BOUND_S)
            assert other.accepted > before
            await two.mesh.predict(f"m-{number}")
            await eventually(two.ready, within=BOUND_S)
            silent.speak()


async def test_an_instance_starts_although_its_first_endpoint_is_silent(build: Build) -> None:
    async with build(2, silent=1) as two:
        await eventually(two.ready, within=BOUND_S)
        await two.mesh.register("m", path="SIZE_1000_1_1", load=True, sync=True)
        await two.mesh.predict("m")
