"""Tenants whose models may take so many bytes in the cluster. Simulated clusters."""

import asyncio
from dataclasses import replace
from functools import partial

import cluster_stories

from modelmesh.policy.access import Tenant
from modelmesh.ports import Put, Transaction
from modelmesh.testing.cluster import KEYS, SimulatedCluster, ensure_loaded, register, unregister
from modelmesh.testing.model_paths import size_path
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.memory import NOTHING, Memory
from modelmesh.values.records import ModelRecord
from modelmesh.values.status import Status

play = partial(cluster_stories.play, names="ab", seed=12)


async def register_of(cluster: SimulatedCluster, model: str, tenant: str, *, pinned: bool = True) -> None:
    """Register a model of a size as a principal of a tenant would."""
    one = cluster.instances[InstanceId("a")]
    await register(one, model, path=size_path(100, 10, 1))
    item = await cluster.store.get(KEYS.model(ModelId(model)))
    assert item is not None
    record = replace(ModelRecord.decode(item.value), tenant=tenant, pinned=pinned)
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
                "its idle copies do not make enough room: repeat the call later, or unload a model"
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


def test_idle_copies_of_a_tenant_make_room_for_its_next_model_wherever_they_are() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for model in ("m1", "m2", "m3", "m4"):
            await register_of(cluster, model, "t", pinned=False)
        await register_of(cluster, "other", "u", pinned=False)
        for model, via in (("m1", "a"), ("other", "a"), ("m2", "b")):
            assert (await cluster.call(model, via=via)).status is Status.OK
            await cluster.settled()
        (two,) = loaded(cluster)
        limit(cluster, two)
        for model, via in (("m3", "a"), ("m4", "b"), ("m1", "b"), ("m2", "a")):
            await asyncio.sleep(60)
            assert (await cluster.call(model, via=via)).status is Status.OK, model
            await cluster.settled()
            held = [one for one in ("m1", "m2", "m3", "m4") if cluster.holders(one)]
            assert model in held
            assert len(held) == 2
            assert loaded(cluster) == {two}
        (one,) = {size // 2 for size in loaded(cluster)}
        limit(cluster, one)
        await unregister(cluster.instances[InstanceId("a")], "m1")
        await unregister(cluster.instances[InstanceId("a")], "m3")
        for via in ("a", "b", "a", "b"):
            for model in ("m2", "m4"):
                await asyncio.sleep(60)
                assert (await cluster.call(model, via=via)).status is Status.OK, (model, via)
        assert len(cluster.holders("other")) == 1, "others make no room for it"
        reasons = [
            event.reason
            for instance in cluster.instances.values()
            for event in instance.plane.journal.history
            if event.kind == "victim"
        ]
        assert len(reasons) >= 4
        assert set(reasons) == {"over_quota"}

    play(story)


def test_copies_that_are_in_use_are_not_unloaded_for_another_model_of_their_tenant() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for model in ("m1", "m2"):
            await register_of(cluster, model, "t", pinned=False)
        assert (await cluster.call("m1", via="a")).status is Status.OK
        await cluster.settled()
        (size,) = loaded(cluster)
        limit(cluster, size)
        await asyncio.sleep(60)
        busy = asyncio.create_task(cluster.call("m1", via="a", payload="long"))
        await asyncio.sleep(5)
        for via in ("a", "b"):
            assert (await cluster.call("m2", via=via)).status is Status.RESOURCE_EXHAUSTED
        assert (await busy).status is Status.OK
        await asyncio.sleep(60)
        assert (await cluster.call("m2", via="b")).status is Status.OK

    async def infer(_runtime: object, model: ModelId, payload: object) -> object:
        await asyncio.sleep(30 if payload == "long" else 0.001)
        return model

    play(story, infer=infer)
