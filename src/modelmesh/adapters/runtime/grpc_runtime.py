"""`ports.Runtime` over gRPC, to a TCP or unix-socket endpoint."""

import asyncio
import logging
from typing import Protocol, Self, TypeVar

from google.protobuf.message import DecodeError, Message

from modelmesh._proto import model_runtime_pb2 as pb
from modelmesh._proto import runtime_events_pb2 as events_pb
from modelmesh.adapters.channel import CallError, Channel, Target
from modelmesh.ports import ModelSource, RuntimeCallError, RuntimeLoaded, RuntimeState, RuntimeStatus
from modelmesh.values import bounds, legacy
from modelmesh.values.ids import ModelId
from modelmesh.values.load_progress import LoadProgress
from modelmesh.values.memory import Memory
from modelmesh.values.status import Status

_log = logging.getLogger(__name__)

SERVICE = "mmesh.ModelRuntime"
PROGRESS = "/modelmesh.v1.RuntimeEvents/LoadProgress"
HEALTH_CHECK = "/grpc.health.v1.Health/Check"

STATUS_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 2.5
"""Less than it takes to find out that a connection cannot be opened, so that a runtime that hangs is distinguished from none."""

PREDICT_TIMEOUT_S = 0.5
PROGRESS_TIMEOUT_S = 0.5
MEASURE_TIMEOUT_S = 30.0

_STATES = {
    pb.RuntimeStatusResponse.STARTING: RuntimeState.STARTING,
    pb.RuntimeStatusResponse.READY: RuntimeState.READY,
}


class _Parsed(Protocol):
    @classmethod
    def FromString(cls, data: bytes, /) -> Self: ...  # noqa: N802 - protobuf's name


A = TypeVar("A", bound=_Parsed)


def runtime_channel(target: str) -> Channel:
    """Calls to a runtime at `host:port` or `unix:///path`."""
    # The path of a unix socket would be no authority, and strict servers refuse it.
    return Channel(Target(target, "localhost"))


