"""A proxy before an API server that breaks what passes through it: resets, silence, half answers, refusals.

Clients call it without TLS. Each request has a connection of its own to the server, so an answer ends where the server says.
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

HEAD_BYTES = 64 * 1024
CHUNK = 64 * 1024
BODY_BYTES = 16 * 1024 * 1024
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Passed:
    """A request that came. `path` has no query."""

    method: str
    path: str
    query: str

    @property
    def is_watch(self) -> bool:
        """Whether its answer has no end."""
        return "watch=true" in self.query

    @property
    def is_write(self) -> bool:
        """Whether it changes something."""
        return self.method in WRITES


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the gate's own; the server does not see the request."""

    code: int
    message: str
    retry_after_s: int = 0

    def encoded(self) -> bytes:
        """As HTTP has it."""
        body = json.dumps({"kind": "Status", "code": self.code, "message": self.message}).encode()
        after = f"Retry-After: {self.retry_after_s}\r\n" if self.retry_after_s else ""
        head = (
            f"HTTP/1.1 {self.code} Refused\r\nContent-Type: application/json\r\n{after}Content-Length: {len(body)}\r\n"
        )
        return head.encode() + b"Connection: close\r\n\r\n" + body


@dataclass(eq=False, slots=True)
class _Open:
    passed: Passed
    writer: asyncio.StreamWriter
    moves: asyncio.Event = field(default_factory=asyncio.Event)


class Gate:
    """Serves on entry, at a free port of this machine.

    Args:
        server: URL of the API server.
        authority: PEM of what signed its certificate.

    Attributes:
        passed: All requests that came, in order.
        answer: Gives a request an answer of the gate's own, or None.
        cut: After how many bytes of its answer a request's connection is ended; None: when the answer is whole.
        unheard: Whether the server gets a request, and its client a reset instead of the answer.
    """

    def __init__(self, server: str, authority: bytes) -> None:
        parts = urlsplit(server)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._tls = ssl.create_default_context(cadata=authority.decode())
        self._listener: asyncio.Server | None = None
        self._at = 0
        self._open: set[_Open] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.passed: list[Passed] = []
        self.answer: Callable[[Passed], Answer | None] = lambda _: None
        self.cut: Callable[[Passed], int | None] = lambda _: None
        self.unheard: Callable[[Passed], bool] = lambda _: False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """For clients."""
        return f"http://127.0.0.1:{self._at}"

    async def open(self) -> None:
        """Take connections, always at the same port."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._at, limit=HEAD_BYTES)
        self._at = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._listener is not None:
            self._listener.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> int:
        """Reset all open connections; returns how many there were."""
        found = list(self._open)
        for one in found:
            _reset(one.writer)
        return len(found)

    def freeze(self) -> int:
        """Let nothing more come on the connections that are open, nor end them; returns how many there are."""
        for one in self._open:
            one.moves.clear()
        return len(self._open)

    @property
    def watches(self) -> int:
        """Watches that are open."""
        return sum(one.passed.is_watch for one in self._open)

    # --- one connection ---------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await self._request(reader, writer)
        finally:
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        passed = Passed(method, path, query)
        self.passed.append(passed)
        headers = [line for line in lines if not line.lower().startswith("connection:")]
        lengths = [int(line.partition(":")[2]) for line in headers if line.lower().startswith("content-length:")]
        assert sum(lengths) <= BODY_BYTES
        body = await reader.readexactly(sum(lengths))
        if (answer := self.answer(passed)) is not None:
            writer.write(answer.encoded())
            await writer.drain()
            return
        head = "\r\n".join([first, *headers, "Connection: close", "", ""]).encode("latin-1")
        forwarding = asyncio.ensure_future(self._forward(passed, head + body, writer))
        left = asyncio.ensure_future(reader.read(1))  # a client says nothing more before it leaves
        try:
            await asyncio.wait({forwarding, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            forwarding.cancel()
            left.cancel()
            await asyncio.gather(forwarding, left, return_exceptions=True)

    async def _forward(self, passed: Passed, request: bytes, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        one = _Open(passed, writer)
        one.moves.set()
        self._open.add(one)
        room = self.cut(passed)
        unheard = self.unheard(passed)
        try:
            server.write(request)
            await server.drain()
            while (room is None or room > 0) and (chunk := await answers.read(CHUNK)):
                await one.moves.wait()
                if not unheard:
                    writer.write(chunk[:room])
                    await writer.drain()
                    room = room if room is None else room - len(chunk)
            if unheard:
                _reset(writer)
        finally:
            self._open.discard(one)
            server.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a machine does that does not know it: by RST."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
