"""Methods of ours behind grpcio's own server: a runtime as authors in other languages write it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from modelmesh.runtime.calls import Context, Method
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.runtime.grpc_server import Methods

CODES = {code.value[0]: code for code in grpc.StatusCode}
"""grpcio's own enum by number."""


def generic_handlers(methods: Methods) -> "list[grpc.GenericRpcHandler[Any, Any]]":
    """Handlers for `add_generic_rpc_handlers`, one for each service. They learn no model id."""
    by_service: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
    for path, method in methods.items():
        _, service, name = path.split("/")
        by_service.setdefault(service, {})[name] = _handler(method)
    return [grpc.method_handlers_generic_handler(service, made) for service, made in by_service.items()]


def _handler(method: Method) -> "grpc.RpcMethodHandler[Any, Any]":
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    # The stubs know handlers of the synchronous API only.
    answer: Any = _streamed(method) if method.server_streaming else _once(method)
    return make(answer, request_deserializer=method.read, response_serializer=method.write)


def _once(method: Method) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        called: Any = method.answer(request, Context())
        try:
            return await called
        except RuntimeFault as error:
            await context.abort(CODES[error.status], str(error))

    return answer


def _streamed(method: Method) -> Any:
    async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
        called: Any = method.answer(request, Context())
        try:
            async for message in called:
                yield message
        except RuntimeFault as error:
            await context.abort(CODES[error.status], str(error))

    return answer
