"""Calls of the Open Inference Protocol's repository extension: loads and unloads in MLServer and Triton."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime.errors import describe
from modelmesh.servers.driver import LOAD_BOUND_S, READY_BOUND_S, UNLOAD_BOUND_S, ServerAwayError, ServerError
from modelmesh.values.status import Status

SERVICE = "inference.GRPCInferenceService"
Answer = TypeVar("Answer", bound=Message)

_CHANNEL = (
    ("grpc.enable_http_proxy", 0),  # of the environment, which does not lead to this machine
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # an index of many models
)
_OUT_OF_MEMORY = re.compile(r"(?i)MemoryError|out of memory|bad_alloc|(unable to|cannot|failed to) allocate")
"""What Python, numpy, C++, torch and CUDA say."""

MAX_WORDS = 2000
"""Characters of a server's message that we repeat."""


class Calls:
    """Unary calls to a server on this machine, their errors as ours.

    Args:
        name: Of the server, for messages.
        port: Of its gRPC service.
    """

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self._target = f"127.0.0.1:{port}"
        self._channel = grpc.aio.insecure_channel(self._target, options=_CHANNEL)

    async def call(self, method: str, request: Message, answer: type[Answer], *, timeout_s: float) -> Answer:
        """Call `pkg.Service/Method`.

        Raises:
            ServerAwayError: There is no answer there.
            ServerError: The server refused; its code and its words.
        """
        call: Any = self._channel.unary_unary(
            f"/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            found: Answer = await call(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from error
        return found

    def _error(self, error: "grpc.aio.AioRpcError") -> ServerError:
        status = Status(error.code().value[0])
        if status is Status.UNAVAILABLE:
            return ServerAwayError(f"{self._name} does not answer at {self._target}: {words(error.details())}")
        if status is Status.DEADLINE_EXCEEDED:
            return ServerError(f"{self._name} did not answer in time", status=status)
        return ServerError(f"{self._name}: {words(error.details()) or status.name}", status=status)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)


class Repository:
    """The repository of one server, over its gRPC service."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def server_ready(self) -> bool:
        """Whether the server answers that it is ready. Raises ServerError."""
        request, answer = pb.ServerReadyRequest(), pb.ServerReadyResponse
        return (await self._call("ServerReady", request, answer, READY_BOUND_S)).ready

    async def server_live(self) -> bool:
        """Whether the server answers that it is alive. Raises ServerError."""
        return (await self._call("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, READY_BOUND_S)).live

    async def version(self) -> str:
        """The server's version; empty: it reports none."""
        try:
            found = await self._call(
                "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, READY_BOUND_S
            )
        except ServerAwayError:
            raise
        except ServerError:
            return ""
        return found.version

    async def index(self, *, ready: bool) -> Sequence[pb.RepositoryIndexResponse.ModelIndex]:
        """Its models; only those that are loaded, with `ready`."""
        request, answer = pb.RepositoryIndexRequest(ready=ready), pb.RepositoryIndexResponse
        return (await self._call("RepositoryIndex", request, answer, UNLOAD_BOUND_S)).models

    async def load(self, model: str) -> None:
        """Load, and wait for it."""
        request, answer = pb.RepositoryModelLoadRequest(model_name=model), pb.RepositoryModelLoadResponse
        await self._call("RepositoryModelLoad", request, answer, LOAD_BOUND_S)

    async def unload(self, model: str) -> None:
        """Unload."""
        request, answer = pb.RepositoryModelUnloadRequest(model_name=model), pb.RepositoryModelUnloadResponse
        await self._call("RepositoryModelUnload", request, answer, UNLOAD_BOUND_S)

    async def model_ready(self, model: str) -> bool:
        """Whether a model is loaded. An error, except a missing or late answer, means that it is not."""
        try:
            found = await self._call(
                "ModelReady", pb.ModelReadyRequest(name=model), pb.ModelReadyResponse, READY_BOUND_S
            )
        except ServerError as error:
            if error.status in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}:
                raise
            return False
        return found.ready

    async def _call(self, method: str, request: Message, answer: type[Answer], timeout_s: float) -> Answer:
        return await self._calls.call(f"{SERVICE}/{method}", request, answer, timeout_s=timeout_s)


def words(text: str | None) -> str:
    """A server's message on one line: the last one of a traceback, and not too much of anything."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        lines = lines[-1:]
    line = " ".join(" ".join(lines).split())
    return line if len(line) <= MAX_WORDS else f"{line[:MAX_WORDS]}…"


def because(prefix: str, error: ServerError) -> str:
    """A message with the operation and the server's error."""
    return f"{prefix}: {describe(error)}"


def load_fault(prefix: str, error: ServerError, blamed: frozenset[Status]) -> ServerError:
    """The error of a load that a server refused.

    Args:
        prefix: What was loaded.
        error: The server's.
        blamed: Statuses with which this server answers for a model that it cannot read: the model is the cause.
    """
    text = because(prefix, error)
    if _OUT_OF_MEMORY.search(text):
        more = (
            "the server has too little memory for it; give the server more, or the models less of it (MEM_BUFFER_BYTES)"
        )
        return ServerError(f"{text}; {more}", status=Status.RESOURCE_EXHAUSTED)
    return ServerError(text, status=Status.INVALID_ARGUMENT if error.status in blamed else error.status)


@contextmanager
def load_errors(model_id: str) -> Iterator[None]:
    """Raises the server's error of a load, with the model's name.

    An internal error of the server, or an unknown model, means that the model cannot be loaded: INVALID_ARGUMENT.
    """
    try:
        yield
    except ServerAwayError as error:
        raise ServerError(because(f"model {model_id!r}", error), status=Status.UNAVAILABLE) from error
    except ServerError as error:
        blamed = frozenset({Status.INTERNAL, Status.UNKNOWN, Status.NOT_FOUND})
        raise load_fault(f"model {model_id!r}", error, blamed) from error
