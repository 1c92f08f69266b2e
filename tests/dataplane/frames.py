"""A forged HTTP/2 server and a forged client: they say what no gRPC library would, frame by frame."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from scripted import WAIT

OK = (("grpc-status", "0"),)
HEADERS = ((":status", "200"), ("content-type", "application/grpc"))
Script = Callable[["Connection", h2.events.Event], Awaitable[None] | None]


class Connection(asyncio.Protocol):
    """One connection; `script` is called with every event."""

    def __init__(self, server: "ForgedServer") -> None:
        self.server = server
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.transport: Any = None
        self.number = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.server.connections.append(self)
        self.number = len(self.server.connections)
        if self.server.is_still:
            transport.pause_reading()
            return
        self.begin()

    def begin(self) -> None:
        if self.server.settings:
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values=self.server.settings)
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.server.seen.append(event)
            self.server.script(self, event)
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def answer(self, stream: int, body: bytes = b"\x00\x00\x00\x00\x00") -> None:
        self.h2.send_headers(stream, HEADERS)
        self.h2.send_data(stream, body)
        self.h2.send_headers(stream, OK, end_stream=True)

    def fail(self, stream: int, code: int, message: str = "") -> None:
        trailers = (*HEADERS, ("grpc-status", str(code)), ("grpc-message", message))
        self.h2.send_headers(stream, trailers, end_stream=True)


class ForgedServer:
    """Answers every call with an empty message unless the script does something else."""

    def __init__(self, script: Callable[[Connection, h2.events.Event], None] | None = None) -> None:
        self.script = script or answer_all
        self.settings: dict[Any, int] = {}
        self.connections: list[Connection] = []
        self.seen: list[h2.events.Event] = []
        self.address = ""
        self.is_still = False
        self._server: asyncio.Server | None = None

    def stand_still(self) -> None:
        """As a stopped process: the system still accepts connections, and takes what its buffers hold."""
        self.is_still = True
        for connection in self.connections:
            connection.transport.pause_reading()

    def go_on(self) -> None:
        self.is_still = False
        for connection in self.connections:
            if not connection.transport.is_closing():
                if connection.h2.state_machine.state is h2.connection.ConnectionState.IDLE:
                    connection.begin()
                connection.transport.resume_reading()

    async def start(self, address: str = "127.0.0.1:0") -> "ForgedServer":
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, int(port))
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def drop(self) -> None:
        """Close every connection without a word."""
        for connection in self.connections:
            connection.transport.abort()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.drop()

    def requests(self) -> int:
        return sum(isinstance(event, h2.events.RequestReceived) for event in self.seen)


def answer_all(connection: Connection, event: h2.events.Event) -> None:
    if isinstance(event, h2.events.StreamEnded):
        connection.answer(event.stream_id)


def at_the_end(answer: Callable[[Connection, int], None]) -> Callable[[Connection, h2.events.Event], None]:
    """A script that answers each request once it is whole."""

    def script(connection: Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.StreamEnded):
            answer(connection, event.stream_id)

    return script


REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.S/Echo"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("mm-model-id", "m"),
)


class Client:
    """An HTTP/2 client that sends what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, settings: dict[Any, int]) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        if settings:
            self.h2.local_settings = h2.settings.Settings(client=True, initial_values=settings)
        self.h2.initiate_connection()
        self.flush()

    @classmethod
    async def connect(cls, port: int | None, settings: dict[Any, int] | None = None) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port), settings or {})

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def request(self, *headers: tuple[str, str], body: bytes | None = b"\0\0\0\0\0", end: bool = True) -> int:
        stream = self.h2.get_next_available_stream_id()
        merged = [*{**dict(REQUEST), **dict(headers)}.items()]
        self.h2.send_headers(stream, merged, body is None)
        if body is not None:
            for at in range(0, max(len(body), 1), 16_000):
                self.h2.send_data(stream, body[at : at + 16_000], end and at + 16_000 >= len(body))
        self.flush()
        return stream

    async def next(self, kind: type, stream: int | None = None) -> Any:
        async with asyncio.timeout(WAIT):
            while True:
                data = await self.reader.read(65_536)
                assert data, "the connection was closed"
                found = None
                for event in self.h2.receive_data(data):
                    if isinstance(event, kind) and stream in {None, getattr(event, "stream_id", None)}:
                        found = found or event
                self.flush()
                if found is not None:
                    return found

    async def answer(self, stream: int) -> dict[str, str]:
        """The first header block of an answer."""
        return dict((await self.next(h2.events.ResponseReceived, stream)).headers)

    async def closed(self) -> None:
        """Wait until the other side has hung up."""
        async with asyncio.timeout(WAIT + 5):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65_536):
                    pass
