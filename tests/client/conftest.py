import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest
from scripted_server import ScriptedServer

from modelmesh.client import AsyncClient, Client


class Blocking:
    """An `AsyncClient` that is called like a `Client`, on a loop of its own."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self._client = self._loop.run_until_complete(self._made(given, named))
        except BaseException:
            self._loop.close()
            raise

    async def _made(self, given: Any, named: Any) -> AsyncClient:
        return await AsyncClient(*given, **named).__aenter__()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            result = getattr(self._client, name)(*given, **named)
            return self._each(result) if isinstance(result, AsyncGenerator) else self._loop.run_until_complete(result)

        return call

    def _each(self, answers: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while True:
                yield self._loop.run_until_complete(anext(answers))
        except StopAsyncIteration:
            pass
        finally:
            self._loop.run_until_complete(answers.aclose())

    def close(self) -> None:
        self._loop.run_until_complete(self._client.__aexit__(None, None, None))
        self._loop.close()


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture(params=[Client, Blocking], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Opens a client of either kind."""
    opened = []

    def connect(*given: Any, **named: Any) -> Any:
        opened.append(request.param(*given, **named))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


@pytest.fixture
def client(server: ScriptedServer, connect: Callable[..., Any]) -> Any:
    return connect(server.address, timeout_s=20)
