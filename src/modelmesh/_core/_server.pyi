"""The classes of the native module for servers in Python."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Final, final

__all__ = ["Came", "HeldCall", "OnnxSession", "OpenedCall", "QuickModels", "RequestPart", "ServerSockets"]

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
    compressed: Final[bool]
    @property
    def message(self) -> bytes | None:
        """The request, if it was one message and came at once. Otherwise `next` has its parts."""
    @property
    def has_run(self) -> bool:
        """Whether a quick model has answered, though not with what the core can send."""
    def outputs(self) -> Any:
        """What that model returned. Raises what it raised."""

@final
class HeldCall:
    """A call of a model that takes batches. It was read, and fits the inputs of the model."""

    call: Final[int]
    path: Final[str]
    model: Final[bytes | None]
    """As `OpenedCall.model`."""
    timeout_ms: Final[int | None]
    rows: Final[int]
    """Of each input, at least 1."""
    kind: Final[bytes]
    """Equal for calls whose inputs have the same names, datatypes, and shapes behind the first axis."""
    @property
    def message(self) -> bytes:
        """The request."""

@final
class Came:
    """What has happened on the connections."""

    calls: Final[list[OpenedCall]]
    held: Final[list[tuple[Any, list[HeldCall]]]]
    """Calls of models that take batches: the `take` of each model, and its calls."""
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
class OnnxSession:
    """An ONNX model in memory that runs without Python, by the shared library of onnxruntime's package.

    Only for models whose inputs and outputs are tensors of numbers or booleans.
    """

    def __new__(cls, *, library: str | PathLike[str], model: str | PathLike[str], threads: int) -> OnnxSession:
        """`threads`: of one call. Raises RuntimeError: the library or the model cannot be used."""
    def inputs(self) -> list[tuple[str, str, list[int | str | None]]]:
        """Name and datatype of each, and the size of each axis: a number, a name where it is open, or None.

        Raises RuntimeError after `close`, as all but that do.
        """
    def outputs(self) -> list[tuple[str, str, list[int | str | None]]]:
        """As `inputs`."""
    def run(self, inputs: dict[str, Any]) -> list[Any]:
        """Read-only arrays, in the order of `outputs`. `inputs` are contiguous arrays that are not changed meanwhile.

        Raises RuntimeError: what onnxruntime says; TypeError or BufferError: one is no such array.
        """
    def close(self) -> None:
        """Give the memory back, once no call runs."""

@final
class QuickModels:
    """Models whose calls are read here. Needs numpy."""

    def __new__(cls, path: str) -> QuickModels:
        """`path`: of the method `ModelInfer`."""
    def put(
        self,
        model: str,
        *,
        infer: Callable[[dict[str, Any], dict[str, Any]], Any] | OnnxSession,
        inputs: Sequence[tuple[str, Sequence[str], Sequence[int]]],
        outputs: Sequence[tuple[str, str]],
        slow_us: int,
        was_slow: Callable[[int, float, float], None],
    ) -> None:
        """Have calls of this model answered within the turn that reads them.

        Calls that are not as most are (typed contents, parameters, texts), and those that do not fit `inputs`, are left to
        Python.

        Args:
            model: Its id.
            infer: Gets read-only arrays and parameters, of which there are none, and returns a dict of arrays. Or a session, which answers without Python.
            inputs: Name, datatypes and shape of each; empty: they are not checked.
            outputs: Name and datatype of those that are known.
            slow_us: A call that takes longer is told.
            was_slow: Gets how many calls there were since the last that was told, how many microseconds this one took, and how
                many of them it computed.
        """
    def hold(
        self,
        model: str,
        *,
        inputs: Sequence[tuple[str, Sequence[str], Sequence[int]]],
        outputs: Sequence[tuple[str, str]],
        take: Any,
    ) -> None:
        """Have calls of this model read and held: `Came.held` has them, with `take`.

        The others are left to Python as by `put`, and so are those whose inputs have no rows, or not equally many.
        """
    def joined(self, calls: Sequence[HeldCall]) -> dict[str, Any]:
        """The inputs of held calls as one, row after row: read-only arrays. Raises ValueError: the calls are not of one kind."""
    def remove(self, model: str) -> None:
        """Leave its calls to Python again. Nothing happens if they are."""

@final
class ServerSockets:
    """The connections of a server, with their sockets.

    Whoever waits for the descriptor makes a `turn` when it is readable. After each other method, `flush` sends what there is to
    send.
    """

    def __new__(
        cls, *, max_message_bytes: int, max_unfinished_bytes: int, quick: QuickModels | None = None
    ) -> ServerSockets:
        """`max_unfinished_bytes`: what all connections may hold of requests that are not whole. More is refused with
        RESOURCE_EXHAUSTED. Raises OSError: there are no descriptors left."""
    def fileno(self) -> int:
        """Readable while a turn has something to do."""
    def __len__(self) -> int:
        """How many connections there are."""
    def add(self, descriptor: int) -> None:
        """Take over the descriptor of a connection; the caller must not use it any more. Raises OSError."""
    def turn(self) -> Came | None:
        """Read what came. None: all of it is answered, and the answers are sent; else `flush` has to follow."""
    def flush(self) -> Came | None:
        """Send what there is to send. If something has come of that, it has to be called again."""
    def next(self, call: int) -> RequestPart | None:
        """What comes next of a request; None: nothing yet, and there will be news of the call."""
    def answer(self, call: int, message: bytes) -> None:
        """Answer with one message and OK. Nothing happens if the client has gone; the same holds for `end`."""
    def answer_together(self, calls: Sequence[HeldCall], outputs: Any) -> list[int]:
        """Answer held calls from what their model returned for their joined inputs: each gets its rows, a lone one everything.

        Returns the places of those that Python has to answer: an output is no contiguous array of numbers, has another number of
        rows, or is not as the model said; or the call wants an output that there is not, or the answer is too large.
        """
    def send(self, call: int, message: bytes) -> bool:
        """Send one message of several. False: the client has gone."""
    def has_room(self, call: int) -> bool:
        """Whether more of the answer may be sent now; False: there will be news of the call when it may."""
    def end(self, call: int, status: int, details: str) -> None:
        """End a call. Raises ValueError if the number is no status of gRPC."""
    def look(self) -> Came | None:
        """To be called every few seconds: closes connections whose clients do not continue with what they began, do not read, or
        have not even said that they speak HTTP/2."""
    def leave(self) -> None:
        """Ask all clients to open no more calls. Those that are open are answered; then the connections end."""
    def close(self) -> None:
        """Close each connection once all is sent that there is to send."""
    def abort(self) -> Came | None:
        """Close all connections now."""
