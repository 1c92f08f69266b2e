"""The external scaler of KEDA: how many pods a runtime needs, by gRPC (`proto/external-scaler.proto`).

It answers while the controller leads, and only then: of several replicas KEDA's connection finds the one that listens.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from modelmesh._proto import external_scaler_pb2 as pb
from modelmesh.kubernetes.demand import LEAST
from modelmesh.kubernetes.loop.controller import Controller
from modelmesh.kubernetes.render import as_served

METRIC = "modelmesh-wanted-pods"
SERVICE = "externalscaler.ExternalScaler"
RUNTIME = "runtime"
"""Metadata of the trigger: the name of a runtime."""

STREAMS = 256
"""Calls at a time; each ScaledObject of the type `external-push` holds one."""

LONGEST = 64 << 10
END_S = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class Unanswerable(Exception):  # noqa: N818 - an answer, not a fault
    """Why there is no figure."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class ExternalScaler:
    """Answers for one controller.

    Args:
        controller: That works now; None: none does.
    """

    def __init__(self, controller: Callable[[], Controller | None]) -> None:
        self._controller = controller

    async def is_active(self, reference: pb.ScaledObjectRef) -> pb.IsActiveResponse:
        """Whether a model needs the runtime, or scaling to zero is off."""
        return pb.IsActiveResponse(result=self._needed(reference))

    async def metric_spec(self, reference: pb.ScaledObjectRef) -> pb.GetMetricSpecResponse:
        """One metric, of which one pod is worth 1."""
        self._runtime(reference)
        return pb.GetMetricSpecResponse(
            metricSpecs=[pb.MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)]
        )

    async def metrics(self, request: pb.GetMetricsRequest) -> pb.GetMetricsResponse:
        """The pods that are needed now."""
        pods = self._pods(request.scaledObjectRef)
        name = request.metricName or METRIC
        return pb.GetMetricsResponse(
            metricValues=[pb.MetricValue(metricName=name, metricValue=pods, metricValueFloat=float(pods))]
        )

    async def stream_active(self, reference: pb.ScaledObjectRef) -> AsyncIterator[pb.IsActiveResponse]:
        """Whether it is active, at first and whenever that changes."""
        sent: bool | None = None
        while True:
            active = self._needed(reference)
            if active is not sent:
                yield pb.IsActiveResponse(result=active)
                sent = active
            await self._working().demands.next_turn()

    def _working(self) -> Controller:
        controller = self._controller()
        if controller is None or not controller.synced:
            raise Unanswerable(grpc.StatusCode.UNAVAILABLE, "the controller does not know its resources yet")
        return controller

    def _runtime(self, reference: pb.ScaledObjectRef) -> tuple[Controller, Any, Any]:
        """The controller, the runtime as it is served, and its configuration. Raises Unanswerable."""
        controller = self._working()
        name, namespace = reference.scalerMetadata.get(RUNTIME, ""), reference.namespace
        if not name:
            raise Unanswerable(grpc.StatusCode.INVALID_ARGUMENT, f"the trigger's metadata has no {RUNTIME}")
        declared = controller.world.runtime(namespace, name) if controller.world.enabled(namespace) else None
        config = controller.world.config(namespace)
        if declared is None or declared.runtime is None or not declared.runtime.serves or config is None:
            raise Unanswerable(
                grpc.StatusCode.NOT_FOUND, f"namespace {namespace} has no runtime {name} that takes models"
            )
        return controller, as_served(declared.runtime, config), config

    def _needed(self, reference: pb.ScaledObjectRef) -> bool:
        controller, runtime, config = self._runtime(reference)
        return not config.scale_to_zero or controller.world.models.needed_in(reference.namespace, runtime)

    def _pods(self, reference: pb.ScaledObjectRef) -> int:
        controller, runtime, _ = self._runtime(reference)
        if not self._needed(reference):
            return 0
        sample = controller.demands.get(reference.namespace, runtime.name)
        if sample is not None:
            return sample.demand.pods
        if controller.meshes[reference.namespace].reachable:
            raise Unanswerable(grpc.StatusCode.UNAVAILABLE, "the instances have not been asked yet, or do not answer")
        return int(runtime.annotations.get(LEAST) or 1)


async def serve_scaler(scaler: ExternalScaler, address: str) -> tuple[grpc.aio.Server, int]:
    """Begin to listen at HOST:PORT; returns the server and its port. Raises OSError."""
    server = grpc.aio.server(
        maximum_concurrent_rpcs=STREAMS,
        options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", LONGEST)),
    )
    reference, asked = pb.ScaledObjectRef.FromString, pb.GetMetricsRequest.FromString
    once, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "IsActive": once(_answered(scaler.is_active), reference, _bytes),
        "GetMetricSpec": once(_answered(scaler.metric_spec), reference, _bytes),
        "GetMetrics": once(_answered(scaler.metrics), asked, _bytes),
        "StreamIsActive": stream(_streamed(scaler.stream_active), reference, _bytes),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"{address} (--scaler-addr) cannot be listened at: {error}") from error
    await server.start()
    return server, port


def _bytes(message: Message) -> bytes:
    return message.SerializeToString()


def _answered(answer: Callable[[Any], Awaitable[Message]]) -> Any:
    async def handle(request: Any, context: Context) -> Any:
        try:
            return await answer(request)
        except Unanswerable as error:
            await context.abort(error.code, str(error))

    return handle


def _streamed(answer: Callable[[Any], AsyncIterator[Message]]) -> Any:
    async def handle(request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in answer(request):
                yield message
        except Unanswerable as error:
            await context.abort(error.code, str(error))

    return handle
