"""`grpc.health.v1.Health`: Check and Watch.

Source: the gRPC health checking protocol. The empty service name means the whole instance.
"""

from collections.abc import AsyncIterator, Callable, Mapping

from modelmesh._proto import grpc_health_pb2 as pb
from modelmesh.management.calls import Call, CallError, Method
from modelmesh.ports import Clock
from modelmesh.values.status import Status

POLL_MS = 500
"""How often a watched service is looked at; probes come every few seconds."""

_Answer = pb.HealthCheckResponse


class Health:
    """Handlers of the service.

    Args:
        ready: Whether this instance can serve calls now.
        services: Names that may be asked for, besides the empty one.
    """

    def __init__(self, *, ready: Callable[[], bool], services: tuple[str, ...], clock: Clock) -> None:
        self._ready = ready
        self._services = frozenset(services)
        self._clock = clock

    def methods(self) -> Mapping[str, Method]:
        """By full name."""
        return {
            "grpc.health.v1.Health/Check": Method(pb.HealthCheckRequest, self.check),
            "grpc.health.v1.Health/Watch": Method(pb.HealthCheckRequest, streaming=self.watch),
        }

    async def check(self, _: Call, request: pb.HealthCheckRequest) -> pb.HealthCheckResponse:
        """The state now; NOT_FOUND for a service that is not served."""
        if not self._known(request.service):
            raise CallError(Status.NOT_FOUND, f"unknown service {request.service}")
        return _Answer(status=self._state())

    async def watch(self, call: Call, requests: AsyncIterator[pb.HealthCheckRequest]) -> None:
        """The state now and whenever it changes."""
        request = await anext(requests, None)
        if request is None:
            raise CallError(Status.INTERNAL, "Half-closed without a request")
        known = self._known(request.service)
        sent = None
        while True:
            state = self._state() if known else _Answer.SERVICE_UNKNOWN
            if state != sent:
                sent = state
                call.send(_Answer(status=state))
            await self._clock.sleep(POLL_MS)

    def _known(self, service: str) -> bool:
        return service == "" or service in self._services

    def _state(self) -> "pb.HealthCheckResponse.ServingStatus.ValueType":
        return _Answer.SERVING if self._ready() else _Answer.NOT_SERVING
