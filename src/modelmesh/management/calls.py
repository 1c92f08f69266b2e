"""From the data plane's call events to coroutines, and back to answers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from modelmesh.control.requests.answers import RETRY_HINT_MS, retry_later
from modelmesh.control.tasks import Tasks
from modelmesh.control.view.records import TooManyReadsError, UnreadableRecordError
from modelmesh.management.access import Access
from modelmesh.management.rights import Need
from modelmesh.ports import DataPlane, StoreError
from modelmesh.values.access import Identity, Kind, Listener, Verb
from modelmesh.values.dataplane import Called, CallMessage, Cancelled, Headers
from modelmesh.values.ids import ModelId, Token
from modelmesh.values.status import Status

PAGE = 100
PAGE_MAX = 1000
"""Items of a listing: by default, and at most."""

QUEUED_MESSAGES = 64
"""Messages of one streaming call that wait to be read."""


class CallError(Exception):
    """The call ends with this status."""

    def __init__(self, status: Status, message: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.trailers = trailers


def repeatable(status: Status, message: str) -> CallError:
    """A failure after which the call may be repeated in a second; its answer says so."""
    return CallError(status, message, retry_later(status, message, RETRY_HINT_MS).trailers)


def named_model(model_id: str) -> ModelId:
    """The model that a request of our own services is about. Raises CallError(INVALID_ARGUMENT)."""
    if not model_id:
        raise CallError(Status.INVALID_ARGUMENT, "must provide non-empty model_id")
    return ModelId(model_id)


def page_size(asked: int) -> int:
    """How many a page shall hold. Raises CallError(INVALID_ARGUMENT)."""
    if asked > PAGE_MAX:
        raise CallError(Status.INVALID_ARGUMENT, f"page_size is {asked}, {PAGE_MAX} are allowed")
    return asked or PAGE


@contextmanager
def reading() -> Iterator[None]:
    """What a record that is not read within means to the caller. Raises CallError for each `NotReadError`."""
    try:
        yield
    except TooManyReadsError as error:
        raise repeatable(Status.RESOURCE_EXHAUSTED, str(error)) from error
    except UnreadableRecordError as error:
        raise CallError(Status.INTERNAL, str(error)) from error


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, by which port, and the access rules in force."""

    identity: Identity
    listener: Listener
    access: Access


@dataclass(slots=True)
class Call:
    """One call. `headers` holds the last value of each name. `caller` None: there are no access rules, or this instance calls itself."""

    token: Token
    method: str
    headers: Mapping[str, bytes]
    send: Callable[[Message], None]
    caller: "Caller | None" = None
    requests: "asyncio.Queue[bytes | None] | None" = None
    first: bytes | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def tenant(self) -> str:
        """Of the caller; empty: it has none."""
        return self.caller.identity.tenant if self.caller is not None else ""

    def sees(self, kind: Kind, name: str) -> bool:
        """Whether the caller may know of a model or a vmodel."""
        return self.caller is None or self.caller.access.may(
            self.caller.identity, self.caller.listener, Verb.STATUS, kind, name
        )

    def require(self, *needs: Need) -> None:
        """Raises CallError(PERMISSION_DENIED) if the caller may not do all of it."""
        if self.caller is None:
            return
        denial = self.caller.access.denial(self.caller.identity, self.caller.listener, needs)
        if denial:
            raise CallError(Status.PERMISSION_DENIED, denial)

    async def messages(self) -> AsyncIterator[bytes]:
        """The caller's messages, until it half-closes; of a streaming method."""
        assert self.requests is not None
        while (message := await self.requests.get()) is not None:
            yield message


