"""gRPC services from their descriptors: methods by path, and errors as statuses.

No generated `_pb2_grpc` modules are needed: a descriptor knows its methods and messages, from any pool.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from modelmesh.runtime.calls import Answer, AnswerAfter, AnswerNow, Context, Method
from modelmesh.runtime.contract import ModelService
from modelmesh.runtime.errors import RequestError, RuntimeFault, describe, status_of
from modelmesh.runtime.loaded import LoadedModels, call
from modelmesh.values.status import Status

_log = logging.getLogger("modelmesh.runtime")


def service_methods(
    descriptor: ServiceDescriptor,
    answers: Mapping[str, Answer],
    *,
    now: Mapping[str, AnswerNow] | None = None,
    after: Mapping[str, AnswerAfter] | None = None,
    name: str | None = None,
) -> dict[str, Method]:
    """The methods of a service by path, for `GrpcServer`.

    Args:
        descriptor: Of the service; methods without an entry in `answers` answer UNIMPLEMENTED.
        answers: Async functions `(request, context)`, or async generators where the answer streams. Exceptions
            become statuses.
        now: Plain functions, asked first where a request is there at once; None as the answer: `answers` has to be asked.
        after: Plain functions, asked where a quick model has run already.
        name: Another full service name for the same messages.

    Raises:
        TypeError: A name is none of the service's, or a streaming answer is no async generator.
    """
    unknown = sorted(set(answers) - {method.name for method in descriptor.methods})
    if unknown:
        raise TypeError(f"service {descriptor.full_name} has no method {unknown[0]!r}")
    return {
        f"/{name or descriptor.full_name}/{method.name}": _method(
            method, answers[method.name], (now or {}).get(method.name), (after or {}).get(method.name)
        )
        for method in descriptor.methods
        if method.name in answers
    }


def _method(method: MethodDescriptor, answer: Answer, now: AnswerNow | None, after: AnswerAfter | None) -> Method:
    streams = inspect.isasyncgenfunction(answer)
    if streams != method.server_streaming:
        wanted = "an async generator" if method.server_streaming else "an async function"
        raise TypeError(f"{method.full_name} wants {wanted}, not {answer!r}")
    return Method(
        read=message_factory.GetMessageClass(method.input_type).FromString,
        write=message_factory.GetMessageClass(method.output_type).SerializeToString,
        answer=_guard_stream(method, answer) if streams else _guard_unary(method, answer),
        now=None if now is None else _guard_now(method, now),
        after=None if after is None else _guard_now(method, after),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
    )


def _fault(method: MethodDescriptor, error: Exception) -> RuntimeFault:
    """An error as it is answered; a bug is logged with where it happened."""
    status = status_of(error)
    if status is Status.INTERNAL:
        _log.error("%s failed: %s", method.full_name, describe(error), exc_info=error)
    else:  # caused by the caller, who gets the error
        _log.debug("%s refused: %s %s", method.full_name, status.name, describe(error))
    return RuntimeFault(describe(error), status=status)


def _guard_unary(method: MethodDescriptor, answer: Any) -> Callable[[Any, Context], Awaitable[Any]]:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await answer(request, context)
        except Exception as error:  # noqa: BLE001 - answered
            raise _fault(method, error) from None

    return guarded


def _guard_now(method: MethodDescriptor, answer: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*arguments: Any) -> Any:
        try:
            return answer(*arguments)
        except Exception as error:  # noqa: BLE001 - answered
            raise _fault(method, error) from None

    return guarded


def _guard_stream(method: MethodDescriptor, answer: Any) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in answer(request, context):
                yield message
        except Exception as error:  # noqa: BLE001 - answered
            raise _fault(method, error) from None

    return guarded


def model_service_methods(
    service: ModelService[Any], models: LoadedModels[Any], pool: Executor, gate: "CallGate"
) -> dict[str, Method]:
    """The methods of an author's own service: they find the model of each call and pass it on."""
    answers: dict[str, Answer] = {}
    streaming = {method.name: method.server_streaming for method in service.descriptor.methods}
    for name, function in service.methods.items():
        bind = _bind_stream if streaming.get(name) else _bind_unary
        answers[name] = bind(function, models, pool, gate)
    for name in service.id_paths:
        if name not in service.methods:
            raise TypeError(
                f"id_paths names {name!r}, which is not among the methods of {service.descriptor.full_name}"
            )
    return service_methods(service.descriptor, answers)


def _required_id(context: Context) -> str:
    model = context.model_id()
    if not model:
        raise RequestError("no model id: send it as metadata mm-model-id-bin or mm-model-id")
    return model


def _bind_unary(
    function: Callable[[Any, Any], Any], models: LoadedModels[Any], pool: Executor, gate: "CallGate"
) -> Answer:
    async def answer(request: Any, context: Context) -> Any:
        with gate, models.use(_required_id(context)) as use:
            return await call(pool, function, use.model, request)

    return answer


def _bind_stream(
    function: Callable[[Any, Any], Any], models: LoadedModels[Any], pool: Executor, gate: "CallGate"
) -> Answer:
    del pool
    if not inspect.isasyncgenfunction(function):
        raise TypeError(f"a streaming answer wants an async generator, not {function!r}")

    async def answer(request: Any, context: Context) -> AsyncIterator[Any]:
        with gate, models.use(_required_id(context)) as use:
            async for message in function(use.model, request):
                yield message

    return answer


class CallGate:
    """Bounds the inference calls that run or wait for a thread; one more is refused at once.

    The mesh limits what it sends; this protects a runtime that clients call directly.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls = 0

    def __enter__(self) -> None:
        if self.calls >= self.limit:
            raise RuntimeFault(
                f"{self.calls} calls are running or waiting at this runtime; repeat later",
                status=Status.RESOURCE_EXHAUSTED,
            )
        self.calls += 1

    def __exit__(self, *_: object) -> None:
        self.calls -= 1
