"""`GetUsage`: what every instance counted, added up; and who did not answer."""

from collections.abc import Awaitable, Callable

from test_quotas import register

from modelmesh._proto import admin_pb2 as pb
from modelmesh.management.calls import Call
from modelmesh.management.usage import UsageCalls
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import SimulatedCluster, SimulatedInstance
from modelmesh.values.dataplane import Consumption
from modelmesh.values.ids import InstanceId, ModelId, Token

M = ModelId("m")


def play(story: Callable[[list[SimulatedInstance], SimulatedCluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=3)
        try:
            await story([await cluster.add(f"i{number}") for number in range(3)], cluster)
        finally:
            await cluster.stop()

    run_virtual(main())


async def usage_of(instance: SimulatedInstance, **request: str) -> pb.GetUsageResponse:
    call = Call(Token(0), "", {}, send=lambda _: None)
    return await UsageCalls(instance.plane).get_usage(call, pb.GetUsageRequest(**request))


def called(instance: SimulatedInstance, tenant: str, calls: int) -> None:
    consumed = Consumption(tenant, M, calls=calls, failed=1, call_us=3_000 * calls, size=10 * calls)
    instance.dataplane.consumed[tenant, M] = consumed


def test_what_the_instances_counted_is_added_up() -> None:
    async def story(instances: list[SimulatedInstance], _: SimulatedCluster) -> None:
        for number, instance in enumerate(instances):
            called(instance, "t", 10 + number)
        called(instances[2], "", 1)
        found = await usage_of(instances[0])
        assert list(found.usages) == [
            pb.Usage(tenant="", model_id="m", calls=1, failed_calls=1, call_ms=3, bytes=10),
            pb.Usage(tenant="t", model_id="m", calls=33, failed_calls=3, call_ms=99, bytes=330),
        ]
        assert [one.instance_id for one in found.countings] == ["i0", "i1", "i2"]
        assert all(one.since_ms for one in found.countings)
        assert list(found.silent_instance_ids) == []
        assert [one.tenant for one in (await usage_of(instances[1], tenant="")).usages] == [""]
        assert not (await usage_of(instances[1], model_id="other")).usages

    play(story)


def test_an_instance_that_does_not_answer_is_named() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        called(instances[0], "t", 1)
        called(instances[1], "t", 1)
        cluster.network.cut(InstanceId("i0"), InstanceId("i1"))
        found = await usage_of(instances[0])
        assert [one.calls for one in found.usages] == [1]
        assert [one.instance_id for one in found.countings] == ["i0", "i2"]
        assert list(found.silent_instance_ids) == ["i1"]

    play(story)


def test_loads_are_counted_for_the_tenant_that_registered_the_model() -> None:
    async def story(instances: list[SimulatedInstance], cluster: SimulatedCluster) -> None:
        assert await register(instances[0], "m", "owner", path="") == ""
        await cluster.call("m", via="i2")
        (used,) = (await usage_of(instances[1])).usages
        assert (used.tenant, used.model_id, used.loads) == ("owner", "m", 1)

    play(story)
