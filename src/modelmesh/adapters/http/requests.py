"""HTTP/1.1 as far as probes need it: a bounded head in bounded time, an empty answer.

Our own, because it is a page, and because the servers at hand let a head take for ever.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

HEAD_S = 10.0
"""For a whole head, and between two requests of a connection."""

HEAD_BYTES = 16_384
CONNECTIONS = 256

Answer = Callable[[str], Awaitable[int]]
"""Path, without query and trailing slash, to status."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a request's head says."""

    path: str
    keep_alive: bool
    """Whether another request may follow on the connection."""


class MalformedRequestError(ValueError):
    """The bytes are no request."""


def parse_head(head: bytes) -> Head:
    """Read a head up to its empty line. A request with a body is the last of its connection: the body is not read."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1] or not words[2].startswith("HTTP/1."):
        raise MalformedRequestError("not a request line of HTTP/1")
    headers = {
        name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines[1:])
    }
    target = words[1]
    if "://" in target:  # the absolute form, as proxies are asked
        target = "/" + target.partition("://")[2].partition("/")[2]
    path = target.partition("?")[0].rstrip("/") or "/"
    options = [option.strip() for option in headers.get("connection", "").split(",")]
    persistent = "close" not in options if words[2] == "HTTP/1.1" else "keep-alive" in options
    body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    return Head(path, persistent and not body)


def serve_connection(
    answer: Answer, connections: dict[asyncio.Task[None], None]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A handler for `asyncio.start_server`; it enters its tasks into `connections` while they run."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(connections) >= CONNECTIONS:
            writer.close()
            return
        connections[task] = None
        try:
            while await _serve_one(reader, writer, answer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, TimeoutError):
            pass  # it has gone, is too slow, or we end
        finally:
            del connections[task]
            writer.close()

    return serve


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Answer one request; whether another may follow."""
    try:
        async with asyncio.timeout(HEAD_S):
            request = parse_head(await reader.readuntil(b"\r\n\r\n"))
    except MalformedRequestError:
        await _write(writer, HTTPStatus.BAD_REQUEST, keep_alive=False)
        return False
    except asyncio.LimitOverrunError:
        await _write(writer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, keep_alive=False)
        return False
    await _write(writer, HTTPStatus(await answer(request.path)), keep_alive=request.keep_alive)
    return request.keep_alive


async def _write(writer: asyncio.StreamWriter, status: HTTPStatus, *, keep_alive: bool) -> None:
    connection = "keep-alive" if keep_alive else "close"
    writer.write(
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\nconnection: {connection}\r\n\r\n".encode()
    )
    await writer.drain()
