"""A gRPC server on the running event loop. The native core reads and writes sockets and HTTP/2; the loop says when.

All that came on all connections is read in one turn. A call whose request came at once enters Python once, and one of a quick
model only to run the model. The answers of a turn leave together.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelmesh._core._server import ServerSockets
from modelmesh.runtime.calls import Call, Method, answer_now
from modelmesh.runtime.errors import RuntimeFault, describe
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh._core._server import Came, HeldCall, OpenedCall, QuickModels
    from modelmesh.runtime.held import Held  # needs numpy, which a runtime without tensors has not

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
FAREWELL_S = 1.0
"""How long the last bytes of a connection may take to be sent when the server stops."""
BACKLOG = 1024
FULL_S = 1.0
"""How long no connection is accepted when the process has no descriptors left."""


class GrpcServer:
    """A server and its connections.

    Args:
        methods: What is answered.
        max_message_bytes: Larger requests and answers are refused with RESOURCE_EXHAUSTED.
        quick: Models whose calls do not pass through `methods`.
    """

    def __init__(self, methods: Methods, *, max_message_bytes: int, quick: "QuickModels | None" = None) -> None:
        self._methods = methods
        self._max_message_bytes = max_message_bytes
        self._quick = quick
        if quick is not None:
            from modelmesh.runtime.held import Held  # noqa: PLC0415 - needs numpy, which is there where such models are

            self._held = Held
        self._native = ServerSockets(
            max_message_bytes=max_message_bytes,
            max_unfinished_bytes=MOST_UNFINISHED * max_message_bytes,
            quick=quick,
        )
        self._listeners: list[socket.socket] = []
        self._calls: dict[int, Call | Held] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._empty = asyncio.Event()
        """Set when there is no connection any more, once it stops."""
        self._is_closing = False
        self._stopped = asyncio.Event()
        self._looking: asyncio.TimerHandle | None = None
        self._will_flush = False

    async def listen(self, address: str) -> str:
        """Serve at `host:port` or `unix:///path` too. Returns the address, with the port that was chosen for 0.

        Raises:
            OSError: The address is in use or not permitted.
            ValueError: The path is longer than one of a socket may be.
        """
        loop = asyncio.get_running_loop()
        if self._looking is None:
            self._looking = loop.call_later(LOOK_S, self._look)
            loop.add_reader(self._native.fileno(), self._turn)
        if address.startswith("unix://"):
            self._accept_from(_listener(socket.AF_UNIX, str(_free_path(address))))
            return address
        host, _, port = address.rpartition(":")
        try:
            found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
            if port == "0":  # one port, also for a name with several addresses
                del found[1:]
            listeners = _listeners({(int(one[0]), one[4]) for one in found})
        except OSError as error:
            raise OSError(f"cannot listen at {address}; is it in use? {error}") from error
        for listener in listeners:
            self._accept_from(listener)
        return f"{host}:{listeners[0].getsockname()[1]}"

    async def wait(self) -> None:
        """Wait until the server has stopped."""
        await self._stopped.wait()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, let those that run end for `grace_s`, then end them with UNAVAILABLE."""
        loop = asyncio.get_running_loop()
        while self._listeners:
            listener = self._listeners.pop()
            loop.remove_reader(listener)
            listener.close()
        self._native.leave()
        self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        for call in tuple(self._calls.values()):
            call.stop(Status.UNAVAILABLE, "the server stops")
        self._native.close()
        self._is_closing = True
        self._flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._empty.wait()
        self._take(self._native.abort())
        if self._looking is not None:
            self._looking.cancel()
            loop.remove_reader(self._native.fileno())
        self._stopped.set()

    # --- connections ---

    def _accept_from(self, listener: socket.socket) -> None:
        self._listeners.append(listener)
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(BACKLOG):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("no connection is accepted for %.0f s: %s", FULL_S, error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(FULL_S, self._accept_again, listener)
                return
            if len(self._native) >= MOST_CONNECTIONS:
                _log.warning("a connection was refused: there are %d", MOST_CONNECTIONS)
                connection.close()
                continue
            with contextlib.suppress(OSError):  # its client has gone
                self._native.add(connection.detach())

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() != -1:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _look(self) -> None:
        self._take(self._native.look())
        self._flush()
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    # --- calls ---

    def _turn(self) -> None:
        came = self._native.turn()
        if came is not None:
            self._take(came)
            self._flush()

    def _take(self, came: "Came | None") -> None:
        if came is None:
            return
        for opened in came.calls:
            self._begin(opened)
        for take, calls in came.held:
            take([held for call in calls if (held := self._hold(call)) is not None])
        for id_ in came.news:
            if (call := self._calls.get(id_)) is not None:
                call.hear()
        for id_ in came.cancelled:
            if (call := self._calls.get(id_)) is not None:
                call.give_up()

    def _begin(self, opened: "OpenedCall") -> None:
        method = self._methods.get(opened.path)
        if method is None:
            self._native.end(opened.call, Status.UNIMPLEMENTED, f"Method not found: {opened.path}")
            return
        if method.now is not None and self._answered_now(method, opened):
            return
        if self._is_full(opened.call):
            return
        call = Call(
            opened,
            method,
            self._native,
            flush=self._flush_soon,
            ended=self._ended,
            max_message_bytes=self._max_message_bytes,
        )
        self._calls[call.id] = call
        self._idle.clear()
        call.start()

    def _hold(self, call: "HeldCall") -> "Held | None":
        """A call of a model that takes batches; None: it was refused."""
        if self._is_full(call.call):
            return None
        assert self._quick is not None, "it is what has read the call"
        held = self._calls[call.call] = self._held(
            call,
            self._methods[call.path],
            self._native,
            self._quick,
            flush=self._flush_soon,
            ended=self._ended,
            max_message_bytes=self._max_message_bytes,
        )
        self._idle.clear()
        return held

    def _is_full(self, call: int) -> bool:
        """Whether no more calls can be taken; this one is refused then."""
        if len(self._calls) < MOST_CALLS:
            return False
        self._native.end(call, Status.RESOURCE_EXHAUSTED, f"{MOST_CALLS} calls run; repeat later")
        return True

    def _answered_now(self, method: Method, opened: "OpenedCall") -> bool:
        try:
            message = answer_now(method, opened, self._max_message_bytes)
        except RuntimeFault as error:
            self._native.end(opened.call, error.status, describe(error))
            return True
        if message is not None:
            self._native.answer(opened.call, message)
        return message is not None

    def _ended(self, call: "Call | Held") -> None:
        del self._calls[call.id]
        if not self._calls:
            self._idle.set()

    # --- bytes ---

    def _flush_soon(self) -> None:
        if not self._will_flush:
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Send what there is to send, as far as the sockets take it."""
        self._will_flush = False
        while (came := self._native.flush()) is not None:
            self._take(came)
        if self._is_closing and not len(self._native):
            self._empty.set()


def _listeners(places: Iterable[tuple[int, Any]]) -> list[socket.socket]:
    """Sockets that listen at addresses of one name; those that this machine does not have are passed over. Raises OSError."""
    made: list[socket.socket] = []
    missing: OSError | None = None
    for family, place in places:
        try:
            made.append(_listener(family, place))
        except OSError as error:
            if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                missing = error
                continue
            for one in made:
                one.close()
            raise
    if not made and missing is not None:
        raise missing
    return made


def _listener(family: int, place: Any) -> socket.socket:
    """A socket that listens there. Raises OSError."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family != socket.AF_UNIX:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - its only argument
    except BaseException:
        listener.close()
        raise
    return listener


def _free_path(address: str) -> Path:
    path = Path(address.removeprefix("unix://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(os.fsencode(path)) > 107:
        raise ValueError(f"{address} is longer than a socket path may be (107 bytes)")
    if path.is_socket():
        if _answers(path):
            raise OSError(f"another process listens at {address}")
        path.unlink()  # of a process that has ended
    return path


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(1)
        probe.connect(str(path))
        return True
    return False
