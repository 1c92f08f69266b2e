"""A forged HTTP/2 server: says what no gRPC library would, frame by frame."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings

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
        self._server: asyncio.Server | None = None

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
