"""gRPC calls that the control plane makes: to its store and to its runtime.

The native module implements HTTP/2 and TLS, and the event loop moves the bytes. So a call is a write and a read of the
loop's own thread; a library with threads of its own has three of them wake each other for it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from modelmesh._core import _native
from modelmesh.adapters.addresses import Place, connected, host_and_port, places, race
from modelmesh.values.status import Status

CONNECT_TIMEOUT_S = 3.0
"""From the first packet until the first HTTP/2 frame of the server."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""After an attempt to connect that failed there is none for so long; twice as long after each that follows."""

SENDS = 5
"""How often a call is sent in all, if the server reports that it has not processed it."""

RESEND_PAUSE_S = 0.005
"""Before a call is sent for the third time, and twice as long before each that follows. A server that permits few calls at
a time counts those that have just ended for a moment, and refuses the next."""

ClientTls = _native.ClientTls

Metadata = Sequence[tuple[str, str]]


class CallError(Exception):
    """A call has ended, and not with OK.

    Attributes:
        status: The server's status, or UNAVAILABLE if the connection failed.
        details: Its message.
        unprocessed: The server has done nothing of the call, so it may be sent again.
        lost: The connection ended under the call; what the server did of it, if anything, is not known.
    """

    def __init__(self, status: Status, details: str, *, unprocessed: bool = False, lost: bool = False) -> None:
        super().__init__(f"{status.name}: {details}")
        self.status = status
        self.details = details
        self.unprocessed = unprocessed
        self.lost = lost and not unprocessed


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A connection with calls that was silent for `after_s` is pinged, and lost after `answer_s` more of silence."""

    after_s: float
    answer_s: float


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a server and its TLS."""

    address: str
    """`host:port`, or `unix:///path`."""
    authority: str
    """What requests call the server."""
    tls: ClientTls | None = None
    """None: in the clear."""
    tls_name: str = ""
    """The name in the server's certificate; empty: the address's host."""
    max_message_bytes: int = 4 * 1024 * 1024
    """The largest answer."""
    keep_alive: KeepAlive | None = None
    """None: a connection is alive as long as its socket is."""

    @property
    def host(self) -> str:
        """The host in a TCP address, an IPv6 one without its brackets."""
        return host_and_port(self.address)[0]


