"""Requests through simulated clusters: where they go, what they load, what they get."""

import asyncio
from random import Random

import pytest
from cluster_stories import play

from modelmesh.control.copies.entry import DropReason
from modelmesh.testing.clock import VirtualClock
from modelmesh.testing.cluster import SimulatedCluster, register
from modelmesh.testing.model_paths import size_path
from modelmesh.testing.store import FaultyStore
from modelmesh.values.ids import InstanceId, ModelId
from modelmesh.values.status import Status


def loads(cluster: SimulatedCluster, model: str) -> int:
    return sum(instance.runtime.load_counts[ModelId(model)] for instance in cluster.instances.values())


def test_a_call_for_a_cold_model_loads_it_and_is_answered() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m")
        answer = await cluster.call("m", via="a", payload="hello")
        assert (answer.status, answer.payload) == (Status.OK, ("m", "hello"))
        assert loads(cluster, "m") == 1

    play(story)


def test_an_unregistered_model_is_not_found() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        await cluster.add("a")
        answer = await cluster.call("nobody", via="a")
        assert (answer.status, answer.message) == (Status.NOT_FOUND, "model not found")

    play(story)


@pytest.mark.parametrize("seed", range(5))
def test_fifty_first_calls_through_three_instances_cause_one_load(seed: int) -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for name in "abc":
            await cluster.add(name, load_ms=200)
        await register(cluster.instances[InstanceId("a")], "m")
        answers = await asyncio.gather(*(cluster.call("m", via="abc"[i % 3]) for i in range(50)))
        assert [answer.status for answer in answers] == [Status.OK] * 50
        assert loads(cluster, "m") == 1

    play(story, seed=seed)


def test_more_models_than_fit_are_evicted_oldest_first() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a", capacity_bytes=1000, default_size_bytes=100)
        for i in range(12):
            await register(a, f"m{i}")
            answer = await cluster.call(f"m{i}", via="a")
            assert answer.status is Status.OK, answer
            await asyncio.sleep(1)
        held = sorted(a.plane.cache.states())
        assert held == sorted(f"m{i}" for i in range(3, 12))

    play(story)


def test_models_spread_over_instances_with_room() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for name in "abc":
            await cluster.add(name)
        a = cluster.instances[InstanceId("a")]
        for i in range(9):
            await register(a, f"m{i}")
            answer = await cluster.call(f"m{i}", via="a")
            assert answer.status is Status.OK, answer
            await asyncio.sleep(1.5)
        counts = [len(instance.plane.cache.models()) for instance in cluster.instances.values()]
        assert sum(counts) == 9
        assert min(counts) >= 2

    play(story)


@pytest.mark.parametrize("seed", range(8))
def test_misses_of_one_moment_do_not_all_choose_the_same_instance(seed: int) -> None:
    """Entries of members are a second old; whoever decides remembers what it has sent meanwhile."""

    async def story(cluster: SimulatedCluster) -> None:
        for name in "abc":
            await cluster.add(name, loading_concurrency=20)
        a = cluster.instances[InstanceId("a")]
        models = [f"m{number}" for number in range(24)]  # 27 fit
        for model in models:
            await register(a, model, path=size_path(100, 300, 1))
        answers = await asyncio.gather(*(cluster.call(model, via="a") for model in models))
        assert {answer.status for answer in answers} == {Status.OK}
        assert not [event for event in cluster.story if event.kind == "victim"]

    play(story, seed=seed)


def test_a_failed_load_moves_elsewhere() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for name in "abc":
            await cluster.add(name)
        await register(cluster.instances[InstanceId("a")], "m", path="FAIL_boom")
        answer = await cluster.call("m", via="a")
        # It fails at its first load in each process: three failures, and the model is given up.
        assert answer.status is Status.INTERNAL
        assert answer.message.endswith("boom")
        again = await cluster.call("m", via="b")
        assert again.status is Status.INTERNAL
        assert loads(cluster, "m") == 3

    play(story)


def test_an_instance_that_dies_while_loading_does_not_take_the_call_with_it() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for name in "ab":
            await cluster.add(name, load_ms=2000)
        a, b = (cluster.instances[InstanceId(name)] for name in "ab")
        await register(a, "m")
        call = asyncio.create_task(cluster.call("m", via="a"))
        await asyncio.sleep(0.5)
        loader = next(name for name, i in cluster.instances.items() if i.runtime.load_counts[ModelId("m")])
        if loader == "a":
            call.cancel()
            call = asyncio.create_task(cluster.call("m", via="b"))
            await asyncio.sleep(0.5)
        await cluster.crash(loader)
        answer = await call
        assert answer.status is Status.OK
        assert answer.served_by != loader
        del b

    play(story)


