"""The runtime behind the puller."""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import runtime_events_pb2 as events_pb
from modelmesh.runtime.errors import RuntimeFault
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.status import Status

SERVICE = "mmesh.ModelRuntime"
PROGRESS = "/modelmesh.v1.RuntimeEvents/LoadProgress"
PROGRESS_S = 0.3
"""How long a runtime may take to report its progress; the mesh waits half a second for us."""
RECONNECT_S = 2.0
"""How long a connection that broke may take to be back before the mesh gets an error."""

M = TypeVar("M", bound=Message)

_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.client_idle_timeout_ms", 2**31 - 1),  # an idle connection does not show whether the runtime works
)


class Upstream:
    """Calls of the runtime. `target` as gRPC writes it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
        self._tells_progress = True

    async def call(self, method: str, request: Message, answer: type[M], timeout_s: float | None) -> M:
        """One call.

        Raises:
            RuntimeFault: With the runtime's code and text; UNAVAILABLE: it is not there.
        """
        stub = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            found: M = await stub(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise RuntimeFault(error.details() or error.code().name, status=Status(error.code().value[0])) from None
        return found

    async def progress(self, model_id: str) -> LoadProgress | None:
        """How far the runtime reports a load to be; None: it does not report it.

        A runtime that answered UNIMPLEMENTED is not asked again on this connection.
        """
        if not self._tells_progress:
            return None
        stub = self._channel.unary_unary(
            PROGRESS,
            request_serializer=events_pb.LoadProgressRequest.SerializeToString,
            response_deserializer=events_pb.LoadProgressResponse.FromString,
        )
        try:
            told = await stub(events_pb.LoadProgressRequest(model_id=model_id), timeout=PROGRESS_S)
        except grpc.aio.AioRpcError as error:
            self._tells_progress = error.code() is not grpc.StatusCode.UNIMPLEMENTED
            return None
        return LoadProgress.decoded(
            told.stage,
            bytes_done=told.bytes_done,
            bytes_total=told.bytes_total,
            files_done=told.files_done,
            files_total=told.files_total,
        )

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def until_lost(self) -> None:
        """Wait until the connection breaks."""
        while (state := self._channel.get_state()) is grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)

    async def has_restarted(self, models: Iterable[str]) -> bool:
        """After the connection broke: whether the runtime has ended, or does not know a model that it had loaded."""
        try:
            await asyncio.wait_for(self.until_ready(), RECONNECT_S)
            for model_id in models:
                request = pb.ModelSizeRequest(modelId=model_id)
                await self.call("modelSize", request, pb.ModelSizeResponse, RECONNECT_S)
        except (TimeoutError, RuntimeFault):
            return True  # also for a runtime that cannot answer: the mesh asks again
        return False

    async def close(self) -> None:
        """Let the connection go."""
        await self._channel.close(None)

    async def until_ready(self) -> None:
        """Wait for the runtime."""
        while (state := self._channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            await self._channel.wait_for_state_change(state)
        self._tells_progress = True  # it may be a new runtime
