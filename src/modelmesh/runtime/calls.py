"""One gRPC call that Python answers: its request, its answer, its deadline, and how it ends."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelmesh.runtime.errors import RequestError, RuntimeFault, describe
from modelmesh.values.status import Status

if TYPE_CHECKING:
    from modelmesh._core._server import OpenedCall, RequestPart, ServerSockets

MODEL_ID = "mm-model-id"


class Context:
    """What a handler may know of its call, beside the request.

    Args:
        model: The id in the metadata.
        ends_s: The deadline, in the event loop's time.
    """

    __slots__ = ("_ends_s", "_model")

    def __init__(self, model: bytes | None = None, ends_s: float | None = None) -> None:
        self._model = model
        self._ends_s = ends_s

    def remaining_s(self) -> float | None:
        """Until its deadline; None: it has none."""
        return None if self._ends_s is None else max(0.0, self._ends_s - asyncio.get_running_loop().time())

    def model_id(self) -> str | None:
        """The model that the metadata names: `mm-model-id-bin`, else `mm-model-id`; None: it names none.

        Raises:
            RequestError: The id is not UTF-8.
        """
        if self._model is None:
            return None
        try:
            return self._model.decode()
        except UnicodeDecodeError:
            raise RequestError(f"the id in the metadata {MODEL_ID} is not UTF-8") from None


Answer = Callable[[Any, Context], Awaitable[Any]] | Callable[[Any, Context], AsyncIterator[Any]]

AnswerNow = Callable[[Any, Context], Any | None]

AnswerAfter = Callable[[Any, Context, Callable[[], Any]], Any]
"""Of the request, the context, and a function that returns or raises as the model did."""


@dataclass(frozen=True, slots=True)
class Method:
    """How a method is answered.

    Attributes:
        read: A request from its bytes. Raises an exception if they are none.
        write: The bytes of an answer.
        answer: An async function of the request and the context, or an async generator where the answer streams. It gets an
            async iterator where the request streams. Raises `RuntimeFault` only.
        now: A plain function that is asked before `answer`, where the whole request is there at once; None as its answer:
            `answer` has to be asked. Raises `RuntimeFault` only.
        after: A plain function that makes the answer where a quick model of the native core has run already. Raises
            `RuntimeFault` only.
    """

    read: Callable[[bytes], Any]
    write: Callable[[Any], bytes]
    answer: Answer
    now: AnswerNow | None = None
    after: AnswerAfter | None = None
    client_streaming: bool = False
    server_streaming: bool = False


class Call:
    """A call that runs. Everything happens on the event loop.

    Args:
        opened: What is known of it.
        method: How it is answered.
        native: The connections.
        flush: Has the connection send what there is to send.
        ended: Called once, when nothing of the call runs any more.
        max_message_bytes: Of a message, either way, decompressed.
    """

    def __init__(
        self,
        opened: "OpenedCall",
        method: Method,
        native: "ServerSockets",
        *,
        flush: Callable[[], None],
        ended: Callable[["Call"], None],
        max_message_bytes: int,
    ) -> None:
        self.id = opened.call
        self._opened = opened
        self._method = method
        self._native = native
        self._flush = flush
        self._ended = ended
        self._max_message_bytes = max_message_bytes
        self._news = asyncio.Event()
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer it."""
        loop = asyncio.get_running_loop()
        ends_s = None
        if self._opened.timeout_ms is not None:
            ends_s = loop.time() + self._opened.timeout_ms / 1000
            self._timer = loop.call_at(ends_s, self._expire)
        self._context = Context(self._opened.model, ends_s)
        self._task = loop.create_task(self._run(), name=self._opened.path)
        self._task.add_done_callback(self._done)

    def hear(self) -> None:
        """There is more of the request, or room for more of the answer."""
        self._news.set()

    def give_up(self) -> None:
        """The client has given it up."""
        self._is_over = True
        self._cancel()

    def end(self, status: Status, details: str) -> None:
        """End it now, even if work still runs for it. Nothing happens if it has ended."""
        if self._is_over:
            return
        self._is_over = True
        self._native.end(self.id, status, details)
        self._flush()

    def stop(self, status: Status, details: str) -> None:
        """End it now, and cancel what runs for it."""
        self.end(status, details)
        self._cancel()

    def _expire(self) -> None:
        self.stop(Status.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, _: "asyncio.Task[None]") -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.end(Status.CANCELLED, "the call was cancelled")  # if nothing else has ended it
        self._ended(self)

    async def _run(self) -> None:
        method, context = self._method, self._context
        try:
            request: Any = self._requests() if method.client_streaming else await self._request()
            answer: Any = method.answer(request, context)
            if method.server_streaming:
                async for message in answer:
                    await self._send(self._written(message))
                self.end(Status.OK, "")
            else:
                self._answer(self._written(await answer))
        except RuntimeFault as error:
            self.end(error.status, describe(error))

    def _answer(self, message: bytes) -> None:
        if not self._is_over:
            self._is_over = True
            self._native.answer(self.id, message)
            self._flush()

    async def _send(self, message: bytes) -> None:
        while not self._is_over:
            self._news.clear()
            if self._native.has_room(self.id):
                self._native.send(self.id, message)
                self._flush()
                return
            self._flush()
            await self._news.wait()

    def _written(self, answer: Any) -> bytes:
        return written(self._method, answer, self._max_message_bytes)

    async def _request(self) -> Any:
        """The only message of the request."""
        opened = self._opened
        if (message := opened.message) is not None:
            return self._read(message, compressed=opened.compressed)
        found = None
        while not (part := await self._part()).is_last:
            if found is not None:
                raise RuntimeFault("the request has more than one message", status=Status.UNIMPLEMENTED)
            found = part
        if found is None or found.message is None:
            raise RuntimeFault("the request has no message", status=Status.UNIMPLEMENTED)
        return self._read(found.message, compressed=found.compressed)

    async def _requests(self) -> AsyncIterator[Any]:
        opened = self._opened
        if (message := opened.message) is not None:
            yield self._read(message, compressed=opened.compressed)
            return
        while True:
            part = await self._part()
            if part.message is None:
                return
            yield self._read(part.message, compressed=part.compressed)

    async def _part(self) -> "RequestPart":
        while True:
            self._news.clear()
            part = self._native.next(self.id)
            if part is None:
                self._flush()  # the client may send as much again as was read
                await self._news.wait()
            elif part.status is not None:
                raise RuntimeFault(part.details, status=Status(part.status))
            else:
                return part

    def _read(self, message: bytes, *, compressed: bool) -> Any:
        if compressed:
            message = inflated(message, self._opened.encoding, self._max_message_bytes)
        return read(self._method, message)


