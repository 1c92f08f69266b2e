"""Copies follow load: simulated clusters."""

import asyncio
from functools import partial

import cluster_stories

from modelmesh.policy.victims import EvictionReason
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

play = partial(cluster_stories.play, names="abc", seed=2)


async def calls(cluster: SimulatedCluster, model: str, *, per_second: int, seconds: int) -> None:
    """An even stream of calls, entering at every instance in turn; all must succeed."""
    names = list(cluster.instances)
    running = []
    for number in range(per_second * seconds):
        running.append(asyncio.ensure_future(cluster.call(model, via=names[number % len(names)])))
        await asyncio.sleep(1 / per_second)
    assert {answer.status for answer in await asyncio.gather(*running)} == {Status.OK}


def test_a_model_that_becomes_hot_has_a_copy_everywhere_within_seconds() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        await calls(cluster, "m", per_second=1, seconds=5)
        assert len(cluster.holders("m")) == 1
        await calls(cluster, "m", per_second=200, seconds=6)
        assert len(cluster.holders("m")) == 3

    play(story)


def test_a_steady_rate_below_the_threshold_adds_nothing() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        await calls(cluster, "m", per_second=30, seconds=60)
        assert len(cluster.holders("m")) == 1

    play(story)


def test_the_copies_of_a_hot_model_do_not_flap() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        for _ in range(5):
            await calls(cluster, "m", per_second=60, seconds=15)
            await asyncio.sleep(30)
        loads = [event for event in cluster.story if event.kind == "loaded"]
        drops = [event for event in cluster.story if event.kind == "drops_copy"]
        assert (len(loads), drops) == (2, [])

    play(story)


def test_regular_use_gets_a_spare() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        for _ in range(3):
            await calls(cluster, "m", per_second=1, seconds=2)
            await asyncio.sleep(600)
        await asyncio.sleep(5)
        assert len(cluster.holders("m")) == 2
        reasons = [event.reason for event in cluster.story if event.kind == "adds_copies"]
        assert reasons == ["regular_use"]

    play(story)


async def used(cluster: SimulatedCluster, models: int, *, seconds: int, via: str = "a") -> None:
    """A call for each of the models m0, m1, … every two seconds."""
    for _ in range(seconds // 2):
        for number in range(models):
            await cluster.call(f"m{number}", via=via)
        await asyncio.sleep(2)


async def used_regularly(cluster: SimulatedCluster, models: int) -> None:
    """Register them, use them for a moment, and again after eight minutes."""
    for number in range(models):
        await register(cluster.instances[InstanceId("a")], f"m{number}")
    await used(cluster, models, seconds=4)
    await asyncio.sleep(480)
    await used(cluster, models, seconds=20)


def spares(cluster: SimulatedCluster) -> list[str]:
    return [event.model for event in cluster.story if event.kind == "adds_copies" and event.reason == "regular_use"]


def test_spares_take_the_room_that_is_free_and_not_each_others() -> None:
    """All saw the same room, took each other's in turn, and some that of models in use."""

    async def story(cluster: SimulatedCluster) -> None:
        await used_regularly(cluster, 12)
        assert [event for event in cluster.story if event.kind == "evicted"] == []
        pairs = [number for number in range(12) if len(cluster.holders(f"m{number}")) == 2]
        assert len(pairs) == 4  # six at first, three at each; then each lets one go to have room for a load

    play(story, names="ab")


def test_models_that_want_no_copy_are_not_looked_at_closely() -> None:
    """An instance that used 10,000 models in a second was busy with them for most of the next."""

    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        for number in range(200):
            await register(a, f"m{number}")
        await used(cluster, 200, seconds=2)
        looked: list[ModelId] = []
        look = a.plane.decider.free_places
        a.plane.decider.free_places = lambda model, *more: looked.append(model) or look(model, *more)  # type: ignore[method-assign,func-returns-value]
        await used(cluster, 200, seconds=10)
        assert len(a.plane.rates.used()) > 50
        assert looked == []
        await calls(cluster, "m0", per_second=200, seconds=4)
        assert set(looked) == {"m0"}

    play(story, names="ab", capacity_bytes=100_000)


def test_of_many_models_in_regular_use_each_gets_its_spare() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await used_regularly(cluster, 150)
        await used(cluster, 150, seconds=20)
        assert sorted(spares(cluster)) == sorted(f"m{number}" for number in range(150))

    play(story, names="ab", capacity_bytes=100_000)


def test_a_spare_that_was_evicted_is_not_added_again_at_once() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a, b = (cluster.instances[InstanceId(name)] for name in "ab")
        await used_regularly(cluster, 1)
        assert spares(cluster) == ["m0"]
        (b if cluster.holders("m0")[0] == "a" else a).plane.cache.drop(ModelId("m0"), EvictionReason.REDUNDANT)
        await used(cluster, 1, seconds=360)
        assert spares(cluster) == ["m0"]
        await used(cluster, 1, seconds=90)
        assert spares(cluster) == ["m0", "m0"]

    play(story, names="ab")


def test_a_spare_that_went_with_its_instance_is_added_again_at_once() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await used_regularly(cluster, 1)
        first = next(event.instance for event in cluster.story if event.kind == "adds_copies")
        await cluster.crash(next(name for name in cluster.holders("m0") if name != first))
        await used(cluster, 1, seconds=20, via=first)
        assert len(cluster.holders("m0")) == 2
        assert spares(cluster) == ["m0", "m0"]

    play(story)


def test_constant_use_gets_a_spare() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        await calls(cluster, "m", per_second=1, seconds=6 * 60)
        assert len(cluster.holders("m")) == 1
        await calls(cluster, "m", per_second=1, seconds=2 * 60)
        assert len(cluster.holders("m")) == 2
        assert spares(cluster) == ["m"]

    play(story)


def test_a_burst_alone_gets_none() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await register(cluster.instances[InstanceId("a")], "m")
        await calls(cluster, "m", per_second=10, seconds=5)
        await asyncio.sleep(45 * 60)
        assert len(cluster.holders("m")) == 1

    play(story)


def test_where_one_place_is_left_one_copy_is_added() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        cluster.instances[InstanceId("c")].plane.cache.drain()
        await register(cluster.instances[InstanceId("a")], "m")
        await asyncio.sleep(2)
        await calls(cluster, "m", per_second=200, seconds=5)
        assert sorted(cluster.holders("m")) == ["a", "b"]

    play(story)


def test_copies_doubled_by_a_cut_between_instances_alone_go_when_it_ends() -> None:
    """The store was there for both sides all the time: only their way to each other was not."""

    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        for number in range(10):
            await register(a, f"m{number}")
            await cluster.call(f"m{number}", via="abc"[number % 3])
        for other in "bc":
            cluster.network.cut(InstanceId("a"), InstanceId(other))
        for _ in range(20):
            await asyncio.sleep(1)
            for number in range(10):
                for via in "ab":
                    await cluster.call(f"m{number}", via=via)
        assert any(len(cluster.holders(f"m{number}")) > 1 for number in range(10))
        for other in "bc":
            cluster.network.heal(InstanceId("a"), InstanceId(other))
        await asyncio.sleep(10)
        assert [len(cluster.holders(f"m{number}")) for number in range(10)] == [1] * 10

    play(story)
