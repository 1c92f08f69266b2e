"""gRPC server reflection: our own services, the Open Inference Protocol, and the runtime's.

`grpc.reflection.v1` and `v1alpha` have the same messages, so both names get the same answers.
What is not ours is asked of the runtime, where that has reflection.
Source: the gRPC server reflection protocol.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from google.protobuf.descriptor import FileDescriptor

from modelmesh._proto import (
    POOL,
    admin_pb2,
    console_pb2,
    grpc_health_pb2,
    grpc_reflection_pb2,
    model_mesh_pb2,
    open_inference_pb2,
)
from modelmesh._proto import grpc_reflection_pb2 as pb
from modelmesh.management.calls import Call, Method
from modelmesh.values.status import Status

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
_FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (admin_pb2, console_pb2, grpc_health_pb2, grpc_reflection_pb2, model_mesh_pb2, open_inference_pb2)
)

AskRuntime = Callable[[bytes], Awaitable[bytes | None]]
"""Sends one encoded ServerReflectionRequest to the runtime; None if it has no reflection or is away."""


class Reflection:
    """Handlers of the service."""

    def __init__(self, ask_runtime: AskRuntime) -> None:
        self._ask_runtime = ask_runtime

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        method = Method(pb.ServerReflectionRequest, streaming=self.info)
        return {f"{service}/ServerReflectionInfo": method for service in SERVICES}

    async def info(self, call: Call, requests: AsyncIterator[pb.ServerReflectionRequest]) -> None:
        """Answer each request in order."""
        async for request in requests:
            call.send(await self._answer(request))

    async def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            names = {service.full_name for file in _FILES for service in file.services_by_name.values()}
            names.add(SERVICES[1])
            theirs = await self._of_runtime(request)
            if theirs is not None:
                names.update(service.name for service in theirs.list_services_response.service)
            answer.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in sorted(names))
            return answer
        file = self._file(request, kind)
        if file is not None:
            answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file))
            return answer
        theirs = await self._of_runtime(request)
        if theirs is not None and theirs.WhichOneof("message_response") is not None:
            theirs.original_request.CopyFrom(request)
            return theirs
        answer.error_response.error_code = Status.NOT_FOUND
        answer.error_response.error_message = "neither this instance nor its runtime knows it"
        return answer

    def _file(self, request: pb.ServerReflectionRequest, kind: str | None) -> FileDescriptor | None:
        try:
            if kind == "file_by_filename":
                return POOL.FindFileByName(request.file_by_filename)
            if kind == "file_containing_symbol":
                symbol = request.file_containing_symbol.replace("grpc.reflection.v1alpha.", "grpc.reflection.v1.")
                return POOL.FindFileContainingSymbol(symbol)
        except KeyError:
            pass
        return None

    async def _of_runtime(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse | None:
        encoded = await self._ask_runtime(request.SerializeToString())
        return pb.ServerReflectionResponse.FromString(encoded) if encoded is not None else None


def _with_imports(file: FileDescriptor) -> list[bytes]:
    """The file and everything it imports, encoded."""
    found: dict[str, bytes] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current.name not in found:
            found[current.name] = current.serialized_pb
            waiting.extend(current.dependencies)
    return list(found.values())
