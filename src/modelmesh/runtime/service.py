"""gRPC services from their descriptors: handlers by method name, and errors as statuses.

No generated `_pb2_grpc` modules are needed: a descriptor knows its methods and messages, in whatever pool it lives.
"""

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import Any, NoReturn

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from modelmesh.runtime.contract import ModelService
from modelmesh.runtime.errors import RequestError, RuntimeFault, describe, status_of
from modelmesh.runtime.loaded import LoadedModels, call
from modelmesh.values.status import Status

_log = logging.getLogger("modelmesh.runtime")

Context = Any
"""A `grpc.aio.ServicerContext` (its stubs disagree with the library about types)."""

Answer = Callable[[Any, Context], Awaitable[Any]] | Callable[[Any, Context], AsyncIterator[Any]]

CODES = {code.value[0]: code for code in grpc.StatusCode}
"""gRPC's own enum by number."""

_MODEL_ID = "mm-model-id"


def model_id_of(context: Context) -> str | None:
    """The model id in a call's metadata: `mm-model-id-bin` (UTF-8) first, then `mm-model-id`.

    Raises:
        RequestError: `mm-model-id-bin` is no UTF-8.
    """
    found = None
    for key, value in context.invocation_metadata() or ():
        if key == f"{_MODEL_ID}-bin":
            try:
                return value.decode() if isinstance(value, bytes) else str(value)
            except UnicodeDecodeError:
                raise RequestError("metadata mm-model-id-bin is not UTF-8") from None
        if key == _MODEL_ID and found is None:
            found = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
    return found


def service_handler(
    descriptor: ServiceDescriptor, methods: Mapping[str, Answer], *, name: str | None = None
) -> "grpc.GenericRpcHandler[Any, Any]":
    """A handler for `add_generic_rpc_handlers`.

    Args:
        descriptor: Of the service; methods without an entry in `methods` answer UNIMPLEMENTED.
        methods: Async functions `(request, context)`, or async generators where the answer streams. Exceptions
            become statuses.
        name: Another full service name for the same messages.

    Raises:
        TypeError: A name is none of the service's, or a streaming answer is no async generator.
    """
    unknown = sorted(set(methods) - {method.name for method in descriptor.methods})
    if unknown:
        raise TypeError(f"service {descriptor.full_name} has no method {unknown[0]!r}")
    handlers = {
        method.name: _handler(method, methods[method.name]) for method in descriptor.methods if method.name in methods
    }
    return grpc.method_handlers_generic_handler(name or descriptor.full_name, handlers)


def _handler(method: MethodDescriptor, answer: Answer) -> "grpc.RpcMethodHandler[Any, Any]":
    streams = inspect.isasyncgenfunction(answer)
    if streams != method.server_streaming:
        wanted = "an async generator" if method.server_streaming else "an async function"
        raise TypeError(f"{method.full_name} wants {wanted}, not {answer!r}")
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    # The stubs know handlers of the synchronous API only.
    guarded: Any = _guard_stream(method, answer) if streams else _guard_unary(method, answer)
    return make(
        guarded,
        request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
        response_serializer=message_factory.GetMessageClass(method.output_type).SerializeToString,
    )


async def _refuse(context: Context, method: MethodDescriptor, error: Exception) -> NoReturn:
    status = status_of(error)
    if status is Status.INTERNAL:
        _log.error("%s failed: %s", method.full_name, describe(error), exc_info=error)
    else:  # the caller's doing, and the caller is told
        _log.debug("%s refused: %s %s", method.full_name, status.name, describe(error))
    await context.abort(CODES[status], describe(error))
    raise AssertionError("abort always raises")


def _guard_unary(method: MethodDescriptor, answer: Any) -> Callable[[Any, Context], Awaitable[Any]]:
    async def guarded(request: Any, context: Context) -> Any:
        try:
            return await answer(request, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - answered
            await _refuse(context, method, error)

    return guarded


def _guard_stream(method: MethodDescriptor, answer: Any) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in answer(request, context):
                yield message
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - answered
            await _refuse(context, method, error)

    return guarded


def model_service_handler(
    service: ModelService[Any], models: LoadedModels[Any], pool: Executor, gate: "CallGate"
) -> "grpc.GenericRpcHandler[Any, Any]":
    """A handler for an author's own service: finds the model of each call and passes it on."""
    methods: dict[str, Answer] = {}
    streaming = {method.name: method.server_streaming for method in service.descriptor.methods}
    for name, function in service.methods.items():
        bind = _bind_stream if streaming.get(name) else _bind_unary
        methods[name] = bind(function, models, pool, gate)
    for name in service.id_paths:
        if name not in service.methods:
            raise TypeError(
                f"id_paths names {name!r}, which is not among the methods of {service.descriptor.full_name}"
            )
    return service_handler(service.descriptor, methods)


def _required_id(context: Context) -> str:
    model = model_id_of(context)
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
