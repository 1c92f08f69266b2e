"""A gRPC server on the running event loop. HTTP/2 is read and written by the native core, sockets by asyncio.

A call whose request came at once enters Python once; its answer leaves with those of the others of that moment.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modelmesh._core._server import ServerConnection, Unfinished
from modelmesh.runtime.calls import Call, Method, answer_now
from modelmesh.runtime.errors import RuntimeFault, describe
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh._core._server import Came, OpenedCall

_log = logging.getLogger("modelmesh.runtime")

Methods = Mapping[str, Method]
"""By path: `/package.Service/Method`."""

MOST_CALLS = 4096
"""Calls at once, streams included."""
MOST_CONNECTIONS = 1024
MOST_UNFINISHED = 16
"""Messages of the largest size that may be on their way here at once, on all connections together."""
LOOK_S = 5.0
"""How often connections are looked at: does the client continue with what it began, does it read?"""
MOST_TAKEN = 256 << 10
"""What a connection has to send at once, in bytes: if it is that much, there may be more."""
FAREWELL_S = 1.0
"""How long the last bytes of a connection may take to be sent when the server stops."""
BACKLOG = 1024


class GrpcServer:
    """A server and its connections.

    Args:
        methods: What is answered.
        max_message_bytes: Larger requests and answers are refused with RESOURCE_EXHAUSTED.
    """

    def __init__(self, methods: Methods, *, max_message_bytes: int) -> None:
        self._methods = methods
        self._max_message_bytes = max_message_bytes
        self._unfinished = Unfinished(MOST_UNFINISHED * max_message_bytes)
        self._listeners: list[asyncio.Server] = []
        self._connections: set[_Connection] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None

    async def listen(self, address: str) -> str:
        """Serve at `host:port` or `unix:///path` too. Returns the address, with the port that was chosen for 0.

        Raises:
            OSError: The address is in use or not permitted.
            ValueError: The path is longer than one of a socket may be.
        """
        loop = asyncio.get_running_loop()
        if self._looking is None:
            self._looking = loop.call_later(LOOK_S, self._look)
        if address.startswith("unix://"):
            path = _free_path(address)
            self._listeners.append(await loop.create_unix_server(self._connection, str(path), backlog=BACKLOG))
            return address
        host, _, port = address.rpartition(":")
        try:
            hosts: list[str] = [host.strip("[]")]
            if port == "0":  # one port, also for a name with several addresses
                found = await loop.getaddrinfo(hosts[0], 0, type=socket.SOCK_STREAM)
                hosts = [str(found[0][4][0])]
            listener = await loop.create_server(self._connection, hosts, int(port), backlog=BACKLOG)
        except OSError as error:
            raise OSError(f"cannot listen at {address}; is it in use? {error}") from error
        self._listeners.append(listener)
        return f"{host}:{listener.sockets[0].getsockname()[1]}"

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._stopped.wait()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, let those that run end for `grace_s`, then end them with UNAVAILABLE."""
        for listener in self._listeners:
            listener.close()
        for connection in self._connections:
            connection.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        for connection in tuple(self._connections):
            connection.close()
        if self._looking is not None:
            self._looking.cancel()
        self._stopped.set()

    def _connection(self) -> "_Connection":
        native = ServerConnection(max_message_bytes=self._max_message_bytes, unfinished=self._unfinished)
        return _Connection(self, native)

    def _look(self) -> None:
        for connection in tuple(self._connections):
            connection.look()
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    # --- for connections ---

    def add(self, connection: "_Connection") -> bool:
        """A connection is there. False: there are too many."""
        if len(self._connections) >= MOST_CONNECTIONS:
            _log.warning("a connection was refused: there are %d", MOST_CONNECTIONS)
            return False
        self._connections.add(connection)
        return True

    def remove(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._connections.discard(connection)

    def method(self, path: str) -> Method | None:
        """What answers a path."""
        return self._methods.get(path)

    def begin(self) -> bool:
        """A call begins. False: too many run."""
        if self._calls >= MOST_CALLS:
            return False
        self._calls += 1
        self._idle.clear()
        return True

    def ended(self) -> None:
        """Nothing of a call runs any more."""
        self._calls -= 1
        if not self._calls:
            self._idle.set()

    @property
    def max_message_bytes(self) -> int:
        """Of a message, either way."""
        return self._max_message_bytes


class _Connection(asyncio.Protocol):
    """The socket of one connection, and its calls."""

    def __init__(self, server: GrpcServer, native: ServerConnection) -> None:
        self._server = server
        self._native = native
        self._calls: dict[int, Call] = {}
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._will_flush = False
        self._was_silent = False

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if not self._server.add(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._take(self._native.receive(data))
        self._flush()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._server.remove(self)
        self._native.lost()
        for call in tuple(self._calls.values()):
            call.give_up()

    # --- the server ---

    def leave(self) -> None:
        """Ask the client to open no more calls."""
        self._native.leave()
        self._flush()

    def close(self) -> None:
        """End all calls, send what there is to send, and close."""
        for call in tuple(self._calls.values()):
            call.stop(Status.UNAVAILABLE, "the server stops")
        self._flush()
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(FAREWELL_S, self._abort)

    def look(self) -> None:
        """End a connection whose client does not continue with what it began, or does not read."""
        speaks = self._native.look()
        if not speaks and self._was_silent:
            self._abort()
        self._was_silent = not speaks
        self._flush()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- calls ---

    def _take(self, came: "Came | None") -> None:
        if came is None:
            return
        for opened in came.calls:
            self._begin(opened)
        for id_ in came.news:
            if (call := self._calls.get(id_)) is not None:
                call.hear()
        for id_ in came.cancelled:
            if (call := self._calls.get(id_)) is not None:
                call.give_up()

    def _begin(self, opened: "OpenedCall") -> None:
        method = self._server.method(opened.path)
        if method is None:
            self._native.end(opened.call, Status.UNIMPLEMENTED, f"Method not found: {opened.path}")
            return
        if method.now is not None and self._answered_now(method, opened):
            return
        if not self._server.begin():
            self._native.end(opened.call, Status.RESOURCE_EXHAUSTED, f"{MOST_CALLS} calls run; repeat later")
            return
        call = Call(
            opened,
            method,
            self._native,
            flush=self._flush_soon,
            ended=self._ended,
            max_message_bytes=self._server.max_message_bytes,
        )
        self._calls[call.id] = call
        call.start()

    def _answered_now(self, method: Method, opened: "OpenedCall") -> bool:
        try:
            message = answer_now(method, opened, self._server.max_message_bytes)
        except RuntimeFault as error:
            self._native.end(opened.call, error.status, describe(error))
            return True
        if message is not None:
            self._native.answer(opened.call, message)
        return message is not None

    def _ended(self, call: Call) -> None:
        del self._calls[call.id]
        self._server.ended()

    # --- bytes ---

    def _flush_soon(self) -> None:
        if not self._will_flush:
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what there is to send, as far as the socket takes it."""
        self._will_flush = False
        while self._transport is not None and not self._transport.is_closing() and not self._is_paused:
            data, came = self._native.take()
            self._take(came)
            if data:
                self._transport.write(data)
            if len(data) < MOST_TAKEN and came is None:
                break
        if self._native.has_ended and self._transport is not None and not self._transport.is_closing():
            if self._native.failure is not None:
                _log.debug("a connection was ended: %s", self._native.failure)
            self._transport.close()


def _free_path(address: str) -> Path:
    path = Path(address.removeprefix("unix://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(os.fsencode(path)) > 107:
        raise ValueError(f"{address} is longer than a socket path may be (107 bytes)")
    if path.is_socket() and _answers(path):  # asyncio would replace it silently
        raise OSError(f"another process listens at {address}")
    return path


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(1)
        probe.connect(str(path))
        return True
    return False
