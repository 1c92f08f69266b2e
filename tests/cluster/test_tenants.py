"""Tenants whose models may take so many bytes in the cluster. Simulated clusters."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from modelmesh.policy.access import Tenant
from modelmesh.ports import Put, Transaction
from modelmesh.testing.clock import run_virtual
from modelmesh.testing.cluster import KEYS, SimulatedCluster, ensure_loaded, register, unregister
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status


def play(story: Callable[[SimulatedCluster], Awaitable[None]]) -> None:
    async def main() -> None:
        cluster = SimulatedCluster(seed=12)
        try:
            for name in ("a", "b"):
                await cluster.add(name)
            await story(cluster)
        finally:
            await cluster.stop()

    run_virtual(main())


async def register_of(cluster: SimulatedCluster, model: str, tenant: str) -> None:
    """Register a model of a size as a principal of a tenant would."""
    one = cluster.instances[InstanceId("a")]
    await register(one, model, path=size_path(100, 10, 1))
    item = await cluster.store.get(KEYS.model(ModelId(model)))
    assert item is not None
    record = replace(ModelRecord.decode(item.value), tenant=tenant)
    await cluster.store.transact(Transaction(compares=(), then=(Put(item.key, record.encode()),)))
    await cluster.settled()


def limit(cluster: SimulatedCluster, loaded: Memory) -> None:
    for instance in cluster.instances.values():
        instance.plane.tenants.limit({"t": Tenant("t", loaded=loaded)})


def loaded(cluster: SimulatedCluster) -> set[Memory]:
    """What the models of the tenant take, as every instance sees it."""
    return {instance.plane.state.loaded.get("t", NOTHING) for instance in cluster.instances.values()}


def test_a_tenant_loads_as_much_as_it_may() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for model in ("m1", "m2", "m3"):
            await register_of(cluster, model, "t")
        await register_of(cluster, "other", "u")
        assert (await cluster.call("m1", via="a")).status is Status.OK
        await cluster.settled()
        (size,) = loaded(cluster)
        assert size
        limit(cluster, size * 2)
        assert (await cluster.call("m2", via="b")).status is Status.OK
        await cluster.settled()
        assert loaded(cluster) == {size * 2}
        for via in ("a", "b"):
            answer = await cluster.call("m3", via=via)
            assert answer.status is Status.RESOURCE_EXHAUSTED
            assert answer.message == (
                f"tenant t has {size * 2} loaded, its limit is {size * 2}, and model m3 needs {size}; "
                "unload another model of the tenant first"
            )
        assert await ensure_loaded(cluster.instances[InstanceId("a")], "m3") == "LOADING_FAILED"
        assert (await cluster.call("m1", via="b")).status is Status.OK, "what is loaded serves"
        assert (await cluster.call("other", via="b")).status is Status.OK, "others have no part in it"

        holder = next(instance for instance in cluster.instances.values() if "m1" in instance.plane.cache.states())
        holder.plane.tenants.limit({})
        limit(cluster, size)
        assert (await cluster.call("m2", via="a")).status is Status.OK, "a lower quota unloads nothing"

    play(story)


def test_what_is_unloaded_counts_no_more() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register_of(cluster, "m1", "t")
        await register_of(cluster, "m2", "t")
        assert (await cluster.call("m1", via="a")).status is Status.OK
        await cluster.settled()
        (size,) = loaded(cluster)
        limit(cluster, size)
        assert (await cluster.call("m2", via="a")).status is Status.RESOURCE_EXHAUSTED
        await unregister(cluster.instances[InstanceId("a")], "m1")
        async with asyncio.timeout(60):
            while loaded(cluster) != {NOTHING}:
                await asyncio.sleep(0.1)
        assert (await cluster.call("m2", via="a")).status is Status.OK

    play(story)
