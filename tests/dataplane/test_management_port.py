"""Management at a port of its own, over real sockets: each port answers its own calls, and names the right one otherwise."""

from collections.abc import Callable

import grpc
import pytest
from scripted import ID, WAIT, Instance, Runtime, serve_calls, status_of

from modelmesh._proto import grpc_health_pb2 as health_pb
from modelmesh._proto import model_mesh_pb2 as mesh_pb
from modelmesh.adapters.clock import SystemClock
from modelmesh.control.tasks import Tasks
from modelmesh.management.access import Access
from modelmesh.management.calls import Call, CallServer, Method
from modelmesh.policy.access import AccessRules, Grant, hash_of_key
from modelmesh.values.access import Identity, Listener, Verb
from modelmesh.values.dataplane import Asked, DataPlaneEvent, Rules

Make = Callable[..., Instance]
STATUS, CHECK = "/mmesh.ModelMesh/getModelStatus", "/grpc.health.v1.Health/Check"


class Managed:
    """An instance that answers a call of management, and health."""

    def __init__(self, one: Instance, rules: AccessRules | None = None) -> None:
        self.listeners: list[Listener | None] = []
        tasks = Tasks(lambda *failure: None)
        access = Access(dataplane=one.plane, clock=SystemClock(), tasks=tasks, keys=self._keys)
        methods = {
            STATUS[1:]: Method(mesh_pb.GetStatusRequest, self._status),
            CHECK[1:]: Method(health_pb.HealthCheckRequest, self._health),
        }
        server = CallServer(
            dataplane=one.plane, tasks=tasks, methods=methods, access=access, failed=lambda *failure: None
        )

        def decide(event: DataPlaneEvent) -> None:
            if isinstance(event, Asked):
                access.asked(event)
            serve_calls(server, event)

        one.brain.decide = decide
        services = ("mmesh.ModelMesh", "grpc.health.v1.Health")
        one.plane.set_rules(
            Rules(serving_services=services, peer_services=(), management_services=("mmesh.ModelMesh",))
        )
        if rules is not None:
            access.use(rules)

    async def _keys(self, where: str, kid: str) -> list[object]:
        raise AssertionError((where, kid))

    async def _status(self, call: Call, _: mesh_pb.GetStatusRequest) -> mesh_pb.ModelStatusInfo:
        self.listeners.append(call.caller.listener if call.caller is not None else None)
        return mesh_pb.ModelStatusInfo(status=mesh_pb.ModelStatusInfo.LOADED)

    async def _health(self, _call: Call, _: health_pb.HealthCheckRequest) -> health_pb.HealthCheckResponse:
        return health_pb.HealthCheckResponse(status=health_pb.HealthCheckResponse.SERVING)


async def test_each_port_answers_its_own_calls_and_names_the_other(make: Make, runtime: Runtime) -> None:
    one = make(management="127.0.0.1:0")
    one.local()
    Managed(one)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{one.plane.management_port}") as management:
        assert await management.unary_unary(STATUS)(b"", timeout=WAIT) != b""
        for channel in (one.channel, management):
            assert await channel.unary_unary(CHECK)(b"", timeout=WAIT) != b""
        assert await one.unary()(b"x", metadata=ID, timeout=WAIT) == b"x"
        refused = await status_of(one.channel.unary_unary(STATUS)(b"", timeout=WAIT))
        assert refused == (
            grpc.StatusCode.UNIMPLEMENTED,
            "mmesh.ModelMesh/getModelStatus is answered at another port of this instance, MM_MANAGEMENT_PORT",
        )
        calls = len(runtime.calls)
        code, details = await status_of(management.unary_unary("/test.S/Echo")(b"x", metadata=ID, timeout=WAIT))
        assert (code, "MM_SVC_GRPC_PORT" in details) == (grpc.StatusCode.UNIMPLEMENTED, True)
        assert len(runtime.calls) == calls, "the runtime was not called"


async def test_grants_may_be_for_the_port_of_management_alone(make: Make) -> None:
    everywhere = frozenset({Listener.GRPC, Listener.REST})
    rules = AccessRules(
        principals={name: Identity(name) for name in ("inside", "outside")},
        keys={hash_of_key("k1"): "inside", hash_of_key("k2"): "outside"},
        grants=(
            Grant(("inside",), frozenset({Verb.STATUS}), ("*",), listeners=frozenset({Listener.MANAGEMENT})),
            Grant(("outside",), frozenset({Verb.STATUS}), ("*",), listeners=everywhere),
        ),
    )
    one = make(management="127.0.0.1:0")
    managed = Managed(one, rules)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{one.plane.management_port}") as management:
        ask = management.unary_unary(STATUS)
        await ask(b"", metadata=(("x-api-key", "k1"),), timeout=WAIT)
        assert managed.listeners == [Listener.MANAGEMENT]
        code, _ = await status_of(ask(b"", timeout=WAIT))
        assert code == grpc.StatusCode.UNAUTHENTICATED


async def test_a_port_that_is_taken_is_named(make: Make) -> None:
    one = make(management="127.0.0.1:0")
    with pytest.raises(OSError, match="management port"):
        make("i2", management=f"127.0.0.1:{one.plane.management_port}")
