"""A runtime process that is stopped, and goes on later: real processes, real signals."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from conftest import Mesh, eventually

from modelmesh.instance.local_cluster import LocalCluster, free_port

pytestmark = pytest.mark.process


async def answers(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()


class Pair:
    """Two instances with runtimes of their own, which can be stopped."""

    def __init__(self, cluster: LocalCluster, probes: list[int]) -> None:
        self.mesh = Mesh(cluster, [])
        self.probes = probes
        self._cluster = cluster

    def signal(self, number: int, what: signal.Signals) -> None:
        runtime = self._cluster.instances[number].runtime
        assert runtime is not None
        os.kill(runtime.pid, what)

    async def ready(self, number: int) -> bool:
        return await answers(self.probes[number], "/ready") == 200


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    probes = [free_port(), free_port()]
    cluster = LocalCluster(
        2,
        lambda _, listen: [sys.executable, "-m", "modelmesh.testing.runtime", "--listen", listen],
        folder=tmp_path,
        own_environment=lambda number: {"MM_PROBE_PORT": str(probes[number - 1])},
    )
    try:
        await cluster.start()
        pair = Pair(cluster, probes)
        yield pair
        await pair.mesh.close()
    finally:
        for instance in cluster.instances:
            if instance.runtime is not None:
                os.kill(instance.runtime.pid, signal.SIGCONT)  # else it could not end
        await cluster.stop()


async def test_a_stopped_runtime_leaves_the_rotation_and_comes_back_by_itself(pair: Pair) -> None:
    """Every second call failed although a healthy copy stood elsewhere, and both instances said that they were ready."""
    mesh = pair.mesh
    await mesh.register("m", path="SIZE_1000_1_1", load=True, sync=True)
    holder = 0 if "loaded" in mesh.log(0) else 1

    async def both_ready() -> bool:
        return await pair.ready(0) and await pair.ready(1)

    await eventually(both_ready)
    failed: list[BaseException] = []
    stop = asyncio.Event()

    async def call_on(via: int) -> None:
        while not stop.is_set():
            try:
                await mesh.predict("m", via=via, timeout=30)
            except Exception as error:  # noqa: BLE001 - told below
                failed.append(error)
            await asyncio.sleep(0.02)

    callers = [asyncio.create_task(call_on(number)) for number in (0, 1, 0, 1)]

    async def not_ready() -> bool:
        return not await pair.ready(holder)

    async def ready() -> bool:
        return await pair.ready(holder)

    for _ in range(2):
        pair.signal(holder, signal.SIGSTOP)
        await eventually(not_ready, within=30)
        assert await pair.ready(1 - holder)
        # Nobody waits to find out again.
        for via in (0, 1):
            await mesh.predict("m", via=via, timeout=10)
        pair.signal(holder, signal.SIGCONT)
        await eventually(ready, within=30)
    stop.set()
    await asyncio.gather(*callers)
    assert failed == []
    assert list((await mesh.status("m")).errors) == []


async def test_a_stopped_runtime_that_nobody_calls_is_found_out(pair: Pair) -> None:
    pair.signal(0, signal.SIGSTOP)

    async def not_ready() -> bool:
        return not await pair.ready(0)

    await eventually(not_ready, within=30)
    assert await answers(pair.probes[0], "/live") == 200
    pair.signal(0, signal.SIGCONT)

    async def ready() -> bool:
        return await pair.ready(0)

    await eventually(ready, within=30)