def test_a_model_unloaded_behind_our_back_is_loaded_again() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m", load=True)
        a.runtime.vanish(ModelId("m"))
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.OK
        assert loads(cluster, "m") == 2

    play(story)


def test_an_unregistered_model_is_unloaded() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m", load=True)
        from modelmesh._proto import model_mesh_pb2 as pb
        from modelmesh.management.calls import Call
        from modelmesh.values.ids import Token

        call = Call(Token(0), "", {}, send=lambda _: None)
        await a.models.unregister(call, pb.UnregisterModelRequest(modelId="m"))
        await asyncio.sleep(1)
        assert not a.plane.cache.states()
        assert not a.runtime.loaded
        assert (await cluster.call("m", via="a")).status is Status.NOT_FOUND

    play(story)


def test_a_restarted_runtime_blames_no_model() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m", load=True)
        a.runtime.crash()
        a.dataplane.runtime_link(up=False)
        await asyncio.sleep(3)
        a.runtime.restart()
        a.dataplane.runtime_link(up=True)
        await asyncio.sleep(2)
        assert a.plane.link.ready
        answer = await cluster.call("m", via="a")
        assert answer.status is Status.OK
        assert not list(a.plane.state.failed_models())

    play(story)


def test_a_lost_connection_is_not_a_restart() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m", load=True)
        a.dataplane.runtime_link(up=False)
        await asyncio.sleep(1)
        a.dataplane.runtime_link(up=True)
        await asyncio.sleep(1)
        assert (await cluster.call("m", via="a")).status is Status.OK
        assert loads(cluster, "m") == 1
        assert a.runtime.counts["status"] == 1

    play(story)


def test_a_copy_dropped_while_its_runtime_is_away_leaves_when_it_is_back() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        a = await cluster.add("a")
        await register(a, "m")
        await cluster.call("m", via="a")
        a.dataplane.runtime_link(up=False)
        await asyncio.sleep(0.1)
        a.plane.cache.drop(ModelId("m"), DropReason.UNLOAD_ASKED)
        await asyncio.sleep(5)
        a.dataplane.runtime_link(up=True)

    play(story)


def test_an_instance_whose_view_lags_waits_for_it_instead_of_asking_again_and_again() -> None:
    async def story(cluster: SimulatedCluster) -> None:
        store = FaultyStore(cluster.store, VirtualClock())
        a = await cluster.add("a")
        await cluster.add("b", store=store)
        await register(a, "m")
        store.watch_lag_ms = 800
        for _ in range(5):
            await cluster.call("m", via="a")
            a.plane.cache.drop(ModelId("m"), DropReason.UNLOAD_ASKED)
            await asyncio.sleep(0.1)
        assert (await cluster.call("m", via="b")).status is Status.OK
        moved = [event for event in cluster.story if event.kind == "attempt_failed" and event.reason == "moved"]
        assert len(moved) <= 2
        store.watch_lag_ms = 0

    play(story)


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_cancelled_calls_leaves_nothing_held(seed: int) -> None:
    async def story(cluster: SimulatedCluster) -> None:
        for name in "ab":
            await cluster.add(name, load_ms=100)
        a = cluster.instances[InstanceId("a")]
        for number in range(12):
            await register(a, f"m{number}")
        await asyncio.sleep(1)
        tasks = {name: len(instance.plane.tasks) for name, instance in cluster.instances.items()}
        rng = Random(seed)
        calls = [asyncio.create_task(cluster.call(f"m{rng.randrange(12)}", via=rng.choice("ab"))) for _ in range(300)]
        for call in calls:
            await asyncio.sleep(rng.random() * 0.004)
            rng.choice(calls).cancel()
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await asyncio.sleep(5)
        for name, instance in cluster.instances.items():
            assert instance.dataplane.held() == (0, 0)
            assert len(instance.plane.tasks) <= tasks[name]

    play(story, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_a_cold_call_while_the_store_is_silent_is_told_so_within_a_second(seed: int) -> None:
    async def story(cluster: SimulatedCluster) -> None:
        faulty = FaultyStore(cluster.store, VirtualClock())
        for name in "abc":
            await cluster.add(name, store=faulty)
        await register(cluster.instances[InstanceId("a")], "m")
        await asyncio.sleep(3)
        faulty.pause()
        for wait_s in (0, 1, 1, 5):  # also before anybody has noticed
            await asyncio.sleep(wait_s)
            began_ms = VirtualClock().now_ms()
            answer = await cluster.call("m", via="a")
            assert answer.status is Status.UNAVAILABLE, answer
            assert VirtualClock().now_ms() - began_ms < 1000
        faulty.resume()
        await asyncio.sleep(5)
        assert (await cluster.call("m", via="a")).status is Status.OK

    play(story, seed=seed)
