"""A rollout: new instances become ready when old ones have left, not when their loads fail. Simulated clusters."""

import asyncio
from functools import partial

import cluster_stories

from modelmesh.control.copies.entry import DropReason
from modelmesh.control.settings import ControlLimits
from modelmesh.machines.bootstrap import REDEEMED
from modelmesh.policy.readiness import OTHERS_DRAIN_MS, ReadinessReason
from modelmesh.ports import Put, Transaction
from modelmesh.testing.cluster import KEYS, SimulatedCluster, SimulatedInstance, register
from modelmesh.values.ids import ModelId
from modelmesh.values.status import Status

play = partial(cluster_stories.play, seed=8)


async def add_copy(instance: SimulatedInstance, model: ModelId) -> None:
    registered = await instance.plane.models.get(model)
    assert registered is not None
    await instance.plane.requests.add_copy(model, registered, last_use_ms=instance.plane.clock.now_ms())


def test_an_instance_that_joins_while_another_leaves_waits_for_it() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        assert a.plane.ready
        await a.plane.drain(1_000)
        b = await cluster.add("b")
        assert b.plane.readiness() is ReadinessReason.OTHERS_DRAIN
        await a.plane.leave()
        await asyncio.sleep(0.2)
        assert b.plane.ready

    play(story)


def test_one_that_is_stuck_while_leaving_is_waited_for_a_bounded_time() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await a.plane.drain(1_000)
        b = await cluster.add("b")
        await asyncio.sleep(OTHERS_DRAIN_MS / 1000 - 1)
        assert not b.plane.ready
        await asyncio.sleep(2)
        assert b.plane.ready

    play(story)


def test_an_instance_where_models_fail_that_work_elsewhere_is_not_ready_until_loads_succeed() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a", capacity_bytes=10_000)
        for number in range(30):
            await register(a, f"m{number}")
            await cluster.call(f"m{number}", via="a")
        await asyncio.sleep(130)
        b = await cluster.add("b", capacity_bytes=10_000)
        assert b.plane.ready
        models = list(a.plane.cache.models())
        for model in models[:3]:
            b.runtime.fail_next("load", Status.INTERNAL)
            await add_copy(a, model)
            await asyncio.sleep(1)
        assert b.plane.readiness() is ReadinessReason.LOADS_FAIL
        for model in models[3 : 3 + REDEEMED]:
            await add_copy(a, model)
        await asyncio.sleep(5)
        assert b.plane.ready

    play(story)


def test_nothing_new_is_loaded_where_a_rollout_replaces_instances() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for name in ("aaaaaa-00001", "aaaaaa-00002"):
            await cluster.add(name)
        await asyncio.sleep(2000)
        new = await cluster.add("bbbbbb-00001")
        for number in range(6):
            await register(new, f"m{number}")
            await cluster.call(f"m{number}", via="aaaaaa-00001")
            assert cluster.holders(f"m{number}") == ["bbbbbb-00001"]

    play(story)


def test_a_cluster_that_is_read_only_serves_and_changes_nothing() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        writer = await cluster.add("w")
        for number in range(3):
            await register(writer, f"m{number}", path="FAIL_broken" if number == 2 else "")
        reader = await cluster.add("r", limits=ControlLimits(read_only=True))
        writer.plane.cache.drain()
        await writer.plane.membership.drain()
        before = {item.key: item.value for item in (await cluster.store.range(KEYS.registry)).items}
        assert (await cluster.call("m0", via="r")).status is Status.OK
        assert (await cluster.call("m2", via="r")).status is Status.INTERNAL
        assert cluster.holders("m0") == ["r"]
        reader.plane.cache.drop(reader.plane.cache.models()[0], DropReason.UNLOAD_ASKED)
        await asyncio.sleep(10)
        after = {item.key: item.value for item in (await cluster.store.range(KEYS.registry)).items}
        assert after == before

    play(story)


def test_a_live_setting_takes_effect_and_a_wrong_one_is_told() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await cluster.add("b")
        await register(a, "m")
        key = f"{KEYS.config}scaleup_rpm_threshold"
        await cluster.store.transact(Transaction(compares=(), then=(Put(key, b"60"),)))
        for _ in range(30):
            await cluster.call("m", via="a")
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)
        assert len(cluster.holders("m")) == 2
        await cluster.store.transact(Transaction(compares=(), then=(Put(key, b"nonsense"),)))
        await asyncio.sleep(1)
        refused = [event.detail for event in cluster.story if event.kind == "config_refused"]
        assert refused
        assert "scaleup_rpm_threshold" in refused[0]
        assert a.plane.scaler.limits.rate == 2000

    play(story)
