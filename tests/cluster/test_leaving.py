"""An instance leaves without a failed call: simulated clusters."""

import asyncio

import cluster_stories
from cluster_stories import Story

from modelmesh.testing.cluster import KEYS, SimulatedCluster, register
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status

MODELS = [f"m{number}" for number in range(12)]


def play(story: Story, *, names: str = "abc", settles: bool = True, **options: int) -> None:
    """A story of a cluster where all models are registered."""

    async def prepared(cluster: SimulatedCluster) -> None:
        for model in MODELS:
            await register(next(iter(cluster.instances.values())), model)
        await story(cluster)

    cluster_stories.play(prepared, names=names, seed=3, settles=settles, **options)


async def leave(cluster: SimulatedCluster, name: str, timeout_ms: int = 20_000) -> tuple[int, dict[ModelId, str]]:
    """As an instance does on SIGTERM."""
    instance = cluster.instances[InstanceId(name)]
    drained = await instance.plane.drain(timeout_ms)
    await instance.plane.leave()
    await asyncio.sleep(0.1)
    del cluster.instances[InstanceId(name)]
    instance.dataplane.drain()
    await asyncio.sleep(0.1)
    await instance.plane.stop()
    instance.dataplane.close()
    return drained.moved, drained.left


def test_an_instance_leaves_under_load_and_no_call_fails_or_waits_for_a_load() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for model in MODELS:
            await cluster.call(model, via="a")
        slowest_ms = 0.0
        statuses = []
        running = True

        async def caller(via: str) -> None:
            nonlocal slowest_ms
            number = 0
            while running:
                began = asyncio.get_running_loop().time()
                answer = await cluster.call(MODELS[number % len(MODELS)], via=via)
                slowest_ms = max(slowest_ms, (asyncio.get_running_loop().time() - began) * 1000)
                statuses.append((answer.status, answer.message))
                number += 1

        callers = [asyncio.ensure_future(caller(via)) for via in "bc" for _ in range(4)]
        await asyncio.sleep(2)
        held = [model for model in MODELS if "a" in cluster.holders(model)]
        assert held
        moved, left = await leave(cluster, "a")
        await asyncio.sleep(2)
        running = False
        await asyncio.gather(*callers)
        assert (moved, left) == (len(held), {})
        assert {status for status, _ in statuses} == {Status.OK}, statuses
        assert slowest_ms < 500  # a load takes that long: nobody waited for one
        assert not (await cluster.store.range(KEYS.member(InstanceId("a")))).items
        await cluster.settled()

    play(story, load_ms=500, capacity_bytes=3000)


def test_copies_come_back_to_the_count_from_before() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await cluster.call("m0", via="a")
        plane = cluster.instances[InstanceId("a")].plane
        registered = await plane.models.get(ModelId("m0"))
        await plane.requests.add_copy(ModelId("m0"), registered, last_use_ms=plane.clock.now_ms())
        await asyncio.sleep(2)
        before = cluster.holders("m0")
        assert len(before) == 2
        await leave(cluster, before[0])
        assert len(cluster.holders("m0")) == 2

    play(story)


def test_the_time_for_moving_is_bounded_and_what_is_left_is_named() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for model in MODELS[:6]:
            await cluster.call(model, via="a")
        victim = next(name for name in "abc" if any(name in cluster.holders(model) for model in MODELS))
        for name in "abc":
            cluster.instances[InstanceId(name)].runtime.hold_loads()
        began = asyncio.get_running_loop().time()
        moved, left = await leave(cluster, victim, timeout_ms=2_000)
        assert moved == 0
        assert set(left.values()) == {"the time was up"}
        assert 1.9 < asyncio.get_running_loop().time() - began < 3

    play(story, settles=False, capacity_bytes=3000)


def test_the_last_instance_leaves_at_once() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await cluster.call("m0", via="a")
        assert await leave(cluster, "a") == (0, {})

    play(story, names="a")


def test_a_draining_instance_answers_calls_for_models_it_does_not_hold() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        plane = cluster.instances[InstanceId("a")].plane
        await plane.drain(1_000)
        answer = await cluster.call("m0", via="a")
        assert answer.status is Status.OK
        assert "a" not in cluster.holders("m0")

    play(story)


def test_models_that_were_loaded_and_not_called_yet_stay_loaded_when_most_instances_leave() -> None:
    """They were stamped as used an hour ago, and left behind: 3 to 5 of 10 were kept."""

    async def story(cluster: SimulatedCluster) -> None:
        a = cluster.instances[InstanceId("a")]
        names = [f"registered{number}" for number in range(10)]
        for name in names:
            await register(a, name, load=True)
        for leaving in "abc":
            _, left = await leave(cluster, leaving)
            assert left == {}
        assert [name for name in names if not cluster.holders(name)] == []

    play(story, names="abcde", capacity_bytes=3000)


def test_only_what_would_displace_a_model_used_more_recently_is_left_behind_and_said_why() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for model in MODELS[:5]:
            await cluster.call(model, via="a")
        await asyncio.sleep(60)
        await cluster.add("b")
        for model in MODELS[5:]:
            assert (await cluster.call(model, via="b")).status is Status.OK
        held = [model for model in MODELS if "a" in cluster.holders(model)]
        await asyncio.sleep(1)
        moved, left = await leave(cluster, "a")
        # b holds nine at most; then each older one would displace a newer one.
        assert (moved, len(left)) == (len(held) - 3, 3)
        assert set(left) <= set(MODELS[:5])
        why = "instance b would have to evict a model that was used more recently than {}"
        assert left == {model: why.format(model) for model in left}
        told = {event.model: event.detail for event in cluster.story if event.kind == "left_behind"}
        assert told == left

    play(story, names="a")
