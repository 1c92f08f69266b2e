"""The HTTP/1.1 of probes and metrics: a bounded head and a bounded answer in bounded time, on few connections.

Our own, because it is a page, and because the servers at hand let heads, readers and silent connections take forever.
"""

import asyncio
import errno
import gzip
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import parse_qs

HEAD_S = 10.0
"""For a handshake, for a whole head, and between two requests of a connection."""

ANSWER_S = 30.0
"""For a client to take an answer."""

HEAD_BYTES = 16_384
CONNECTIONS = 64
"""Of one port. One more, and the one that has been silent longest makes room."""

BACKLOG = 128

GOODBYE_S = 1.0
"""At the end, for answers that are being written."""

COMPRESSED_BYTES = 1_024
"""Shorter answers are sent as they are."""

SETTLE_TURNS = 6
"""Of the event loop: from an accepted socket to a connection, and from its abortion to its end."""

PAUSE_S = 0.2
"""When the process has no descriptor left; one of our own connections is ended first."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request. `headers`: names in lower case."""

    path: str
    """Without the query and a trailing slash."""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    keep_alive: bool = True
    """Whether another request may follow on the connection."""
    peer: str = ""

    def parameters(self, name: str, *, most: int) -> list[str]:
        """The values of a parameter. Raises MalformedRequestError if the query has more than `most` parameters."""
        try:
            return parse_qs(self.query, max_num_fields=most).get(name, [])
        except ValueError as error:
            raise MalformedRequestError(f"more than {most} parameters") from error


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    status: int
    body: bytes = b""
    content_type: str = ""


Answer = Callable[[Request], Awaitable[Response]]


class MalformedRequestError(ValueError):
    """The bytes are no request."""


def parse_head(head: bytes) -> Request:
    """Read a head up to its empty line. A request with a body is the last of its connection: the body is not read."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1] or not words[2].startswith("HTTP/1."):
        raise MalformedRequestError("not a request line of HTTP/1")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    target = words[1]
    if "://" in target:  # the absolute form, as proxies are asked
        target = "/" + target.partition("://")[2].partition("/")[2]
    path, _, query = target.partition("?")
    options = [option.strip().lower() for option in headers.get("connection", "").split(",")]
    persistent = "close" not in options if words[2] == "HTTP/1.1" else "keep-alive" in options
    body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    headers.pop("", None)
    return Request(path.rstrip("/") or "/", query, headers, persistent and not body)


class _Connection:
    """One connection: requests in, answers out."""

    def __init__(self, writer: asyncio.StreamWriter, reader: asyncio.StreamReader, peer: str) -> None:
        self.reader = reader
        self.writer = writer
        self.peer = peer
        self.waits = True
        """Nothing is being answered."""

    def abort(self) -> None:
        """End it where it stands."""
        self.writer.transport.abort()


class HttpServer:
    """Answers the requests of one listener, on the event loop that calls `serve`.

    Args:
        listener: Bound and listening, not blocking; closed at the end.
        answer: Answers a request. What it raises is answered 500.
        tls: None: clear text.
        failed: Called for what `answer` raised.
    """

    def __init__(
        self,
        listener: socket.socket,
        answer: Answer,
        *,
        tls: ssl.SSLContext | None = None,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._tls = tls
        self._failed = failed
        self._connections: dict[_Connection, None] = {}
        """In the order of their last activity."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends = False

    @property
    def connections(self) -> int:
        """Open now, handshakes included."""
        return len(self._tasks)

    async def serve(self) -> None:
        """Accept until cancelled; then let answers go out and end every connection."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    accepted, address = await loop.sock_accept(self._listener)
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        self._make_room()
                        await asyncio.sleep(PAUSE_S)
                    continue
                if len(self._tasks) >= CONNECTIONS:
                    # Those accepted just now are known, and those that made room have ended, a few turns later.
                    for _ in range(SETTLE_TURNS):
                        await asyncio.sleep(0)
                if len(self._tasks) >= CONNECTIONS and not self._make_room():
                    accepted.close()
                    continue
                task = loop.create_task(self._talk(accepted, str(address[0])))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            self._listener.close()
            self._ends = True
            while self._make_room():
                pass
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=GOODBYE_S)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # transports close in the turn after

    def _make_room(self) -> bool:
        """End the connection that has been silent longest; False if all are being answered."""
        for connection in self._connections:
            if connection.waits:
                del self._connections[connection]
                connection.abort()
                return True
        return False

    async def _talk(self, accepted: socket.socket, peer: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=HEAD_S if self._tls else None,
                ssl_shutdown_timeout=HEAD_S if self._tls else None,
            )
        except (OSError, asyncio.CancelledError):
            accepted.close()
            return
        connection = _Connection(asyncio.StreamWriter(transport, protocol, reader, loop), reader, peer)
        self._connections[connection] = None
        try:
            while await self._serve_one(connection):
                self._connections.pop(connection, None)
                self._connections[connection] = None  # the last active one
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            connection.abort()  # it has ended, is too slow, or the server ends
        finally:
            self._connections.pop(connection, None)
            connection.writer.close()

    async def _serve_one(self, connection: _Connection) -> bool:
        """Answer one request; whether another may follow."""
        connection.waits = True
        try:
            async with asyncio.timeout(HEAD_S):
                head = await connection.reader.readuntil(b"\r\n\r\n")
            request = replace(parse_head(head), peer=connection.peer)
        except MalformedRequestError:
            await _write(connection.writer, Response(HTTPStatus.BAD_REQUEST), keep_alive=False)
            return False
        except asyncio.LimitOverrunError:
            refused = Response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            await _write(connection.writer, refused, keep_alive=False)
            return False
        connection.waits = False
        try:
            response = await self._answer(request)
        except MalformedRequestError as error:
            response = Response(HTTPStatus.BAD_REQUEST, f"{error}\n".encode(), "text/plain")
        except Exception as error:  # noqa: BLE001 - reported; it must not end the server
            self._failed(error)
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR)
        zipped = "gzip" in request.headers.get("accept-encoding", "").lower()
        keep_alive = request.keep_alive and not self._ends
        await _write(connection.writer, response, keep_alive=keep_alive, zipped=zipped)
        return keep_alive


async def _write(writer: asyncio.StreamWriter, response: Response, *, keep_alive: bool, zipped: bool = False) -> None:
    status = HTTPStatus(response.status)
    body = response.body
    fields = [f"HTTP/1.1 {status.value} {status.phrase}"]
    if zipped and len(body) >= COMPRESSED_BYTES:
        body = await asyncio.to_thread(gzip.compress, body, 1)
        fields.append("content-encoding: gzip")
    if response.content_type:
        fields.append(f"content-type: {response.content_type}")
    fields += [f"content-length: {len(body)}", f"connection: {'keep-alive' if keep_alive else 'close'}"]
    writer.write("\r\n".join(fields).encode() + b"\r\n\r\n" + body)
    async with asyncio.timeout(ANSWER_S):
        await writer.drain()


def listen(host: str, port: int, setting: str, what: str = "") -> socket.socket:
    """A listening socket. Raises OSError naming the address and the setting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        said = f"{what} cannot" if what else "cannot"
        raise OSError(error.errno, f"{said} listen on {host}:{port} ({setting}): {error.strerror}") from error
    listener.settimeout(0)
    return listener