Unary = Callable[[Call, Any], Awaitable[Message]]
Streaming = Callable[[Call, AsyncIterator[Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method:
    """A method and its request type. A streaming one sends its answers itself."""

    request: type[Message]
    unary: Unary | None = None
    streaming: Streaming | None = None


class CallServer:
    """Answers the calls of some services.

    Args:
        methods: By full name, without the leading slash.
        access: What callers may do.
        failed: Called for every handler that ended by an unexpected exception.
        entered: Called for each call's headers, in the task that answers it.
    """

    def __init__(
        self,
        *,
        dataplane: DataPlane,
        tasks: Tasks,
        methods: Mapping[str, Method],
        access: Access,
        failed: Callable[[str, Exception], None],
        entered: Callable[[Headers], object] = lambda _: None,
    ) -> None:
        self._dataplane = dataplane
        self._tasks = tasks
        self._methods = methods
        self._access = access
        self._failed = failed
        self._entered = entered
        self._calls: dict[Token, Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def called(self, event: Called) -> None:
        """A call began. How many there are the data plane bounds, for each kind of caller by itself."""
        token = event.token
        method = self._methods.get(event.method)
        if method is None:
            self._dataplane.finish(token, Status.UNIMPLEMENTED, f"Method not found: {event.method}")
            return
        call = Call(
            token,
            event.method,
            dict(event.metadata),
            send=lambda message: self._dataplane.reply(token, message.SerializeToString(), last=False),
            caller=None if event.identity is None else Caller(event.identity, event.listener, self._access),
        )
        self._calls[token] = call
        if method.streaming is not None:
            call.requests = asyncio.Queue()
            call.task = self._tasks.start(self._stream(call, method), event.method)

    def message(self, event: CallMessage) -> None:
        """A message of a call, or its half-close."""
        call = self._calls.get(event.token)
        if call is None:
            return
        if call.requests is not None:
            if call.requests.qsize() >= QUEUED_MESSAGES:
                self._end(call, Status.RESOURCE_EXHAUSTED, f"{QUEUED_MESSAGES} messages wait unread in this call")
            else:
                call.requests.put_nowait(event.message)
        elif event.message is None:
            if call.first is None:
                self._end(call, Status.INTERNAL, "Half-closed without a request")
            elif call.task is None:
                call.task = self._tasks.start(self._answer(call, self._methods[call.method], call.first), call.method)
        elif call.first is not None:
            self._end(call, Status.UNIMPLEMENTED, "this method takes one message")
        else:
            call.first = event.message

    def cancelled(self, event: Cancelled) -> None:
        """The caller has ended the call; the data plane has answered."""
        call = self._calls.pop(event.token, None)
        if call is not None and call.task is not None:
            call.task.cancel()

    def _end(self, call: Call, status: Status, message: str, trailers: tuple[tuple[str, bytes], ...] = ()) -> None:
        if self._calls.pop(call.token, None) is not None:
            self._dataplane.finish(call.token, status, message, trailers)
            if call.task is not None and call.task is not asyncio.current_task():
                call.task.cancel()

    async def _answer(self, call: Call, method: Method, message: bytes) -> None:
        assert method.unary is not None
        self._entered(tuple(call.headers.items()))
        try:
            request = parse(method.request, message)
            self._check(call, request)
            answer = await method.unary(call, request)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer in any case
            self._fail(call, error)
            return
        if self._calls.pop(call.token, None) is not None:
            self._dataplane.reply(call.token, answer.SerializeToString(), last=True)

    async def _stream(self, call: Call, method: Method) -> None:
        assert method.streaming is not None
        self._entered(tuple(call.headers.items()))

        async def requests() -> AsyncIterator[Message]:
            async for message in call.messages():
                request = parse(method.request, message)
                self._check(call, request)
                yield request

        try:
            await method.streaming(call, requests())
        except Exception as error:  # noqa: BLE001 - the caller gets an answer in any case
            self._fail(call, error)
            return
        self._end(call, Status.OK, "")

    def _check(self, call: Call, request: Message) -> None:
        """Raises CallError(PERMISSION_DENIED) if the caller has no right to this. Instances have all rights."""
        if call.caller is None:
            return
        needs = self._access.needs_of(call.method, request)
        if needs is None:
            raise CallError(Status.PERMISSION_DENIED, f"{call.caller.identity.name} may not call {call.method}")
        call.require(*needs)

    def _fail(self, call: Call, error: Exception) -> None:
        match error:
            case CallError():
                self._end(call, error.status, error.message, error.trailers)
            case StoreError():
                hint = repeatable(Status.UNAVAILABLE, f"the store does not answer: {error}")
                self._end(call, hint.status, hint.message, hint.trailers)
            case _:
                self._failed(call.method, error)
                self._end(call, Status.INTERNAL, f"{type(error).__name__}: {error}")


Parsed = TypeVar("Parsed", bound=Message)


def parse(kind: type[Parsed], message: bytes) -> Parsed:
    """Read a request. Raises CallError(INVALID_ARGUMENT)."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise CallError(
            Status.INVALID_ARGUMENT, f"the message is not a {kind.DESCRIPTOR.full_name}: {error}"
        ) from error
