"""Adapters over a server in memory."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest
from memory_server import Adapter, Client, MemoryFiles, MemoryServer, settings_in

from modelmesh.runtime.server import serve
from modelmesh.servers.adapter import AdapterRuntime
from modelmesh.servers.service import AdapterManagement
from modelmesh.servers.sizes import Sizes


@pytest.fixture
async def start_adapter(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Adapter]]]:
    async with contextlib.AsyncExitStack() as stack:

        async def start(driver: MemoryServer | None = None, *, opened: bool = True, **variables: str) -> Adapter:
            driver = driver or MemoryServer()
            (tmp_path / "files").mkdir(exist_ok=True)
            files = MemoryFiles(tmp_path / "files")
            settings = settings_in(tmp_path, **variables)
            runtime = AdapterRuntime(driver, files, settings, Sizes(settings.factor, settings.default_size_bytes))
            if opened:
                await runtime.open()
            listen = f"unix://{tmp_path}/adapter.sock"
            server = await serve(runtime, listen=listen, management=AdapterManagement, bounded=False)
            stack.push_async_callback(server.stop, 0)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(listen))
            return Adapter(driver, files, runtime, server, Client(channel))

        yield start