class GrpcRuntime:
    """A runtime's management endpoint. One connection, opened with the first call.

    Args:
        target: `host:port`, or `unix:///path`.
        calls_target: Where inference calls go; None: there too.
    """

    def __init__(self, target: str, *, calls_target: str | None = None) -> None:
        self.target = target
        self._channel = runtime_channel(target)
        self._channels = [self._channel]
        if calls_target is not None and calls_target != target:
            self._channels.append(runtime_channel(calls_target))
        self._service = SERVICE
        self._predicts = True
        self._tells_progress = True

    async def status(self) -> RuntimeStatus:
        """Ask `runtimeStatus`, of the legacy service if the runtime has no other.

        A state this version does not know counts as FAILING.
        """
        self._predicts = self._tells_progress = True  # it may be a new runtime
        request = pb.RuntimeStatusRequest()
        try:
            answer = await self._call("runtimeStatus", request, pb.RuntimeStatusResponse, timeout_s=STATUS_TIMEOUT_S)
        except RuntimeCallError as error:
            if error.status is not Status.UNIMPLEMENTED:
                raise
            self._service = legacy.RUNTIME_SERVICE if self._service == SERVICE else SERVICE
            answer = await self._call("runtimeStatus", request, pb.RuntimeStatusResponse, timeout_s=STATUS_TIMEOUT_S)
            _log.info("the runtime at %s serves %s", self.target, self._service)
        return RuntimeStatus.decoded(
            _STATES.get(answer.status, RuntimeState.FAILING),
            capacity_bytes=answer.capacityInBytes,
            default_size_bytes=answer.defaultModelSizeInBytes,
            loading_concurrency=answer.maxLoadingConcurrency,
            load_timeout_ms=answer.modelLoadingTimeoutMs,
            limits_concurrency=answer.limitModelConcurrency,
            allows_any_method=answer.allowAnyMethod,
            injection_paths=tuple(
                (method, tuple(info.idInjectionPath)) for method, info in sorted(answer.methodInfos.items())
            ),
            version=answer.runtimeVersion,
        )

    async def answers(self) -> None:
        """Ask the health service, which gRPC libraries answer for by themselves where there is none."""
        await asyncio.gather(*(_answers(channel) for channel in self._channels))

    async def load(self, source: ModelSource) -> RuntimeLoaded:
        """Load a model; cancel to give the load up."""
        request = pb.LoadModelRequest(
            modelId=source.model, modelType=source.type, modelPath=source.path, modelKey=source.key
        )
        answer = await self._call("loadModel", request, pb.LoadModelResponse)
        return RuntimeLoaded.decoded(size_bytes=answer.sizeInBytes, max_concurrency=answer.maxConcurrency)

    async def unload(self, model: ModelId) -> None:
        """Unload a model; the runtime's NOT_FOUND is success."""
        try:
            await self._call("unloadModel", pb.UnloadModelRequest(modelId=model), pb.UnloadModelResponse)
        except RuntimeCallError as error:
            if error.status is not Status.NOT_FOUND:
                raise

    async def predict_size(self, source: ModelSource) -> Memory | None:
        """Predicted bytes, or None; raises if the connection was lost under the call.

        A runtime that answered UNIMPLEMENTED is not asked again before the next `status`.
        """
        if not self._predicts:
            return None
        request = pb.PredictModelSizeRequest(
            modelId=source.model, modelType=source.type, modelPath=source.path, modelKey=source.key
        )
        try:
            answer = await self._call(
                "predictModelSize", request, pb.PredictModelSizeResponse, timeout_s=PREDICT_TIMEOUT_S
            )
        except RuntimeCallError as error:
            if error.lost:
                raise
            if error.status is Status.UNIMPLEMENTED:
                self._predicts = False
            else:
                _log.info("no predicted size of model %s: %s", source.model, error)
            return None
        return Memory(bounds.BYTES.clamp(answer.sizeInBytes)) or None

    async def measure_size(self, model: ModelId) -> Memory:
        """The size of a loaded model, as the runtime reports it, 0 included."""
        answer = await self._call(
            "modelSize", pb.ModelSizeRequest(modelId=model), pb.ModelSizeResponse, timeout_s=MEASURE_TIMEOUT_S
        )
        return Memory(bounds.BYTES.clamp(answer.sizeInBytes))

    async def progress(self, model: ModelId) -> LoadProgress | None:
        """How far a load is, or None.

        A runtime that answered UNIMPLEMENTED is not asked again before the next `status`.
        """
        if not self._tells_progress:
            return None
        data = events_pb.LoadProgressRequest(model_id=model).SerializeToString()
        try:
            answer = await self._channel.unary(PROGRESS, data, timeout_s=PROGRESS_TIMEOUT_S)
            progress = events_pb.LoadProgressResponse.FromString(answer)
        except CallError as error:
            self._tells_progress = error.status is not Status.UNIMPLEMENTED
            return None
        except DecodeError:
            self._tells_progress = False
            return None
        return LoadProgress.decoded(
            progress.stage,
            bytes_done=progress.bytes_done,
            bytes_total=progress.bytes_total,
            files_done=progress.files_done,
            files_total=progress.files_total,
        )

    async def close(self) -> None:
        """Close the connection; running calls fail UNAVAILABLE."""
        for channel in self._channels:
            await channel.close()

    async def _call(self, method: str, request: Message, answer: type[A], *, timeout_s: float | None = None) -> A:
        try:
            path = f"/{self._service}/{method}"
            data = await self._channel.unary(path, request.SerializeToString(), timeout_s=timeout_s)
        except CallError as error:
            raise RuntimeCallError(
                error.status, error.details, unprocessed=error.unprocessed, lost=error.lost
            ) from error
        try:
            return answer.FromString(data)
        except DecodeError as error:
            raise RuntimeCallError(
                Status.INTERNAL,
                f"the runtime's answer to {method} is malformed ({len(data)} bytes are no {answer.__name__})",
            ) from error


async def _answers(channel: Channel) -> None:
    try:
        await channel.unary(HEALTH_CHECK, b"", timeout_s=ANSWER_TIMEOUT_S)
    except CallError as error:
        if error.status is Status.DEADLINE_EXCEEDED or error.unprocessed or error.lost:
            raise RuntimeCallError(
                error.status, error.details, unprocessed=error.unprocessed, lost=error.lost
            ) from error
