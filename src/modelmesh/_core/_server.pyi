"""The classes of the native module for servers in Python."""

from typing import Final, final

__all__ = ["Came", "OpenedCall", "RequestPart", "ServerConnection", "Unfinished"]

@final
class OpenedCall:
    """A call that a client began."""

    call: Final[int]
    path: Final[str]
    """`/package.Service/Method`."""
    model: Final[bytes | None]
    """The model that the metadata names: `mm-model-id-bin`, decoded, else `mm-model-id`."""
    timeout_ms: Final[int | None]
    encoding: Final[str | None]
    """How compressed messages are compressed."""
    message: Final[bytes | None]
    """The request, if it was one message and came at once. Otherwise `next` has its parts."""
    compressed: Final[bool]

@final
class Came:
    """What has happened on a connection."""

    calls: Final[list[OpenedCall]]
    news: Final[list[int]]
    """Calls of which `next` has something, or for whose answer there is room."""
    cancelled: Final[list[int]]
    """Calls that their clients gave up. They are forgotten."""

@final
class RequestPart:
    """A message, the end of the request (`is_last`), or why it cannot be read (`status`, `details`)."""

    message: Final[bytes | None]
    compressed: Final[bool]
    is_last: Final[bool]
    status: Final[int | None]
    details: Final[str]

@final
class Unfinished:
    """What all connections of a server may hold of requests that are not whole. More is refused with RESOURCE_EXHAUSTED."""

    def __new__(cls, max_bytes: int) -> Unfinished: ...

@final
class ServerConnection:
    """The server's side of one gRPC connection, without a socket.

    Whoever has the socket hands in what it read (`receive`), and sends what `take` has after each other call.
    """

    def __new__(cls, *, max_message_bytes: int, unfinished: Unfinished) -> ServerConnection: ...
    def receive(self, data: bytes) -> Came | None:
        """Take in what came; None: it concerns no call."""
    def take(self) -> tuple[bytes, Came | None]:
        """What is to be sent now, and what that has changed."""
    def next(self, call: int) -> RequestPart | None:
        """What comes next of a request; None: nothing yet, and there will be news of the call."""
    def answer(self, call: int, message: bytes) -> None:
        """Answer with one message and OK. Nothing happens if the client has gone; the same holds for `end`."""
    def send(self, call: int, message: bytes) -> bool:
        """Send one message of several. False: the client has gone."""
    def has_room(self, call: int) -> bool:
        """Whether more of the answer may be sent now; False: there will be news of the call when it may."""
    def end(self, call: int, status: int, details: str) -> None:
        """End a call. Raises ValueError if the number is no status of gRPC."""
    def leave(self) -> None:
        """Ask the client to open no more calls. Those that are open are answered; then the connection ends."""
    def look(self) -> bool:
        """To be called every few seconds: ends a connection whose client leaves off in the middle, or does not read. False: the
        client has not even said that it speaks HTTP/2."""
    def lost(self) -> list[int]:
        """The socket has been closed. Returns the calls that were open; they are forgotten."""
    @property
    def has_ended(self) -> bool:
        """Whether nothing more is to be read or written."""
    @property
    def failure(self) -> str | None:
        """Why it has ended, if the client broke the protocol."""
