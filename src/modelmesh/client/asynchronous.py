"""The client for asyncio."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import grpc.aio

from modelmesh.client import calls
from modelmesh.client.connection import Tls, channel_options
from modelmesh.client.errors import UnavailableError, error_of, pause_s
from modelmesh.client.models import ModelStatus

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")


class AsyncClient:
    """What `Client` is, for asyncio: the same methods, awaited, and the same errors.

    Made where the loop runs that uses it; close it in the end, or use it in `async with`. A call that is cancelled ends
    at the server, too.

    Args:
        address: As of `Client`.
        tls: As of `Client`.
        timeout_s: As of `Client`.
        headers: As of `Client`.

    Raises:
        OSError: A PEM file cannot be read.
        ValueError: `timeout_s` is not above 0, or a certificate comes without its key.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        timeout_s: float = calls.DEFAULT_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._timeout_s = calls.checked_timeout(timeout_s)
        self._headers: tuple[calls.Header, ...] = tuple((headers or {}).items())
        options = channel_options(address)
        if tls is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, tls.credentials(), options=options)
        self._methods: dict[str, Callable[..., Any]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection and the calls that are under way."""
        await self._channel.close(None)

    async def infer(
        self,
        model: str,
        inputs: "Mapping[str, ArrayLike]",
        *,
        vmodel: bool = False,
        outputs: Sequence[str] | None = None,
        bfloat16: Collection[str] = (),
        priority: str | None = None,
        timeout_s: float | None = None,
    ) -> "dict[str, NDArray[Any]]":
        """As `Client.infer`."""
        call = calls.infer(model, inputs, vmodel=vmodel, outputs=outputs, bfloat16=bfloat16, priority=priority)
        return await self._run(call, timeout_s)

    def stream(
        self,
        model: str,
        inputs: "Mapping[str, ArrayLike]",
        *,
        vmodel: bool = False,
        outputs: Sequence[str] | None = None,
        bfloat16: Collection[str] = (),
        priority: str | None = None,
        timeout_s: float | None = None,
    ) -> "AsyncIterator[dict[str, NDArray[Any]]]":
        """As `Client.stream`, for `async for`."""
        call = calls.stream(model, inputs, vmodel=vmodel, outputs=outputs, bfloat16=bfloat16, priority=priority)
        return self._answers(call, calls.checked_timeout(self._timeout_s if timeout_s is None else timeout_s))

    async def wait_ready(self, model: str, timeout_s: float, *, vmodel: bool = False) -> None:
        """As `Client.wait_ready`."""
        call = calls.ready(model, vmodel=vmodel)
        deadline = time.monotonic() + calls.checked_timeout(timeout_s)
        pause = calls.FIRST_POLL_S
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(UnavailableError):
                if await self._run(call, left):
                    return
            await asyncio.sleep(max(min(pause, deadline - time.monotonic()), 0))
            pause = min(2 * pause, calls.LONGEST_POLL_S)
        raise calls.not_ready(model, timeout_s)

    async def status(self, model: str, *, timeout_s: float | None = None) -> ModelStatus:
        """As `Client.status`."""
        return await self._run(calls.status(model), timeout_s)

    async def register(
        self,
        model: str,
        *,
        kind: str,
        path: str = "",
        key: str = "",
        load: bool = False,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> ModelStatus:
        """As `Client.register`."""
        return await self._run(calls.register(model, kind=kind, path=path, key=key, load=load, wait=wait), timeout_s)

    async def unregister(self, model: str, *, timeout_s: float | None = None) -> None:
        """As `Client.unregister`."""
        await self._run(calls.unregister(model), timeout_s)

    async def ensure_loaded(self, model: str, *, wait: bool = True, timeout_s: float | None = None) -> ModelStatus:
        """As `Client.ensure_loaded`."""
        return await self._run(calls.ensure_loaded(model, wait=wait), timeout_s)

    async def _run(self, call: calls.Call[T], timeout_s: float | None) -> T:
        deadline = time.monotonic() + calls.checked_timeout(self._timeout_s if timeout_s is None else timeout_s)
        method = self._methods.get(call.method) or self._method(call)
        headers = self._headers + call.headers
        while True:
            try:
                answer = await method(call.request, timeout=max(deadline - time.monotonic(), 0), metadata=headers)
            except grpc.RpcError as failure:
                error = error_of(failure)
                pause = pause_s(error, deadline - time.monotonic())
                if pause is None:
                    raise error from failure
            else:
                return call.result(answer)
            await asyncio.sleep(pause)

    async def _answers(self, call: calls.Call[T], timeout_s: float) -> AsyncIterator[T]:
        deadline = time.monotonic() + timeout_s
        method: Callable[..., Any] = self._channel.stream_stream(
            call.method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=call.answer.FromString,
        )
        headers = self._headers + call.headers
        has_begun = False
        while True:
            left = max(deadline - time.monotonic(), 0)
            answers = method(iter((call.request,)), timeout=left, metadata=headers)
            try:
                async for answer in answers:
                    has_begun = True
                    yield call.result(answer)
            except grpc.RpcError as failure:
                error = error_of(failure)
                pause = None if has_begun else pause_s(error, deadline - time.monotonic())
                if pause is None:
                    raise error from failure
            else:
                return
            finally:
                answers.cancel()
            await asyncio.sleep(pause)

    def _method(self, call: calls.Call[Any]) -> Callable[..., Any]:
        method: Callable[..., Any] = self._channel.unary_unary(
            call.method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=call.answer.FromString,
        )
        self._methods[call.method] = method
        return method