def answer_now(method: Method, opened: "OpenedCall", max_message_bytes: int) -> bytes | None:
    """The answer to a call that takes no time; None: it has to be made as a `Call`.

    Raises:
        RuntimeFault: How the call ends instead.
    """
    if method.now is None or opened.compressed or (message := opened.message) is None:
        return None
    if opened.has_run:
        return answer_after(method, message, opened.model, opened.outputs, max_message_bytes)
    answer = method.now(read(method, message), Context(opened.model))
    return None if answer is None else written(method, answer, max_message_bytes)


def answer_after(
    method: Method, message: bytes, model: bytes | None, outputs: Callable[[], Any], max_message_bytes: int
) -> bytes:
    """The answer to a call whose model has run already.

    Args:
        method: Has `after`.
        message: The request.
        model: The id in the metadata.
        outputs: Returns or raises as the model did.
        max_message_bytes: Of the answer.

    Raises:
        RuntimeFault: How the call ends instead.
    """
    assert method.after is not None, "the native core runs models of such methods only"
    answer = method.after(read(method, message), Context(model), outputs)
    return written(method, answer, max_message_bytes)


def read(method: Method, message: bytes) -> Any:
    """A request from its bytes. Raises RequestError."""
    try:
        return method.read(message)
    except Exception:  # noqa: BLE001 - the reader of the messages may raise anything
        raise RequestError("the request is no message of this method") from None


def written(method: Method, answer: Any, most_bytes: int) -> bytes:
    """The bytes of an answer. Raises RuntimeFault: RESOURCE_EXHAUSTED, they are more than `most_bytes`."""
    message = method.write(answer)
    if len(message) > most_bytes:
        raise RuntimeFault(
            f"Sent message larger than max ({len(message)} vs. {most_bytes})", status=Status.RESOURCE_EXHAUSTED
        )
    return message


def inflated(message: bytes, encoding: str | None, most_bytes: int) -> bytes:
    """A message that its client has compressed.

    Raises:
        RuntimeFault: The encoding is not known, the bytes are none of it, or they grow beyond `most_bytes`.
    """
    if encoding != "gzip":
        raise RuntimeFault(f"messages compressed by {encoding} cannot be read", status=Status.UNIMPLEMENTED)
    reader = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        found = reader.decompress(message, most_bytes + 1)
    except zlib.error as error:
        raise RuntimeFault(f"the compressed request cannot be read: {error}", status=Status.INTERNAL) from error
    if len(found) > most_bytes:
        raise RuntimeFault(f"Received message larger than max ({most_bytes})", status=Status.RESOURCE_EXHAUSTED)
    if not reader.eof:
        raise RuntimeFault("the compressed request ends too early", status=Status.INTERNAL)
    return found
