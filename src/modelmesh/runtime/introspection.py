"""grpc.health.v1 and server reflection, without packages of their own."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor

from modelmesh._proto import grpc_health_pb2 as health
from modelmesh._proto import grpc_reflection_pb2 as reflection
from modelmesh.runtime.calls import Context, Method
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.runtime.service import service_methods
from modelmesh.values.status import Status

REFLECTION_NAMES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both are served: many tools still ask the older one. Their messages are the same on the wire."""


class Health:
    """The health service; every service of the server shares one state."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = frozenset(("", *services))
        self._serving = True
        self._closed = False
        self._changed = asyncio.Event()

    def methods(self) -> dict[str, Method]:
        """By path."""
        return service_methods(
            health.DESCRIPTOR.services_by_name["Health"], {"Check": self._check, "Watch": self._watch}
        )

    def set_serving(self, *, serving: bool) -> None:
        """Inform probes and watchers."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Send probes and watchers NOT_SERVING, and end the watches, which would hold up a stopping server."""
        self._closed = True
        self.set_serving(serving=False)

    async def _check(self, request: health.HealthCheckRequest, _context: Context) -> health.HealthCheckResponse:
        if request.service not in self._services:
            raise RuntimeFault(f"service {request.service!r} is not served here", status=Status.NOT_FOUND)
        return self._answer(request.service)

    async def _watch(
        self, request: health.HealthCheckRequest, _context: Context
    ) -> AsyncIterator[health.HealthCheckResponse]:
        while True:
            changed = self._changed
            yield self._answer(request.service)
            if self._closed:
                return
            await changed.wait()

    def _answer(self, service: str) -> health.HealthCheckResponse:
        states = health.HealthCheckResponse
        if service not in self._services:
            return states(status=states.SERVICE_UNKNOWN)
        return states(status=states.SERVING if self._serving else states.NOT_SERVING)


class Reflection:
    """Server reflection over the descriptors of the given services, from any pools."""

    def __init__(self, services: Sequence[ServiceDescriptor]) -> None:
        own = [health.DESCRIPTOR.services_by_name["Health"], reflection.DESCRIPTOR.services_by_name["ServerReflection"]]
        self._services = {service.full_name: service for service in (*services, *own)}
        self._files: dict[str, FileDescriptor] = {}
        for service in self._services.values():
            self._add(service.file)

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files[file.name] = file
            for imported in file.dependencies:
                self._add(imported)

    def methods(self) -> dict[str, Method]:
        """By path, under each of its names."""
        descriptor = reflection.DESCRIPTOR.services_by_name["ServerReflection"]
        found: dict[str, Method] = {}
        for name in REFLECTION_NAMES:
            found |= service_methods(descriptor, {"ServerReflectionInfo": self._info}, name=name)
        return found

    async def _info(
        self, requests: AsyncIterator[reflection.ServerReflectionRequest], _context: Context
    ) -> AsyncIterator[reflection.ServerReflectionResponse]:
        async for request in requests:
            answer = reflection.ServerReflectionResponse(valid_host=request.host)
            answer.original_request.CopyFrom(request)
            self._fill(request, answer)
            yield answer

    def _fill(self, request: reflection.ServerReflectionRequest, answer: reflection.ServerReflectionResponse) -> None:
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            for name in sorted({*self._services, *REFLECTION_NAMES}):
                answer.list_services_response.service.add(name=name)
            return
        file = None
        if kind == "file_by_filename":
            file = self._files.get(request.file_by_filename)
        elif kind == "file_containing_symbol":
            file = self._file_of(request.file_containing_symbol)
        if file is not None:
            answer.file_descriptor_response.file_descriptor_proto.extend(_with_imports(file))
            return
        # Extensions are of proto2; none of our services has them.
        answer.error_response.error_code = Status.NOT_FOUND
        answer.error_response.error_message = "not known to this server"

    def _file_of(self, symbol: str) -> FileDescriptor | None:
        return next((file for file in self._files.values() if _declares(file, symbol)), None)


def _declares(file: FileDescriptor, symbol: str) -> bool:
    """Whether a file declares a service, method, message, enum or field of that full name."""
    prefix = f"{file.package}." if file.package else ""
    if not symbol.startswith(prefix):
        return False
    first, *rest = symbol.removeprefix(prefix).split(".")
    if first in file.services_by_name:
        return not rest or rest[0] in file.services_by_name[first].methods_by_name
    if first in file.enum_types_by_name:
        return not rest
    message = file.message_types_by_name.get(first)
    for name in rest:
        if message is None:
            return False
        if name in message.fields_by_name or name in message.enum_types_by_name:
            return name == rest[-1]
        message = message.nested_types_by_name.get(name)
    return message is not None


def _with_imports(file: FileDescriptor) -> list[bytes]:
    seen: dict[str, bytes] = {}

    def add(one: FileDescriptor) -> None:
        if one.name not in seen:
            seen[one.name] = one.serialized_pb
            for imported in one.dependencies:
                add(imported)

    add(file)
    return list(seen.values())
