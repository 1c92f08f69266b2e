"""Servers for channels to call, and what is asked of every channel."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from scripted import WAIT

from modelmesh.adapters.channel import CallError, Channel, Target
from modelmesh.values.status import Status

MIB = 1 << 20


class Server:
    """gRPC's own server with one service, `/test.S/…`, and what became of its calls."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.deadline_s: float | None = None
        self.started = 0
        self.cancelled = 0
        self.release = asyncio.Event()
        self.address = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0", *, credentials: Any = None, **options: int) -> "Server":
        limits = {"grpc.max_receive_message_length": 64 * MIB, "grpc.max_send_message_length": 64 * MIB}
        chosen = {**limits, **{f"grpc.{name}": value for name, value in options.items()}}
        self._server = grpc.aio.server(options=list(chosen.items()))
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        handlers = {
            "Echo": unary(self._echo),
            "Fail": unary(self._fail),
            "Wait": unary(self._wait),
            "Each": stream(self._each),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.S", handlers),))
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def stop(self, grace: float | None = None) -> None:
        if self._server is not None:
            await self._server.stop(grace)

    async def _echo(self, request: bytes, context: Any) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        self.deadline_s = context.time_remaining()
        return request

    async def _fail(self, request: bytes, context: Any) -> bytes:
        code, _, details = request.decode().partition(" ")
        await context.abort(grpc.StatusCode[code], details)
        raise AssertionError

    async def _wait(self, request: bytes, _: Any) -> bytes:
        self.started += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def _each(self, requests: Any, _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            yield request.upper()


def target(address: str, **others: Any) -> Target:
    return Target(address, "localhost", **others)


@contextlib.contextmanager
def saying(words: bytes, *, hangs_up: bool) -> Iterator[str]:
    """A server that says so much to whoever connects; its address.

    A thread: an event loop may accept a connection after the test has ended, and nobody would close it.
    """
    peers: list[socket.socket] = []

    def speak() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return  # the listener is closed
            peers.append(peer)
            with contextlib.suppress(OSError):
                peer.sendall(words)
            if hangs_up:
                peer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for peer in peers:
                peer.close()


@contextlib.asynccontextmanager
async def opened(where: Target) -> AsyncIterator[Channel]:
    """A channel that has forgotten all its calls at the end."""
    channel = Channel(where)
    try:
        yield channel
        connection = channel._connection
        assert connection is None or not connection.streams
    finally:
        await channel.close()


async def fails(status: Status, call: Any, match: str = ".") -> CallError:
    with pytest.raises(CallError, match=match or ".") as raised:
        async with asyncio.timeout(WAIT):
            await call
    assert raised.value.status is status
    return raised.value