class Channel:
    """Calls to one server over one connection, which is opened by the first call and by the next after it was lost."""

    def __init__(self, target: Target) -> None:
        """Belongs to the event loop of the first call."""
        self.target = target
        self._connection: _Connection | None = None
        self._retired: set[_Connection] = set()
        """They take no new calls; those that they have continue."""
        self._opening: asyncio.Task[_Connection] | None = None
        self._pause_s = FIRST_PAUSE_S
        self._failed: tuple[float, str] | None = None
        """Until when no attempt is made (time of the loop), and what the last one came to."""
        self._closed = False

    async def unary(
        self, path: str, request: bytes, *, metadata: Metadata = (), timeout_s: float | None = None
    ) -> bytes:
        """Send a message and return the one that answers it.

        Args:
            path: `/package.Service/Method`.
            request: The message.
            metadata: Headers; those in `-bin` in base64.
            timeout_s: Sent to the server, too. None: no limit.

        Raises:
            CallError: The call ended with another status than OK, or without one answer.
        """
        stream = None
        try:
            async with asyncio.timeout(timeout_s):
                sends = 0
                while True:
                    stream = await self.stream(path, metadata=metadata, timeout_s=timeout_s)
                    sends += 1
                    try:
                        return await _answer(stream, request)
                    except CallError as error:
                        if sends == SENDS or not error.unprocessed:
                            raise
                    if sends > 1:
                        await asyncio.sleep(RESEND_PAUSE_S * 2 ** (sends - 2))
        except TimeoutError:
            if stream is not None and stream.connection.serves_nothing():
                self._retire(stream.connection)
            raise CallError(Status.DEADLINE_EXCEEDED, f"no answer within {timeout_s} s") from None

    async def stream(self, path: str, *, metadata: Metadata = (), timeout_s: float | None = None) -> "Stream":
        """Begin a call of several messages. Close it in any case; `with` does.

        Raises:
            CallError: There is no connection.
        """
        connection = self._usable() or await self._connected()
        return connection.begin(path, metadata, timeout_s)

    async def close(self) -> None:
        """End the connection; calls under way raise CallError."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        for connection in (self._connection, *self._retired):
            if connection is not None:
                connection.close("the connection was closed")
                await connection.gone.wait()

    def _usable(self) -> "_Connection | None":
        connection = self._connection
        if connection is None or connection.native.takes_calls:
            return connection
        self._retire(connection)
        return None

    def _retire(self, connection: "_Connection") -> None:
        """New calls go elsewhere; those under way continue."""
        if self._connection is connection:
            self._connection = None
            self._retired.add(connection)
            connection.is_retired = True
            connection.close_if_spent()

    async def _connected(self) -> "_Connection":
        """The result of one attempt for all its waiters. It continues if the call that began it is given up."""
        if self._closed:
            raise CallError(Status.UNAVAILABLE, "the connection is closed", unprocessed=True)
        if self._failed is not None and asyncio.get_running_loop().time() < self._failed[0]:
            raise CallError(Status.UNAVAILABLE, self._failed[1], unprocessed=True)
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open())
            # Everybody may have given up before it fails.
            self._opening.add_done_callback(lambda done: done.cancelled() or done.exception())
        opening = self._opening
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and not (task and task.cancelling()) and self._closed:
                raise CallError(Status.UNAVAILABLE, "the connection was closed", unprocessed=True) from None
            raise

    async def _open(self) -> "_Connection":
        loop = asyncio.get_running_loop()

        async def attempt(place: Place) -> _Connection:
            connection = _Connection(self.target, self._lost)
            await connection.open(place)
            return connection

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await race(
                    await places(self.target.address), attempt, lambda late: late.close("another address was quicker")
                )
        except (OSError, TimeoutError) as err:
            # A TimeoutError of the system has a text.
            why = str(err) or f"it sent no HTTP/2 within {CONNECT_TIMEOUT_S} s"
            failure = f"failed to connect to {self.target.address}: {why}"
            self._failed = (loop.time() + self._pause_s, failure)
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            raise CallError(Status.UNAVAILABLE, failure, unprocessed=True) from err
        self._failed = None
        self._pause_s = FIRST_PAUSE_S
        self._connection = connection
        return connection

    def _lost(self, connection: "_Connection") -> None:
        self._retired.discard(connection)
        if self._connection is connection:
            self._connection = None


async def _answer(stream: "Stream", request: bytes) -> bytes:
    with stream:
        stream.send(request, last=True)
        answer = await stream.read()
        # Only its end shows whether it succeeded.
        if answer is None or await stream.read() is not None:
            raise CallError(Status.INTERNAL, f"the server sent {'no answer' if answer is None else 'several answers'}")
        return answer


class Stream:
    """One call. One task reads it."""

    def __init__(self, connection: "_Connection", call: int) -> None:
        self.connection = connection
        self._call = call
        self._waiter: asyncio.Future[None] | None = None
        self._end: CallError | None = None
        self._is_over = False

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the call, if it has not ended."""
        self.close()

    def send(self, message: bytes, *, last: bool = False) -> None:
        """Send a message. Nothing happens if the call has ended; `read` has the status."""
        if not self._is_over:
            self.connection.native.send(self._call, message, last)
            self.connection.flush()

    async def read(self) -> bytes | None:
        """The next message; None: the server has ended the call with OK.

        Raises:
            CallError: It ended in another way.
        """
        while not self._is_over:
            match self.connection.native.next(self._call):
                case bytes(message):
                    return message
                case (code, details, unprocessed):
                    self._is_over = True
                    self.connection.forget(self._call)
                    if code != Status.OK:
                        # Of a call that the connection ended, the end is that of the connection.
                        lost = code == Status.UNAVAILABLE and details == self.connection.native.failure
                        self._end = CallError(Status(code), details, unprocessed=unprocessed, lost=lost)
                case None:
                    await self._news()
        if self._end is not None:
            raise self._end
        return None

    def close(self) -> None:
        """End the call if it has not ended; who reads gets CANCELLED."""
        if self._is_over:
            return
        self._is_over = True
        self._end = CallError(Status.CANCELLED, "the call was ended by its own side")
        self.connection.native.cancel(self._call)
        self.connection.flush()
        self.connection.forget(self._call)
        self.wake()

    def wake(self) -> None:
        """There is news for `read`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class _Connection(asyncio.Protocol):
    """Moves bytes between a socket and the native module."""

    def __init__(self, target: Target, on_end: Callable[["_Connection"], None]) -> None:
        self._target = target
        self._on_end = on_end
        self.native = _native.ClientConnection(
            authority=target.authority,
            max_message_bytes=target.max_message_bytes,
            tls=target.tls,
            tls_name=target.tls_name or target.host,
        )
        self.streams: dict[int, Stream] = {}
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self.gone = asyncio.Event()
        """Its socket is closed."""
        self._settled: asyncio.Future[None] = self._loop.create_future()
        self.is_retired = False
        """It gets no new calls."""
        self._answered_when_late: int | None = None
        """Frames of answers that had come when a call was last not answered in its time."""
        self._is_full = False
        """The server does not read what was sent. The native module holds the rest, and ends the connection beyond a bound."""
        self._heard_s = 0.0
        self._is_pinged = False
        self._look: asyncio.TimerHandle | None = None

    async def open(self, place: Place) -> None:
        """Connect to one place, and wait until the server there sends HTTP/2.

        Raises:
            OSError: It does not.
        """
        try:
            socket = await connected(place)
            try:
                await self._loop.create_connection(lambda: self, sock=socket)
            except BaseException:
                socket.close()
                raise
            await self._settled
        except BaseException:
            self.close("the connection was given up")
            if self._transport is not None:
                await self.gone.wait()
            raise

    def begin(self, path: str, metadata: Metadata, timeout_s: float | None) -> Stream:
        timeout_ms = None if timeout_s is None else max(1, round(timeout_s * 1000))
        try:
            call = self.native.open(path, list(metadata), timeout_ms)
        except ConnectionError as err:
            raise CallError(Status.UNAVAILABLE, str(err), unprocessed=True) from err
        stream = self.streams[call] = Stream(self, call)
        return stream

    def forget(self, call: int) -> None:
        """A call has ended."""
        del self.streams[call]
        self.close_if_spent()

    def close_if_spent(self) -> None:
        """End it if it has no calls and takes none."""
        if not self.streams and (self.is_retired or not self.native.takes_calls):
            self.close("the server wanted the connection to end")

    def serves_nothing(self) -> bool:
        """A call was not answered in its time: whether the last such one was not either, and nothing was since."""
        answered = self.native.answered
        before, self._answered_when_late = self._answered_when_late, answered
        return before == answered

    def flush(self) -> None:
        """Send what there is to send, as long as the server reads it."""
        while self._transport is not None and not self._is_full and (data := self.native.take()):
            self._transport.write(data)

    def close(self, why: str) -> None:
        """End it and all calls on it."""
        self._wake(self.native.close(why))
        if self._transport is not None:
            self.flush()
            if self._transport.get_write_buffer_size() > 0:
                self._transport.abort()  # who does not read now is not waited for
            else:
                self._transport.close()
        self._end(why)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard_s = self._loop.time()
        self.flush()
        if self._target.keep_alive is not None:
            keep_alive = self._target.keep_alive
            self._look = self._loop.call_later(keep_alive.after_s, self._look_after, keep_alive)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._is_pinged = False
        native = self.native
        self._wake(native.receive(data))
        self.flush()
        if native.is_settled and not self._settled.done():
            self._settled.set_result(None)
        if native.failure is not None:
            self.close(native.failure)
        else:
            self.close_if_spent()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.gone.set()
        why = "the server closed the connection" if exc is None else f"the connection broke: {exc}"
        self._wake(self.native.lost(why))
        self._end(why)

    def _end(self, why: str) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if not self._settled.done():
            self._settled.set_exception(ConnectionError(self.native.failure or why))
            self._settled.exception()  # perhaps no caller waits for it
        self._on_end(self)

    def _wake(self, calls: Iterable[int]) -> None:
        for call in calls:
            if (stream := self.streams.get(call)) is not None:
                stream.wake()

    def _look_after(self, keep_alive: KeepAlive) -> None:
        assert self._transport is not None
        now_s = self._loop.time()
        if not self.streams:
            self._heard_s = now_s  # no call waits for an answer
        pause_s = self._heard_s + keep_alive.after_s - now_s
        if pause_s <= 0:
            if self._is_pinged:
                self._wake(self.native.lost("the server did not answer a ping"))
                self._transport.abort()  # what waits to be sent will not be
                return
            self._is_pinged = True
            self.native.ping()
            self.flush()
            pause_s = keep_alive.answer_s
        self._look = self._loop.call_later(pause_s, self._look_after, keep_alive)
